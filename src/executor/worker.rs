//! The loop that claims jobs and sees each one through to a final state.
//!
//! Trusts no claim: a job is asked about at this process's own policy again before it starts. Nothing starts that is not
//! on record, nothing is forgotten because a disk is full, and a job that fails inside takes nobody with it.

use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::agreement::{Asked, agree};
use super::ends;
use super::hold;
use super::launcher::Launcher;
use super::persist::{GivenUp, Pauses, until_written};
use super::run::{self, Ending, Ledger, Plan};
use super::step::Ended;
use crate::audit::{JOB_SPAN, Landlock, Record, Recorder};
use crate::clock::Clock;
use crate::domain::argv::Argv;
use crate::domain::job::{Exit, JobId, State};
use crate::domain::name::RouteName;
use crate::policy::InForce;
use crate::queue::operate::CANCELLED;
use crate::queue::sqlite::{Claim, End, StepRecord, Store};

/// Runs jobs, `limits.running` at once.
pub struct Worker {
    /// Where jobs are claimed and finished.
    pub store: Store,
    /// What jobs may ask for.
    pub policy: InForce,
    /// Where starts and ends are written down.
    pub recorder: Recorder,
    /// What starts commands.
    pub launcher: Launcher,
    /// What durations in the log are measured with.
    pub clock: Clock,
    /// How long running commands may go on after the worker was told to stop.
    pub drain: Duration,
}

/// The two ends of a worker: no more claims, and later no more patience with what runs.
#[derive(Clone)]
struct Stops {
    claims: CancellationToken,
    runs: CancellationToken,
}

/// Why no job was claimed.
enum Pause {
    Full,
    Idle,
    Unavailable,
}

impl Worker {
    /// Works until `stop` is cancelled, then drains: what runs may end by itself for as long as `drain`, then it is
    /// terminated. What is queued, or claimed but not started, stays for the next worker.
    pub async fn work(self, stop: CancellationToken) {
        let worker = Arc::new(self);
        let stops = Stops { claims: stop.child_token(), runs: CancellationToken::new() };
        let _launcher =
            AbortOnDropHandle::new(tokio::spawn(stop_without(worker.launcher.clone(), stops.claims.clone())));
        let mut runs = JoinSet::new();
        let mut pauses = Pauses::default();
        let (freed, mut gone) = mpsc::channel(hold::FILES_AT_ONCE);
        let nothing_ends = CancellationToken::new();
        let ends = ends::record(worker.store.clone(), worker.recorder.clone(), nothing_ends.clone());
        let ends = AbortOnDropHandle::new(tokio::spawn(ends));
        let _watch = AbortOnDropHandle::new(tokio::spawn(hold::watch(worker.store.clone(), freed)));
        let mut free = None;
        // Nothing may overlap what a worker that was killed has left running.
        stops.claims.run_until_cancelled(worker.launcher.ready()).await;
        while !stops.claims.is_cancelled() {
            let mut news = pin!(worker.store.available());
            // Listening begins before asking, so that a job submitted in between is not slept over.
            let heard = poll_fn(|context| Poll::Ready(news.as_mut().poll(context).is_ready())).await;
            let pause = worker.fill(&mut runs, &stops, free.take()).await;
            if !matches!(pause, Pause::Unavailable) {
                pauses = Pauses::default();
            }
            match pause {
                Pause::Full => tokio::select! {
                    () = stops.claims.cancelled() => {}
                    Some(_) = runs.join_next() => {}
                    // What was seen before there was room may no longer be so; it is looked at again.
                    Some(_) = gone.recv() => {}
                },
                Pause::Idle if heard => {}
                Pause::Idle => tokio::select! {
                    () = stops.claims.cancelled() => {}
                    () = news => {}
                    Some(file) = gone.recv() => free = Some(file),
                },
                Pause::Unavailable => {
                    tokio::select! {
                        () = stops.claims.cancelled() => {}
                        () = tokio::time::sleep(pauses.next()) => {}
                    }
                    while gone.try_recv().is_ok() {}
                }
            }
        }
        drain(runs, &stops.runs, worker.drain).await;
        worker.launcher.clone().close().await;
        nothing_ends.cancel();
        if let Err(error) = ends.await {
            tracing::error!(%error, "the ends of jobs are no longer put on record; the next start does it");
        }
    }

    /// Claims jobs until there is no room or none to claim; those that wait for `free`, a file that is gone, come first.
    async fn fill(
        self: &Arc<Self>,
        runs: &mut JoinSet<()>,
        stops: &Stops,
        mut free: Option<PathBuf>,
    ) -> Pause {
        loop {
            while runs.try_join_next().is_some() {}
            if runs.len() >= self.policy.now().limits.running.get() {
                return Pause::Full;
            }
            if stops.claims.is_cancelled() {
                return Pause::Idle;
            }
            let claimed = match free.clone() {
                Some(file) => self.store.claim_freed(file).await,
                None => self.store.claim().await,
            };
            match claimed {
                Ok(Some(claim)) => {
                    let (job, route, identity) = (claim.job, &claim.route, &claim.identity);
                    let source = claim.proofs.source;
                    let span = tracing::info_span!(JOB_SPAN, %job, %route, %identity, %source);
                    runs.spawn(Arc::clone(self).see_through(claim, stops.clone()).instrument(span));
                }
                Ok(None) if free.take().is_some() => {}
                Ok(None) => return Pause::Idle,
                Err(error) => {
                    tracing::warn!(%error, "no job can be claimed; it is tried again");
                    return Pause::Unavailable;
                }
            }
        }
    }

    /// Runs one job and writes down how it ended.
    async fn see_through(self: Arc<Self>, claim: Claim, stops: Stops) {
        let (job, route, attempt) = (claim.job, claim.route.clone(), claim.attempt);
        let began = self.clock.monotonic();
        // Stops what runs when the worker has no more patience, or when an operator cancels this one job.
        let interrupt = stops.runs.child_token();
        let mut cancellable = self.store.cancellable(job, interrupt.clone());
        let kept = Kept::default();
        let mut ending = if cancellable.is_cancelled() {
            Ending::because(State::Cancelled, CANCELLED)
        } else {
            contained(Arc::clone(&self).run(claim, stops.clone(), interrupt, kept.clone())).await
        };
        let cancelled = match ending {
            // The next run registers itself, and hears of a wish that comes from now on.
            Ending::Again { .. } => cancellable.release(),
            Ending::Final { .. } | Ending::Left => ending.is_interruption() && cancellable.is_cancelled(),
        };
        if cancelled {
            ending = Ending::because(State::Cancelled, CANCELLED);
        }
        let seconds = self.clock.monotonic().saturating_sub(began).as_secs_f64();
        let written = match ending {
            Ending::Final { state, reason } => {
                tracing::debug!(%state, seconds, "the job has ended");
                let end = End { state, reason, closing: kept.take() };
                until_written("a job's state", &stops.runs, || self.store.finish(job, end.clone())).await
            }
            Ending::Again { delay, reason } => {
                tracing::info!(
                    attempt,
                    reason,
                    ?delay,
                    seconds,
                    "the run has failed; the job is tried again"
                );
                let retried = Record::Retried { job, route: route.clone(), attempt, reason };
                self.record(job, &route, kept.take(), Some(retried), &stops.runs).await.and(
                    until_written("a job's next attempt", &stops.runs, || {
                        self.store.retry(job, attempt, delay)
                    })
                    .await,
                )
            }
            Ending::Left => self.record(job, &route, kept.take(), None, &stops.runs).await.and(Err(GivenUp)),
        };
        if written.is_err() {
            tracing::warn!("the job is left as it is; the next start of a worker takes it up");
        }
    }

    async fn run(
        self: Arc<Self>,
        claim: Claim,
        stops: Stops,
        interrupt: CancellationToken,
        kept: Kept,
    ) -> Ending {
        let Claim { route, identity, proofs, parameters, body, .. } = &claim;
        let body = body.as_ref();
        let agreed = match agree(&self.policy.now(), Asked { route, identity, proofs, parameters, body }) {
            Ok(agreed) => agreed,
            Err(disagreement) => return Ending::because(State::Refused, disagreement.to_string()),
        };
        let plan = Plan::new(&agreed.route.run, agreed.steps, claim.body.clone());
        let ledger = JobLedger {
            worker: &self,
            claim: &claim,
            rule: agreed.rule,
            stops: &stops,
            kept,
            last: Mutex::default(),
        };
        let _running = self.recorder.run(route);
        let retry = &agreed.route.run.retry;
        let live = Some(self.store.live(claim.job));
        match run::execute(&plan, &self.launcher, live, &ledger, &interrupt).await {
            Ending::Final { state, reason } if retry.follows(claim.attempt, state, ledger.last_exit()) => {
                Ending::Again { delay: retry.delay, reason }
            }
            // Stopping in good order must not cost what a crash would not: it runs again, as after one.
            Ending::Final { state: State::Interrupted, .. }
                if agreed.terms.idempotent && stops.runs.is_cancelled() =>
            {
                Ending::Left
            }
            ending @ (Ending::Final { .. } | Ending::Left | Ending::Again { .. }) => ending,
        }
    }

    /// Puts the end of a step on record, if there is one, together with what follows it; then stores its output.
    async fn record(
        &self,
        job: JobId,
        route: &RouteName,
        step: Option<(usize, StepRecord)>,
        next: Option<Record>,
        ending: &CancellationToken,
    ) -> Result<(), GivenUp> {
        let ended = step.as_ref().map(|(step, ended)| {
            let (route, step, exit, dropped) = (route.clone(), *step, ended.exit, ended.dropped);
            Record::Ended { job, route, step, exit, dropped }
        });
        let records: Vec<Record> = ended.into_iter().chain(next).collect();
        if records.is_empty() {
            return Ok(());
        }
        until_written("the course of a run", ending, || self.recorder.all_durable(&records)).await?;
        let Some((number, step)) = step else { return Ok(()) };
        until_written("a step's output", ending, || self.store.record_step(job, number, step.clone())).await
    }
}

/// The last step that has ended, until it is written down: with the start of the next one, or with the end of the job.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<(usize, StepRecord)>>>);

impl Kept {
    fn keep(&self, step: usize, ended: StepRecord) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((step, ended));
    }

    fn take(&self) -> Option<(usize, StepRecord)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the steps of one job are written down in: the audit log, and the job itself.
struct JobLedger<'a> {
    worker: &'a Worker,
    claim: &'a Claim,
    /// Which entry of the route's `allow` lets it run.
    rule: usize,
    stops: &'a Stops,
    kept: Kept,
    /// How the last step ended.
    last: Mutex<Option<Exit>>,
}

impl JobLedger<'_> {
    fn last_exit(&self) -> Option<Exit> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for JobLedger<'_> {
    /// The first start is durable in the audit log, then in the queue. Should the worker die in between, the job is still
    /// only claimed, and is run rather than lost.
    async fn starting(&self, step: usize, argv: &Argv, landlock: Option<Landlock>) -> Result<(), GivenUp> {
        if step == 1 && self.stops.claims.is_cancelled() {
            return Err(GivenUp);
        }
        let ending = if step == 1 { &self.stops.claims } else { &self.stops.runs };
        let Claim { job, route, identity, .. } = self.claim;
        let job = *job;
        // Without a launcher nothing starts.
        let tree = self.worker.launcher.keeper().ok_or(GivenUp)?;
        let record = Record::Started {
            job,
            route: route.clone(),
            identity: identity.clone(),
            rule: self.rule,
            step,
            argv: argv.to_list(),
            tree,
            landlock,
        };
        self.worker.record(job, route, self.kept.take(), Some(record), ending).await?;
        if step == 1 {
            until_written("the start of a job", ending, || self.worker.store.start(job)).await?;
        }
        Ok(())
    }

    fn closing(&self) -> &CancellationToken {
        &self.stops.claims
    }

    fn ended(&self, step: usize, argv: &Argv, ended: Ended) {
        let Ended { exit, output, dropped, .. } = ended;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
        tracing::debug!(step, kept = output.len(), dropped, "the step's output is complete");
        self.kept.keep(step, StepRecord { argv: argv.to_list(), exit, output, dropped });
    }
}

/// Runs a job on a task of its own: a panic there is the failure of that job and of nothing else.
async fn contained(run: impl Future<Output = Ending> + Send + 'static) -> Ending {
    let task = AbortOnDropHandle::new(tokio::spawn(run.in_current_span()));
    task.await.unwrap_or_else(|error| {
        tracing::error!(%error, "an internal error ended a run; please report it");
        Ending::because(State::Failed, "an internal error ended the run; the log says more")
    })
}

/// Claims nothing more once nothing can be started any more; the worker then ends, and is better restarted.
async fn stop_without(launcher: Launcher, claims: CancellationToken) {
    launcher.ended().await;
    if !claims.is_cancelled() {
        tracing::error!("commands can no longer be started: their launcher has ended");
        claims.cancel();
    }
}

/// Lets `runs` end by themselves for as long as `limit`, then cancels `patience` and waits for what that ends.
async fn drain(mut runs: JoinSet<()>, patience: &CancellationToken, limit: Duration) {
    let all_ended = async { while runs.join_next().await.is_some() {} };
    if tokio::time::timeout(limit, all_ended).await.is_err() {
        tracing::warn!(runs = runs.len(), "commands still run; they are terminated");
        patience.cancel();
        while runs.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::domain::identity::Identity;
    use crate::domain::job::JobView;
    use crate::domain::submission::{Message, Submission};
    use crate::executor::agreement::tests::{greeting, jenkins, named, proofs};
    use crate::executor::intake::LocalIntake;
    use crate::policy::Policy;
    use crate::queue::operate::{Cancelled, Repeat as _, RepeatError};
    use crate::queue::sqlite::Settings;
    use crate::queue::{Intake, OnRecord, SubmitError};

    const LONG: Duration = Duration::from_secs(60);

    /// All that a worker stands on, in a directory of its own.
    struct Place {
        directory: tempfile::TempDir,
        policy: Arc<Policy>,
        store: Store,
        recorder: Recorder,
        stop: CancellationToken,
    }

    impl Place {
        /// `run` is the route's `[run]`; `{here}` in it is the directory.
        fn new(run: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let here = directory.path().to_str().unwrap();
            let policy = Arc::new(greeting(directory.path(), &run.replace("{here}", here)));
            let store = open(&policy.queue.file);
            let rate = policy.limits.refusals_logged;
            let recorder =
                Recorder::open(&policy.audit.file, (rate.limit, rate.period), Clock::system()).unwrap();
            Self { directory, policy, store, recorder, stop: CancellationToken::new() }
        }

        fn file(&self, name: &str) -> std::path::PathBuf {
            self.directory.path().join(name)
        }

        fn audit(&self) -> String {
            std::fs::read_to_string(&self.policy.audit.file).unwrap()
        }

        fn intake(&self) -> LocalIntake {
            LocalIntake::new(self.store.clone(), InForce::always(Arc::clone(&self.policy)))
        }

        async fn submit(&self) -> JobId {
            self.intake().submit(submission("world"), on_record()).await.unwrap().job
        }

        fn work(&self, drain: Duration) -> JoinHandle<()> {
            let (store, policy) = (self.store.clone(), InForce::always(Arc::clone(&self.policy)));
            let (recorder, clock) = (self.recorder.clone(), Clock::system());
            let launcher = Launcher::of_queue(&self.policy.queue.file).unwrap();
            tokio::spawn(Worker { store, policy, recorder, launcher, clock, drain }.work(self.stop.clone()))
        }

        async fn ended(&self, job: JobId) -> JobView {
            let view = self.store.await_end(job, LONG).await.unwrap().unwrap().view;
            assert!(view.state.is_final(), "{view:?}");
            view
        }

        async fn stop(&self, worker: JoinHandle<()>) {
            self.stop.cancel();
            timeout(LONG, worker).await.expect("the worker drains").expect("the worker does not panic");
        }

        /// Waits until the job's command has made the file `mark`.
        async fn marked(&self) {
            let there = async {
                while !self.file("mark").exists() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(LONG, there).await.expect("the command runs");
        }
    }

    fn open(file: &Path) -> Store {
        Store::open(file, Settings { keep: LONG, keep_bytes: 1 << 20, jobs: 10 }, Clock::system()).unwrap().0
    }

    /// A decision that is on record already.
    fn on_record() -> OnRecord {
        Box::pin(std::future::ready(Ok(())))
    }

    fn submission(name: &str) -> Submission {
        Submission {
            route: RouteName::parse("greet").unwrap(),
            parameters: named(name),
            body: None,
            identity: jenkins(),
            proofs: proofs(),
            message: Message::Anonymous,
            at: Clock::system().now(),
        }
    }

    const TOUCH: &str = "steps = [[\"/usr/bin/touch\", \"{here}/mark\"]]";
    /// Two steps: the first says that the run has begun, the second outlasts the test.
    const LAST: &str = "steps = [[\"/usr/bin/touch\", \"{here}/mark\"], [\"/usr/bin/sleep\", \"60\"]]";

    #[tokio::test]
    async fn a_job_runs_and_all_of_it_is_on_record() {
        let place = Place::new("steps = [[\"/usr/bin/echo\", \"hello {name}\"]]");
        let worker = place.work(LONG);
        let view = place.ended(place.submit().await).await;
        assert_eq!((view.state, view.steps[0].output.as_str()), (State::Succeeded, "hello world\n"));
        place.stop(worker).await;
        let audit = place.audit();
        let at = |kind: &str| audit.find(&format!("\"{kind}\"")).unwrap_or_else(|| panic!("{kind}: {audit}"));
        assert!(at("started") < at("ended") && at("ended") < at("finished"), "{audit}");
    }

    #[tokio::test]
    async fn i4_a_queue_cannot_ask_for_what_the_policy_does_not_offer() {
        let place = Place::new(TOUCH);
        let terms = crate::domain::submission::Terms {
            lock: "any".into(),
            concurrency: std::num::NonZeroU32::MIN,
            expires: LONG,
            idempotent: true,
            likeness: None,
            awaits: None,
        };
        let worker = place.work(LONG);
        let stranger = Identity::Certname("stranger".into());
        for forged in [
            submission("NOT;ACCEPTED"),
            Submission { identity: stranger, ..submission("world") },
            Submission { route: RouteName::parse("other").unwrap(), ..submission("world") },
        ] {
            let job = place.store.submit(&forged, &terms).await.unwrap().job;
            assert_eq!(place.ended(job).await.state, State::Refused, "{forged:?}");
            let refused = place.intake().submit(forged, on_record()).await;
            assert!(matches!(refused, Err(SubmitError::Disagrees(_))), "{refused:?}");
        }
        place.stop(worker).await;
        assert!(!place.file("mark").exists());
        assert!(!place.audit().contains("\"started\""));
    }

    #[tokio::test]
    async fn nothing_starts_while_the_audit_log_cannot_be_written() {
        let place = Place::new(TOUCH);
        place.recorder.clone().close().await;
        let job = place.submit().await;
        let worker = place.work(LONG);
        place.stop(worker).await;
        assert!(!place.file("mark").exists());
        assert_eq!(place.store.find(job).await.unwrap().unwrap().view.state, State::Queued);
    }

    #[tokio::test]
    async fn stopping_lets_a_command_end_by_itself() {
        let place =
            Place::new("steps = [[\"/usr/bin/touch\", \"{here}/mark\"], [\"/usr/bin/sleep\", \"0.3\"]]");
        let worker = place.work(LONG);
        let job = place.submit().await;
        place.marked().await;
        place.stop(worker).await;
        assert_eq!(place.ended(job).await.state, State::Succeeded);
        let waiting = place.submit().await;
        assert_eq!(place.store.find(waiting).await.unwrap().unwrap().view.state, State::Queued);
    }

    #[tokio::test]
    async fn stopping_terminates_what_outlasts_the_drain() {
        let place = Place::new(LAST);
        let worker = place.work(Duration::ZERO);
        let job = place.submit().await;
        place.marked().await;
        place.stop(worker).await;
        assert_eq!(place.ended(job).await.state, State::Interrupted);
    }

    #[tokio::test]
    async fn stopping_costs_an_idempotent_job_no_more_than_a_crash() {
        let place = Place::new(&format!("{LAST}\nidempotent = true"));
        let worker = place.work(Duration::ZERO);
        let job = place.submit().await;
        place.marked().await;
        place.stop(worker).await;
        let Place { store, policy, .. } = place;
        store.close().await;
        let found = open(&policy.queue.file).find(job).await.unwrap().unwrap();
        assert_eq!(found.view.state, State::Queued);
    }

    #[tokio::test]
    async fn a_run_that_fails_is_repeated_as_often_as_the_route_says_and_each_is_on_record() {
        let run = "steps = [[\"/usr/bin/mkdir\", \"-v\", \"{here}/mark\"], [\"/usr/bin/false\"]]\n\
                   retry = { attempts = 3, delay = \"10ms\"";
        for (codes, expected, repeated) in
            [("", "step 1: exit code 1", 2), (", exit_codes = [7]", "step 2: exit code 1", 0)]
        {
            let place = Place::new(&format!("{run}{codes} }}"));
            let worker = place.work(LONG);
            let view = place.ended(place.submit().await).await;
            place.stop(worker).await;
            let audit = place.audit();
            assert_eq!(view.state, State::Failed);
            assert_eq!(audit.matches("\"retried\"").count(), repeated, "{audit}");
            let ends = audit.matches(&format!("{expected}\"")).count();
            assert_eq!(ends, repeated.max(1), "{audit}");
        }
    }

    #[tokio::test]
    async fn a_cancelled_run_ends_and_stays_ended_also_when_it_could_run_again() {
        for more in ["", "\nidempotent = true", "\nretry = { attempts = 3, delay = \"10ms\" }"] {
            let place = Place::new(&format!("{LAST}{more}"));
            let worker = place.work(LONG);
            let job = place.submit().await;
            place.marked().await;
            assert_eq!(place.store.cancel(job).await, Ok(Some(Cancelled::Told)));
            assert_eq!(place.ended(job).await.state, State::Cancelled);
            place.stop(worker).await;
            let audit = place.audit();
            assert!(audit.contains(CANCELLED) && audit.contains("\"cancelled\""), "{audit}");
        }
    }

    #[tokio::test]
    async fn a_job_waits_while_its_file_exists_and_occupies_no_place() {
        let place = Place::new(&format!("{TOUCH}\nwait_while_exists = \"{{here}}/held\""));
        std::fs::write(place.file("held"), std::process::id().to_string()).unwrap();
        let worker = place.work(LONG);
        let job = place.submit().await;
        let held = timeout(LONG, place.store.held_unlike(None)).await.unwrap();
        assert_eq!(place.store.claim().await.unwrap(), None);
        assert_eq!(place.store.held_unlike(None).await, held);
        assert!(!place.file("mark").exists());
        // As after a run that was killed.
        std::fs::write(place.file("held"), "4194305\n").unwrap();
        assert_eq!(place.ended(job).await.state, State::Succeeded);
        // What is free from the start is not slept over.
        assert_eq!(place.ended(place.submit().await).await.state, State::Succeeded);
        place.stop(worker).await;
    }

    #[tokio::test]
    async fn a_job_is_repeated_at_the_terms_of_today_and_only_once_it_has_ended() {
        let place = Place::new("steps = [[\"/usr/bin/echo\", \"hello {name}\"]]");
        let old = place.submit().await;
        let now = || Clock::system().now();
        let early = place.intake().repeat(old, now()).await;
        assert_eq!(early, Err(RepeatError::NotEnded(old, State::Queued)));
        let nobody = JobId::new(now());
        assert_eq!(place.intake().repeat(nobody, now()).await, Err(RepeatError::Unknown(nobody)));
        let worker = place.work(LONG);
        place.ended(old).await;
        let new = place.intake().repeat(old, now()).await.unwrap().job;
        let view = place.ended(new).await;
        assert_eq!((view.state, view.retry_of), (State::Succeeded, Some(old)));
        assert_eq!((view.identity, view.steps[0].output.as_str()), (jenkins(), "hello world\n"));

        let stricter = tempfile::tempdir().unwrap();
        let policy = greeting(stricter.path(), "steps = [[\"/usr/bin/echo\", \"{name}\"]]");
        let mut policy = Arc::new(policy);
        Arc::get_mut(&mut policy).unwrap().routes.clear();
        let refused = LocalIntake::new(place.store.clone(), InForce::always(policy)).repeat(old, now()).await;
        assert!(matches!(refused, Err(RepeatError::NotStored(SubmitError::Disagrees(_)))), "{refused:?}");
        place.stop(worker).await;
    }

    #[tokio::test]
    async fn a_panic_is_the_failure_of_one_run() {
        let ending = contained(async { panic!("on purpose") }).await;
        assert!(matches!(ending, Ending::Final { state: State::Failed, reason: Some(_) }), "{ending:?}");
        let fine = Ending::Final { state: State::Succeeded, reason: None };
        assert_eq!(contained(std::future::ready(fine.clone())).await, fine);
    }

    #[tokio::test]
    async fn draining_waits_first_and_then_cancels() {
        let limit = Duration::from_secs(60);
        let patience = CancellationToken::new();
        drain(JoinSet::from_iter([std::future::ready(())]), &patience, limit).await;
        assert!(!patience.is_cancelled());
        drain(JoinSet::from_iter([patience.clone().cancelled_owned()]), &patience, Duration::ZERO).await;
        assert!(patience.is_cancelled());
    }
}
