//! Durable jobs: what the gate sees of them, and what a worker sees.
//!
//! The gate submits and looks up through [`Intake`]; it does not know who answers: workers in its own process, or in
//! another one behind a Unix [`socket`], to which it speaks in [`frame`]s. Workers use the sqlite store. This
//! room knows no policy: what a policy says of a job reaches it as `domain::submission::Terms`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::domain::anchor::Anchor;
use crate::domain::identity::{Identity, Proofs};
use crate::domain::job::{JobId, JobView, State};
use crate::domain::parameters::RawParameters;
use crate::domain::submission::Submission;

pub use crate::domain::submission::How;

pub mod answer;
pub mod frame;
pub mod operate;
pub mod output;
pub mod question;
pub mod socket;
pub mod sqlite;
pub mod standing;

mod claim;
#[cfg(test)]
mod fixture;
mod join;
mod ledger;
mod line;
mod on_record;
mod open;
#[cfg(test)]
mod promise;
mod purge;
mod read;
mod recovery;
mod schema;
mod stored;
mod submit;
mod unrecorded;
mod waiters;
mod work;
mod writer;

/// A decision on its way to the disk: resolves once it is durable, or says why it is not.
pub type OnRecord = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// What the gate asks of whoever keeps the jobs.
pub trait Intake: Send + Sync + 'static {
    /// Stores the job durably, or recognises its message, once the decision to do so is on record. When this returns `Ok`,
    /// the job survives power loss (I5).
    fn submit(
        &self,
        submission: Submission,
        decision: OnRecord,
    ) -> impl Future<Output = Result<Submitted, SubmitError>> + Send;

    /// What is known of a job that one of these submitted or joined; `None` when there is no such job.
    fn look_up(
        &self,
        job: JobId,
        by: Vec<Identity>,
    ) -> impl Future<Output = Result<Option<Found>, Unavailable>> + Send;

    /// Waits until the job is in a final state, at most for `limit`; then what is known of it.
    fn await_end(
        &self,
        job: JobId,
        limit: Duration,
    ) -> impl Future<Output = Result<Option<Found>, Unavailable>> + Send;

    /// How far the audit log of workers in another process went when they last stored something, as far as is known.
    fn workers_head(&self) -> Option<Anchor> {
        None
    }
}

/// A job, and whose it is.
#[derive(Clone, Debug)]
pub struct Found {
    /// The job, with the first submitter under `identity`.
    pub view: JobView,
    /// Everyone who submitted or joined it, the first one first.
    pub submitters: Vec<Submitter>,
}

/// One who submitted or joined a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitter {
    /// Who.
    pub identity: Identity,
    /// What they showed, the last time that they asked.
    pub proofs: Proofs,
    /// Their own raw parameters: equal jobs have equal derived ones.
    pub parameters: RawParameters,
}

impl Found {
    /// The job as this identity may see it, which is itself and nobody else; `None` when it did not ask for the job.
    #[must_use]
    pub fn seen_by(self, identity: &Identity) -> Option<JobView> {
        let asked = |submitter: &Submitter| submitter.identity == *identity;
        let Submitter { identity, parameters, .. } = self.submitters.into_iter().find(asked)?;
        Some(JobView { identity, parameters, ..self.view })
    }
}

/// What became of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The job, perhaps an earlier one.
    pub job: JobId,
    /// Its state now.
    pub state: State,
    /// Whether a job was made.
    pub how: How,
}

/// Why nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The message id was used for something else.
    #[error("the message id was used before, with another route, query or body, for job {0}")]
    Conflict(JobId),
    /// The message is older than what is still remembered.
    #[error("the message is older than what is still remembered")]
    Forgotten,
    /// `limits.jobs` are waiting.
    #[error("the queue is full")]
    Full,
    /// The worker's policy does not offer it.
    #[error("the worker's policy does not agree: {0}")]
    Disagrees(String),
    /// The store cannot be written.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The store cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is unavailable: {0}")]
pub struct Unavailable(pub String);
