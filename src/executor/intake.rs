//! The queue's front door in the process that runs the jobs.
//!
//! A submission becomes a job only if this process's own policy offers it to the same identity (invariant I4); the terms
//! of the job come from that policy, never from the gate.

use std::sync::Arc;
use std::time::Duration;

use super::agreement::{Asked, agree};
use crate::domain::job::JobId;
use crate::domain::submission::Submission;
use crate::policy::Policy;
use crate::queue::sqlite::Store;
use crate::queue::{Found, Intake, SubmitError, Submitted, Unavailable};

/// Submits to a store in this process.
#[derive(Clone)]
pub struct LocalIntake {
    store: Store,
    policy: Arc<Policy>,
}

impl LocalIntake {
    /// Checks against `policy` and keeps in `store`.
    #[must_use]
    pub fn new(store: Store, policy: Arc<Policy>) -> Self {
        Self { store, policy }
    }
}

impl Intake for LocalIntake {
    async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        let Submission { route, identity, proofs, parameters, .. } = &submission;
        let agreed = agree(&self.policy, Asked { route, identity, proofs, parameters })
            .map_err(|disagreement| SubmitError::Disagrees(disagreement.to_string()))?;
        self.store.submit(&submission, &agreed.terms).await
    }

    async fn look_up(&self, job: JobId) -> Result<Option<Found>, Unavailable> {
        self.store.find(job).await
    }

    async fn await_end(&self, job: JobId, limit: Duration) -> Result<Option<Found>, Unavailable> {
        self.store.await_end(job, limit).await
    }
}
