//! A stranger's connection, byte for byte: whatever is sent, nobody gets in, every refusal is one of three, and there are
//! never more answers than requests.
#![no_main]

mod gate;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use bridgeward::domain::identity::{Peer, Shown};
use bridgeward::listener::{Verdict, converse};
use gate::Gate;
use libfuzzer_sys::fuzz_target;
use tower::ServiceExt as _;

const WALL: &str = "HTTP/1.1 404 Not Found\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 19\r\n";

fuzz_target!(|data: &[u8]| {
    let gate = Gate::shared();
    let peer = Arc::new(Peer { address: "192.0.2.1:1".parse().unwrap(), shown: Shown::Nothing });
    let mut sent = Vec::new();
    let service = hyper::service::service_fn(|mut request: Request<hyper::body::Incoming>| {
        // What hyper made of the target is what the sender wrote.
        let target = request.uri().to_string();
        assert!(data.windows(target.len()).any(|window| window == target.as_bytes()), "{target}");
        assert!(request.headers().get_all("host").iter().count() < 2);
        assert!(!request.headers().contains_key("upgrade"));
        request.extensions_mut().insert(Arc::clone(&peer));
        let router = gate.router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request.map(Body::new)).await.unwrap()) }
    });
    // It may end with an error; a stranger's connection may.
    let _ = gate.runtime.block_on(converse(tokio::io::join(data, &mut sent), service, Verdict::default()));
    assert_eq!(gate.accepted(), 0);

    let sent = String::from_utf8_lossy(&sent).replace("HTTP/1.1 100 Continue\r\n\r\n", "").replace("HTTP/1.0", "HTTP/1.1");
    let answers: Vec<&str> = sent.split("HTTP/1.1 ").skip(1).collect();
    let requests = data.windows(7).filter(|window| window == b"HTTP/1.").count();
    assert!(answers.len() <= requests + 1, "{sent}");
    for answer in answers {
        let refused = ["400 ", "414 ", "431 "].iter().any(|status| answer.starts_with(status));
        assert!(refused || format!("HTTP/1.1 {answer}").replace("connection: close\r\n", "").starts_with(WALL), "{sent}");
    }
});
