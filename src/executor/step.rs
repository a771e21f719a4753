//! One command from its start to its end: its time limit, its output, its exit.
//!
//! Knows neither jobs nor records. When it returns, nothing of the command's tree is left, unless it says so, and its pipe
//! is closed.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::launcher::{Call, Launcher, NotStarted, Prepared, Started, Tree};
use super::output::{Output, Room};
use crate::domain::job::Exit;

/// How long the output of a command that has ended is waited for, before and again after its tree is killed.
const LINGER: Duration = Duration::from_millis(500);

/// How long a command may go on.
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
    /// Whether something of it may still run, because those who end it have ended: its exit is not known.
    pub is_left: bool,
}

/// Why a command is ended before it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Time,
    Interruption,
}

/// Runs one command; `step` is its number in the log, `room` how much output may be kept.
///
/// # Errors
/// When it could not be started.
pub async fn execute(
    launcher: &Launcher,
    call: &Call<'_>,
    patience: Patience,
    step: usize,
    room: &mut Room,
    interrupt: &CancellationToken,
) -> Result<Ended, NotStarted> {
    follow(launcher.prepare(call).await?, patience, step, room, interrupt).await
}

/// Runs a command for which everything is ready; see [`execute`].
pub(super) async fn follow(
    prepared: Prepared,
    patience: Patience,
    step: usize,
    room: &mut Room,
    interrupt: &CancellationToken,
) -> Result<Ended, NotStarted> {
    let Started { mut tree, output } = prepared.start().await?;
    let mut output = Output::new(output, step, room);

    let cut = reading(&mut output, cut_or_end(&mut tree, patience.time, interrupt)).await;
    match cut {
        Some(_) => terminate(&mut tree, &mut output, patience.stop_grace).await,
        // Whatever it left running may finish what it was writing, such as the `tee` of a script.
        None => drop(timeout(LINGER, output.read_to_end()).await),
    }
    tree.kill().await;
    reading(&mut output, tree.gone()).await;
    // What is left in the pipe. Beyond that, only a process that was handed it from outside can hold it open.
    drop(timeout(LINGER, output.read_to_end()).await);

    let is_left = tree.is_left();
    let exit = tree.finish()?;
    let (output, dropped) = output.close();
    let exit = if cut == Some(Cut::Time) { Exit::TimedOut } else { exit };
    Ok(Ended { exit, output, dropped, interrupted: cut == Some(Cut::Interruption), is_left })
}

async fn cut_or_end(tree: &mut Tree, time: Duration, interrupt: &CancellationToken) -> Option<Cut> {
    tokio::select! {
        biased;
        () = tree.ended() => None,
        () = interrupt.cancelled() => Some(Cut::Interruption),
        () = sleep(time) => Some(Cut::Time),
    }
}

/// Asks the tree to end, and gives all of it, not the command alone, the same time to do so.
async fn terminate(tree: &mut Tree, output: &mut Output<'_>, stop_grace: Duration) {
    let grace_ends = Instant::now() + stop_grace;
    tree.terminate().await;
    drop(reading(output, timeout_at(grace_ends, tree.gone())).await);
}

/// Waits for `event` and reads on meanwhile, so that nobody is held up by a full pipe.
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
    use std::path::Path;

    use super::*;
    use crate::domain::argv::Argv;
    use crate::executor::launcher::tests::launcher;
    use crate::executor::spawn::Conditions;

    const LONG: Duration = Duration::from_secs(60);

    fn patience(time: Duration, stop_grace: Duration) -> Patience {
        Patience { time, stop_grace }
    }

    /// Runs a script; the time limit is there to end a test that hangs.
    async fn run(script: &str, patience: Patience, interrupt: &CancellationToken) -> Ended {
        run_in(tempfile::tempdir().unwrap().path(), script, patience, interrupt).await
    }

    async fn run_in(
        directory: &Path,
        script: &str,
        patience: Patience,
        interrupt: &CancellationToken,
    ) -> Ended {
        let path = directory.join("script");
        std::fs::write(&path, script).unwrap();
        let argv = Argv::new("/bin/sh", vec![path.to_str().unwrap().to_owned()]).unwrap();
        let env = BTreeMap::from([("PATH".into(), "/usr/bin".into())]);
        let conditions = Conditions::new(directory.to_owned(), env);
        let mut room = Room::new(1000);
        let call = Call { argv: &argv, conditions: &conditions, input: None };
        timeout(LONG, execute(&launcher(), &call, patience, 1, &mut room, interrupt))
            .await
            .expect("the step ends")
            .expect("the step starts")
    }

    /// Not even a zombie is left of it.
    fn assert_gone(pid: &str) {
        let pid: u32 =
            pid.trim().parse().unwrap_or_else(|_| panic!("the script was not fast enough: {pid:?}"));
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
    }

    fn assert_all_gone(output: &[u8], count: usize) {
        let text = String::from_utf8_lossy(output);
        assert_eq!(text.lines().count(), count, "{text}");
        text.lines().for_each(assert_gone);
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
    async fn what_ignores_term_is_killed_with_all_that_descends_from_it() {
        let script = "trap '' TERM
            sleep 60 & echo $!
            setsid sleep 60 & echo $!
            (setsid sh -c 'echo $$; sleep 60 & echo $!; wait' &)
            setsid setsid sh -c 'echo $$; exec >&- 2>&-; while :; do sleep 1; done' &
            sleep 60; sleep 60; wait";
        let times = patience(Duration::from_secs(1), Duration::from_millis(200));
        let ended = run(script, times, &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::TimedOut);
        assert_all_gone(&ended.output, 5);
    }

    #[tokio::test]
    async fn term_reaches_what_has_left_the_group() {
        let script = "setsid sh -c 'trap \"echo bye; exit\" TERM; echo $$; sleep 60 & wait' & wait";
        let times = patience(Duration::from_secs(1), LONG);
        let ended = run(script, times, &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::TimedOut);
        assert!(ended.output.ends_with(b"bye\n"), "{:?}", String::from_utf8_lossy(&ended.output));
    }

    #[tokio::test]
    async fn no_name_that_a_process_gives_itself_hides_it() {
        let script = "for name in '\\377\\376' 'a) S 1' '(' ') '; do
                setsid sh -c 'printf \"$1\" > /proc/self/comm; echo $$; while :; do sleep 60; done' - \"$name\" &
            done
            sleep 60; sleep 60";
        let times = patience(Duration::from_secs(1), Duration::ZERO);
        let ended = run(script, times, &CancellationToken::new()).await;
        assert_all_gone(&ended.output, 4);
    }

    #[tokio::test]
    async fn what_forks_on_and_on_does_not_get_away() {
        let script = "setsid /bin/sh $0 & exit 3";
        let directory = tempfile::tempdir().unwrap();
        let ended = run_in(directory.path(), script, patience(LONG, LONG), &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::Code(3));
        let lives = |process: std::io::Result<std::fs::DirEntry>| {
            let command = std::fs::read_to_string(process.unwrap().path().join("cmdline"));
            command.is_ok_and(|command| command.contains(directory.path().to_str().unwrap()))
        };
        assert!(!std::fs::read_dir("/proc").unwrap().any(lives));
    }

    #[tokio::test]
    async fn a_command_that_kills_its_supervisor_ends_with_its_tree() {
        let script = "(setsid sleep 60 & echo $!); sleep 60 & echo $!; kill -KILL $PPID; sleep 60";
        let ended = run(script, patience(LONG, LONG), &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::Signal(9));
        assert_all_gone(&ended.output, 2);
    }

    #[tokio::test]
    async fn an_interruption_ends_the_group_and_says_so() {
        let interrupt = CancellationToken::new();
        interrupt.cancel();
        let ended = run("sleep 60 & wait", patience(LONG, LONG), &interrupt).await;
        assert_eq!((ended.exit, ended.interrupted), (Exit::Signal(15), true));
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_does_not_outlive_the_step() {
        let script = "sleep 60 & echo $!; setsid sleep 60 & echo $!";
        let ended = run(script, patience(LONG, LONG), &CancellationToken::new()).await;
        assert_eq!(ended.exit, Exit::Code(0));
        assert_all_gone(&ended.output, 2);
    }

    #[tokio::test]
    async fn a_flood_from_what_is_left_behind_does_not_hold_the_step() {
        let script = "setsid sh -c 'echo $$; while echo y; do :; done' & sleep 0.2";
        let ended = run(script, patience(LONG, LONG), &CancellationToken::new()).await;
        assert_eq!((ended.exit, ended.output.len()), (Exit::Code(0), 1000));
        assert!(ended.dropped > 0);
        let text = String::from_utf8_lossy(&ended.output).into_owned();
        assert_gone(text.lines().next().unwrap());
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
