//! What a signature claims whose scheme signs the body, before any of it is believed.
//!
//! One function picks the scheme's file. Each reads its headers, and says which bytes must have been signed; none of
//! them sees a secret.

use axum::http::HeaderMap;
use jiff::Timestamp;

use super::{
    Why, bitbucket, body_hmac, forgejo, gitea, github, gitlab_token, header, slack, standard_webhooks, stripe,
};
use crate::policy::Scheme;
use crate::policy::scheme::Digest;

/// What a sender says of its signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) proof: Proof,
    /// When it says that it made the message.
    pub(super) created: Option<Timestamp>,
    /// Its own id of the message; 1 to 256 bytes of printable ASCII.
    pub(super) id: Option<String>,
}

/// What shows that the sender holds the secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// One of these is the HMAC over `before` and the body.
    Mac { digest: Digest, before: Vec<u8>, macs: Vec<Vec<u8>> },
    /// It is the secret.
    Token(Vec<u8>),
}

impl Claim {
    /// The HMAC of the body alone.
    pub(super) fn of_body(digest: Digest, mac: Vec<u8>) -> Self {
        let proof = Proof::Mac { digest, before: Vec::new(), macs: vec![mac] };
        Self { proof, created: None, id: None }
    }

    /// Reads the scheme's headers; `None` when its signature is not there.
    pub(super) fn read(scheme: &Scheme, headers: &HeaderMap) -> Result<Option<Self>, Why> {
        let Some(line) = header::line(headers, scheme.header())? else { return Ok(None) };
        match scheme {
            // Its signatures name their key, and are read by a file of their own.
            Scheme::Rfc9421 => Ok(None),
            Scheme::StandardWebhooks => standard_webhooks::read(line, headers).map(Some),
            Scheme::Github => github::read(line).map(Some),
            Scheme::Bitbucket => bitbucket::read(line),
            Scheme::Gitea => gitea::read(line).map(Some),
            Scheme::Forgejo => forgejo::read(line).map(Some),
            Scheme::Stripe => stripe::read(line).map(Some),
            Scheme::Slack => slack::read(line, headers).map(Some),
            Scheme::BodyHmac(form) => body_hmac::read(line, form).map(Some),
            Scheme::GitlabToken => Ok(Some(gitlab_token::read(line))),
        }
    }
}
