//! Refusals: what the sender is told and what operators are told are two different things.
//!
//! Only an [`Allowed`] request can be refused with more than the wall: a [`Told`] cannot be made from anything else
//! (invariant I2, by type).

use std::time::Duration;

use super::scheme;
use super::stage::Allowed;
use crate::audit::outcome::{Outcome, Refusal, Stranger};
use crate::domain::identity::Identity;
use crate::domain::job::JobId;
use crate::domain::name::RouteName;
use crate::policy::parameter::{Invalid, Reason};

/// Why a request ended before it was accepted.
#[derive(Debug)]
pub(super) enum Rejection {
    /// The one answer for whoever has not proven an allowed identity.
    Wall(Why),
    /// Too many requests, whatever they ask for.
    Flood(Flood),
    /// The identity is proven and allowed, so it is told what is wrong.
    Told(Box<Told>),
}

/// What operators read about a walled request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Why {
    #[error("no route has this path")]
    UnknownPath,
    #[error("the path's routes have other methods")]
    WrongMethod,
    #[error("the request target is in absolute form")]
    AbsoluteForm,
    #[error("signature: {0}")]
    Signature(scheme::Why),
    #[error("nothing was proven: {0}")]
    NothingProven(&'static str),
    #[error("no rule of route `{0}` holds for what was proven")]
    NotAllowed(RouteName),
    #[error("the header `{0}` is used by the route, but the signature does not cover it")]
    HeaderNotCovered(String),
    #[error("the certificate no longer stands: {0}")]
    NotStanding(String),
    #[error("the message is older than what is still remembered")]
    Forgotten,
    #[error("there is no such job for this identity")]
    NoSuchJob,
    #[error("the queue could not be asked: {0}")]
    Unanswered(String),
    #[error("the listener did not say who is connected")]
    NoPeer,
}

/// A request over a limit that does not depend on its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    /// `limits.requests_per_source` or, with a certificate, `limits.requests_per_identity`.
    Requests { retry_after: Duration },
    /// `limits.bodies`.
    Bodies,
}

/// A refusal that its receiver may read.
#[derive(Debug)]
pub(super) struct Told {
    notice: Notice,
    route: RouteName,
    identity: Identity,
}

/// What an allowed sender is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Notice {
    #[error("too often for this route")]
    TooOften { retry_after: Duration },
    #[error("the body is larger than the {limit} bytes that this route takes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive in time")]
    BodyTooSlow,
    #[error("the body ended before it was complete")]
    BodyBroken,
    #[error("the body is empty, and this route takes JSON")]
    BodyEmpty,
    #[error("the body is not JSON: {0}")]
    BodyNotJson(super::json::NotJson),
    #[error("the body's field `{field}` {reason}")]
    Field { field: String, reason: Reason },
    #[error("the message id in the body {0}")]
    MessageId(Reason),
    #[error("`{condition}` is not what this route acts on")]
    Ignored { condition: String },
    #[error(transparent)]
    Parameter(#[from] Invalid),
    #[error("the header `{0}` is not valid here")]
    Header(&'static str),
    #[error("this message id was used before, with another route, query or body; the first one is job {0}")]
    Conflict(JobId),
    #[error("the request was not stored; try again")]
    Busy { reason: String },
}

impl Allowed {
    /// Refuses an allowed request, and tells its sender why.
    pub(super) fn refuse(&self, notice: Notice) -> Rejection {
        let identity = self.authorized.identity.clone();
        Rejection::Told(Box::new(Told { notice, route: self.route.name.clone(), identity }))
    }
}

impl Told {
    pub(super) fn notice(&self) -> &Notice {
        &self.notice
    }

    pub(super) fn route(&self) -> &RouteName {
        &self.route
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Why {
    /// The same in few words.
    const fn kind(&self) -> Stranger {
        match self {
            Self::UnknownPath => Stranger::UnknownPath,
            Self::WrongMethod => Stranger::WrongMethod,
            Self::AbsoluteForm => Stranger::AbsoluteForm,
            Self::Signature(_) => Stranger::Signature,
            Self::NothingProven(_) => Stranger::NothingProven,
            Self::NotAllowed(_) => Stranger::NotAllowed,
            Self::HeaderNotCovered(_) => Stranger::HeaderNotCovered,
            Self::NotStanding(_) => Stranger::CertificateNotStanding,
            Self::Forgotten => Stranger::Forgotten,
            Self::NoSuchJob => Stranger::NoSuchJob,
            Self::Unanswered(_) => Stranger::QueueUnavailable,
            Self::NoPeer => Stranger::NoPeer,
        }
    }
}

impl Notice {
    const fn kind(&self) -> Outcome {
        match self {
            Self::TooOften { .. } => Outcome::TooOften,
            Self::BodyTooLarge { .. }
            | Self::BodyTooSlow
            | Self::BodyBroken
            | Self::BodyEmpty
            | Self::BodyNotJson(_)
            | Self::Field { .. }
            | Self::MessageId(_) => Outcome::Body,
            Self::Ignored { .. } => Outcome::Ignored,
            Self::Parameter(_) => Outcome::Parameter,
            Self::Header(_) => Outcome::Header,
            Self::Conflict(_) => Outcome::Conflict,
            Self::Busy { .. } => Outcome::NotStored,
        }
    }
}

impl Rejection {
    /// What it is counted as.
    pub(super) const fn kind(&self) -> Refusal {
        match self {
            Self::Wall(why) => Refusal::Stranger(why.kind()),
            Self::Flood(Flood::Requests { .. }) => Refusal::Stranger(Stranger::TooManyRequests),
            Self::Flood(Flood::Bodies) => Refusal::Stranger(Stranger::BodiesTooLarge),
            Self::Told(told) => Refusal::Told(told.notice.kind()),
        }
    }

    /// What operators read.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Wall(why) => why.to_string(),
            Self::Flood(Flood::Requests { .. }) => "too many requests from this source".to_owned(),
            Self::Flood(Flood::Bodies) => "the bodies of all requests together are too large".to_owned(),
            Self::Told(told) => match told.notice() {
                Notice::Busy { reason } => format!("not stored: {reason}"),
                notice @ (Notice::TooOften { .. }
                | Notice::BodyTooLarge { .. }
                | Notice::BodyTooSlow
                | Notice::BodyEmpty
                | Notice::BodyBroken
                | Notice::BodyNotJson(_)
                | Notice::Field { .. }
                | Notice::MessageId(_)
                | Notice::Ignored { .. }
                | Notice::Parameter(_)
                | Notice::Header(_)
                | Notice::Conflict(_)) => notice.to_string(),
            },
        }
    }
}
