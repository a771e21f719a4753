//! The client against servers that answer, refuse, hang up and keep silent.
//! Not part of the program.

use std::io::Write as _;

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixture::{Ca, Server};
use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn trusting(ca: &Ca, identity: Option<&ClientCertificate>) -> Client {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(ca.pem.as_bytes()).unwrap();
    Client::new(&CaSource::File(file.path().into()), identity).unwrap()
}

async fn get(client: &Client, url: &str) -> Result<Response<Bytes>, String> {
    let request = Outgoing {
        method: &Method::GET,
        target: &Target::parse(url).unwrap(),
        headers: &HeaderMap::new(),
        body: b"",
    };
    client.send(request, LIMIT).await.map_err(|failure| failure.to_string())
}

fn fine(_: usize, _: &fixture::Seen) -> Response<String> {
    Response::new("fine".into())
}

#[tokio::test]
async fn a_request_arrives_as_it_was_given() {
    let ca = Ca::new("ours");
    let server = Server::start(ca.server("localhost", false, None), fine).await;
    let headers: HeaderMap =
        [(axum::http::header::ACCEPT, HeaderValue::from_static("*/*"))].into_iter().collect();
    let request = Outgoing {
        method: &Method::PUT,
        target: &Target::parse(&server.url("/a/../b?c=%20")).unwrap(),
        headers: &headers,
        body: b"body",
    };
    let response = trusting(&ca, None).send(request, LIMIT).await.unwrap();
    assert_eq!((response.status().as_u16(), response.body().as_ref()), (200, &b"fine"[..]));
    let seen = server.seen().remove(0);
    assert_eq!((seen.head.method.as_str(), seen.head.uri.to_string().as_str()), ("PUT", "/a/../b?c=%20"));
    assert_eq!(seen.head.headers[HOST], format!("localhost:{}", server.address.port()).as_str());
    assert_eq!((seen.head.headers["accept"].as_bytes(), &*seen.body), (&b"*/*"[..], &b"body"[..]));
}

#[tokio::test]
async fn a_server_that_is_not_trusted_gets_no_request_and_the_user_a_hint() {
    let (ca, other) = (Ca::new("ours"), Ca::new("theirs"));
    for (config, client, hint) in [
        (ca.server("localhost", false, None), trusting(&other, None), "--ca FILE"),
        (ca.server("elsewhere", false, None), trusting(&ca, None), "host name"),
        (ca.server("localhost", true, None), trusting(&ca, None), "renew it on the gateway"),
    ] {
        let server = Server::start(config, fine).await;
        let failure = get(&client, &server.url("/")).await.unwrap_err();
        assert!(failure.contains(hint), "{failure}");
        assert!(server.seen().is_empty());
    }
}

#[tokio::test]
async fn a_refused_client_certificate_is_named_as_the_cause() {
    let (ca, other) = (Ca::new("ours"), Ca::new("theirs"));
    for (clients, identity, hint) in [
        ((&ca, false), None, "give --cert"),
        ((&ca, false), Some(other.client(false)), "does not know the CA"),
        ((&ca, false), Some(Ca::new("ours").client(false)), "of the same name"),
        ((&ca, false), Some(ca.client(true)), "has expired"),
        ((&ca, true), Some(ca.client(false)), "was revoked"),
    ] {
        let server = Server::start(ca.server("localhost", false, Some(clients)), fine).await;
        let failure = get(&trusting(&ca, identity.as_ref()), &server.url("/")).await.unwrap_err();
        assert!(failure.contains(hint), "{hint}: {failure}");
    }
    let server = Server::start(ca.server("localhost", false, Some((&ca, false))), fine).await;
    assert!(get(&trusting(&ca, Some(&ca.client(false))), &server.url("/")).await.is_ok());
}

#[tokio::test]
async fn nobody_there_is_said_plainly() {
    let ca = Ca::new("ours");
    let client = trusting(&ca, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = format!("https://{}/", listener.local_addr().unwrap());
    drop(listener);
    assert!(get(&client, &free).await.unwrap_err().contains("is the gateway running"));
    assert!(
        get(&client, "https://no.such.host.invalid/").await.unwrap_err().contains("cannot find the host")
    );
}

#[tokio::test]
async fn what_does_not_speak_tls_or_hangs_up_is_said_plainly() {
    let ca = Ca::new("ours");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let failure = get(&trusting(&ca, None), &url).await.unwrap_err();
    assert!(failure.contains("is this the gateway's port"), "{failure}");
}

#[tokio::test]
async fn a_silent_server_is_not_waited_for_longer_than_the_limit() {
    let ca = Ca::new("ours");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let target = Target::parse(&url).unwrap();
    let request = Outgoing { method: &Method::GET, target: &target, headers: &HeaderMap::new(), body: b"" };
    let client = trusting(&ca, None);
    let failure = client.send(request, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(failure.fate(), Fate::NotSent, "{failure}");
    let acceptor = TlsAcceptor::from(Arc::new(ca.server("localhost", false, None)));
    let (answer, held) = tokio::join!(client.send(request, Duration::from_secs(2)), async {
        let _before = listener.accept().await.unwrap();
        acceptor.accept(listener.accept().await.unwrap().0).await.unwrap()
    });
    let failure = answer.unwrap_err();
    drop(held);
    assert!(matches!(failure, Failure::NoAnswer { .. }), "{failure}");
    assert_eq!(failure.fate(), Fate::Unknown);
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_request_may_have_brought_it() {
    let ca = Ca::new("ours");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let target = Target::parse(&url).unwrap();
    let request = Outgoing { method: &Method::GET, target: &target, headers: &HeaderMap::new(), body: b"" };
    let acceptor = TlsAcceptor::from(Arc::new(ca.server("localhost", false, None)));
    let client = trusting(&ca, None);
    let (answer, ()) = tokio::join!(client.send(request, LIMIT), async {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 16]).await.unwrap();
        assert!(read > 0);
    });
    let failure = answer.unwrap_err();
    assert_eq!(failure.fate(), Fate::Unknown, "{failure}");
    assert!(!failure.to_string().contains("https://"), "{failure}");
}

#[tokio::test]
async fn a_large_answer_is_refused() {
    let ca = Ca::new("ours");
    let server = Server::start(ca.server("localhost", false, None), fine).await;
    let client = Client { largest_answer: 3, ..trusting(&ca, None) };
    assert!(get(&client, &server.url("/")).await.unwrap_err().contains("larger than 3"));
}

#[test]
fn without_anything_to_trust_or_show_there_is_no_client() {
    let ca = Ca::new("ours");
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = |path: &Path| Client::new(&CaSource::File(path.into()), None).unwrap_err();
    assert!(matches!(with(file.path()), Failure::NoCertificates { .. }));
    assert!(matches!(with(Path::new("/nonexistent")), Failure::Read { .. }));
    std::fs::write(file.path(), &ca.pem).unwrap();
    let trust = CaSource::File(file.path().into());
    let good = ca.client(false);
    for bad in [
        ClientCertificate { chain: Vec::new(), ..good.clone() },
        ClientCertificate { key: Secret::new(b"x".to_vec()), ..good.clone() },
        ClientCertificate { key: ca.client(false).key, ..good.clone() },
    ] {
        assert!(matches!(Client::new(&trust, Some(&bad)), Err(Failure::Identity(_))));
    }
}
