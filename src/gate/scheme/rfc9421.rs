//! The native scheme: HTTP Message Signatures (RFC 9421) with `hmac-sha256`.
//!
//! Demands that method, host, path, query and body are all signed, that the signature is fresh, and that it carries a
//! nonce. Whether a key exists is not to be learned from the time that a refusal takes: each request costs as many MACs
//! as the key with most secrets has, and what depends on a key is judged only after its signature stands.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::header::{HOST, HeaderMap};
use axum::http::request::Parts;
use hmac::digest::InvalidLength;
use hmac::{Hmac, KeyInit as _};
use jiff::Timestamp;
use sha2::Sha256;

use super::authority::{Authorities, Authority};
use super::base::{Component, Message};
use super::mac::Bill;
use super::times::Times;
use super::{Covered, Id, Signed, Why, digest};
use crate::domain::name::KeyName;
use crate::policy::scheme::Digest;
use crate::policy::secret::Secret;
use crate::policy::{Key, Scheme};

mod claim;
pub(super) mod sign;

use claim::Claim;

/// Most components that a signature may cover.
pub(super) const MOST_COMPONENTS: usize = 32;
const ALGORITHM: &str = "hmac-sha256";
const CONTENT_DIGEST: &str = "content-digest";

/// Verifies signatures of all keys of the scheme.
#[derive(Debug)]
pub(super) struct Verifier {
    keys: BTreeMap<KeyName, Candidate>,
    authorities: Authorities,
    most_secrets: usize,
}

#[derive(Debug)]
struct Candidate {
    secrets: Vec<Secret>,
    times: Times,
}

impl Verifier {
    /// A verifier of those `keys` whose scheme is `rfc9421`, for signatures that name one of `authorities` (hosts
    /// without ports; a leading `*.` stands for one label).
    pub(super) fn new(keys: &BTreeMap<KeyName, Key>, authorities: &[String]) -> Self {
        let ours = keys.iter().filter(|(_, key)| key.scheme == Scheme::Rfc9421);
        let keys: BTreeMap<_, _> = ours.map(|(name, key)| (name.clone(), Candidate::new(key))).collect();
        let most_secrets = keys.values().map(|key| key.secrets.len()).max().unwrap_or(0).max(1);
        Self { keys, authorities: Authorities::new(authorities), most_secrets }
    }

    /// The names of the keys that it knows.
    pub(super) fn keys(&self) -> impl Iterator<Item = &KeyName> {
        self.keys.keys()
    }

    /// What a signature by this key would say, made now over all of a request that can be covered.
    pub(super) fn assume(
        &self,
        key: &KeyName,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Option<Result<Signed, Why>> {
        let keep_until = self.keys.get(key)?.times.judge(Some(now), now);
        Some(keep_until.map(|keep_until| Signed {
            key: key.clone(),
            id: Id::Nonce("the-senders-nonce".to_owned()),
            created: Some(now),
            keep_until,
            covered: Covered::Request(headers.keys().map(|name| name.as_str().to_owned()).collect()),
        }))
    }

    /// Judges the signature of a request, if it carries one; `body` is `None` when it did not arrive whole.
    pub(super) fn verify(
        &self,
        head: &Parts,
        body: Option<&[u8]>,
        now: Timestamp,
        bill: &mut Bill<'_>,
    ) -> Option<Result<Signed, Why>> {
        let claim = claim::read(&head.headers).transpose()?;
        Some(claim.and_then(|claim| self.judge(claim, head, body, now, bill)))
    }

    fn judge(
        &self,
        claim: Claim,
        head: &Parts,
        body: Option<&[u8]>,
        now: Timestamp,
        bill: &mut Bill<'_>,
    ) -> Result<Signed, Why> {
        let body = body.ok_or(Why::BodyIncomplete)?;
        let authority = self.authority(&head.headers)?;
        let message = message(head, &authority)?;
        demand_coverage(&claim.components, message.query.is_some(), !body.is_empty())?;
        let base = message.base(&claim.components, &claim.parameters)?;

        let candidate = self.made_by(&claim, &base, bill)?;
        let keep_until = candidate.judge_time(&claim, now)?;
        let covered: BTreeSet<String> = claim.components.iter().filter_map(header_name).collect();
        if covered.contains(CONTENT_DIGEST) {
            // There is exactly one line, or there would be no base.
            let value = head.headers.get(CONTENT_DIGEST).ok_or(Why::Uncovered(CONTENT_DIGEST))?;
            digest::check(value.as_bytes(), body)?;
        }
        Ok(Signed {
            key: claim.key,
            id: Id::Nonce(claim.nonce),
            created: Some(claim.created),
            keep_until,
            covered: Covered::Request(covered),
        })
    }

    fn authority(&self, headers: &HeaderMap) -> Result<Authority, Why> {
        let mut lines = headers.get_all(HOST).iter();
        let (Some(host), None) = (lines.next(), lines.next()) else { return Err(Why::Host) };
        let authority = host.to_str().ok().and_then(|host| Authority::parse(host).ok()).ok_or(Why::Host)?;
        if self.authorities.allow(&authority) {
            Ok(authority)
        } else {
            Err(Why::ForeignHost(authority.as_str().to_owned()))
        }
    }

    /// The claimed key, if one of its secrets made this MAC; the work is the same for every key, known or not.
    fn made_by(&self, claim: &Claim, base: &[u8], bill: &mut Bill<'_>) -> Result<&Candidate, Why> {
        let candidate = self.keys.get(&claim.key);
        let secrets = candidate.map_or(&[][..], |candidate| &candidate.secrets);
        let mut made = false;
        for index in 0..self.most_secrets {
            let macs = std::slice::from_ref(&claim.mac);
            made |= bill.verify(Digest::Sha256, secrets.get(index), &[base], macs);
        }
        match candidate {
            None => Err(Why::UnknownKey(claim.key.clone())),
            Some(_) if !made => Err(Why::Mismatch(claim.key.clone())),
            Some(candidate) => Ok(candidate),
        }
    }
}

impl Candidate {
    fn new(key: &Key) -> Self {
        Self { secrets: key.secrets.clone(), times: Times::of(key) }
    }

    /// Until when the message must be remembered, if its time is right.
    fn judge_time(&self, claim: &Claim, now: Timestamp) -> Result<Timestamp, Why> {
        let keep_until = self.times.judge(Some(claim.created), now)?;
        if claim.expires.is_some_and(|expires| expires <= now) {
            return Err(Why::Expired);
        }
        Ok(keep_until)
    }
}

fn message<'a>(head: &'a Parts, authority: &'a Authority) -> Result<Message<'a>, Why> {
    // A target with a host of its own would make two hosts, and only one of them signed.
    if head.uri.authority().is_some() || !head.uri.path().starts_with('/') {
        return Err(Why::Target);
    }
    Ok(Message {
        method: head.method.as_str(),
        authority: authority.as_str(),
        path: head.uri.path(),
        query: head.uri.query(),
        headers: &head.headers,
    })
}

fn demand_coverage(components: &[Component], has_query: bool, has_body: bool) -> Result<(), Why> {
    let demand = |component: Component, name| {
        if components.contains(&component) { Ok(()) } else { Err(Why::Uncovered(name)) }
    };
    demand(Component::Method, "@method")?;
    if !components.contains(&Component::TargetUri) {
        demand(Component::Authority, "@authority")?;
        demand(Component::Path, "@path")?;
        if has_query {
            demand(Component::Query, "@query")?;
        }
    }
    if has_body && !components.iter().any(|component| component.name() == CONTENT_DIGEST) {
        return Err(Why::Uncovered(CONTENT_DIGEST));
    }
    Ok(())
}

fn header_name(component: &Component) -> Option<String> {
    match component {
        Component::Header(name) => Some(name.as_str().to_owned()),
        Component::Method
        | Component::Authority
        | Component::Path
        | Component::Query
        | Component::TargetUri => None,
    }
}

fn keyed(secret: &Secret) -> Result<Hmac<Sha256>, InvalidLength> {
    Hmac::new_from_slice(secret.expose())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{HeaderName, HeaderValue, Request};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use hmac::Mac as _;
    use jiff::SignedDuration;
    use proptest::prelude::*;

    use super::super::{LONGEST_ID, NoValue, ToSign, WrongDigest, sign};
    use super::*;

    const NOW: i64 = 1_700_000_000;
    const WINDOW: i64 = 300;
    const OLD: &[u8] = b"the old secret, 32 bytes or more";
    const NEW: &[u8] = b"the new secret, 32 bytes or more";
    const BODY: &[u8] = br#"{"role":"app"}"#;
    const NONCE: &str = "c0ffee";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn name(text: &str) -> KeyName {
        KeyName::parse(text).unwrap()
    }

    /// What the tables below say of a request.
    #[derive(Debug, PartialEq, Eq)]
    enum Verdict {
        Absent,
        Verified(Signed),
        Failed(Why),
    }

    fn stand_in() -> Secret {
        secret(b"takes the place of what is not there")
    }

    fn verify_by(verifier: &Verifier, sent: &Sent, body: Option<&[u8]>, now: Timestamp) -> Verdict {
        match verifier.verify(&sent.head(), body, now, &mut Bill::new(&stand_in())) {
            None => Verdict::Absent,
            Some(Ok(signed)) => Verdict::Verified(signed),
            Some(Err(why)) => Verdict::Failed(why),
        }
    }

    fn verifier() -> Verifier {
        let key = |text: &str, secrets: &[&[u8]]| Key {
            name: name(text),
            scheme: Scheme::Rfc9421,
            secrets: secrets.iter().map(|secret| Secret::new(secret.to_vec())).collect(),
            window: Duration::from_secs(WINDOW.cast_unsigned()),
            remember: Duration::from_secs(600),
            id: None,
        };
        let keys = [key("jenkins", &[OLD, NEW]), key("other", &[b"a secret of another sender, long"])];
        let keys = keys.map(|key| (key.name.clone(), key)).into();
        Verifier::new(&keys, &["gw.example.com".into()])
    }

    /// A request as it arrives, to be bent by a test.
    #[derive(Clone, Debug)]
    struct Sent {
        method: String,
        target: String,
        headers: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
    }

    impl Sent {
        fn unsigned(method: &str, target: &str, body: &[u8]) -> Self {
            let host = ("host".to_owned(), b"gw.example.com:8443".to_vec());
            Self { method: method.into(), target: target.into(), headers: vec![host], body: body.into() }
        }

        /// Signed by the key `jenkins`, with all that is necessary and `x-extra` covered.
        fn good() -> Self {
            let mut sent = Self::unsigned("POST", "/promote?dry=1", BODY);
            let extra = [(HeaderName::from_static("x-extra"), HeaderValue::from_static("value"))];
            let request = ToSign {
                method: "POST",
                authority: "gw.example.com:8443",
                path_and_query: "/promote?dry=1",
                headers: &extra,
                body: Some(BODY),
            };
            sent.set("x-extra", "value");
            for (name, value) in sign(&request, &name("jenkins"), &secret(NEW), at(NOW), NONCE).unwrap() {
                sent.set(name, &value);
            }
            sent
        }

        /// Signs `components` (as they stand in the header) and `parameters`, whatever they are, with the right secret.
        fn signed_as(mut self, components: &[&str], parameters: &str) -> Self {
            let head = self.head();
            let parsed: Vec<_> =
                components.iter().filter_map(|text| Component::parse(text.trim_matches('"'))).collect();
            let input = format!("({}){parameters}", components.join(" "));
            let authority = Authority::parse("gw.example.com:8443").unwrap();
            let base = message(&head, &authority).unwrap().base(&parsed, &input).unwrap_or_default();
            let mac = keyed(&secret(NEW)).unwrap().chain_update(base).finalize().into_bytes();
            self.set("signature-input", &format!("sig={input}"));
            self.set("signature", &format!("sig=:{}:", STANDARD.encode(mac)));
            self
        }

        fn set(&mut self, name: &str, value: &str) -> &mut Self {
            let name = name.to_ascii_lowercase();
            self.headers.retain(|(old, _)| *old != name);
            self.add(&name, value)
        }

        fn add(&mut self, name: &str, value: &str) -> &mut Self {
            self.headers.push((name.into(), value.into()));
            self
        }

        fn remove(&mut self, name: &str) -> &mut Self {
            self.headers.retain(|(old, _)| old != name);
            self
        }

        fn get(&self, name: &str) -> String {
            let found = self.headers.iter().find(|(given, _)| given == name).unwrap();
            String::from_utf8(found.1.clone()).unwrap()
        }

        fn replace(&mut self, header: &str, from: &str, to: &str) -> &mut Self {
            let value = self.get(header);
            assert!(value.contains(from), "{value} has no {from}");
            self.set(header, &value.replacen(from, to, 1))
        }

        fn head(&self) -> Parts {
            let mut request = Request::builder().method(&*self.method).uri(&*self.target);
            for (name, value) in &self.headers {
                request = request.header(name, HeaderValue::from_bytes(value).unwrap());
            }
            request.body(()).unwrap().into_parts().0
        }

        fn judged_at(&self, now: Timestamp) -> Verdict {
            verify_by(&verifier(), self, Some(&self.body), now)
        }

        fn judged(&self) -> Verdict {
            self.judged_at(at(NOW))
        }
    }

    fn secret(bytes: &[u8]) -> Secret {
        Secret::new(bytes.to_vec())
    }

    const COVERED: [&str; 5] =
        [r#""@method""#, r#""@authority""#, r#""@path""#, r#""@query""#, r#""content-digest""#];
    const PARAMETERS: &str = r#";created=1700000000;keyid="jenkins";nonce="n""#;

    fn with_components(components: &[&str]) -> Sent {
        digested(Sent::unsigned("POST", "/promote?dry=1", BODY)).signed_as(components, PARAMETERS)
    }

    fn with_parameters(parameters: &str) -> Sent {
        digested(Sent::unsigned("POST", "/promote?dry=1", BODY)).signed_as(&COVERED, parameters)
    }

    fn digested(mut sent: Sent) -> Sent {
        let value = digest::of(&sent.body);
        sent.set("content-digest", &value);
        sent
    }

    #[test]
    fn a_signed_request_is_verified() {
        let signed = Signed {
            key: name("jenkins"),
            id: Id::Nonce(NONCE.into()),
            created: Some(at(NOW)),
            keep_until: at(NOW + 600),
            covered: Covered::Request(["content-digest", "x-extra"].map(str::to_owned).into()),
        };
        assert_eq!(Sent::good().judged(), Verdict::Verified(signed));
    }

    #[test]
    fn without_signature_headers_there_is_nothing_to_judge() {
        assert_eq!(Sent::unsigned("POST", "/", BODY).judged(), Verdict::Absent);
    }

    #[test]
    fn any_secret_of_the_key_verifies_and_no_other() {
        let sign_with = |key: &str, bytes: &[u8]| {
            let request = ToSign {
                method: "GET",
                authority: "GW.example.com:443",
                path_and_query: "/kick",
                headers: &[],
                body: None,
            };
            let mut sent = Sent::unsigned("GET", "/kick", b"");
            sent.set("host", "gw.example.com");
            for (header, value) in sign(&request, &name(key), &secret(bytes), at(NOW), NONCE).unwrap() {
                sent.set(header, &value);
            }
            sent.judged()
        };
        for known in [OLD, NEW] {
            assert!(matches!(sign_with("jenkins", known), Verdict::Verified(_)));
        }
        assert_eq!(sign_with("jenkins", b"a guess"), Verdict::Failed(Why::Mismatch(name("jenkins"))));
        assert_eq!(sign_with("other", NEW), Verdict::Failed(Why::Mismatch(name("other"))));
        assert_eq!(sign_with("nobody", NEW), Verdict::Failed(Why::UnknownKey(name("nobody"))));
    }

    #[test]
    fn the_stand_in_verifies_nothing() {
        for key in ["nobody", "other"] {
            let mut sent = Sent::unsigned("GET", "/kick", b"");
            let request = ToSign {
                method: "GET",
                authority: "gw.example.com:8443",
                path_and_query: "/kick",
                headers: &[],
                body: None,
            };
            for (header, value) in sign(&request, &name(key), &stand_in(), at(NOW), NONCE).unwrap() {
                sent.set(header, &value);
            }
            let verdict = sent.judged();
            assert!(matches!(verdict, Verdict::Failed(Why::UnknownKey(_) | Why::Mismatch(_))), "{verdict:?}");
        }
    }

    #[test]
    fn other_complete_coverages_are_accepted() {
        for components in [
            &COVERED[..],
            &[r#""@target-uri""#, r#""@method""#, r#""content-digest""#],
            &[r#""@method""#, r#""@target-uri""#, r#""@authority""#, r#""content-digest""#],
        ] {
            let verdict = with_components(components).judged();
            assert!(matches!(verdict, Verdict::Verified(_)), "{components:?}: {verdict:?}");
        }
        let empty_query = Sent::unsigned("GET", "/kick?", b"").signed_as(&COVERED[..4], PARAMETERS);
        assert!(matches!(empty_query.judged(), Verdict::Verified(_)));
        let no_query = Sent::unsigned("GET", "/kick", b"").signed_as(&COVERED[..3], PARAMETERS);
        assert!(matches!(no_query.judged(), Verdict::Verified(_)));
        let all = r#";expires=1700000001;nonce="n";alg="hmac-sha256";keyid="jenkins";created=1700000000"#;
        assert!(matches!(with_parameters(all).judged(), Verdict::Verified(_)));
    }

    #[test]
    fn each_refusal_refuses() {
        let bent = |bend: &dyn Fn(&mut Sent) -> &mut Sent| {
            let mut sent = Sent::good();
            bend(&mut sent);
            sent
        };
        let without = |missing: &str| {
            let kept: Vec<_> = COVERED.into_iter().filter(|name| name.trim_matches('"') != missing).collect();
            with_components(&kept)
        };
        let plus = |extra: &str| with_components(&[&COVERED[..], &[extra]].concat());
        let many: Vec<String> = (0..=MOST_COMPONENTS).map(|n| format!("\"x-{n}\"")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mismatch = Why::Mismatch(name("jenkins"));
        let input = claim::SIGNATURE_INPUT;
        let rows: Vec<(&str, Sent, Why)> = vec![
            ("no input", bent(&|s| s.remove("signature-input")), Why::Half(input)),
            ("no signature", bent(&|s| s.remove("signature")), Why::Half(claim::SIGNATURE)),
            ("two inputs", bent(&|s| s.add(input, "b=()")), Why::SeveralLines(input)),
            ("two signatures", bent(&|s| s.add("signature", "b=:AA==:")), Why::SeveralLines("signature")),
            ("long input", bent(&|s| s.set(input, &"x".repeat(4097))), Why::TooLong(input)),
            ("long signature", bent(&|s| s.set("signature", &"x".repeat(257))), Why::TooLong("signature")),
            ("no dictionary", bent(&|s| s.set(input, "sig=(")), Why::Malformed(input)),
            ("empty input", bent(&|s| s.set(input, "")), Why::Malformed(input)),
            ("loose form", bent(&|s| s.replace(input, ";nonce", "; nonce")), Why::Malformed(input)),
            ("twice a label", bent(&|s| s.set(input, "sig=(), sig=()")), Why::Malformed(input)),
            ("two labels", bent(&|s| s.set(input, "sig=(), sag=()")), Why::Label),
            ("another label", bent(&|s| s.replace("signature", "sig=", "sag=")), Why::Label),
            ("no list", bent(&|s| s.set(input, "sig=1")), Why::Components),
            ("no strings", bent(&|s| s.set(input, "sig=(1)")), Why::Components),
            ("many", bent(&|s| s.set(input, &format!("sig=({})", many.join(" ")))), Why::Components),
            ("a text", bent(&|s| s.set("signature", "sig=\"x\"")), Why::Malformed("signature")),
            ("a list", bent(&|s| s.set("signature", "sig=(:AA==:)")), Why::Malformed("signature")),
            ("its parameter", bent(&|s| s.replace("signature", "=:", "=:;x=:")), Why::Malformed("signature")),
            ("unpadded", bent(&|s| s.replace("signature", "=:", ":")), Why::Malformed("signature")),
            ("short mac", bent(&|s| s.set("signature", "sig=:AAAA:")), mismatch.clone()),
            ("empty mac", bent(&|s| s.set("signature", "sig=::")), mismatch.clone()),
            ("component parameter", plus(r#""host";sf"#), Why::ComponentParameters),
            ("@status", plus(r#""@status""#), Why::UnknownComponent),
            ("@scheme", plus(r#""@scheme""#), Why::UnknownComponent),
            ("@request-target", plus(r#""@request-target""#), Why::UnknownComponent),
            ("@query-param", plus(r#""@query-param""#), Why::UnknownComponent),
            ("capitals", plus(r#""Host""#), Why::UnknownComponent),
            ("repeated", plus(r#""@path""#), Why::RepeatedComponent("@path".into())),
            ("absent header", plus(r#""x-no""#), NoValue::Absent(HeaderName::from_static("x-no")).into()),
            ("no @method", without("@method"), Why::Uncovered("@method")),
            ("no @authority", without("@authority"), Why::Uncovered("@authority")),
            ("no @path", without("@path"), Why::Uncovered("@path")),
            ("no @query", without("@query"), Why::Uncovered("@query")),
            ("no digest", without("content-digest"), Why::Uncovered("content-digest")),
            ("nothing", with_components(&[]), Why::Uncovered("@method")),
            ("tag", with_parameters(&format!("{PARAMETERS};tag=\"x\"")), Why::UnknownParameter),
            ("twice a parameter", with_parameters(";created=1;created=2"), Why::Malformed(input)),
            ("alg", with_parameters(r#";alg="hmac-sha512""#), Why::Algorithm),
            ("alg token", with_parameters(";alg=hmac-sha256"), Why::Algorithm),
            ("created", with_parameters(r#";keyid="jenkins";nonce="n""#), Why::ParameterMissing("created")),
            (
                "nonce",
                with_parameters(r#";created=1700000000;keyid="jenkins""#),
                Why::ParameterMissing("nonce"),
            ),
            ("keyid", with_parameters(r#";created=1700000000;nonce="n""#), Why::ParameterMissing("keyid")),
            ("created text", with_parameters(";created=\"1\""), Why::ParameterInvalid("created")),
            ("created decimal", with_parameters(";created=1.5"), Why::ParameterInvalid("created")),
            ("created far", with_parameters(";created=999999999999999"), Why::ParameterInvalid("created")),
            ("expires text", with_parameters(";expires=\"1\""), Why::ParameterInvalid("expires")),
            ("nonce empty", with_parameters(";nonce=\"\""), Why::ParameterInvalid("nonce")),
            ("nonce number", with_parameters(";nonce=1"), Why::ParameterInvalid("nonce")),
            (
                "nonce long",
                with_parameters(&format!(";nonce=\"{}\"", "n".repeat(LONGEST_ID + 1))),
                Why::ParameterInvalid("nonce"),
            ),
            ("keyid no name", with_parameters(";keyid=\"a b\""), Why::ParameterInvalid("keyid")),
            ("no host", bent(&|s| s.remove("host")), Why::Host),
            ("two hosts", bent(&|s| s.add("host", "gw.example.com:8443")), Why::Host),
            ("no such host", bent(&|s| s.set("host", "a/b")), Why::Host),
            ("foreign host", bent(&|s| s.set("host", "evil.test")), Why::ForeignHost("evil.test".into())),
            ("another port", bent(&|s| s.set("host", "gw.example.com:1")), mismatch.clone()),
            (
                "method",
                bent(&|s| {
                    s.method = "PUT".into();
                    s
                }),
                mismatch.clone(),
            ),
            (
                "method's case",
                bent(&|s| {
                    s.method = "post".into();
                    s
                }),
                mismatch.clone(),
            ),
            (
                "path",
                bent(&|s| {
                    s.target = "/Promote?dry=1".into();
                    s
                }),
                mismatch.clone(),
            ),
            (
                "query",
                bent(&|s| {
                    s.target = "/promote?dry=0".into();
                    s
                }),
                mismatch.clone(),
            ),
            (
                "query gone",
                bent(&|s| {
                    s.target = "/promote".into();
                    s
                }),
                NoValue::Query.into(),
            ),
            (
                "query added",
                {
                    let mut sent = Sent::unsigned("GET", "/kick", b"").signed_as(&COVERED[..3], PARAMETERS);
                    sent.target = "/kick?".into();
                    sent
                },
                Why::Uncovered("@query"),
            ),
            (
                "absolute target",
                bent(&|s| {
                    s.target = "https://gw.example.com:8443/promote?dry=1".into();
                    s
                }),
                Why::Target,
            ),
            (
                "star",
                bent(&|s| {
                    s.target = "*".into();
                    s
                }),
                Why::Target,
            ),
            ("header", bent(&|s| s.set("x-extra", "Value")), mismatch.clone()),
            (
                "header twice",
                bent(&|s| s.add("x-extra", "value")),
                NoValue::Several(HeaderName::from_static("x-extra")).into(),
            ),
            (
                "body",
                bent(&|s| {
                    s.body[0] ^= 1;
                    s
                }),
                WrongDigest::Mismatch.into(),
            ),
            (
                "body gone",
                bent(&|s| {
                    s.body.clear();
                    s
                }),
                WrongDigest::Mismatch.into(),
            ),
            ("digest", bent(&|s| s.set("content-digest", &digest::of(b"x"))), mismatch.clone()),
            (
                "two digests",
                bent(&|s| s.add("content-digest", "sha-256=:AAAA:")),
                NoValue::Several(HeaderName::from_static(CONTENT_DIGEST)).into(),
            ),
            (
                "useless digest",
                {
                    let mut sent = Sent::unsigned("POST", "/promote?dry=1", BODY);
                    sent.set("content-digest", "md5=:AAAA:");
                    sent.signed_as(&COVERED, PARAMETERS)
                },
                WrongDigest::Unknown.into(),
            ),
            (
                "wrong digest of nothing",
                {
                    let mut sent = Sent::unsigned("POST", "/promote?dry=1", b"");
                    sent.set("content-digest", &digest::of(b"x"));
                    sent.signed_as(&COVERED, PARAMETERS)
                },
                WrongDigest::Mismatch.into(),
            ),
            ("key", bent(&|s| s.replace(input, "jenkins", "nobody")), Why::UnknownKey(name("nobody"))),
            ("nonce changed", bent(&|s| s.replace(input, NONCE, "C0ffee")), mismatch.clone()),
            ("created changed", bent(&|s| s.replace(input, "1700000000", "1700000001")), mismatch.clone()),
            ("alg gone", bent(&|s| s.replace(input, ";alg=\"hmac-sha256\"", "")), mismatch.clone()),
        ];
        for (what, sent, why) in rows {
            assert_eq!(sent.judged(), Verdict::Failed(why), "{what}");
        }
    }

    #[test]
    fn a_body_that_did_not_arrive_whole_proves_nothing() {
        let verdict = verify_by(&verifier(), &Sent::good(), None, at(NOW));
        assert_eq!(verdict, Verdict::Failed(Why::BodyIncomplete));
    }

    #[test]
    fn the_window_is_open_to_its_edges() {
        let sent = Sent::good();
        let half = SignedDuration::from_millis(500);
        for edge in [at(NOW - WINDOW), at(NOW + WINDOW)] {
            assert!(matches!(sent.judged_at(edge), Verdict::Verified(_)), "{edge}");
        }
        for (beyond, seconds) in [(at(NOW - WINDOW) - half, WINDOW), (at(NOW + WINDOW) + half, -WINDOW)] {
            assert_eq!(sent.judged_at(beyond), Verdict::Failed(Why::OutsideWindow { seconds }));
        }
        for (expires, expired) in [(NOW - 1, true), (NOW, true), (NOW + 1, false)] {
            let verdict = with_parameters(&format!("{PARAMETERS};expires={expires}")).judged();
            assert_eq!(verdict == Verdict::Failed(Why::Expired), expired, "{expires}: {verdict:?}");
        }
    }

    #[test]
    fn a_nonce_is_kept_until_the_window_has_closed() {
        let mut verifier = verifier();
        let remember = |verifier: &mut Verifier, seconds| {
            for candidate in verifier.keys.values_mut() {
                candidate.times.remember = SignedDuration::from_secs(seconds);
            }
        };
        for (remembered, now, keep_until) in
            [(1, NOW - WINDOW, NOW + WINDOW), (1, NOW + WINDOW, NOW + WINDOW + 1), (900, NOW, NOW + 900)]
        {
            remember(&mut verifier, remembered);
            match verify_by(&verifier, &Sent::good(), Some(BODY), at(now)) {
                Verdict::Verified(signed) => assert_eq!(signed.keep_until, at(keep_until)),
                other @ (Verdict::Absent | Verdict::Failed(_)) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_guess_does_not_learn_from_the_window_whether_a_key_exists() {
        let mut sent = Sent::good();
        sent.replace("signature-input", "1700000000", "1");
        assert_eq!(sent.judged(), Verdict::Failed(Why::Mismatch(name("jenkins"))));
    }

    /// RFC 9421, appendix B.2.5: the primitive agrees, and our profile asks for more than it covers.
    #[test]
    fn the_vector_of_the_rfc() {
        let input = r#"("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#;
        let mac = "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=";
        let shared =
            "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
        let mut sent = Sent::unsigned("POST", "/foo?param=Value&Pet=dog", br#"{"hello": "world"}"#);
        sent.set("host", "example.com").set("date", "Tue, 20 Apr 2021 02:07:55 GMT");
        sent.set("content-type", "application/json");
        let head = sent.head();
        let authority = Authority::parse("example.com").unwrap();
        let components = ["date", "@authority", "content-type"].map(|name| Component::parse(name).unwrap());
        let base = message(&head, &authority).unwrap().base(&components, input).unwrap();
        let secret = Secret::new(STANDARD.decode(shared).unwrap());
        let computed = keyed(&secret).unwrap().chain_update(base).finalize().into_bytes();
        assert_eq!(STANDARD.encode(computed), mac);

        sent.set("signature-input", &format!("sig-b25={input}"));
        sent.set("signature", &format!("sig-b25=:{mac}:"));
        let key = Key {
            name: name("test-shared-secret"),
            scheme: Scheme::Rfc9421,
            secrets: vec![secret],
            window: Duration::from_secs(300),
            remember: Duration::from_secs(600),
            id: None,
        };
        let verifier = Verifier::new(&[(key.name.clone(), key)].into(), &["example.com".into()]);
        let verdict = verify_by(&verifier, &sent, Some(&sent.body), at(1_618_884_473));
        assert_eq!(verdict, Verdict::Failed(Why::ParameterMissing("nonce")));
    }

    #[test]
    fn i8_secrets_stay_secret_in_what_is_printed() {
        let shown = format!("{:?}", verifier());
        assert!(
            !shown.contains("secret,") && !shown.contains(&format!("{:?}", NEW[0..4].to_vec())),
            "{shown}"
        );
        let mut sent = Sent::good();
        sent.set("x-extra", "another");
        let mac = sent.get("signature").split(':').nth(1).unwrap().to_owned();
        match sent.judged() {
            Verdict::Failed(why) => {
                let shown = format!("{why} {why:?}");
                assert!(!shown.contains("secret,") && !shown.contains(&mac), "{shown}");
            }
            other @ (Verdict::Absent | Verdict::Verified(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_could_not_be_verified_is_not_signed() {
        use super::super::CannotSign;
        let plain = ToSign { method: "GET", authority: "gw", path_and_query: "/x", headers: &[], body: None };
        let signed = |request: &ToSign<'_>, nonce: &str| {
            sign(request, &name("jenkins"), &secret(NEW), at(NOW), nonce).map(|_| ())
        };
        let header = |name: &'static str| (HeaderName::from_static(name), HeaderValue::from_static("1"));
        let twice = [header("x-a"), header("x-a")];
        let reserved = [header("signature")];
        let many: Vec<_> = (0..MOST_COMPONENTS)
            .map(|n| (HeaderName::try_from(format!("x-{n}")).unwrap(), HeaderValue::from_static("1")))
            .collect();
        assert_eq!(signed(&plain, "n"), Ok(()));
        assert!(matches!(signed(&ToSign { authority: "a b", ..plain }, "n"), Err(CannotSign::Authority(_))));
        assert_eq!(signed(&ToSign { path_and_query: "x", ..plain }, "n"), Err(CannotSign::Path));
        assert!(matches!(signed(&ToSign { headers: &twice, ..plain }, "n"), Err(CannotSign::Header(_))));
        assert!(matches!(signed(&ToSign { headers: &reserved, ..plain }, "n"), Err(CannotSign::Reserved(_))));
        assert_eq!(signed(&ToSign { headers: &many, ..plain }, "n"), Err(CannotSign::TooMany));
        for nonce in ["", "é", "\n", &"n".repeat(LONGEST_ID + 1)] {
            assert_eq!(signed(&plain, nonce), Err(CannotSign::Nonce), "{nonce:?}");
        }
    }

    #[derive(Clone, Debug)]
    struct Made {
        method: String,
        target: String,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Vec<u8>,
        nonce: String,
    }

    fn requests() -> impl Strategy<Value = Made> {
        let headers =
            proptest::collection::btree_map("x-[a-z0-9]{1,8}", "[ -~]{0,20}", 0..5).prop_map(|map| {
                let header =
                    |(name, value): (String, String)| (name.parse().unwrap(), value.parse().unwrap());
                map.into_iter().map(header).collect()
            });
        let target = r"/[a-zA-Z0-9/._~%-]{0,20}(\?[a-zA-Z0-9=&?/%]{0,20})?";
        let body = proptest::collection::vec(any::<u8>(), 0..64);
        ("[A-Z]{1,8}", target, headers, body, "[ -~]{1,256}")
            .prop_map(|(method, target, headers, body, nonce)| Made { method, target, headers, body, nonce })
    }

    fn signed_request(made: &Made) -> Sent {
        let request = ToSign {
            method: &made.method,
            authority: "gw.example.com:8443",
            path_and_query: &made.target,
            headers: &made.headers,
            body: Some(&made.body),
        };
        let mut sent = Sent::unsigned(&made.method, &made.target, &made.body);
        for (name, value) in &made.headers {
            sent.headers.push((name.to_string(), value.as_bytes().into()));
        }
        for (name, value) in sign(&request, &name("jenkins"), &secret(OLD), at(NOW), &made.nonce).unwrap() {
            sent.set(name, &value);
        }
        sent
    }

    proptest! {
        #[test]
        fn what_is_signed_is_verified(request in requests()) {
            let verdict = signed_request(&request).judged();
            match verdict {
                Verdict::Verified(signed) => prop_assert_eq!(signed.id, Id::Nonce(request.nonce)),
                other @ (Verdict::Absent | Verdict::Failed(_)) => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn no_signed_bit_can_be_flipped(request in requests(), place in any::<prop::sample::Index>(), bit in 0..8u8) {
            let good = signed_request(&request);
            let mut bent = good.clone();
            let mut parts: Vec<&mut [u8]> = vec![&mut bent.body];
            for (name, value) in &mut bent.headers {
                // White space around a value is not signed (RFC 9421, section 2.1), so those bytes are left alone.
                let start = value.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                if name != "host" && value.len() > start + 1 {
                    let end = value.trim_ascii_end().len();
                    parts.push(&mut value[start..end]);
                }
            }
            let lengths: usize = parts.iter().map(|part| part.len()).sum();
            let mut at = place.index(lengths);
            for part in parts {
                if at < part.len() {
                    part[at] ^= 1 << bit;
                    break;
                }
                at -= part.len();
            }
            let sendable = bent.headers.iter().all(|(_, value)| HeaderValue::from_bytes(value).is_ok());
            let blank = |sent: &Sent| -> Vec<Vec<u8>> {
                sent.headers.iter().map(|(_, value)| value.trim_ascii().to_vec()).collect()
            };
            prop_assume!(sendable && (bent.body != good.body || blank(&bent) != blank(&good)));
            prop_assert!(matches!(bent.judged(), Verdict::Failed(_)), "{:?}", bent);
        }

        #[test]
        fn no_header_bytes_make_the_reader_panic(
            input in proptest::collection::vec(any::<u8>(), 0..300),
            signature in proptest::collection::vec(any::<u8>(), 0..80),
            digest in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut headers = HeaderMap::new();
            for (name, bytes) in [("signature-input", &input), ("signature", &signature)] {
                if let Ok(value) = HeaderValue::from_bytes(bytes) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
            let _ = claim::read(&headers);
            let _ = digest::check(&digest, b"");
        }

        #[test]
        fn no_likely_header_makes_the_reader_panic(
            input in r#"[a-z]{0,3}=\(("[@a-z-]{0,9}"(;[a-z]{1,2})? ?){0,4}\)(;[a-z]{1,7}(=[0-9."-]{1,9})?){0,5}"#,
            signature in "[a-z]{0,3}=:[A-Za-z0-9+/=]{0,50}:",
        ) {
            let mut headers = HeaderMap::new();
            headers.insert("signature-input", input.parse().unwrap());
            headers.insert("signature", signature.parse().unwrap());
            let _ = claim::read(&headers);
        }
    }
}
