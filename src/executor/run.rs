//! One execution of a job: its steps in order, until one fails, the time is over, or the worker stops.
//!
//! Starts nothing that its ledger has not written down first, and knows neither the queue nor the audit log: the ledger
//! is the worker's.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::input::Input;
use super::launcher::{Call, Launcher, Prepared};
use super::output::Room;
use super::persist::GivenUp;
use super::shortage::{NotStarted, Shortage};
use super::spawn::Conditions;
use super::step::{self, Ended, Patience};
use super::{program, rights};
use crate::audit::Landlock;
use crate::domain::argv::Argv;
use crate::domain::body::Body;
use crate::domain::job::{Exit, State};
use crate::policy::output::Telltale;
use crate::policy::route::{Privileges, Run};
use crate::queue::output::Live;

/// Everything that one run needs to know.
#[derive(Debug)]
pub(super) struct Plan {
    /// At least one.
    pub(super) steps: Vec<Argv>,
    /// What each of them is given.
    pub(super) conditions: Conditions,
    /// What each of them reads on standard input.
    pub(super) body: Option<Body>,
    /// How long the commands may take together.
    pub(super) timeout: Duration,
    /// From TERM to KILL.
    pub(super) stop_grace: Duration,
    /// How many bytes of all output together are kept.
    pub(super) output_limit: usize,
    /// What a step that has failed writes.
    pub(super) fail_on_output: Option<Telltale>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// In a final state.
    Final {
        /// Which.
        state: State,
        /// Why, where the state alone does not say it.
        reason: Option<String>,
    },
    /// Nowhere: what is durable says how far it came, and the recovery at the next start decides.
    Left,
    /// Not well, and its route says that it is tried again.
    Again {
        /// From now until it may start.
        delay: Duration,
        /// How it ended this time.
        reason: Option<String>,
    },
}

/// Where each step is written down: its start before it starts, its end before anything else of the job happens.
pub(super) trait Ledger: Sync {
    /// Makes the start of a step durable, and how it is held; `step` counts from 1.
    fn starting(
        &self,
        step: usize,
        argv: &Argv,
        landlock: Option<Landlock>,
    ) -> impl Future<Output = Result<(), GivenUp>> + Send;

    /// Cancelled when no job may start any more.
    fn closing(&self) -> &CancellationToken;

    /// Takes the end of a step, to be written down with what follows it; `step` counts from 1.
    fn ended(&self, step: usize, argv: &Argv, ended: Ended);
}

impl Plan {
    /// What a route's `[run]` says about these steps, which were rendered from it, and this body, which it takes.
    pub(super) fn new(run: &Run, steps: Vec<Argv>, body: Option<Body>) -> Self {
        let may_gain_privileges = match run.privileges {
            Privileges::MayGain => true,
            Privileges::Drop => false,
        };
        let conditions = Conditions {
            nice: run.nice,
            may_gain_privileges,
            directory: run.directory.clone(),
            env: run.env.clone(),
            restrictions: run.restrictions.clone(),
        };
        let Run { timeout, stop_grace, output_limit, .. } = *run;
        let fail_on_output = run.fail_on_output.clone();
        Self { steps, conditions, body, timeout, stop_grace, output_limit, fail_on_output }
    }
}

/// What a step needs before it is written down.
struct Ready {
    command: Prepared,
    landlock: Option<Landlock>,
}

/// Why a step is not even written down.
enum NotReady {
    /// No job may start any more.
    Closing,
    Interrupted,
    Problem(String),
}

impl Plan {
    /// Waits until the system has room for what comes before the start of a step: a look at all programs that are still
    /// to come, so that a run with a hole in it does nothing by halves, and all that this process needs to start one.
    async fn prepare(
        &self,
        index: usize,
        input: &mut Option<Input>,
        launcher: &Launcher,
        ledger: &impl Ledger,
        interrupt: &CancellationToken,
    ) -> Result<Ready, NotReady> {
        let mut shortage = Shortage::of("what comes before a start");
        loop {
            let short = match self.try_to_prepare(index, input, launcher).await {
                Ok(ready) => return Ok(ready),
                Err(problem) if !problem.is_shortage => return Err(NotReady::Problem(problem.reason)),
                Err(short) => short,
            };
            tokio::select! {
                biased;
                () = interrupt.cancelled() => return Err(NotReady::Interrupted),
                // Nothing has run, and so it is the next worker's.
                () = ledger.closing().cancelled(), if index == 0 => return Err(NotReady::Closing),
                () = shortage.pause(&short) => {}
            }
        }
    }

    async fn try_to_prepare(
        &self,
        index: usize,
        input: &mut Option<Input>,
        launcher: &Launcher,
    ) -> Result<Ready, NotStarted> {
        program::all_stand(&self.steps[index..]).await?;
        if let (None, Some(body)) = (&input, &self.body) {
            let held = Input::holding(body);
            *input = Some(held.map_err(|error| NotStarted::by("there is no room for the body", &error))?);
        }
        let writable = &self.conditions.restrictions.writable;
        if let Some(writable) = writable {
            rights::all_there(writable).await?;
        }
        let landlock = writable.as_ref().map(|_| rights::landlock()).transpose()?;
        let command = launcher.prepare(&self.call(index, input.as_ref())).await?;
        Ok(Ready { command, landlock })
    }

    fn call<'a>(&'a self, index: usize, input: Option<&'a Input>) -> Call<'a> {
        Call { argv: &self.steps[index], conditions: &self.conditions, input }
    }
}

impl Ending {
    /// A final state, and why.
    pub(super) fn because(state: State, reason: impl Into<String>) -> Self {
        Self::Final { state, reason: Some(reason.into()) }
    }

    /// Whether it was ended from outside, before it could end by itself.
    pub(super) fn is_interruption(&self) -> bool {
        matches!(self, Self::Final { state: State::Interrupted, .. })
    }
}

/// Runs the steps of `plan` in order; the first that does not exit with 0 ends the run.
///
/// The time limit counts the commands' own time: waiting until a record can be written is not their fault.
pub(super) async fn execute(
    plan: &Plan,
    launcher: &Launcher,
    live: Option<Live>,
    ledger: &impl Ledger,
    interrupt: &CancellationToken,
) -> Ending {
    let mut input = None;
    let mut time = plan.timeout;
    let mut room = Room::live(plan.output_limit, live);
    for (index, argv) in plan.steps.iter().enumerate() {
        let step = index + 1;
        let has_run = index > 0;
        let interrupted =
            || Ending::because(State::Interrupted, format!("the worker stopped before step {step}"));
        let ready = plan.prepare(index, &mut input, launcher, ledger, interrupt).await;
        let Ready { mut command, landlock } = match ready {
            Ok(ready) => ready,
            Err(NotReady::Closing) => return Ending::Left,
            Err(NotReady::Interrupted) => return interrupted(),
            Err(NotReady::Problem(problem)) => {
                return Ending::because(if has_run { State::Failed } else { State::Refused }, problem);
            }
        };
        if has_run && interrupt.is_cancelled() {
            return interrupted();
        }
        if time.is_zero() {
            return Ending::because(State::TimedOut, format!("no time was left for step {step}"));
        }
        if ledger.starting(step, argv, landlock).await.is_err() {
            return Ending::Left;
        }
        if interrupt.is_cancelled() {
            return interrupted();
        }
        room.begin(step, argv);
        let patience = Patience { time, stop_grace: plan.stop_grace };
        let mut shortage = Shortage::of("a start");
        let (began, ended) = loop {
            let began = Instant::now();
            let short = match step::follow(command, patience, step, &mut room, interrupt).await {
                Ok(ended) => break (began, ended),
                Err(error) if !error.is_shortage => {
                    return Ending::because(State::Failed, format!("step {step}: {error}"));
                }
                Err(short) => short,
            };
            tokio::select! {
                biased;
                () = interrupt.cancelled() => return interrupted(),
                () = ledger.closing().cancelled(), if !has_run => return Ending::Left,
                () = shortage.pause(&short) => {}
            }
            let again = plan.prepare(index, &mut input, launcher, ledger, interrupt).await;
            command = match again {
                Ok(ready) => ready.command,
                Err(NotReady::Closing) => return Ending::Left,
                Err(NotReady::Interrupted) => return interrupted(),
                Err(NotReady::Problem(problem)) => {
                    return Ending::because(State::Failed, format!("step {step}: {problem}"));
                }
            };
        };
        if ended.is_left {
            return Ending::Left;
        }
        time = time.saturating_sub(began.elapsed());
        let (exit, interrupted) = (ended.exit, ended.interrupted);
        let (ended, telling) = told(plan.fail_on_output.as_ref(), ended).await;
        ledger.ended(step, argv, ended);
        if interrupted {
            return Ending::because(State::Interrupted, format!("the worker stopped during step {step}"));
        }
        match exit {
            Exit::Code(0) => {
                if let Some(why) = telling {
                    return Ending::because(State::Failed, format!("step {step}: {exit}, but {why}"));
                }
            }
            Exit::TimedOut => return Ending::because(State::TimedOut, format!("step {step}: {exit}")),
            Exit::Code(_) | Exit::Signal(_) => {
                return Ending::because(State::Failed, format!("step {step}: {exit}"));
            }
        }
    }
    Ending::Final { state: State::Succeeded, reason: None }
}

/// What the output of a step says against it, whatever it exited with. What was not kept cannot be judged, and so is no
/// success either.
async fn told(telltale: Option<&Telltale>, ended: Ended) -> (Ended, Option<&'static str>) {
    let Some(telltale) = telltale.cloned() else { return (ended, None) };
    if ended.dropped > 0 {
        return (ended, Some("not all of its output was kept for `fail_on_output`; raise `output_limit`"));
    }
    let Ended { output, .. } = ended;
    // However much is kept, no thread that serves requests waits for it to be read.
    let judged = tokio::task::spawn_blocking(move || (telltale.is_in(&output), output)).await;
    let (is_in, output) = judged.unwrap_or((true, Vec::new()));
    (Ended { output, ..ended }, is_in.then_some("its output matches `fail_on_output`"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::executor::launcher::tests::launcher;

    /// Writes down what it is told; refuses what comes after `refuse_from` entries.
    struct Notes {
        entries: Mutex<Vec<String>>,
        refuse_from: usize,
        closing: CancellationToken,
    }

    impl Notes {
        fn new(refuse_from: usize) -> Self {
            Self { entries: Mutex::default(), refuse_from, closing: CancellationToken::new() }
        }

        fn write(&self, entry: String) -> Result<(), GivenUp> {
            let mut entries = self.entries.lock().unwrap();
            if entries.len() >= self.refuse_from {
                return Err(GivenUp);
            }
            entries.push(entry);
            Ok(())
        }

        fn entries(&self) -> Vec<String> {
            self.entries.lock().unwrap().clone()
        }
    }

    impl Ledger for Notes {
        async fn starting(&self, step: usize, _: &Argv, _: Option<Landlock>) -> Result<(), GivenUp> {
            self.write(format!("starting {step}"))
        }

        fn closing(&self) -> &CancellationToken {
            &self.closing
        }

        fn ended(&self, step: usize, _: &Argv, ended: Ended) {
            let entry = format!("ended {step}: {}, {}+{}", ended.exit, ended.output.len(), ended.dropped);
            self.entries.lock().unwrap().push(entry);
        }
    }

    fn plan(steps: &[&[&str]]) -> Plan {
        let argv = |step: &&[&str]| {
            Argv::new(step[0], step[1..].iter().map(|&argument| argument.to_owned()).collect()).unwrap()
        };
        let (directory, env) = ("/".into(), BTreeMap::new());
        Plan {
            steps: steps.iter().map(argv).collect(),
            conditions: Conditions::new(directory, env),
            body: None,
            timeout: Duration::from_secs(60),
            stop_grace: Duration::from_secs(5),
            output_limit: 100,
            fail_on_output: None,
        }
    }

    async fn run(plan: &Plan, notes: &Notes) -> Ending {
        execute(plan, &launcher(), None, notes, &CancellationToken::new()).await
    }

    fn state(ending: &Ending) -> Option<State> {
        match ending {
            Ending::Final { state, .. } => Some(*state),
            Ending::Left | Ending::Again { .. } => None,
        }
    }

    #[tokio::test]
    async fn steps_run_in_order_and_share_one_limit() {
        let notes = Notes::new(usize::MAX);
        let flood = ["/usr/bin/head", "-c", "70", "/dev/zero"];
        let ending = run(&plan(&[&flood, &flood]), &notes).await;
        assert_eq!(ending, Ending::Final { state: State::Succeeded, reason: None });
        let expected =
            ["starting 1", "ended 1: exit code 0, 70+0", "starting 2", "ended 2: exit code 0, 30+40"];
        assert_eq!(notes.entries(), expected);
    }

    #[tokio::test]
    async fn the_first_failure_ends_the_job() {
        let notes = Notes::new(usize::MAX);
        let ending = run(&plan(&[&["/usr/bin/true"], &["/usr/bin/false"], &["/usr/bin/true"]]), &notes).await;
        assert_eq!(ending, Ending::because(State::Failed, "step 2: exit code 1"));
        assert_eq!(notes.entries().len(), 4);
    }

    #[tokio::test]
    async fn a_step_whose_output_tells_of_a_failure_has_failed_and_so_has_one_that_wrote_too_much_to_tell() {
        let mut plan = plan(&[&["/usr/bin/printf", "fine\\nNo response from: n1\\n"], &["/usr/bin/true"]]);
        let mut outcome = async |telltale: &str, limit| {
            plan.fail_on_output = Telltale::compile(telltale).ok();
            plan.output_limit = limit;
            let notes = Notes::new(usize::MAX);
            (run(&plan, &notes).await, notes.entries().len())
        };
        let failed = |why: &str| Ending::because(State::Failed, format!("step 1: exit code 0, but {why}"));
        let (ending, entries) = outcome("(?m)^No response from", 100).await;
        assert_eq!((ending, entries), (failed("its output matches `fail_on_output`"), 2));
        let (ending, entries) = outcome("^No response from", 100).await;
        assert_eq!((state(&ending), entries), (Some(State::Succeeded), 4));
        let (ending, entries) = outcome("^No response from", 10).await;
        let too_much = "not all of its output was kept for `fail_on_output`; raise `output_limit`";
        assert_eq!((ending, entries), (failed(too_much), 2));
    }

    #[tokio::test]
    async fn the_time_limit_is_the_whole_runs() {
        let notes = Notes::new(usize::MAX);
        let mut plan = plan(&[&["/usr/bin/sleep", "0.2"], &["/usr/bin/sleep", "60"], &["/usr/bin/true"]]);
        plan.timeout = Duration::from_millis(500);
        let began = Instant::now();
        assert_eq!(state(&run(&plan, &notes).await), Some(State::TimedOut));
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_eq!(notes.entries().last().map(String::as_str), Some("ended 2: timed out, 0+0"));
    }

    #[tokio::test]
    async fn nothing_starts_that_cannot_be_written_down() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark");
        let touch: [&str; 2] = ["/usr/bin/touch", mark.to_str().unwrap()];
        assert_eq!(run(&plan(&[&touch]), &Notes::new(0)).await, Ending::Left);
        assert!(!mark.exists());
        assert_eq!(run(&plan(&[&["/usr/bin/true"], &touch]), &Notes::new(2)).await, Ending::Left);
        assert!(!mark.exists());
        assert_eq!(state(&run(&plan(&[&touch]), &Notes::new(2)).await), Some(State::Succeeded));
        assert!(mark.exists());
    }

    #[tokio::test]
    async fn a_missing_or_unsafe_program_of_any_step_refuses_the_job() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("program");
        std::fs::write(&file, "#!/bin/true\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o777)).unwrap();
        for program in ["/no/such/program", file.to_str().unwrap()] {
            let notes = Notes::new(usize::MAX);
            let ending = run(&plan(&[&["/usr/bin/true"], &[program]]), &notes).await;
            assert_eq!(state(&ending), Some(State::Refused), "{ending:?}");
            assert!(notes.entries().is_empty());
        }
    }

    #[tokio::test]
    async fn a_program_that_vanishes_midway_is_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("program");
        std::fs::copy("/usr/bin/true", &file).unwrap();
        let notes = Notes::new(usize::MAX);
        let file = file.to_str().unwrap();
        let ending = run(&plan(&[&["/usr/bin/rm", file], &[file]]), &notes).await;
        assert_eq!(state(&ending), Some(State::Failed), "{ending:?}");
        assert_eq!(notes.entries().len(), 2);
    }

    #[tokio::test]
    async fn a_step_that_cannot_start_fails_the_job() {
        let mut plan = plan(&[&["/usr/bin/true"]]);
        plan.conditions.directory = "/no/such/directory".into();
        let ending = run(&plan, &Notes::new(usize::MAX)).await;
        assert_eq!(state(&ending), Some(State::Failed), "{ending:?}");
    }

    #[tokio::test]
    async fn a_worker_that_stops_interrupts_the_run() {
        let interrupt = CancellationToken::new();
        interrupt.cancel();
        let notes = Notes::new(usize::MAX);
        let ending = execute(&plan(&[&["/usr/bin/true"]]), &launcher(), None, &notes, &interrupt).await;
        assert_eq!(state(&ending), Some(State::Interrupted));
        assert_eq!(notes.entries(), ["starting 1"]);
    }
}
