//! Authentication: what has this request proven?
//!
//! Refuses nobody and does not look at the route: the same work is done for every path. Whether the proofs suffice is
//! the next guard's question.

use std::sync::Arc;

use super::guard::Guard;
use super::rejection::Rejection;
use super::scheme::Verifier;
use super::stage::{Matched, Verified};

/// Verifies the request's signatures; the certificate was verified by the handshake.
pub(super) struct Identify {
    verifier: Arc<Verifier>,
}

impl Identify {
    pub(super) fn new(verifier: Arc<Verifier>) -> Self {
        Self { verifier }
    }
}

impl Guard<Matched> for Identify {
    type Out = Verified;

    fn check(&self, matched: Matched) -> Result<Verified, Rejection> {
        let Matched { arrived, offer } = matched;
        let head = &arrived.head;
        let signatures = self.verifier.verify(&head.parts, arrived.body.whole(), head.at);
        Ok(Verified { arrived, offer, signatures })
    }
}
