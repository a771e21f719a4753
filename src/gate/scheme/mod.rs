//! Signature schemes: whether a request proves that its sender holds a key's secret.
//!
//! One file a scheme. Knows no routes and no rules: it says which keys signed, what their signatures cover, and how the
//! message is recognised when it comes again. Bytes are verified as they arrived, before anything parses them.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::domain::name::KeyName;

mod authority;
mod base;
mod bitbucket;
mod body_hmac;
mod claim;
mod digest;
mod forgejo;
mod gitea;
mod github;
mod gitlab_token;
mod header;
mod mac;
mod rfc9421;
mod slack;
mod standard_webhooks;
mod stripe;
mod times;
mod verifier;
mod why;

pub use authority::{Authority, NotAnAuthority};
pub use base::NoValue;
pub use digest::WrongDigest;
pub use header::Problem;
#[cfg(test)]
pub(super) use mac::macs;
pub use rfc9421::sign::{CannotSign, ToSign, sign};
pub use verifier::{Verdicts, Verifier};
pub use why::Why;

/// Longest id that a sender gives a message, in bytes.
pub const LONGEST_ID: usize = 256;

/// What a verified signature says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Whose secret it was made with.
    pub key: KeyName,
    /// How the message is recognised when it comes again.
    pub id: Id,
    /// When the sender made the message, in whole seconds, where its scheme says so.
    pub created: Option<Timestamp>,
    /// Until when the id must be remembered: no earlier than the moment from which the time window refuses the message.
    pub keep_until: Timestamp,
    /// What it was made over.
    pub covered: Covered,
}

/// How a message is recognised when it comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// By this text, of 1 to 256 bytes of printable ASCII: unique within the key, whatever the route.
    Nonce(String),
    /// By this text, of 1 to 256 bytes of printable ASCII: unique within the key and the route.
    Own(String),
    /// By what stands in its JSON body where these tokens of a JSON pointer lead.
    InBody(Vec<String>),
    /// By its body.
    Body,
}

/// What a signature was made over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Method, host, path, query, body, and these headers, in small letters.
    Request(BTreeSet<String>),
    /// The body, at most with an id and a time: of what else is in the request, the sender proves nothing.
    Body,
}
