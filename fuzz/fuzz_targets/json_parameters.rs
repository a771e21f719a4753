//! A body of somebody who is allowed: what is accepted is what any JSON reader sees at the place that the policy names,
//! and nothing that the pattern does not match.
#![no_main]

mod gate;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use bridgeward::domain::identity::{Certificate, Peer, Presented, Shown};
use bridgeward::domain::parameters::Value;
use gate::Gate;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use tower::ServiceExt as _;

fuzz_target!(|data: &[u8]| {
    let gate = Gate::shared();
    let certificate = Certificate { certname: "ci-1.example.com".to_owned(), extensions: Default::default() };
    let presented = Presented {
        certificate: Arc::new(certificate),
        issuer: Vec::new(),
        serial: vec![1],
        not_before: Timestamp::MIN,
        not_after: Timestamp::MAX,
        epoch: 0,
    };
    let peer = Peer { address: "192.0.2.1:1".parse().unwrap(), shown: Shown::Verified(Arc::new(presented)) };
    let mut request = Request::post("/promote").body(Body::from(data.to_vec())).unwrap();
    request.extensions_mut().insert(Arc::new(peer));
    let answer = gate.runtime.block_on(gate.router.clone().oneshot(request)).unwrap();
    match (answer.status().as_u16(), gate.take()) {
        (400, None) => {}
        (202, Some(parameters)) => {
            let json: serde_json::Value = serde_json::from_slice(data).expect("accepted, and no JSON");
            for (name, value) in &parameters.0 {
                let Value::Text(value) = value else { panic!("{name}: {value}, of a parameter that is no list") };
                let (pointer, matches): (_, fn(char) -> bool) = match name.as_str() {
                    "role" => ("/role", |c| matches!(c, 'a'..='z' | '_' | '/')),
                    _ => ("/list/0/n", |c| matches!(c, '0'..='9' | '-')),
                };
                assert!(value.chars().all(matches), "{name}: {value}");
                match json.pointer(pointer) {
                    Some(serde_json::Value::String(text)) => assert_eq!(text, value),
                    Some(serde_json::Value::Number(number)) => assert_eq!(&number.to_string(), value),
                    other => panic!("{name}: {value}, and {other:?}"),
                }
            }
        }
        other => panic!("{other:?}"),
    }
});
