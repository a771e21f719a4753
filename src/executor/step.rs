//! One process from its start to its end: its time limit, its output, its exit.
//!
//! Knows neither jobs nor records. When it returns, the process is reaped, what it left in its process group is killed,
//! and its pipe is closed.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::spawn::{self, Conditions, NotStarted, Process};
use crate::domain::argv::Argv;
use crate::domain::job::Exit;

/// How long the output of a process that has ended is waited for, before and again after its group is killed.
const LINGER: Duration = Duration::from_millis(500);

/// How long a process may go on.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until TERM.
    pub time: Duration,
    /// From TERM to KILL.
    pub stop_grace: Duration,
}

/// A step that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// What was kept of its output.
    pub output: Vec<u8>,
    /// How many bytes were not.
    pub dropped: u64,
    /// Whether it was ended because the worker stops.
    pub interrupted: bool,
}

/// Why a process is ended before it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Time,
    Interruption,
}

/// Runs one process; `step` is its number in the log, `room` how much output may be kept.
///
/// # Errors
/// When it could not be started.
pub async fn execute(
    argv: &Argv,
    conditions: &Conditions,
    patience: Patience,
    step: usize,
    room: &mut usize,
    interrupt: &CancellationToken,
) -> Result<Ended, NotStarted> {
    let started = spawn::start(argv, conditions).await?;
    let mut process = started.process;
    let mut output = Output::new(started.output, step, room);

    let cut = reading(&mut output, cut_or_end(&mut process, patience.time, interrupt)).await;
    match cut {
        Some(_) => terminate(&mut process, &mut output, patience.stop_grace).await,
        // Whatever it left running may finish what it was writing, such as the `tee` of a script.
        None => drop(timeout(LINGER, output.read_to_end()).await),
    }
    process.signal_group(Signal::KILL);
    reading(&mut output, process.ended()).await;
    // Beyond this, only a process that left the group can hold the pipe open.
    drop(timeout(LINGER, output.read_to_end()).await);

    let exit = process.reap();
    let (output, dropped) = output.close();
    let exit = if cut == Some(Cut::Time) { Exit::TimedOut } else { exit };
    Ok(Ended { exit, output, dropped, interrupted: cut == Some(Cut::Interruption) })
}

async fn cut_or_end(process: &mut Process, time: Duration, interrupt: &CancellationToken) -> Option<Cut> {
    tokio::select! {
        biased;
        () = process.ended() => None,
        () = interrupt.cancelled() => Some(Cut::Interruption),
        () = sleep(time) => Some(Cut::Time),
    }
}

/// Asks the group to end, and gives all of it, not the leader alone, the same time to do so.
async fn terminate(process: &mut Process, output: &mut Output<'_>, stop_grace: Duration) {
    let grace_ends = Instant::now() + stop_grace;
    process.signal_group(Signal::TERM);
    if reading(output, timeout_at(grace_ends, process.ended())).await.is_ok() {
        drop(timeout_at(grace_ends, output.read_to_end()).await);
    }
}

/// Waits for `event` and reads on meanwhile, so that the process is never held up by a full pipe.
async fn reading<T>(output: &mut Output<'_>, event: impl Future<Output = T>) -> T {
    let mut event = pin!(event);
    tokio::select! {
        biased;
        value = &mut event => value,
        () = output.read_to_end() => event.await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn patience(time: Duration, stop_grace: Duration) -> Patience {
        Patience { time, stop_grace }
    }

    /// Runs a script; the time limit is there to end a test that hangs.
    async fn run(script: &str, patience: Patience, interrupt: &CancellationToken) -> Ended {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script");
        std::fs::write(&path, script).unwrap();
        let argv = Argv::new("/bin/sh", vec![path.to_str().unwrap().to_owned()]).unwrap();
        let conditions = Conditions {
            nice: 0,
            may_gain_privileges: false,
            directory: directory.path().to_owned(),
            env: BTreeMap::from([("PATH".into(), "/usr/bin".into())]),
        };
        let mut room = 1000;
        timeout(LONG, execute(&argv, &conditions, patience, 1, &mut room, interrupt))
            .await
            .expect("the step ends")
            .expect("the step starts")
    }

    fn lives(pid: &str) -> bool {
        assert!(pid.trim().parse::<u32>().is_ok(), "the script was not fast enough to say {pid:?}");
        // A zombie that waits for its reaper has ended, too.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// Waits until the kernel has taken down a process that was killed.
    async fn is_gone(pid: &str) {
        let gone = async {
            while lives(pid) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, gone).await.expect("the process is gone");
    }

    #[tokio::test]
    async fn output_keeps_the_order_of_both_streams() {
        let script = "echo a; echo b >&2; echo c; exit 3";
        let ended = run(script, patience(LONG, LONG), &CancellationToken::new()).await;
        assert_eq!((ended.exit, ended.output.as_slice()), (Exit::Code(3), &b"a\nb\nc\n"[..]));
        assert!(!ended.interrupted);
    }

    #[tokio::test]
    async fn a_time_limit_is_a_time_out_even_when_the_command_obeys() {
        let script = "trap 'echo bye; exit 0' TERM; echo $$; sleep 60 & wait";
        let ended = run(script, patience(Duration::from_secs(1), LONG), &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::TimedOut);
        assert!(ended.output.ends_with(b"bye\n"), "{:?}", String::from_utf8_lossy(&ended.output));
    }

    #[tokio::test]
    async fn what_ignores_term_is_killed_with_its_group() {
        let script = "trap '' TERM; sleep 60 & echo $!; wait; sleep 60";
        let times = patience(Duration::from_secs(1), Duration::from_millis(200));
        let ended = run(script, times, &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::TimedOut);
        is_gone(&String::from_utf8(ended.output).unwrap()).await;
    }

    #[tokio::test]
    async fn an_interruption_ends_the_group_and_says_so() {
        let interrupt = CancellationToken::new();
        interrupt.cancel();
        let ended = run("sleep 60 & wait", patience(LONG, LONG), &interrupt).await;
        assert_eq!((ended.exit, ended.interrupted), (Exit::Signal(15), true));
    }

    #[tokio::test]
    async fn a_grandchild_in_the_group_does_not_outlive_the_step() {
        let began = Instant::now();
        let ended = run("sleep 60 & echo $!", patience(LONG, LONG), &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::Code(0));
        is_gone(&String::from_utf8(ended.output).unwrap()).await;
        assert!(began.elapsed() < LONG / 2);
    }

    #[tokio::test]
    async fn a_grandchild_that_left_the_group_cannot_hold_the_step() {
        let began = Instant::now();
        let script = "setsid sh -c 'echo $$; while echo y; do :; done' & sleep 0.2";
        let ended = run(script, patience(LONG, LONG), &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::Code(0));
        assert!(began.elapsed() < LONG / 2);
        assert_eq!(ended.output.len(), 1000);
        assert!(ended.dropped > 0);
        // The pipe it wrote to is closed, so it ends by SIGPIPE.
        let text = String::from_utf8(ended.output).unwrap();
        is_gone(text.lines().next().unwrap()).await;
    }

    #[tokio::test]
    async fn output_that_comes_after_the_exit_is_read() {
        let script = "(sleep 0.1; echo late) & exit 0";
        let ended = run(script, patience(LONG, LONG), &CancellationToken::new()).await;
        assert_eq!(ended.output, b"late\n");
    }

    #[tokio::test]
    async fn a_closed_output_is_not_the_end() {
        let script = "exec >&- 2>&-; sleep 0.2; exit 7";
        let ended = run(script, patience(LONG, LONG), &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::Code(7));
    }
}
