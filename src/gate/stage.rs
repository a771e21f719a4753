//! The stages of a request on its way in, each the proof that the guards before it were passed.
//!
//! A stage owns the one before it. [`Permit`] is the last: its fields are private, [`super::admit`] alone makes one, and
//! nothing is dispatched without it.

use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::scheme::{Signed, Verdicts};
use crate::domain::body;
use crate::domain::identity::{Certificate, Identity, Peer, Proofs, Shown};
use crate::domain::parameters::RawParameters;
use crate::domain::submission::{Message, Submission};
use crate::policy::route::{Authorized, Route, Stdin};

/// Everything of a request but its body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) peer: Arc<Peer>,
    pub(super) at: Timestamp,
    pub(super) parts: Parts,
}

impl Head {
    /// The certificate that the connection proved.
    pub(super) fn certificate(&self) -> Option<&Arc<Certificate>> {
        match &self.peer.shown {
            Shown::Verified(presented) => Some(&presented.certificate),
            Shown::Nothing | Shown::Unusable(_) => None,
        }
    }
}

/// A body as far as it arrived; judged after identity.
#[derive(Debug)]
pub(super) enum Body {
    /// All of it.
    Whole(Whole),
    /// More than `limits.body`.
    TooLarge,
    /// Not within `limits.request`.
    TooSlow,
    /// The connection or its framing broke: how, in the HTTP library's words, which hold nothing that was sent.
    Broken(String),
}

/// A whole body, and its share of `limits.bodies`.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Vec<u8>,
    /// Gives the share back when the request is over.
    pub(super) _share: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// The bytes, if they are all there.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        match self {
            Self::Whole(whole) => Some(&whole.bytes),
            Self::TooLarge | Self::TooSlow | Self::Broken(_) => None,
        }
    }
}

/// Inside the entrance.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) head: Head,
    pub(super) body: Body,
}

/// What stands at the request's path, for its method.
#[derive(Debug)]
pub(super) enum Offer {
    Route(Arc<Route>),
    UnknownPath,
    WrongMethod,
    AbsoluteForm,
}

/// Compared with the policy's paths and methods; both outcomes go on.
#[derive(Debug)]
pub(super) struct Matched {
    pub(super) arrived: Arrived,
    pub(super) offer: Offer,
}

/// What the request has shown is known, and verified or not; both go on.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) arrived: Arrived,
    pub(super) offer: Offer,
    pub(super) signatures: Verdicts,
}

/// A rule of the offered route holds: from here on, answers may say why.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) arrived: Arrived,
    pub(super) route: Arc<Route>,
    pub(super) proofs: Proofs,
    pub(super) authorized: Authorized,
    /// The signature that the identity rests on; `None` when it rests on a certificate.
    pub(super) signed: Option<Signed>,
}

/// Within the route's rate.
#[derive(Debug)]
pub(super) struct Paced(pub(super) Allowed);

/// Every guard was passed.
#[derive(Debug)]
#[must_use]
pub(super) struct Permit {
    allowed: Allowed,
    parameters: RawParameters,
    message: Message,
    wait: Option<Duration>,
}

impl Permit {
    /// Only for `admit`, the last guard.
    pub(super) fn grant(
        paced: Paced,
        parameters: RawParameters,
        message: Message,
        wait: Option<Duration>,
    ) -> Self {
        Self { allowed: paced.0, parameters, message, wait }
    }

    pub(super) fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.allowed.authorized.identity
    }

    /// How long the sender wants to wait for the result, at most.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// What the queue is asked to store.
    pub(super) fn submission(&self) -> Submission {
        let body = match self.allowed.route.run.stdin {
            Stdin::None => None,
            Stdin::Body => self.allowed.arrived.body.whole().map(body::Body::from),
        };
        Submission {
            route: self.allowed.route.name.clone(),
            parameters: self.parameters.clone(),
            body,
            identity: self.identity().clone(),
            proofs: self.allowed.proofs.clone(),
            message: self.message.clone(),
            at: self.allowed.arrived.head.at,
        }
    }
}
