//! The last guard: is what the allowed sender asks for something that the route offers?
//!
//! Judges the body, asks the conditions, extracts the parameters, and makes sure that they are accepted and that argv arrays can be rendered
//! from them, with the functions that the worker calls too (invariant I4). What it renders it throws away: a permit
//! carries raw values.

use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::request::Parts;
use sha2::{Digest as _, Sha256};

use super::extract::{Given, scalar};
use super::form::Fields;
use super::guard::Guard;
use super::json::Json;
use super::prefer;
use super::rejection::{Notice, Rejection};
use super::scheme::{Id, LONGEST_ID, Signed};
use super::stage::{Allowed, Body, Paced, Permit};
use crate::domain::identity::Identity;
use crate::domain::parameters::RawParameters;
use crate::domain::submission::{Message, MessageId};
use crate::policy::parameter::{From, Reason};
use crate::policy::route::{Payload, Respond};

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
            Body::Broken(_) => return Err(Notice::BodyBroken),
        };
        let form = Fields::new(body);
        let json = document(allowed, form, body)?;
        let given = Given { parts, proofs: &allowed.proofs, form, json: json.as_ref() };
        for condition in &route.when {
            // What cannot be read is not what the condition asks for.
            let value = given.text(condition.from()).unwrap_or_default();
            if !condition.holds(value.as_deref()) {
                return Err(Notice::Ignored { condition: condition.from().to_string() });
            }
        }
        let parameters = given.parameters(&route.parameters)?;
        let derived = route.parameters.accept(&parameters)?;
        let _argv = route.run.render(&derived)?;
        let message = message(allowed, parts, body, json.as_ref())?;
        let preferred = prefer::wait(&parts.headers);
        let wait = match route.run.respond {
            Respond::Accepted => preferred,
            Respond::Result => preferred.or(Some(self.longest_wait)),
        };
        Ok(Judged { parameters, message, wait: wait.map(|wait| wait.min(self.longest_wait)) })
    }
}

/// The body's JSON, where there is any or something is asked of it.
fn document(allowed: &Allowed, form: Fields<'_>, body: &[u8]) -> Result<Option<Json>, Notice> {
    let route = &allowed.route;
    let id_is_there = matches!(&allowed.signed, Some(Signed { id: Id::InBody(_), .. }));
    let is_asked = id_is_there || route.sources().any(|from| matches!(from, From::Body(_)));
    match &route.payload {
        Payload::None => Ok(None),
        Payload::Json if body.trim_ascii().is_empty() && is_asked => Err(Notice::BodyEmpty),
        Payload::Json if body.is_empty() => Ok(None),
        Payload::Json => Json::parse(body).map(Some).map_err(Notice::BodyNotJson),
        Payload::Form(name) => {
            let refuse = |reason| Notice::Field { field: name.clone(), reason };
            match form.get(name).map_err(refuse)? {
                Some(json) => Json::parse(json.as_bytes()).map(Some).map_err(Notice::BodyNotJson),
                None if is_asked => Err(refuse(Reason::Missing)),
                None => Ok(None),
            }
        }
    }
}

fn message(allowed: &Allowed, parts: &Parts, body: &[u8], json: Option<&Json>) -> Result<Message, Notice> {
    let route = &allowed.route.name;
    let query = parts.uri.query().unwrap_or_default();
    let digest = digest(&[route.as_str().as_bytes(), query.as_bytes(), body]);
    match (&allowed.authorized.identity, &allowed.signed) {
        (Identity::Key(key), Some(signed)) => {
            let on_route = format!("key:{key} route:{route}");
            let (scope, id) = match &signed.id {
                Id::Nonce(nonce) => (format!("key:{key}"), nonce.clone()),
                Id::Own(id) => (on_route, id.clone()),
                Id::InBody(tokens) => (on_route, id_in(json, tokens).map_err(Notice::MessageId)?),
                Id::Body => (on_route, hex(&Sha256::digest(body))),
            };
            let Signed { created, keep_until, .. } = *signed;
            Ok(Message::Identified(MessageId { scope, id, digest, created, keep_until }))
        }
        (Identity::Certname(certname), _) => {
            let Some(id) = idempotency_key(&parts.headers)? else { return Ok(Message::Anonymous) };
            let at = allowed.arrived.head.at;
            let keep_until = at.saturating_add(REMEMBER_IDEMPOTENCY_KEY).unwrap_or(at);
            let scope = format!("certname:{certname} route:{route}");
            Ok(Message::Identified(MessageId { scope, id, digest, created: None, keep_until }))
        }
        // A key is an identity only through a signature, so this cannot be; if it were, it would not be a message.
        (Identity::Key(_), None) => Err(Notice::Header("signature")),
    }
}

/// What the sender calls the message, where its JSON says so.
fn id_in(json: Option<&Json>, tokens: &[String]) -> Result<String, Reason> {
    let id = scalar(json.and_then(|json| json.at(tokens)))?.ok_or(Reason::Missing)?;
    match id.len() {
        0 => Err(Reason::Missing),
        1..=LONGEST_ID => Ok(id),
        _ => Err(Reason::TooLong),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Notice> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let key = match (keys.next(), keys.next()) {
        (None, _) => return Ok(None),
        (Some(key), None) => key.to_str().ok(),
        (Some(_), Some(_)) => None,
    };
    let key = key.filter(|key| (1..=LONGEST_IDEMPOTENCY_KEY).contains(&key.len()));
    key.map(|key| Some(key.to_owned())).ok_or(Notice::Header("idempotency-key"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        text.extend(
            [byte >> 4, byte & 15].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)),
        );
        text
    })
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
