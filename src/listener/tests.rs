//! The listener over real TLS on loopback: what it refuses, what it ends in time, what it passes on.
//! Every wait ends with an event, and is bounded.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::fixture::{GET, Gateway, SHORT, TLS12, TLS13, ask, client, ended, generous, get, soon};
use super::{Limits, Malformed};
use crate::clock::Clock;
use crate::trust::mint::{Authority, Validity};

#[tokio::test]
async fn who_never_shakes_hands_is_dropped() {
    let gateway = Gateway::start(Limits { handshake: SHORT, ..generous() });
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    ended(&mut socket).await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_in_order() {
    let gateway = Gateway::start(Limits { idle: SHORT, ..generous() });
    let mut fresh = gateway.anonymous().await.unwrap();
    assert!(ended(&mut fresh).await);
    let mut kept_alive = gateway.anonymous().await.unwrap();
    ask(&mut kept_alive, GET).await.unwrap();
    assert!(ended(&mut kept_alive).await);
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off() {
    let gateway = Gateway::start(Limits { headers: SHORT, ..generous() });
    let mut stream = gateway.anonymous().await.unwrap();
    ask(&mut stream, GET).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\na: ").await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let trickle = async {
        while writer.write_all(b"x").await.is_ok() {
            sleep(SHORT / 10).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = trickle => {}
        in_order = ended(&mut reader) => assert!(!in_order),
    }
}

#[tokio::test]
async fn the_listener_does_not_time_the_service() {
    let gateway = Gateway::start(Limits { idle: SHORT, headers: SHORT, ..generous() });
    let mut stream = gateway.anonymous().await.unwrap();
    let answer = ask(&mut stream, &get("/slow")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn who_does_not_read_is_ended() {
    let mut gateway = Gateway::start(Limits { idle: SHORT, ..generous() });
    let mut stream = gateway.anonymous().await.unwrap();
    stream.write_all(get("/endless").as_bytes()).await.unwrap();
    soon(gateway.dropped.recv()).await.unwrap();
    assert!(!ended(&mut stream).await);
}

/// Limits by which one connection of a source is open, one more waits, and all others are dropped.
fn narrow() -> Limits {
    Limits { connections: 8, connections_per_source: 1, ..generous() }
}

#[tokio::test]
async fn beyond_its_share_a_source_waits_for_a_place() {
    let gateway = Gateway::start(narrow());
    let mut first = gateway.anonymous().await.unwrap();
    let second = TcpStream::connect(gateway.address).await.unwrap();
    // That a third one is dropped tells that the second one waits.
    assert!(gateway.ask(gateway.config(TLS13, None)).await.is_err());
    ask(&mut first, GET).await.unwrap();
    drop(first);
    let mut second = soon(gateway.greet(gateway.config(TLS13, None), second)).await.unwrap();
    ask(&mut second, GET).await.unwrap();
}

#[tokio::test]
async fn a_larger_share_is_given_to_those_who_wait_at_once() {
    let gateway = Gateway::start(narrow());
    let mut first = gateway.anonymous().await.unwrap();
    let second = TcpStream::connect(gateway.address).await.unwrap();
    assert!(gateway.ask(gateway.config(TLS13, None)).await.is_err());
    gateway.limit(Limits { connections_per_source: 2, ..narrow() });
    let mut second = soon(gateway.greet(gateway.config(TLS13, None), second)).await.unwrap();
    ask(&mut second, GET).await.unwrap();
    ask(&mut first, GET).await.unwrap();
}

#[tokio::test]
async fn more_room_is_given_to_those_who_wait_in_the_kernel_at_once() {
    let gateway = Gateway::start(Limits { connections: 1, ..generous() });
    let mut first = gateway.anonymous().await.unwrap();
    ask(&mut first, GET).await.unwrap();
    gateway.limit(Limits { connections: 2, ..generous() });
    assert!(gateway.ask(gateway.config(TLS13, None)).await.is_ok());
    ask(&mut first, GET).await.unwrap();
}

#[tokio::test]
async fn i7_who_hangs_up_leaves_the_place_where_it_waited() {
    let gateway = Gateway::start(narrow());
    let _first = gateway.anonymous().await.unwrap();
    for (how, gone) in [("closed", 1), ("half closed", 2), ("reset", 3)] {
        let mut waiting = TcpStream::connect(gateway.address).await.unwrap();
        // What it sent is still unread then.
        waiting.write_all(b"\x16\x03\x01").await.unwrap();
        assert!(gateway.ask(gateway.config(TLS13, None)).await.is_err(), "one waits");
        match how {
            "half closed" => {
                waiting.shutdown().await.unwrap();
                ended(&mut waiting).await;
            }
            "reset" => waiting.set_zero_linger().unwrap(),
            _ => {}
        }
        drop(waiting);
        let all_are_gone = async {
            while gateway.counts.failures("gone") < gone {
                tokio::task::yield_now().await;
            }
        };
        soon(all_are_gone).await;
    }
}

#[tokio::test]
async fn i7_beyond_those_who_wait_new_ones_are_dropped() {
    let gateway = Gateway::start(Limits { connections: 16, connections_per_source: 1, ..generous() });
    let anonymous = || gateway.config(TLS13, None);
    let mut first = gateway.anonymous().await.unwrap();
    ask(&mut first, GET).await.unwrap();
    let waiting = [TcpStream::connect(gateway.address).await, TcpStream::connect(gateway.address).await];
    for _ in 0..3 {
        assert!(gateway.ask(anonymous()).await.is_err());
    }
    ask(&mut first, GET).await.unwrap();
    drop(first);
    for socket in waiting {
        let mut stream = soon(gateway.greet(anonymous(), socket.unwrap())).await.unwrap();
        ask(&mut stream, GET).await.unwrap();
    }
}

#[tokio::test]
async fn i7_whoever_waits_too_long_for_a_place_is_dropped() {
    let limits = Limits { connections_per_source: 1, handshake: SHORT, ..generous() };
    let gateway = Gateway::start(limits);
    // A machine that is busy may take longer for a handshake.
    let mut first = loop {
        if let Ok(stream) = gateway.anonymous().await {
            break stream;
        }
    };
    let mut waiting = TcpStream::connect(gateway.address).await.unwrap();
    assert!(!ended(&mut waiting).await);
    ask(&mut first, GET).await.unwrap();
}

#[tokio::test]
async fn a_certificate_counts_for_its_holder_instead_of_its_source() {
    let limits = Limits { connections_per_source: 1, connections_per_identity: 1, ..generous() };
    let gateway = Gateway::start(limits);
    let with = gateway.config(TLS13, Some(&gateway.client("node1.example.com")));
    let mut first = gateway.connect(Arc::clone(&with)).await.unwrap();
    ask(&mut first, GET).await.unwrap();
    assert!(gateway.ask(Arc::clone(&with)).await.is_err());
    let other = gateway.config(TLS13, Some(&gateway.client("node2.example.com")));
    assert!(gateway.ask(other).await.is_ok());
    drop(first);
    while gateway.ask(Arc::clone(&with)).await.is_err() {}
}

#[tokio::test]
async fn i7_nodes_that_shake_hands_at_once_behind_one_address_are_all_let_in() {
    let gateway = Gateway::start(Limits { connections_per_source: 2, ..generous() });
    let nodes = (0..10).map(|number| {
        let config = gateway.config(TLS13, Some(&gateway.client(&format!("node{number}.example.com"))));
        let gateway = &gateway;
        async move {
            let mut stream = soon(gateway.connect(config)).await.unwrap();
            ask(&mut stream, GET).await.unwrap();
            stream
        }
    });
    // All stay open until the last one has been answered.
    assert_eq!(futures_util::future::join_all(nodes).await.len(), 10);
}

#[tokio::test]
async fn beyond_the_last_connection_new_ones_wait() {
    let gateway = Gateway::start(Limits { connections: 1, ..generous() });
    let mut first = gateway.anonymous().await.unwrap();
    ask(&mut first, GET).await.unwrap();
    let second = gateway.ask(gateway.config(TLS13, None));
    tokio::pin!(second);
    assert!(timeout(SHORT, &mut second).await.is_err(), "there was no room");
    ask(&mut first, GET).await.unwrap();
    drop(first);
    assert!(soon(second).await.is_ok());
}

#[tokio::test]
async fn what_the_handshake_showed_reaches_the_service() {
    let gateway = Gateway::start(generous());
    for versions in [TLS12, TLS13] {
        for (certname, expected) in [
            (None, "nothing|"),
            (Some("node1.example.com"), "node1.example.com|"),
            (Some("node1 "), "unusable: the certificate's common name begins or ends with a space|"),
        ] {
            let issued = certname.map(|name| gateway.client(name));
            let answer = gateway.ask(gateway.config(versions, issued.as_ref())).await.unwrap();
            assert!(answer.ends_with(&format!("\r\n{expected}")), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_ends_the_handshake() {
    let gateway = Gateway::start(generous());
    let now = Clock::system().now();
    let past = Validity { from: now - jiff::Span::new().hours(3), until: now - jiff::Span::new().hours(2) };
    let expired = gateway.ca.issue_client("node1.example.com", &BTreeMap::new(), past).unwrap();
    let stranger = Authority::new("Test CA", Validity::days(now, 2)).unwrap();
    let server = gateway.ca.issue_server(&["node1.example.com".to_owned()], Validity::days(now, 1)).unwrap();
    let strange = client(&stranger, "node1.example.com");
    let revoked = &gateway.revoked;
    for (what, issued) in
        [("revoked", revoked), ("expired", &expired), ("a server's", &server), ("a stranger's", &strange)]
    {
        for versions in [TLS12, TLS13] {
            assert!(gateway.ask(gateway.config(versions, Some(issued))).await.is_err(), "{what}");
        }
    }
    assert!(gateway.ask(gateway.config(TLS13, Some(&gateway.client("node1.example.com")))).await.is_ok());
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let gateway = Gateway::start(generous());
    for versions in [TLS12, TLS13] {
        let config = gateway.config(versions, Some(&gateway.client("node1.example.com")));
        for _ in 0..3 {
            let mut stream = gateway.connect(Arc::clone(&config)).await.unwrap();
            ask(&mut stream, GET).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(session.tls13_tickets_received(), 0);
        }
    }
}

#[tokio::test]
async fn http_1_1_is_all_that_is_spoken() {
    let gateway = Gateway::start(generous());
    let speaking = |protocols: &[&str]| {
        let mut config = ClientConfig::clone(&gateway.config(TLS13, None));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    assert!(gateway.ask(speaking(&["h2", "http/1.1"])).await.is_ok());
    assert!(gateway.ask(speaking(&["h2"])).await.is_err());
}

#[tokio::test]
async fn a_head_too_large_or_not_http_is_refused_by_hyper() {
    let mut gateway = Gateway::start(generous());
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "a: b\r\n".repeat(64));
    let large = format!("GET / HTTP/1.1\r\nhost: localhost\r\na: {}\r\n\r\n", "b".repeat(16 * 1024));
    for (request, status) in [(many.as_str(), "431"), (&large, "431"), ("\u{1}\r\n\r\n", "400")] {
        let mut stream = gateway.anonymous().await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert!(gateway.arrived.try_recv().is_err());
}

#[tokio::test]
async fn i10_what_is_malformed_is_reported_once_with_its_reason() {
    let mut gateway = Gateway::start(generous());
    let large = format!("GET / HTTP/1.1\r\nhost: localhost\r\na: {}\r\n\r\n", "b".repeat(16 * 1024));
    let chunk = "POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\r\n";
    let no_head = chunk.replace("POST", "P\0ST");
    for (sent, why) in [
        ("GET / HTTP/1.1\nhost: localhost\n\n", Some(Malformed::LineEnd)),
        (&large, Some(Malformed::HeadTooLarge)),
        ("G\0T / HTTP/1.1\r\nhost: localhost\r\n\r\n", Some(Malformed::NotHttp)),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Malformed::NotHttp)),
        (&no_head, Some(Malformed::Chunk)),
        // Whoever was handed the head answers for the body.
        (chunk, None),
        // What is only cut short, or asks for nothing, is not malformed.
        ("GET / HTTP/1.1\r\nhost: loc", None),
        ("", None),
        (GET, None),
    ] {
        let mut stream = gateway.anonymous().await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        if let Some(why) = why {
            assert_eq!(soon(gateway.malformed.recv()).await, Some(why), "{sent:.40}");
            ended(&mut stream).await;
        } else {
            stream.shutdown().await.unwrap();
            ended(&mut stream).await;
        }
    }
    gateway.stop.cancel();
    soon(gateway.serving).await.unwrap();
    assert_eq!(gateway.malformed.recv().await, None, "nothing more was reported");
}

#[tokio::test]
async fn a_client_with_nagle_on_is_answered() {
    let gateway = Gateway::start(generous());
    let config = gateway.config(TLS13, Some(&gateway.client("node1.example.com")));
    let address = gateway.address;
    let asking = tokio::task::spawn_blocking(move || {
        let socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_nodelay(false).unwrap();
        let session =
            rustls::ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        stream.write_all(GET.as_bytes()).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        start
    });
    assert_eq!(&asking.await.unwrap(), b"HTTP/1.1 200");
}

#[tokio::test]
async fn stopping_finishes_open_requests_and_takes_no_new_ones() {
    let mut gateway = Gateway::start(generous());
    let mut idle = gateway.anonymous().await.unwrap();
    ask(&mut idle, GET).await.unwrap();
    soon(gateway.arrived.recv()).await.unwrap();
    let mut in_handshake = TcpStream::connect(gateway.address).await.unwrap();
    let mut open = gateway.anonymous().await.unwrap();
    open.write_all(get("/held").as_bytes()).await.unwrap();
    soon(gateway.arrived.recv()).await.unwrap();
    gateway.stop.cancel();
    assert!(ended(&mut idle).await);
    ended(&mut in_handshake).await;
    while TcpStream::connect(gateway.address).await.is_ok() {}
    gateway.held.notify_one();
    let mut answer = String::new();
    soon(open.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    soon(gateway.serving).await.unwrap();
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let mut gateway = Gateway::start(Limits { drain: SHORT, ..generous() });
    let mut open = gateway.anonymous().await.unwrap();
    open.write_all(get("/held").as_bytes()).await.unwrap();
    soon(gateway.arrived.recv()).await.unwrap();
    gateway.stop.cancel();
    soon(gateway.serving).await.unwrap();
    assert!(!ended(&mut open).await);
}
