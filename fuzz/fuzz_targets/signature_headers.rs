//! Strangers' header lines, before anything is known of them: nothing but verdicts comes of them, and nothing is
//! verified, because nobody here knows a secret.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Request};
use bridgeward::domain::name::KeyName;
use bridgeward::gate::scheme::Verifier;
use bridgeward::policy::scheme::{BodyHmac, Digest, Encoding};
use bridgeward::policy::secret::Secret;
use bridgeward::policy::{Key, Scheme};
use libfuzzer_sys::fuzz_target;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let form = BodyHmac {
        header: "x-signature".to_owned(),
        prefix: "sha512=".to_owned(),
        encoding: Encoding::Base64,
        digest: Digest::Sha512,
    };
    let schemes = [
        ("jenkins", Scheme::Rfc9421),
        ("webhooks", Scheme::StandardWebhooks),
        ("github", Scheme::Github),
        ("bitbucket", Scheme::Bitbucket),
        ("gitea", Scheme::Gitea),
        ("forgejo", Scheme::Forgejo),
        ("stripe", Scheme::Stripe),
        ("slack", Scheme::Slack),
        ("other", Scheme::BodyHmac(form)),
        ("gitlab", Scheme::GitlabToken),
    ];
    let keys: BTreeMap<_, _> = schemes.into_iter().map(|(name, scheme)| key(name, scheme)).collect();
    Verifier::new(&keys, &["localhost".to_owned()])
});

fn key(name: &str, scheme: Scheme) -> (KeyName, Key) {
    let name = KeyName::parse(name).unwrap();
    let secret = std::iter::repeat_n(*b"not in any corpus", 4).flatten().collect();
    let key = Key {
        name: name.clone(),
        scheme,
        secrets: vec![Secret::new(secret)],
        window: Duration::from_secs(300),
        remember: Duration::from_secs(600),
        id: None,
    };
    (name, key)
}

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
    let verdicts = VERIFIER.verify(&parts, Some(body.get(2..).unwrap_or_default()), now);
    for why in verdicts.failures() {
        drop(why.to_string());
    }
    assert_eq!(verdicts.verified().count(), 0, "a signature without its secret");
});
