//! The SQLite store: what the executor sees of the queue.
//!
//! Every method that changes something returns after the change is durable, or says that it did not happen; where less is
//! promised, the method says why that is as good. Asks nothing about policies. One process opens it, on a local file system: see `open`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
pub use super::open::{OpenError, runs_lock};
use super::operate::Cancels;
use super::output::Outputs;
use super::read::Readers;
pub use super::unrecorded::{Closing, Unrecorded};
use super::waiters::Waiters;
pub use super::work::{Claim, End, Recovered, StepRecord};
use super::writer::{self, Command, Outlook, Promise, Work, Writer};
use super::{Found, OnRecord, Unavailable, open, recovery};
use crate::clock::Clock;
use crate::domain::body::Body;
use crate::domain::identity::Identity;
use crate::domain::job::JobId;

/// The jobs of one database file; clones share it. When the last clone is dropped, the writer ends and the file is
/// free for another process; [`Store::close`] does the same without blocking the thread.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

/// What an operator decides about the store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long finished jobs are kept.
    pub keep: Duration,
    /// How many bytes of output finished jobs keep together; the oldest goes first.
    pub keep_bytes: usize,
    /// How many jobs may wait; then [`SubmitError::Full`](super::SubmitError::Full).
    pub jobs: usize,
}

/// A sign of which jobs only a file holds; another sign, other jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held(i64);

struct Inner {
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
    settings: Arc<ArcSwap<Settings>>,
    readers: Arc<Readers>,
    outlook: Arc<watch::Sender<Outlook>>,
    waiters: Waiters,
    cancels: Cancels,
    outputs: Outputs,
    clock: Clock,
    #[cfg(test)]
    synced: super::fixture::Synced,
}

impl Store {
    /// Opens the database, making it when it is not there, and recovers what a former process left behind.
    ///
    /// # Errors
    /// When the file cannot be used, belongs to another process, or was written by a newer program.
    pub fn open(file: &Path, settings: Settings, clock: Clock) -> Result<(Self, Recovered), OpenError> {
        let open::Opened { mut connection, lock } = open::open(file)?;
        let now = clock.now().as_microsecond();
        let damaged = |reason: Unavailable| OpenError::Damaged { path: file.to_owned(), reason: reason.0 };
        let (recovered, tally) = recovery::recover(&mut connection, now).map_err(damaged)?;

        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let (commands, received) = mpsc::channel(writer::LINE);
        let stop = CancellationToken::new();
        let outlook = Arc::new(watch::Sender::new(Outlook::default()));
        let waiters = Waiters::default();
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let writer = Writer {
            connection,
            lock,
            settings: Arc::clone(&settings),
            clock: clock.clone(),
            runtime: runtime.map_err(OpenError::Thread)?,
            waiting: tally.waiting,
            kept: tally.kept,
            outlook: Arc::clone(&outlook),
            waiters: waiters.clone(),
            promise: Promise::Durable,
            #[cfg(test)]
            synced: super::fixture::Synced::default(),
        };
        #[cfg(test)]
        let synced = writer.synced.clone();
        #[cfg(test)]
        synced.note(&writer.connection);
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("queue-writer".into())
            .spawn(move || writer.run(received, &stopped))
            .map_err(OpenError::Thread)?;
        let readers = Readers::new(file.to_owned());
        let thread = Mutex::new(Some(thread));
        let inner = Inner {
            commands,
            stop,
            thread,
            settings,
            readers,
            outlook,
            waiters,
            cancels: Cancels::default(),
            outputs: Outputs::default(),
            clock,
            #[cfg(test)]
            synced,
        };
        Ok((Self(Arc::new(inner)), recovered))
    }

    /// From now on it is held to these bounds.
    pub fn settle(&self, settings: Settings) {
        self.0.settings.store(Arc::new(settings));
    }

    /// The body that a job holds for its commands; `None` when it came with none, or holds it no longer.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn body(&self, job: JobId) -> Result<Option<Body>, Unavailable> {
        self.0.readers.body(job).await
    }

    /// What is known of a job; `None` when there is none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find(&self, job: JobId) -> Result<Option<Found>, Unavailable> {
        Ok(self.0.readers.find(job).await?.map(|found| self.shown(found)))
    }

    /// With what a command of it that runs now has written.
    pub(super) fn shown(&self, mut found: Found) -> Found {
        self.0.outputs.show(&mut found.view);
        found
    }

    /// The same, where one of these submitted or joined it; whether there is a job of somebody else takes as long to tell as
    /// whether there is one at all.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_of(&self, job: JobId, by: Vec<Identity>) -> Result<Option<Found>, Unavailable> {
        Ok(self.0.readers.find_of(job, by).await?.map(|found| self.shown(found)))
    }

    /// Waits until the job has ended, at most for `limit`; then as [`Store::find`].
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn await_end(&self, job: JobId, limit: Duration) -> Result<Option<Found>, Unavailable> {
        // Registered before the first look, so that no end falls between the two.
        let mut waiter = self.0.waiters.register(job);
        match self.0.readers.state(job).await? {
            None => return Ok(None),
            Some(state) if state.is_final() => return self.find(job).await,
            Some(_) => {}
        }
        // Woken or not, the database says how it stands.
        let _ = tokio::time::timeout(limit, waiter.woken()).await;
        self.find(job).await
    }

    /// Lets everyone who waits for the end of a job go on with its present state.
    pub fn release_waiters(&self) {
        self.0.waiters.wake_all();
    }

    /// Returns when [`Store::claim`] is worth a call: at once while a job may be claimed, and never after the store
    /// was closed.
    pub async fn available(&self) {
        let mut outlook = self.0.outlook.subscribe();
        if outlook.wait_for(|outlook| outlook.ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Claims the next job; `None` when there is none to claim. Jobs that waited too long expire on the way. A claim that
    /// the loss of power undoes was as good as none: no command has started before [`Store::start`] makes both durable.
    ///
    /// # Errors
    /// When the database cannot be written; then nothing is claimed.
    pub async fn claim(&self) -> Result<Option<Claim>, Unavailable> {
        self.write_in_order(|ledger: &mut Ledger<'_>| ledger.claim(None)).await
    }

    /// As [`Store::claim`], among the jobs that wait for `file` alone: to be asked once it was seen to be gone.
    ///
    /// # Errors
    /// When the database cannot be written; then nothing is claimed.
    pub async fn claim_freed(&self, file: PathBuf) -> Result<Option<Claim>, Unavailable> {
        self.write_in_order(move |ledger: &mut Ledger<'_>| ledger.claim(Some(&file))).await
    }

    /// How many jobs wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.outlook.borrow().waiting
    }

    /// Returns once there are jobs that only a file holds, and others than when it returned `seen`.
    pub async fn held_unlike(&self, seen: Option<Held>) -> Held {
        let mut outlook = self.0.outlook.subscribe();
        loop {
            match outlook.borrow_and_update().held.map(Held) {
                Some(held) if Some(held) != seen => return held,
                Some(_) | None => {}
            }
            if outlook.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The files that jobs wait for, and for nothing else.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn held_by(&self) -> Result<Vec<PathBuf>, Unavailable> {
        self.write_in_order(|ledger: &mut Ledger<'_>| ledger.held_by()).await
    }

    /// Marks a claimed job durably as started, before its first command.
    ///
    /// # Errors
    /// When the job is not claimed, or the database cannot be written: then no command may start.
    pub async fn start(&self, job: JobId) -> Result<(), Unavailable> {
        self.write(move |ledger| ledger.start(job)).await
    }

    /// Stores how step `number`, counted from 1, of a running job ended. The same number again replaces it. Durable together
    /// with the job's end: should power be lost before, the job is over anyhow, or runs again from step one.
    ///
    /// # Errors
    /// When the job is not running, or the database cannot be written: keep the record and try again later.
    pub async fn record_step(&self, job: JobId, number: usize, step: StepRecord) -> Result<(), Unavailable> {
        self.write_in_order(move |ledger| ledger.record_step(job, number, &step)).await
    }

    /// Puts a job into a final state, frees its lock, and wakes whoever waits for either. A job that has already ended
    /// keeps its state, so that it is safe to call this again.
    ///
    /// # Errors
    /// When the state is not final, there is no such job, or the database cannot be written: then try again later.
    pub async fn finish(&self, job: JobId, end: impl Into<End>) -> Result<(), Unavailable> {
        let end = end.into();
        self.write(move |ledger| ledger.finish(job, &end)).await
    }

    /// Lets a job whose run number `attempt` failed wait for another one, at its old place and for at least `delay`; it no
    /// longer expires. A job that has ended or is past that attempt stays as it is, so that it is safe to call this again.
    ///
    /// # Errors
    /// When there is no such job, or the database cannot be written: then try again later.
    pub async fn retry(&self, job: JobId, attempt: u32, delay: Duration) -> Result<(), Unavailable> {
        self.write(move |ledger| ledger.retry(job, attempt, delay)).await
    }

    /// How long until a waiting job expires; `None` while none can. The store expires jobs by itself: this is for
    /// those who show it.
    #[expect(clippy::unused_async, reason = "stores that ask over a network will have to wait")]
    pub async fn next_expiry(&self) -> Option<Duration> {
        self.0.outlook.borrow().until_expiry(&self.0.clock)
    }

    /// Does what was already asked for, ends the writer and frees the file. Later changes through other clones are
    /// refused.
    pub async fn close(self) {
        self.0.stop.cancel();
        let thread = self.0.thread();
        // It can only fail if the thread panicked, and then there is nothing left to wait for.
        let _ = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join)).await;
    }

    pub(super) fn outlook(&self) -> watch::Receiver<Outlook> {
        self.0.outlook.subscribe()
    }

    pub(super) fn readers(&self) -> &Arc<Readers> {
        &self.0.readers
    }

    /// How many commands wait for the writer.
    #[cfg(test)]
    pub(super) fn in_line(&self) -> usize {
        writer::LINE - self.0.commands.capacity()
    }

    #[cfg(test)]
    pub(super) fn synced_log(&self) -> u64 {
        self.0.synced.length()
    }

    pub(super) fn cancels(&self) -> &Cancels {
        &self.0.cancels
    }

    pub(super) fn outputs(&self) -> &Outputs {
        &self.0.outputs
    }

    /// Runs `work` in a transaction and returns once it is durable.
    pub(super) async fn write<T, E>(
        &self,
        work: impl FnOnce(&mut Ledger<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Unavailable> + Send + 'static,
    {
        self.command(Promise::Durable, None, move |ledger| ledger.guarded(work)).await
    }

    /// Runs `work`, which is as good as not done if the loss of power undoes it, in a transaction that precedes all later
    /// ones.
    pub(super) async fn write_in_order<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger<'_>) -> Result<T, Unavailable> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.command(Promise::Ordered, None, move |ledger| ledger.guarded(work)).await
    }

    /// Runs `work` in a transaction that is not committed before `after`.
    pub(super) async fn command<T, E>(
        &self,
        promise: Promise,
        after: Option<OnRecord>,
        work: impl FnOnce(&mut Ledger<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Unavailable> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |ledger| {
            let done = ledger.map_err(E::from).and_then(work);
            Box::new(move |committed| {
                // Whoever asked may have gone; the job stays.
                let _ = reply.send(committed.map_err(E::from).and(done));
            })
        });
        let closed = || E::from(Unavailable("the queue was closed".into()));
        self.0.commands.send(Command { promise, after, work }).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Inner {
    fn thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread() {
            // The file must be free when the store is gone. At most one transaction is under way.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::fixture::{Hold, Place, terms};
    use super::super::{How, SubmitError, Submitter};
    use super::*;
    use crate::domain::job::{Exit, State};
    use crate::domain::submission::{Submission, Terms};

    #[tokio::test]
    async fn i5_202_means_durable_a_stored_job_survives_a_crash_at_that_moment() {
        let place = Place::new();
        let (store, _) = place.open();
        let stored = store.submit(&place.signed("kick", "n1"), &terms("kick", 1)).await.unwrap();
        let crashed = place.crashed();
        let (survivor, _) = crashed.open();
        let found = survivor.find(stored.job).await.unwrap().unwrap();
        assert_eq!(found.view.state, State::Queued);
        assert_eq!(survivor.claim().await.unwrap().map(|claim| claim.job), Some(stored.job));
    }

    #[tokio::test]
    async fn a_job_is_found_as_it_was_submitted_and_as_it_ended() {
        let place = Place::new();
        let (store, recovered) = place.open();
        assert_eq!(recovered, Recovered::default());
        let submission = place.submission("promote");
        let job = store.submit(&submission, &terms("promote", 1)).await.unwrap().job;
        let claim = store.claim().await.unwrap().unwrap();
        assert_eq!((claim.job, &claim.route), (job, &submission.route));
        assert_eq!(claim.parameters, submission.parameters);
        assert_eq!((&claim.identity, &claim.proofs), (&submission.identity, &submission.proofs));
        assert_eq!(claim.submitted, submission.at);
        assert_eq!(store.find(job).await.unwrap().unwrap().view.state, State::Queued);

        place.hands.advance(Duration::from_secs(5));
        store.start(job).await.unwrap();
        assert_eq!(store.find(job).await.unwrap().unwrap().view.state, State::Running);
        let argv = vec!["/bin/echo".to_owned(), "a\nb".to_owned()];
        let step = StepRecord {
            argv: argv.clone(),
            exit: Exit::Code(3),
            output: b"out \xff\n".to_vec(),
            dropped: 9,
        };
        store.record_step(job, 1, step.clone()).await.unwrap();
        store.record_step(job, 1, step).await.unwrap();
        store.finish(job, State::Failed).await.unwrap();

        let found = store.find(job).await.unwrap().unwrap();
        let Submission { identity, proofs, parameters, .. } = submission;
        assert_eq!(found.submitters, [Submitter { identity, proofs, parameters }]);
        assert_eq!((found.view.state, found.view.started), (State::Failed, Some(place.clock.now())));
        assert_eq!(found.view.steps.len(), 1);
        assert_eq!(found.view.steps[0].argv, argv);
        assert_eq!(found.view.steps[0].output, "out \u{fffd}\n");
        assert_eq!((found.view.steps[0].truncated, found.view.steps[0].dropped), (true, 9));
        assert!(store.find(JobId::new(place.clock.now())).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn marks_are_made_in_order_or_not_at_all() {
        let place = Place::new();
        let (store, _) = place.open();
        let job = store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap().job;
        let step = StepRecord { argv: vec![], exit: Exit::Code(0), output: vec![], dropped: 0 };
        assert!(store.start(job).await.is_err(), "not claimed");
        store.claim().await.unwrap().unwrap();
        assert!(store.record_step(job, 1, step.clone()).await.is_err(), "not started");
        assert!(store.finish(job, State::Running).await.is_err(), "not a final state");
        store.start(job).await.unwrap();
        store.finish(job, State::Succeeded).await.unwrap();
        store.finish(job, State::Failed).await.unwrap();
        assert_eq!(store.find(job).await.unwrap().unwrap().view.state, State::Succeeded);
        assert!(store.start(job).await.is_err(), "ended");
        assert!(store.record_step(job, 1, step).await.is_err(), "ended");
        assert!(store.finish(JobId::new(place.clock.now()), State::Failed).await.is_err(), "unknown");
    }

    #[tokio::test]
    async fn one_process_opens_a_queue_and_nobody_else_may_read_it() {
        let place = Place::new();
        let (store, _) = place.open();
        store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap();
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let path = format!("{}{suffix}", place.file().display());
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{path}");
        }
        let second = Store::open(&place.file(), place.settings.clone(), place.clock.clone());
        let error = second.err().unwrap();
        assert!(matches!(error, OpenError::Held(_)));
        assert!(error.to_string().contains("another process"));

        let clone = store.clone();
        store.close().await;
        assert!(clone.claim().await.is_err(), "closed");
        let (again, _) = place.open();
        assert!(again.claim().await.unwrap().is_some());
    }

    #[tokio::test]
    async fn whoever_waits_for_an_end_is_woken_by_it() {
        let place = Place::new();
        let (store, _) = place.open();
        let day = Duration::from_secs(86_400);
        for _ in 0..50 {
            let job = store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap().job;
            let (waiting, worker) = (store.clone(), store.clone());
            let end = tokio::spawn(async move { waiting.await_end(job, day).await });
            worker.claim().await.unwrap().unwrap();
            worker.start(job).await.unwrap();
            worker.finish(job, State::Succeeded).await.unwrap();
            let found = end.await.unwrap().unwrap().unwrap();
            assert_eq!(found.view.state, State::Succeeded);
        }
        assert!(store.await_end(JobId::new(place.clock.now()), day).await.unwrap().is_none());
        let job = store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap().job;
        let found = store.await_end(job, Duration::from_millis(1)).await.unwrap().unwrap();
        assert_eq!(found.view.state, State::Queued);
    }

    #[tokio::test]
    async fn whoever_waits_for_work_is_woken_by_a_submission_and_by_a_freed_lock() {
        let place = Place::new();
        let (store, _) = place.open();
        let worker = store.clone();
        let first = tokio::spawn(async move {
            worker.available().await;
            worker.claim().await.unwrap().unwrap().job
        });
        let job = store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap().job;
        assert_eq!(first.await.unwrap(), job);

        let next = store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap().job;
        assert_eq!(store.claim().await.unwrap(), None, "the lock is held");
        let worker = store.clone();
        let second = tokio::spawn(async move {
            worker.available().await;
            worker.claim().await.unwrap().unwrap().job
        });
        store.finish(job, State::Refused).await.unwrap();
        assert_eq!(second.await.unwrap(), next);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_everything_and_passes() {
        let place = Place::new();
        let (store, _) = place.open();
        let limit = |store: Store, pages: i64| async move {
            let set = move |ledger: &mut Ledger<'_>| -> Result<(), Unavailable> {
                let get = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
                ledger.connection.pragma_update_and_check(None, "max_page_count", pages, get)?;
                Ok(())
            };
            store.write(set).await.unwrap();
        };
        let running = store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap().job;
        store.claim().await.unwrap().unwrap();
        store.start(running).await.unwrap();
        limit(store.clone(), 1).await;

        let large = StepRecord { argv: vec![], exit: Exit::Code(0), output: vec![b'x'; 1 << 20], dropped: 0 };
        assert!(store.record_step(running, 1, large.clone()).await.is_err());
        let mut stored = 0;
        let refused = loop {
            match store.submit(&place.signed("kick", &format!("n{stored}")), &terms("kick", 1)).await {
                Ok(_) => stored += 1,
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused, SubmitError::Unavailable(_)), "{refused}");
        assert!(store.find(running).await.unwrap().is_some(), "reading goes on");

        limit(store.clone(), 1 << 30).await;
        store.record_step(running, 1, large).await.unwrap();
        store.finish(running, State::Succeeded).await.unwrap();
        let again =
            store.submit(&place.signed("kick", &format!("n{stored}")), &terms("kick", 1)).await.unwrap();
        assert_eq!(again.how, How::Fresh, "what was refused left nothing behind");
    }

    #[tokio::test]
    async fn a_transaction_that_is_lost_is_lost_for_every_command_in_it() {
        let place = Place::new();
        let (store, _) = place.open();
        // What SQLite does by itself upon some I/O errors.
        let lose = |ledger: &mut Ledger<'_>| -> Result<(), Unavailable> {
            Ok(ledger.connection.execute_batch("ROLLBACK")?)
        };
        let submission = place.signed("kick", "n1");
        let kick = terms("kick", 1);
        let hold = Hold::on(&store).await;
        let (submitted, lost, claimed, ()) =
            tokio::join!(store.submit(&submission, &kick), store.write(lose), store.claim(), hold.until(3));
        assert!(matches!(submitted, Err(SubmitError::Unavailable(_))));
        assert!(lost.is_err());
        assert!(claimed.is_err());
        assert_eq!(store.claim().await.unwrap(), None);
        assert_eq!(store.submit(&submission, &kick).await.unwrap().how, How::Fresh);
    }

    #[tokio::test]
    async fn a_waiting_job_expires_although_nothing_else_happens() {
        let place = Place::new();
        let (store, _) = Store::open(&place.file(), place.settings.clone(), Clock::system()).unwrap();
        let soon = Terms { expires: Duration::from_millis(30), ..terms("kick", 1) };
        let mut submission = place.submission("kick");
        submission.at = Clock::system().now();
        let job = store.submit(&submission, &soon).await.unwrap().job;
        let found = store.await_end(job, Duration::from_secs(60)).await.unwrap().unwrap();
        assert_eq!(found.view.state, State::Expired);
        assert_eq!(store.next_expiry().await, None);
    }
}
