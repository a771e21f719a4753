//! What keeps jobs and runs them: the queue's store, and the worker.
//!
//! Knows nothing of the network: jobs come through an `Intake`, whoever asks it.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::COMMANDS_FINISH_WITHIN;
use super::live::Live;
use crate::admin::{Jobs, Kept};
use crate::audit::Recorder;
use crate::clock::Clock;
use crate::executor::intake::LocalIntake;
use crate::executor::launcher::Launcher;
use crate::executor::worker::Worker;
use crate::policy::{InForce, Policy, Queue};
use crate::queue::sqlite::{Recovered, Settings, Store};

/// A store and its worker.
pub(super) struct Works {
    policy: InForce,
    store: Store,
    worker: JoinHandle<()>,
}

impl Works {
    /// Starts to run the jobs of a queue that was opened.
    pub(super) fn start(
        (store, recovered): (Store, Recovered),
        live: &Live,
        recorder: &Recorder,
        clock: &Clock,
        stop: &CancellationToken,
    ) -> Result<Self, super::StartError> {
        let policy = live.policy();
        let file = policy.now().queue.file.clone();
        live.keep(&store);
        tell_recovered(&recovered);
        let worker = Worker {
            store: store.clone(),
            policy: policy.clone(),
            recorder: recorder.clone(),
            launcher: Launcher::of_queue(&file)?,
            clock: clock.clone(),
            drain: COMMANDS_FINISH_WITHIN,
        };
        let worker = tokio::spawn(worker.work(stop.clone()));
        Ok(Self { policy, store, worker })
    }

    /// The way in.
    pub(super) fn intake(&self) -> LocalIntake {
        LocalIntake::new(self.store.clone(), self.policy.clone())
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What operators see.
    pub(super) fn kept(&self) -> Jobs<LocalIntake> {
        Jobs::Here(Kept { store: self.store.clone(), repeat: self.intake() })
    }

    /// Returns when the worker has ended by itself.
    pub(super) async fn ended(&mut self) {
        super::tell((&mut self.worker).await);
    }

    /// Lets running commands finish, once the worker was told to stop. Whoever still reads or submits needs the store.
    pub(super) async fn finish(self) -> Store {
        super::finish(self.worker).await;
        // Nothing ends any more: whoever waits for a job that is still queued is told so now.
        self.store.release_waiters();
        self.store
    }
}

/// Opens the queue for this process alone, and takes up what a former one left.
pub(super) fn open(policy: &Policy, clock: &Clock) -> Result<(Store, Recovered), super::StartError> {
    if let Some((route, user)) = policy.unattainable() {
        return Err(super::StartError::User(route.clone(), user.to_owned()));
    }
    Ok(Store::open(&policy.queue.file, settings(policy), clock.clone())?)
}

/// The bounds of a store, as a policy has them.
pub(super) fn settings(policy: &Policy) -> Settings {
    let Queue { keep, keep_bytes, .. } = policy.queue;
    Settings { keep, keep_bytes, jobs: policy.limits.jobs }
}

/// Says what a crash left behind; that a job is over because of it goes on record as every end does.
fn tell_recovered(recovered: &Recovered) {
    for (job, route) in &recovered.requeued {
        tracing::info!(%job, %route, "queued again: the last worker ended before it was done");
    }
    for (job, route) in &recovered.interrupted {
        tracing::warn!(%job, %route, "interrupted: the last worker died while it ran");
    }
}
