//! Strangers' header lines, before anything is known of them: nothing but a verdict comes of them, and no verdict is
//! `Verified`, because nobody here knows the secret.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Request};
use bridgeward::domain::name::KeyName;
use bridgeward::gate::scheme::{Verdict, Verifier};
use bridgeward::policy::secret::Secret;
use bridgeward::policy::{Key, Scheme};
use libfuzzer_sys::fuzz_target;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let name = KeyName::parse("jenkins").unwrap();
    let secret = std::iter::repeat_n(*b"not in any corpus", 4).flatten().collect();
    let key = Key {
        name: name.clone(),
        scheme: Scheme::Rfc9421,
        secrets: vec![Secret::new(secret)],
        window: Duration::from_secs(300),
        remember: Duration::from_secs(600),
    };
    Verifier::new(&BTreeMap::from([(name, key)]), &["localhost".to_owned()])
});

// Lines of `name: value` up to an empty line, then the body.
fuzz_target!(|data: &[u8]| {
    let end = data.windows(2).position(|pair| pair == b"\n\n").unwrap_or(data.len());
    let (head, body) = data.split_at(end);
    let mut request = Request::post("/promote?a=b").header("host", "localhost").body(()).unwrap();
    for line in head.split(|byte| *byte == b'\n').take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            request.headers_mut().append(name, value);
        }
    }
    let now = jiff::Timestamp::from_second(1_700_000_000).unwrap();
    let (parts, ()) = request.into_parts();
    match VERIFIER.verify(&parts, Some(body.get(2..).unwrap_or_default()), now) {
        Verdict::Absent => {}
        Verdict::Failed(why) => drop(why.to_string()),
        Verdict::Verified(_) => panic!("a signature without its secret"),
    }
});
