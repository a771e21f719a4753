//! What the gate hands to the queue: a submission, the message it came with, and the terms a worker's policy sets; and
//! whether that made a job.
//!
//! A submission names a route and raw parameters; it never holds an argv (invariant I4).

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::body::Body;
use super::identity::{Identity, Proofs};
use super::name::RouteName;
use super::parameters::RawParameters;

/// A request that passed every guard, on its way to become a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The route that offers the command.
    pub route: RouteName,
    /// The values that the request gave.
    pub parameters: RawParameters,
    /// The request's body, where the route's commands read it.
    pub body: Option<Body>,
    /// The identity that the gate's rule picked.
    pub identity: Identity,
    /// What the request showed, so that the worker can ask its own rules.
    pub proofs: Proofs,
    /// Whether it can be told from a repetition.
    pub message: Message,
    /// When the request arrived.
    pub at: Timestamp,
}

/// Whether a request can be recognised when it comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Each request is a message of its own.
    Anonymous,
    /// The same id again is the same message.
    Identified(MessageId),
}

/// An id that one scope uses once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageId {
    /// Within which the id is unique, such as a key, or a certname and a route.
    pub scope: String,
    /// The id itself, such as a nonce.
    pub id: String,
    /// SHA-256 over route, query and body: the same id with another digest is a conflict.
    pub digest: [u8; 32],
    /// When the sender says that it made the message, where its signature says so.
    pub created: Option<Timestamp>,
    /// Until when the id must be remembered.
    pub keep_until: Timestamp,
}

/// Whether a job was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A new job.
    Fresh,
    /// The same message came before; nothing runs.
    Duplicate,
    /// An equal job waits: its run is this request's, too.
    Coalesced,
}

impl How {
    /// The word for it in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Duplicate => "duplicate",
            Self::Coalesced => "coalesced",
        }
    }
}

/// What a worker's policy says of a job: all that the queue needs to know of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Jobs that hold the same lock do not overlap.
    pub lock: String,
    /// How many jobs of this lock may run at once.
    pub concurrency: NonZeroU32,
    /// How long the job may wait before it expires.
    pub expires: Duration,
    /// Whether it runs again after a crash mid-run.
    pub idempotent: bool,
    /// Where a request may join a job that waits: the same in all jobs that do the same. A digest of what was derived.
    pub likeness: Option<[u8; 32]>,
    /// A file: the job does not start while it exists.
    pub awaits: Option<PathBuf>,
}
