//! All signatures of a request, of all schemes that some key uses.
//!
//! Knows no route: the work is the same for every path. Keys whose signatures stand in the same header are told apart by
//! trying every secret of all of them. Bytes are verified as they arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::http::header::HeaderMap;
use axum::http::request::Parts;
use jiff::Timestamp;

use super::claim::{Claim, Proof};
use super::mac::Bill;
use super::times::Times;
use super::{Covered, Id, Signed, Why, rfc9421};
use crate::domain::name::KeyName;
use crate::policy::secret::Secret;
use crate::policy::{Key, Scheme};

/// Verifies signatures of all keys.
#[derive(Debug)]
pub struct Verifier {
    native: rfc9421::Verifier,
    native_keys: Arc<BTreeSet<KeyName>>,
    groups: Vec<Group>,
    /// Takes the place of a secret that is not there; what it verifies counts for nothing.
    stand_in: Secret,
}

/// Keys whose signatures stand in the same header.
#[derive(Debug)]
struct Group {
    header: String,
    names: Arc<BTreeSet<KeyName>>,
    candidates: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    key: KeyName,
    scheme: Scheme,
    secrets: Vec<Secret>,
    times: Times,
    /// Where in a JSON body the message's id stands.
    id: Option<Vec<String>>,
}

/// What the signatures of a request prove: one verdict for each header that some key's signatures stand in, and that is
/// there.
#[must_use]
#[derive(Debug)]
pub struct Verdicts(Vec<Verdict>);

#[derive(Debug)]
struct Verdict {
    /// The keys that may have signed in this way.
    keys: Arc<BTreeSet<KeyName>>,
    outcome: Result<Signed, Why>,
}

impl Verdicts {
    /// Why a signature proves nothing which one of these keys would have made; signatures of other schemes are ignored.
    pub fn failure<'k>(&self, mut keys: impl Iterator<Item = &'k KeyName>) -> Option<&Why> {
        let failed: Vec<_> = self
            .0
            .iter()
            .filter_map(|verdict| Some((&verdict.keys, verdict.outcome.as_ref().err()?)))
            .collect();
        keys.find_map(|key| failed.iter().find(|(keys, _)| keys.contains(key)).map(|(_, why)| *why))
    }

    /// What was proven.
    pub fn verified(&self) -> impl Iterator<Item = &Signed> {
        self.0.iter().filter_map(|verdict| verdict.outcome.as_ref().ok())
    }

    /// Why something was not.
    pub fn failures(&self) -> impl Iterator<Item = &Why> {
        self.0.iter().filter_map(|verdict| verdict.outcome.as_ref().err())
    }
}

impl Verifier {
    /// A verifier of these `keys`. `rfc9421` signatures name one of `authorities` (hosts without ports; a leading `*.`
    /// stands for one label).
    #[must_use]
    pub fn new(keys: &BTreeMap<KeyName, Key>, authorities: &[String]) -> Self {
        let native = rfc9421::Verifier::new(keys, authorities);
        let native_keys = Arc::new(native.keys().cloned().collect());
        let mut by_header: BTreeMap<&str, Vec<&Key>> = BTreeMap::new();
        for key in keys.values().filter(|key| !key.scheme.signs_requests()) {
            by_header.entry(key.scheme.header()).or_default().push(key);
        }
        let groups = by_header.into_iter().map(|(header, keys)| Group::new(header, &keys)).collect();
        let mut stand_in = vec![0; 32];
        // Without randomness the zeros stay, which is no weakness: see `stand_in`.
        let _ = rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut stand_in);
        Self { native, native_keys, groups, stand_in: Secret::new(stand_in) }
    }

    /// Judges the signatures of a request; `body` is `None` when it did not arrive whole.
    pub fn verify(&self, head: &Parts, body: Option<&[u8]>, now: Timestamp) -> Verdicts {
        let mut bill = Bill::new(&self.stand_in);
        let native = self.native.verify(head, body, now, &mut bill);
        let mut verdicts: Vec<_> = native
            .map(|outcome| Verdict { keys: Arc::clone(&self.native_keys), outcome })
            .into_iter()
            .collect();
        for group in &self.groups {
            if let Some(outcome) = group.verify(&head.headers, body, now, &mut bill) {
                verdicts.push(Verdict { keys: Arc::clone(&group.names), outcome });
            }
        }
        bill.settle(body.unwrap_or_default());
        Verdicts(verdicts)
    }

    /// What it would say of a request that is signed by this key, now, over all that the scheme covers; `None` when there
    /// is no such key. To explain a policy: verifies nothing.
    #[must_use]
    pub fn assume(
        &self,
        key: &KeyName,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Option<Verdicts> {
        let native = self.native.assume(key, headers, now);
        let native = native.map(|outcome| Verdict { keys: Arc::clone(&self.native_keys), outcome });
        let of_group = |group: &Group| {
            let candidate = group.candidates.iter().find(|candidate| candidate.key == *key)?;
            Some(Verdict { keys: Arc::clone(&group.names), outcome: candidate.assume(body, now) })
        };
        native.or_else(|| self.groups.iter().find_map(of_group)).map(|verdict| Verdicts(vec![verdict]))
    }
}

impl Group {
    fn new(header: &str, keys: &[&Key]) -> Self {
        let candidate = |key: &&Key| Candidate {
            key: key.name.clone(),
            scheme: key.scheme.clone(),
            secrets: key.secrets.clone(),
            times: Times::of(key),
            id: key.id.clone(),
        };
        Self {
            header: header.to_owned(),
            names: Arc::new(keys.iter().map(|key| key.name.clone()).collect()),
            candidates: keys.iter().map(candidate).collect(),
        }
    }

    fn verify(
        &self,
        headers: &HeaderMap,
        body: Option<&[u8]>,
        now: Timestamp,
        bill: &mut Bill<'_>,
    ) -> Option<Result<Signed, Why>> {
        let mut made = None;
        let mut refused = None;
        for candidate in &self.candidates {
            match Claim::read(&candidate.scheme, headers) {
                Ok(None) => {}
                Ok(Some(claim)) => {
                    // All secrets of all keys, whichever was right.
                    if let Err(why) = candidate.made(&claim, body, bill, &self.header) {
                        refused.get_or_insert(why);
                    } else if made.is_none() {
                        made = Some((candidate, claim));
                    }
                }
                Err(why) => drop(refused.get_or_insert(why)),
            }
        }
        match made {
            Some((candidate, claim)) => Some(candidate.sign(claim, now)),
            None => refused.map(Err),
        }
    }
}

impl Candidate {
    fn made(&self, claim: &Claim, body: Option<&[u8]>, bill: &mut Bill<'_>, header: &str) -> Result<(), Why> {
        let body = body.ok_or(Why::BodyIncomplete)?;
        if body.is_empty() {
            return Err(Why::NoBody);
        }
        let is_made = self.secrets.iter().fold(false, |made, secret| {
            made | match &claim.proof {
                Proof::Mac { digest, before, macs } => {
                    bill.verify(*digest, Some(secret), &[before, body], macs)
                }
                Proof::Token(token) => bill.same(secret, token),
            }
        });
        if is_made { Ok(()) } else { Err(Why::Unmatched(header.to_owned())) }
    }

    fn assume(&self, body: &[u8], now: Timestamp) -> Result<Signed, Why> {
        if body.is_empty() {
            return Err(Why::NoBody);
        }
        let created = self.scheme.tells_the_time().then_some(now);
        let id = self.scheme.numbers_messages().then(|| "the-senders-id".to_owned());
        self.sign(Claim { proof: Proof::Token(Vec::new()), created, id }, now)
    }

    fn sign(&self, claim: Claim, now: Timestamp) -> Result<Signed, Why> {
        let keep_until = self.times.judge(claim.created, now)?;
        let id = match (claim.id, &self.id) {
            (Some(own), _) => Id::Own(own),
            (None, Some(pointer)) => Id::InBody(pointer.clone()),
            (None, None) => Id::Body,
        };
        Ok(Signed { key: self.key.clone(), id, created: claim.created, keep_until, covered: Covered::Body })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use axum::http::Request;

    use super::super::mac::code;
    use super::*;
    use crate::policy::scheme::{BodyHmac, Digest, Encoding};

    const NOW: i64 = 1_700_000_000;

    fn name(text: &str) -> KeyName {
        KeyName::parse(text).unwrap()
    }

    fn key(text: &str, scheme: Scheme, secrets: &[&[u8]]) -> (KeyName, Key) {
        let key = Key {
            name: name(text),
            scheme,
            secrets: secrets.iter().map(|secret| Secret::new(secret.to_vec())).collect(),
            window: Duration::from_secs(300),
            remember: Duration::from_secs(30 * 86_400),
            id: None,
        };
        (key.name.clone(), key)
    }

    fn judge(
        keys: &BTreeMap<KeyName, Key>,
        at: i64,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Verdicts {
        let mut request = Request::builder().method("POST").uri("/x").header("host", "gw.example.com");
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let now = Timestamp::from_second(at).unwrap();
        Verifier::new(keys, &["gw.example.com".into()]).verify(&head, body, now)
    }

    fn alone(
        at: i64,
        scheme: &Scheme,
        secret: &[u8],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Result<Signed, Why>> {
        let keys = BTreeMap::from([key("sender", scheme.clone(), &[b"another secret", secret])]);
        let Verdicts(mut all) = judge(&keys, at, headers, Some(body));
        assert!(all.len() < 2);
        all.pop().map(|verdict| verdict.outcome)
    }

    /// The signature is right; what it says.
    pub(in crate::gate::scheme) fn verified_at(
        at: i64,
        scheme: &Scheme,
        secret: &[u8],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Signed {
        match alone(at, scheme, secret, headers, body) {
            Some(Ok(signed)) => signed,
            other => panic!("{headers:?}: {other:?}"),
        }
    }

    /// There is a signature, and it is wrong; why.
    pub(in crate::gate::scheme) fn refused_at(
        at: i64,
        scheme: &Scheme,
        secret: &[u8],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Why {
        match alone(at, scheme, secret, headers, body) {
            Some(Err(why)) => why,
            other => panic!("{headers:?}: {other:?}"),
        }
    }

    /// A signature without a time is right, and no change of it, of its header or of the body is.
    pub(in crate::gate::scheme) fn verified(
        scheme: &Scheme,
        secret: &[u8],
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let signed = verified_at(NOW, scheme, secret, headers, body);
        assert_eq!((signed.id, signed.created, signed.covered), (Id::Body, None, Covered::Body));
        assert_eq!(signed.keep_until.as_second(), NOW + 30 * 86_400);
        let doubled = [headers, headers].concat();
        refused(scheme, secret, &doubled, body);
        assert_eq!(refused_at(NOW, scheme, secret, headers, b""), Why::NoBody);
        if *scheme == Scheme::GitlabToken {
            return;
        }
        for at in 0..body.len() {
            let mut changed = body.to_vec();
            changed[at] ^= 1 << (at % 8);
            refused(scheme, secret, headers, &changed);
        }
    }

    pub(in crate::gate::scheme) fn refused(
        scheme: &Scheme,
        secret: &[u8],
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        refused_at(NOW, scheme, secret, headers, body);
    }

    /// There is no signature of the scheme.
    pub(in crate::gate::scheme) fn absent(
        scheme: &Scheme,
        secret: &[u8],
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        assert_eq!(alone(NOW, scheme, secret, headers, body), None, "{headers:?}");
    }

    fn hex(digest: Digest, secret: &[u8], body: &[u8]) -> String {
        let mac = code(digest, &Secret::new(secret.to_vec()), &[body]).unwrap();
        mac.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_key_is_found_whose_secret_signed() {
        let keys = BTreeMap::from([
            key("a", Scheme::Gitea, &[b"one", b"two"]),
            key("b", Scheme::Gitea, &[b"three"]),
            key(
                "c",
                Scheme::BodyHmac(BodyHmac {
                    header: "x-gitea-signature".into(),
                    prefix: "sha512:".into(),
                    encoding: Encoding::Hex,
                    digest: Digest::Sha512,
                }),
                &[b"four"],
            ),
        ]);
        let sha512 = |secret| format!("sha512:{}", hex(Digest::Sha512, secret, b"{}"));
        let sha256 = |secret| hex(Digest::Sha256, secret, b"{}");
        for (value, key) in
            [(sha256(b"one"), "a"), (sha256(b"two"), "a"), (sha256(b"three"), "b"), (sha512(b"four"), "c")]
        {
            let verdicts = judge(&keys, NOW, &[("x-gitea-signature", &value)], Some(b"{}"));
            let signed: Vec<_> = verdicts.verified().map(|signed| signed.key.as_str()).collect();
            assert_eq!((signed, verdicts.failures().count()), (vec![key], 0), "{value}");
        }
        for value in [sha256(b"four"), sha512(b"one"), sha256(b"")] {
            let verdicts = judge(&keys, NOW, &[("x-gitea-signature", &value)], Some(b"{}"));
            assert_eq!(verdicts.verified().count(), 0);
            for name in keys.keys() {
                assert!(verdicts.failure(std::iter::once(name)).is_some(), "{value}");
            }
        }
    }

    #[test]
    fn each_scheme_is_judged_by_itself_and_fails_for_its_own_keys_alone() {
        let keys = BTreeMap::from([
            key("gitea", Scheme::Gitea, &[b"gitea's"]),
            key("github", Scheme::Github, &[b"github's"]),
            key("stripe", Scheme::Stripe, &[b"stripe's"]),
            key("native", Scheme::Rfc9421, &[b"native's"]),
        ]);
        // All that Gitea sends.
        let (sha1, sha256) = (hex(Digest::Sha1, b"gitea's", b"{}"), hex(Digest::Sha256, b"gitea's", b"{}"));
        let (sha1, prefixed) = (format!("sha1={sha1}"), format!("sha256={sha256}"));
        let headers = [
            ("x-gitea-signature", &*sha256),
            ("x-gogs-signature", &sha256),
            ("x-hub-signature", &sha1),
            ("x-hub-signature-256", &prefixed),
        ];
        let verdicts = judge(&keys, NOW, &headers, Some(b"{}"));
        let failure = |key: &str| verdicts.failure(std::iter::once(&name(key))).cloned();
        assert_eq!(verdicts.verified().map(|signed| signed.key.as_str()).collect::<Vec<_>>(), ["gitea"]);
        assert_eq!(failure("github"), Some(Why::Unmatched("x-hub-signature-256".into())));
        assert_eq!(
            (failure("gitea"), failure("stripe"), failure("native"), failure("none")),
            (None, None, None, None)
        );

        let verdicts = judge(&keys, NOW, &[("signature", "x")], Some(b"{}"));
        assert_eq!(verdicts.failures().count(), 1);
        assert!(verdicts.failure(std::iter::once(&name("native"))).is_some());
        assert!(verdicts.failure(std::iter::once(&name("gitea"))).is_none());
        assert!(verdicts.failure([name("gitea"), name("native")].iter()).is_some());
    }

    #[test]
    fn a_body_that_did_not_arrive_whole_proves_nothing() {
        let keys = BTreeMap::from([key("a", Scheme::Gitea, &[b"one"])]);
        let value = hex(Digest::Sha256, b"one", b"");
        let verdicts = judge(&keys, NOW, &[("x-gitea-signature", &value)], None);
        assert_eq!(verdicts.failures().collect::<Vec<_>>(), [&Why::BodyIncomplete]);
        assert_eq!(judge(&keys, NOW, &[], None).failures().count(), 0);
    }
}
