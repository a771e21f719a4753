//! The queue's front door in the process that runs the jobs.
//!
//! A submission becomes a job only if this process's own policy offers it to the same identity (invariant I4); the terms
//! of the job come from that policy, never from the gate.

use std::time::Duration;

use jiff::Timestamp;

use super::agreement::{Asked, agree};
use crate::domain::identity::Identity;
use crate::domain::job::JobId;
use crate::domain::submission::{Message, Submission, Terms};
use crate::policy::{InForce, Policy};
use crate::queue::operate::{Repeat, RepeatError};
use crate::queue::sqlite::Store;
use crate::queue::{Found, Intake, OnRecord, SubmitError, Submitted, Submitter, Unavailable};

/// Submits to a store in this process.
#[derive(Clone)]
pub struct LocalIntake {
    store: Store,
    policy: InForce,
}

impl LocalIntake {
    /// Checks against `policy` and keeps in `store`.
    #[must_use]
    pub fn new(store: Store, policy: InForce) -> Self {
        Self { store, policy }
    }

    /// Whether a job could be stored now.
    pub(super) async fn ready(&self) -> Result<(), Unavailable> {
        self.store.writable().await
    }

    /// As [`Self::terms`], for what another process submits: it names nothing that the route does not declare.
    pub(super) fn terms_of_stranger(&self, submission: &Submission) -> Result<Terms, SubmitError> {
        let policy = self.policy.now();
        let terms = Self::terms_of(&policy, submission)?;
        let route = policy.routes.get(&submission.route);
        let declares =
            |name| route.is_some_and(|route| route.parameters.sources().any(|(known, _)| known == name));
        match submission.parameters.0.keys().find(|name| !declares(*name)) {
            None => Ok(terms),
            Some(name) => Err(SubmitError::Disagrees(format!("its route declares no parameter `{name}`"))),
        }
    }

    /// Stores a submission at the terms that this process's policy sets.
    pub(super) async fn keep(
        &self,
        submission: Submission,
        terms: Terms,
        decision: OnRecord,
    ) -> Result<Submitted, SubmitError> {
        self.store.submit_after(submission, terms, decision).await
    }

    /// What this process's policy says of a submission.
    pub(super) fn terms(&self, submission: &Submission) -> Result<Terms, SubmitError> {
        Self::terms_of(&self.policy.now(), submission)
    }

    fn terms_of(policy: &Policy, submission: &Submission) -> Result<Terms, SubmitError> {
        let Submission { route, identity, proofs, parameters, body, .. } = submission;
        agree(policy, Asked { route, identity, proofs, parameters, body: body.as_ref() })
            .map(|agreed| agreed.terms)
            .map_err(|disagreement| SubmitError::Disagrees(disagreement.to_string()))
    }
}

impl Intake for LocalIntake {
    async fn submit(&self, submission: Submission, decision: OnRecord) -> Result<Submitted, SubmitError> {
        match self.terms(&submission) {
            Ok(terms) => self.keep(submission, terms, decision).await,
            Err(disagreement) => {
                // It was accepted before it is said not to be stored.
                decision.await.map_err(Unavailable)?;
                Err(disagreement)
            }
        }
    }

    async fn look_up(&self, job: JobId, by: Vec<Identity>) -> Result<Option<Found>, Unavailable> {
        self.store.find_of(job, by).await
    }

    async fn await_end(&self, job: JobId, limit: Duration) -> Result<Option<Found>, Unavailable> {
        self.store.await_end(job, limit).await
    }
}

impl Repeat for LocalIntake {
    async fn repeat(&self, job: JobId, at: Timestamp) -> Result<Submitted, RepeatError> {
        let found = self.store.find(job).await.map_err(SubmitError::from)?;
        let Some(Found { view, submitters }) = found else { return Err(RepeatError::Unknown(job)) };
        if !view.state.is_final() {
            return Err(RepeatError::NotEnded(job, view.state));
        }
        let first = submitters.into_iter().next();
        let Submitter { identity, proofs, .. } = first.ok_or_else(|| {
            SubmitError::from(Unavailable(format!("nobody is known to have submitted the job {job}")))
        })?;
        let submission = Submission {
            route: view.route,
            parameters: view.parameters,
            body: self.store.body(job).await.map_err(SubmitError::from)?,
            identity,
            proofs,
            message: Message::Anonymous,
            at,
        };
        let terms = self.terms(&submission)?;
        Ok(self.store.repeat(job, &submission, &terms).await?)
    }
}
