//! The last guard: is what the allowed sender asks for something that the route offers?
//!
//! Judges the body, extracts the parameters, and makes sure that they are accepted and that argv arrays can be rendered
//! from them, with the functions that the worker calls too (invariant I4). What it renders it throws away: a permit
//! carries raw values.

use std::time::Duration;

use axum::http::HeaderMap;
use sha2::{Digest as _, Sha256};

use super::extract::extract;
use super::guard::Guard;
use super::json::Json;
use super::prefer;
use super::rejection::{Notice, Rejection};
use super::stage::{Allowed, Body, Paced, Permit};
use crate::domain::identity::Identity;
use crate::domain::parameters::RawParameters;
use crate::domain::submission::{Message, MessageId};
use crate::policy::parameter::From;
use crate::policy::route::{Payload, Respond, Route};

/// Longest `Idempotency-Key`, in bytes.
const LONGEST_IDEMPOTENCY_KEY: usize = 128;
/// How long the `Idempotency-Key` of a certificate's holder is remembered.
const REMEMBER_IDEMPOTENCY_KEY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Judges what an allowed request asks for.
pub(super) struct Admit {
    /// `limits.body`, in bytes
    pub(super) largest: usize,
    /// `limits.wait`
    pub(super) longest_wait: Duration,
}

impl Guard<Paced> for Admit {
    type Out = Permit;

    fn check(&self, paced: Paced) -> Result<Permit, Rejection> {
        let allowed = &paced.0;
        let judged = self.judge(allowed).map_err(|notice| allowed.refuse(notice))?;
        Ok(Permit::grant(paced, judged.parameters, judged.message, judged.wait))
    }
}

struct Judged {
    parameters: RawParameters,
    message: Message,
    wait: Option<Duration>,
}

impl Admit {
    fn judge(&self, allowed: &Allowed) -> Result<Judged, Notice> {
        let route = &*allowed.route;
        let parts = &allowed.arrived.head.parts;
        let body = match &allowed.arrived.body {
            Body::Whole(whole) if whole.bytes.len() > route.body => {
                return Err(Notice::BodyTooLarge { limit: route.body });
            }
            Body::Whole(whole) => &whole.bytes,
            Body::TooLarge => return Err(Notice::BodyTooLarge { limit: route.body.min(self.largest) }),
            Body::TooSlow => return Err(Notice::BodyTooSlow),
            Body::Broken => return Err(Notice::BodyBroken),
        };
        let json = document(route, body)?;
        let parameters = extract(&route.parameters, parts, &allowed.proofs, json.as_ref())?;
        let derived = route.parameters.accept(&parameters)?;
        let _argv = route.run.render(&derived)?;
        let message = message(allowed, &parts.headers, parts.uri.query(), body)?;
        let preferred = prefer::wait(&parts.headers);
        let wait = match route.run.respond {
            Respond::Accepted => preferred,
            Respond::Result => preferred.or(Some(self.longest_wait)),
        };
        Ok(Judged { parameters, message, wait: wait.map(|wait| wait.min(self.longest_wait)) })
    }
}

/// The body as JSON, where there is one or a parameter needs one.
fn document(route: &Route, body: &[u8]) -> Result<Option<Json>, Notice> {
    let is_asked = route.parameters.sources().any(|(_, from)| matches!(from, From::Body(_)));
    match route.payload {
        Payload::Json if is_asked && body.trim_ascii().is_empty() => Err(Notice::BodyEmpty),
        Payload::Json if !body.is_empty() => Json::parse(body).map(Some).map_err(Notice::BodyNotJson),
        Payload::Json | Payload::None => Ok(None),
    }
}

fn message(
    allowed: &Allowed,
    headers: &HeaderMap,
    query: Option<&str>,
    body: &[u8],
) -> Result<Message, Notice> {
    let route = &allowed.route.name;
    let digest = || digest(&[route.as_str().as_bytes(), query.unwrap_or_default().as_bytes(), body]);
    match (&allowed.authorized.identity, &allowed.signed) {
        (Identity::Key(key), Some(signed)) => Ok(Message::Identified(MessageId {
            scope: format!("key:{key}"),
            id: signed.nonce.clone(),
            digest: digest(),
            created: Some(signed.created),
            keep_until: signed.keep_until,
        })),
        (Identity::Certname(certname), _) => {
            let mut keys = headers.get_all("idempotency-key").iter();
            let key = match (keys.next(), keys.next()) {
                (None, _) => return Ok(Message::Anonymous),
                (Some(key), None) => key.to_str().ok(),
                (Some(_), Some(_)) => None,
            };
            let key = key.filter(|key| (1..=LONGEST_IDEMPOTENCY_KEY).contains(&key.len()));
            let id = key.ok_or(Notice::Header("idempotency-key"))?.to_owned();
            let at = allowed.arrived.head.at;
            let keep_until = at.saturating_add(REMEMBER_IDEMPOTENCY_KEY).unwrap_or(at);
            let scope = format!("certname:{certname} route:{route}");
            Ok(Message::Identified(MessageId { scope, id, digest: digest(), created: None, keep_until }))
        }
        // A key is an identity only through a signature, so this cannot be; if it were, it would not be a message.
        (Identity::Key(_), None) => Err(Notice::Header("signature")),
    }
}

/// SHA-256 over parts with their lengths, so that no two lists of parts give the same bytes.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_the_parts_apart() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"", b"a"]), digest(&[b"a", b""]));
    }
}
