//! Invariant I7, in the large: while strangers hold all they can get, the gateway rests, and whoever is good is answered.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::support::*;

const ROUTE: &str = "method = \"POST\"\npath = \"/x\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[[allow]]\n\
                     certname = [\"node*.example.com\"]\n[run]\nsteps = [[\"/bin/true\"]]\n";

fn site(limits: &str) -> Site {
    let site = Site::with_limits(limits);
    site.route("x", ROUTE);
    // This process holds the other ends.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    site
}

/// Processor time that the gateway has used so far, in clock ticks, which are hundredths of a second (proc(5)).
fn ticks(gateway: &Running) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Whether the other end has ended a connection, whatever it sent before.
fn ended(mut socket: &TcpStream) -> bool {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

#[test]
fn i7_at_the_limit_of_connections_the_gateway_rests_and_whoever_waits_is_answered_afterwards() {
    let site = site("connections = 8\nconnections_per_source = 4096");
    let gateway = site.serve();
    let held: Vec<Tls> = (0..8).map(|_| gateway.connect()).collect();
    // These wait in the kernel.
    let waiting: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(gateway.address).unwrap()).collect();
    gateway.log.wait_for(|line| line.contains("limits.connections is reached")).unwrap();
    let before = ticks(&gateway);
    std::thread::sleep(Duration::from_secs(1));
    let spent = ticks(&gateway) - before;
    // A loop that spins uses a hundred of them.
    assert!(spent < 50, "{spent} hundredths of a second of processor time in one second of waiting");

    std::thread::scope(|scope| {
        let good = scope.spawn(|| {
            let asked = gateway.post("/x", "1").request();
            gateway.send(&asked).status
        });
        for stranger in waiting {
            stranger.shutdown(Shutdown::Both).unwrap();
        }
        let end = Instant::now();
        drop(held);
        assert_eq!(good.join().unwrap(), 202);
        let took = end.elapsed();
        println!("answered {took:?} after the flood's end");
        assert!(took < PATIENCE, "{took:?}");
    });
}

/// The beginning of a real `ClientHello`, up to the middle of it.
fn half_a_handshake() -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello.truncate(hello.len() / 2);
    hello
}

#[test]
fn i7_a_good_client_beside_five_hundred_slow_ones_is_answered_and_they_are_ended() {
    let site = site(
        "connections_per_source = 4096\nrequests_per_source = \"100000/s\"\nhandshake = \"5s\"\nheaders = \"4s\"\n\
         request = \"4s\"\nidle = \"4s\"",
    );
    let gateway = site.serve();
    let hello = half_a_handshake();
    let raw = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(gateway.address).unwrap();
        socket.write_all(bytes).unwrap();
        socket
    };
    let begun = |bytes: &[u8]| {
        let mut tls = gateway.connect();
        tls.write(bytes).unwrap();
        tls
    };
    let silent: Vec<TcpStream> = (0..125).map(|_| raw(b"")).collect();
    let half: Vec<TcpStream> = (0..125).map(|_| raw(&hello)).collect();
    let mut idle: Vec<Tls> = (0..125).map(|_| gateway.connect()).collect();
    let mut trickling: Vec<Tls> = (0..125)
        .map(|number| match number % 2 {
            0 => begun(b"POST /x HTTP/1.1\r\nhost: localhost\r\nx-slow: "),
            _ => begun(b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 60000\r\n\r\n"),
        })
        .collect();
    std::thread::scope(|scope| {
        let trickle = scope.spawn(|| {
            let mut ended = 0;
            let deadline = Instant::now() + PATIENCE;
            while !trickling.is_empty() {
                assert!(Instant::now() < deadline, "{} still trickle, {ended} were ended", trickling.len());
                let before = trickling.len();
                // Who was answered, or can no longer write, is not let go on.
                trickling.retain_mut(|tls| tls.write(b"x").is_ok());
                ended += before - trickling.len();
                std::thread::sleep(Duration::from_millis(100));
            }
            ended
        });
        let mut took: Vec<Duration> = (0..40)
            .map(|_| {
                let begin = Instant::now();
                assert_eq!(gateway.send(&gateway.post("/x", "1").request()).status, 202);
                begin.elapsed()
            })
            .collect();
        took.sort();
        println!("median {:?}, slowest {:?}, handshakes included", took[20], took[39]);
        // What it takes on a machine that does nothing else is for `benches/flood.rs` to say.
        assert!(took[20] < PATIENCE, "{took:?}");
        assert_eq!(trickle.join().unwrap(), 125);
    });
    assert!(silent.iter().chain(&half).all(ended), "a handshake may take as long as it likes");
    assert!(idle.iter_mut().all(Tls::is_closed), "an idle connection stays");
    assert_eq!(gateway.send(&gateway.post("/x", "1").request()).status, 202);
}

#[test]
fn i7_all_bodies_together_are_bounded_on_every_path_alike() {
    let site = site("body = \"40KiB\"\nbodies = \"50KiB\"");
    let gateway = site.serve();
    let mut slow = gateway.connect();
    let head = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n")
    };
    slow.write((head("/nothing", 40_000) + &"x".repeat(39_999)).as_bytes()).unwrap();
    let large = "y".repeat(20_000);
    let mut refusals = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    for path in ["/x", "/nothing", "/-/jobs/x"] {
        loop {
            let response = gateway.send(&(head(path, large.len()) + &large));
            if response.status == 429 {
                assert_eq!(response.header("connection"), Some("close"));
                assert!(response.header("retry-after").is_some());
                refusals.push(response.without_date());
                break;
            }
            // Not all of the first body has been read yet.
            assert!(response.is_wall() && Instant::now() < deadline, "{response:?}");
        }
    }
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:#?}");
    assert_eq!(
        gateway.send(&gateway.post("/x", &"z".repeat(5000)).request()).status,
        202,
        "there is room for this"
    );
    slow.write(b"x").unwrap();
    assert!(slow.read().unwrap().is_wall());
    assert_eq!(gateway.send(&gateway.post("/x", &large).request()).status, 202);
}

#[test]
fn i7_waits_together_are_bounded_and_beyond_them_senders_are_told_at_once() {
    let site = Site::with_limits("waiting = 1");
    let gate = site.path("gate");
    let started = site.path("started");
    let (go, mark) = (gate.display(), started.display());
    let program = site.program("held", &format!("touch {mark}; while [ ! -e {go} ]; do sleep 0.02; done"));
    site.route("x", &ROUTE.replace("/bin/true", &program));
    let gateway = site.serve();
    let waits = |body: &str| gateway.post("/x", body).header("prefer", "wait=60", false).request();
    let mut first = gateway.connect();
    first.write(waits("1").as_bytes()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // Whoever's job runs has begun to wait.
    while !started.exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut other = gateway.connect();
    other.write(waits("2").as_bytes()).unwrap();
    let told = other.read().unwrap();
    assert_eq!((told.status, &told.json()["state"]), (202, &json!("queued")), "{told:?}");
    std::fs::write(&gate, "").unwrap();
    assert_eq!(first.read().unwrap().status, 200);
}

#[test]
fn i7_refusals_are_counted_together_beyond_the_rate_at_which_they_are_logged() {
    let site = site("refusals_logged = \"3/h\"\nrequests_per_source = \"100000/s\"");
    let gateway = site.serve();
    let mut tls = gateway.connect();
    for number in 0..50 {
        assert!(tls.ask(&gateway.get(&format!("/guess/{number}"))).is_wall());
    }
    assert_eq!(gateway.send(&gateway.post("/x", "1").request()).status, 202);
    assert_eq!(gateway.stop().code(), Some(0));
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let of_kind = |kind: &str| -> Vec<serde_json::Value> {
        let lines = audit.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line["kind"] == kind).collect()
    };
    assert_eq!(of_kind("refused").len(), 3, "{audit}");
    let counted: u64 = of_kind("refusals").iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, 47, "{audit}");
    assert_eq!(of_kind("accepted").len(), 1, "{audit}");
}

#[test]
fn i7_many_nodes_behind_one_address_are_not_held_back_by_the_limits_of_a_source() {
    let site = site("connections_per_source = 32\nrequests_per_source = \"5/h\"");
    let gateway = site.serve();
    let request = gateway.get("/x").replacen("GET", "POST", 1);
    // More than a source may have, all open at once and none of them idle between handshake and request for long.
    let held: Vec<Tls> = (0..100)
        .map(|number| {
            let mut tls = gateway.connect_as(&site.node(&format!("node{number}.example.com"), &[]));
            assert_eq!(tls.ask(&request).status, 202, "node {number}");
            tls
        })
        .collect();
    assert!(
        gateway.connect().ask(&request).is_wall(),
        "a stranger behind the same address has its own limits"
    );
    drop(held);
}

#[test]
fn i7_five_hundred_nodes_that_shake_hands_at_once_behind_one_address_are_all_answered() {
    const NODES: usize = 500;
    // The caps are the defaults. The time is not, so that a busy machine decides nothing; here it takes about a second.
    let site = site("handshake = \"1m\"");
    let count = site.path("count");
    let program = site.program("kick", &format!("echo x >> {}", count.display()));
    site.route("kick", &(ROUTE.replace("/x", "/kick").replace("/bin/true", &program) + "coalesce = true\n"));
    let gateway = site.serve();
    let request = gateway.get("/kick").replacen("GET", "POST", 1);
    let nodes: Vec<_> = (0..NODES).map(|node| site.node(&format!("node{node}.example.com"), &[])).collect();
    let sockets: Vec<_> = nodes.iter().map(|_| TcpStream::connect(gateway.address).unwrap()).collect();
    let (begin, connected) = (Barrier::new(NODES), Instant::now());
    // All of them stay connected until the last one has been answered.
    let answered: Vec<(Tls, Response)> = std::thread::scope(|scope| {
        let nodes: Vec<_> = nodes
            .iter()
            .zip(sockets)
            .map(|(issued, socket)| {
                let (begin, request, ca) = (&begin, &request, &site.ca_pem);
                scope.spawn(move || {
                    begin.wait();
                    let shown = (issued.certificate.as_str(), issued.key.as_str());
                    let mut tls = Tls::greet(socket, &[], ca, Some(shown)).unwrap();
                    let response = tls.ask(request);
                    (tls, response)
                })
            })
            .collect();
        nodes.into_iter().map(|node| node.join().unwrap()).collect()
    });
    println!("all were answered within {:?}", connected.elapsed());
    assert_eq!(answered.len(), NODES);
    assert!(answered.iter().all(|(_, response)| response.status == 202));
    drop(answered);
    assert_eq!(gateway.stop().code(), Some(0));
    let runs = wait_for_lines(&count, 1).len();
    println!("{runs} runs");
    assert!(runs < NODES, "none of them has joined another");
}

/// How many connections the other end has not ended.
fn open(sockets: &[TcpStream]) -> usize {
    let is_open = |socket: &&TcpStream| {
        socket.set_nonblocking(true).unwrap();
        socket.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    sockets.iter().filter(is_open).count()
}

#[test]
fn i7_whoever_waits_for_a_place_is_bounded_and_in_nobodys_way() {
    let site = site("connections = 400\nconnections_per_source = 50\nhandshake = \"1m\"");
    let gateway = site.serve();
    let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(gateway.address).unwrap()).collect();
    // So many have a place, and an eighth of all that there are may wait for one of those.
    let most = 50 + 400 / 8;
    let bounded = |silent: &[TcpStream], most| {
        let deadline = Instant::now() + PATIENCE;
        while open(silent) > most {
            assert!(Instant::now() < deadline, "{} are open", open(silent));
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    bounded(&silent, most);
    let begin = Instant::now();
    let mut good = Tls::greet(gateway.socket_from([127, 0, 0, 2]), &[], &site.ca_pem, None).unwrap();
    assert_eq!(good.ask(&gateway.post("/x", "1").request()).status, 202);
    println!("another address was answered after {:?}", begin.elapsed());
    let others: Vec<TcpStream> = (0..200).map(|_| gateway.socket_from([127, 0, 0, 3])).collect();
    bounded(&others, most);
    assert_eq!((open(&silent), open(&others)), (most, most), "nobody was let go for another");
    assert!(gateway.log.text().contains("too many connections from this source"));
}

#[test]
fn i7_whoever_waits_for_a_place_is_gone_in_time() {
    let site = site("connections = 400\nconnections_per_source = 50\nhandshake = \"1s\"");
    let gateway = site.serve();
    let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(gateway.address).unwrap()).collect();
    assert!(silent.iter().all(ended), "it is still open");
    let deadline = Instant::now() + PATIENCE;
    // A machine that is busy may take longer for a handshake.
    let mut good = loop {
        if let Ok(tls) = gateway.try_connect(None) {
            break tls;
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!(good.ask(&gateway.post("/x", "1").request()).status, 202);
}
