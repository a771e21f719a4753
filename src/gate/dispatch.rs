//! Hands a permit to the queue, and waits for the result where the sender wants it.
//!
//! The decision is on record, durably, before the job is committed; the sender is told only after that (invariant I5).
//! Once stored, a job does not depend on the connection: hanging up cancels nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;
use tower::Service;

use super::answer::Receipt;
use super::rejection::{Notice, Rejection, Why};
use super::stage::Permit;
use crate::audit::{Record, Recorder};
use crate::domain::alarm::Alarm;
use crate::domain::identity::Identity;
use crate::queue::{Intake, SubmitError, Submitted};

/// The innermost service of the stack.
pub(super) struct Dispatch<I> {
    intake: Arc<I>,
    recorder: Recorder,
    /// `limits.waiting`, a permit a wait
    waits: Arc<Semaphore>,
}

impl<I> Dispatch<I> {
    pub(super) fn new(intake: Arc<I>, recorder: Recorder, waits: Arc<Semaphore>) -> Self {
        Self { intake, recorder, waits }
    }
}

impl<I> Clone for Dispatch<I> {
    fn clone(&self) -> Self {
        Self {
            intake: Arc::clone(&self.intake),
            recorder: self.recorder.clone(),
            waits: Arc::clone(&self.waits),
        }
    }
}

impl<I: Intake> Service<Permit> for Dispatch<I> {
    type Response = Receipt;
    type Error = Rejection;
    type Future = Pin<Box<dyn Future<Output = Result<Receipt, Rejection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, permit: Permit) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let permit = Arc::new(permit);
            // A task of its own: a sender who hangs up between record and commit does not leave the one without the
            // other.
            let storing = tokio::spawn({
                let (this, permit) = (this.clone(), Arc::clone(&permit));
                async move { this.store(&permit).await }
            });
            let submitted = storing
                .await
                .map_err(|gone| permit.allowed().refuse(Notice::Busy { reason: gone.to_string() }))??;
            let (wait, identity) = (permit.wait(), permit.identity().clone());
            // The body, and its share of `limits.bodies`, must not be held by whoever waits.
            drop(permit);
            Ok(match wait {
                Some(wait) => this.wait(submitted, &identity, wait).await,
                None => Receipt::Accepted(submitted),
            })
        })
    }
}

impl<I: Intake> Dispatch<I> {
    async fn store(&self, permit: &Permit) -> Result<Submitted, Rejection> {
        let allowed = permit.allowed();
        let (route, identity) = (allowed.route.name.clone(), permit.identity().clone());
        let submission = permit.submission();
        let accepted = Record::Accepted {
            route: route.clone(),
            identity: identity.clone(),
            rule: allowed.authorized.rule,
            source: allowed.proofs.source,
            parameters: submission.parameters.clone(),
        };
        let (written, lost) = match self.recorder.begin(accepted).await {
            Ok(begun) => begun,
            Err(error) => return Err(allowed.refuse(Notice::Busy { reason: error.to_string() })),
        };
        let decision = Box::pin(async { written.await.map_err(|error| error.to_string()) });
        match self.intake.submit(submission, decision).await {
            Ok(submitted) => {
                let (job, how, worker) = (submitted.job, submitted.how, self.intake.workers_head());
                self.recorder.note(Record::Stored { route, identity, job, how, worker });
                Ok(submitted)
            }
            Err(error) => {
                if let SubmitError::Disagrees(reason) = &error {
                    self.recorder.raise(Alarm::Disagreement(route.clone()), reason.clone());
                }
                // Only what is on record as accepted has to be taken back there.
                if !lost.is_known() {
                    self.recorder.note(Record::NotStored { route, identity, reason: error.to_string() });
                }
                Err(match error {
                    SubmitError::Conflict(job) => allowed.refuse(Notice::Conflict(job)),
                    SubmitError::Forgotten => Rejection::Wall(Why::Forgotten),
                    error @ (SubmitError::Full | SubmitError::Disagrees(_) | SubmitError::Unavailable(_)) => {
                        allowed.refuse(Notice::Busy { reason: error.to_string() })
                    }
                })
            }
        }
    }

    async fn wait(&self, submitted: Submitted, identity: &Identity, limit: Duration) -> Receipt {
        let Ok(_waiting) = self.waits.try_acquire() else { return Receipt::Accepted(submitted) };
        match self.intake.await_end(submitted.job, limit).await.map(|found| found?.seen_by(identity)) {
            Ok(Some(view)) if view.state.is_final() => Receipt::Ended(view),
            Ok(Some(view)) => Receipt::Accepted(Submitted { state: view.state, ..submitted }),
            // It was stored; that it cannot be read just now does not change that.
            Ok(None) | Err(_) => Receipt::Accepted(submitted),
        }
    }
}
