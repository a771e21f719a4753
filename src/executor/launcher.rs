//! The worker's side of the processes that commands descend from.
//!
//! One launcher is started with the worker; it forks supervisors, each of which runs one command at a time and is used
//! again. To start a command is to send a message: no thread of the gateway forks for one. What a command is given, and
//! how its tree is ended, is the supervisor's; how long it may take is the caller's.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::cgroup::Without;
use super::frame::Link;
use super::input::Input;
pub use super::shortage::NotStarted;
use super::spawn::{self, Conditions, Streams};
use super::supervisor::Order;
use crate::audit::Keeper;
use crate::domain::argv::Argv;
use crate::queue::sqlite::{OpenError, runs_lock};

pub mod service;
mod tree;

use service::{Report, Request};
pub(super) use tree::{Started, Tree};

/// Supervisors that are kept for later when they have nothing to do; each costs some hundred KiB.
const MOST_IDLE: usize = 64;
/// How long the launcher may take to end once nothing runs any more.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// The launcher of one worker; clones share it.
#[derive(Clone, Debug)]
pub struct Launcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    wishes: mpsc::Sender<Wish>,
    idle: Mutex<Vec<Supervisor>>,
    state: watch::Receiver<State>,
    closing: CancellationToken,
    /// Ends when this is dropped; the launcher then ends by itself, as it does when this process is killed.
    _conversation: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Processes of a former worker may still run.
    Waiting,
    /// Commands can be started; this ends what they leave.
    Ready(Keeper),
    /// It is gone.
    Ended,
}

/// A supervisor that is to be forked.
#[derive(Debug)]
struct Wish {
    conversation: OwnedFd,
    fate: oneshot::Sender<Fate>,
}

/// How a supervisor ended that was not told to.
#[derive(Debug)]
enum Fate {
    /// Nothing that descended from it is left.
    Gone,
    /// It was never there.
    Refused(NotStarted),
}

#[derive(Debug)]
struct Supervisor {
    link: Link,
    /// Known when it has ended, with all that it left.
    fate: oneshot::Receiver<Fate>,
}

/// Why a worker has no launcher.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The file that says whether anything runs cannot be used.
    #[error(transparent)]
    Lock(#[from] OpenError),
    /// The process cannot be started.
    #[error("the launcher of commands cannot be started: {0}")]
    Process(String),
}

/// A command that is to be started.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Program and arguments.
    pub argv: &'a Argv,
    /// What it is given, and what it is denied.
    pub conditions: &'a Conditions,
    /// Its standard input; empty when there is none.
    pub input: Option<&'a Input>,
}

/// A command that can be ordered, and the supervisor that will start it.
#[derive(Debug)]
pub(super) struct Prepared {
    launcher: Launcher,
    order: Order,
    beside: Vec<OwnedFd>,
    output: Receiver,
    supervisor: Supervisor,
    is_new: bool,
}

impl Launcher {
    /// Starts the launcher of the worker of the queue `file`. It does nothing before all that a former worker of that
    /// queue has started is gone.
    ///
    /// # Errors
    /// When its process cannot be started, or the file beside the queue cannot be used.
    pub fn of_queue(file: &Path) -> Result<Self, LaunchError> {
        Self::start(Some(runs_lock(file)?.into()))
    }

    /// Starts a launcher that waits for nobody.
    ///
    /// # Errors
    /// When its process cannot be started.
    pub fn alone() -> Result<Self, LaunchError> {
        Self::start(None)
    }

    fn start(lock: Option<OwnedFd>) -> Result<Self, LaunchError> {
        let failed = |error: io::Error| LaunchError::Process(error.to_string());
        let refused = |error: spawn::NotStarted| LaunchError::Process(error.to_string());
        let (link, input) = Link::pair().map_err(failed)?;
        let error = io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
        let streams = Streams { input, output: spawn::nothing().map_err(refused)?, error };
        let (argv, conditions) = itself()?;
        let pid = spawn::launch(&argv, &conditions, &streams, None).map_err(refused)?;
        let (wishes, wished) = mpsc::channel(MOST_IDLE);
        let (state, states) = watch::channel(State::Waiting);
        let closing = CancellationToken::new();
        let conversation = tokio::spawn({
            let closing = closing.clone();
            async move {
                if let Err(error) = converse(link, lock, wished, &state, &closing).await {
                    tracing::error!(%error, "the conversation with the launcher of commands has ended");
                }
                // Its end of the conversation closes as it ends, so that this takes no time.
                let exit = tokio::task::spawn_blocking(move || spawn::reap(pid)).await;
                tracing::debug!(?exit, "the launcher of commands has ended");
                state.send_replace(State::Ended);
            }
        });
        let _conversation = AbortOnDropHandle::new(conversation);
        Ok(Self(Arc::new(Inner { wishes, idle: Mutex::default(), state: states, closing, _conversation })))
    }

    /// Waits until nothing that a former worker has started runs any more, or until [`Launcher::ended`].
    pub(super) async fn ready(&self) {
        let mut state = self.0.state.clone();
        if *state.borrow() == State::Waiting {
            tracing::info!("waiting until nothing of a former worker's commands runs any more");
        }
        // The sender lives as long as its task, and says when that is over.
        let _ = state.wait_for(|state| *state != State::Waiting).await;
    }

    /// What ends the process trees of its commands, once it is ready.
    pub(super) fn keeper(&self) -> Option<Keeper> {
        match *self.0.state.borrow() {
            State::Ready(keeper) => Some(keeper),
            State::Waiting | State::Ended => None,
        }
    }

    /// Returns when there is no launcher any more, and so nothing can be started.
    pub(super) async fn ended(&self) {
        let _ = self.0.state.clone().wait_for(|state| *state == State::Ended).await;
    }

    /// Ends the launcher and its supervisors, once nothing runs any more.
    pub(super) async fn close(self) {
        self.idle().clear();
        self.0.closing.cancel();
        if tokio::time::timeout(ENDS_WITHIN, self.ended()).await.is_err() {
            tracing::error!("something that a command has left still runs, and cannot be killed");
        }
    }

    /// Takes all that this process needs to order a command, which then needs nothing more of it.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(super) async fn prepare(&self, call: &Call<'_>) -> Result<Prepared, NotStarted> {
        let Call { argv, conditions, input } = *call;
        let input = input.map(Input::open).transpose()?;
        let conditions = Box::new(conditions.clone());
        let order = Order::Start { argv: argv.to_list(), conditions, has_input: input.is_some() };
        let (reader, writer) = io::pipe()?;
        let output = Receiver::from_owned_fd(reader.into())?;
        let beside = [Some(writer.into()), input].into_iter().flatten().collect();
        let idle = self.idle().pop();
        let is_new = idle.is_none();
        let supervisor = match idle {
            Some(supervisor) => supervisor,
            None => self.hire().await?,
        };
        Ok(Prepared { launcher: self.clone(), order, beside, output, supervisor, is_new })
    }

    async fn hire(&self) -> Result<Supervisor, NotStarted> {
        let (link, conversation) = Link::pair()?;
        let (told, fate) = oneshot::channel();
        let wished = self.0.wishes.send(Wish { conversation, fate: told }).await;
        // The next worker's may start it.
        wished.map_err(|_| NotStarted {
            reason: "the launcher of commands has ended".into(),
            is_shortage: true,
        })?;
        Ok(Supervisor { link, fate })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Supervisor>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepared {
    /// Orders the command to be started. Whether it was is the first that the tree tells.
    ///
    /// # Errors
    /// When there is no supervisor to be had any more, or the order is too long.
    pub(super) async fn start(mut self) -> Result<Started, NotStarted> {
        let beside: Vec<_> = self.beside.iter().map(AsFd::as_fd).collect();
        loop {
            match self.supervisor.link.send(&self.order, &beside).await {
                Ok(()) => {
                    let tree = Tree::of(self.supervisor, self.launcher);
                    return Ok(Started { tree, output: self.output });
                }
                // Somebody killed it while it had nothing to do; another one will do.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe && !self.is_new => {
                    self.supervisor = self.launcher.hire().await?;
                    self.is_new = true;
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(match self.supervisor.fate.await {
                        Ok(Fate::Refused(why)) => why,
                        Ok(Fate::Gone) | Err(_) => NotStarted::without_supervisor(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// How this program is executed as a launcher. It must be able to let a command gain privileges, if a route says so.
fn itself() -> Result<(Argv, Conditions), LaunchError> {
    let argv = Argv::new("/proc/self/exe", ENTRY.iter().map(|&argument| argument.to_owned()).collect());
    let argv = argv.map_err(|error| LaunchError::Process(error.to_string()))?;
    let directory = "/".into();
    #[cfg(not(test))]
    let env = BTreeMap::new();
    #[cfg(test)]
    let env = BTreeMap::from([("IS_LAUNCHER".into(), String::new())]);
    Ok((argv, Conditions { may_gain_privileges: true, ..Conditions::new(directory, env) }))
}

/// The arguments by which this program is a launcher.
#[cfg(not(test))]
const ENTRY: [&str; 1] = [service::SUBCOMMAND];
/// The program is the one that runs the tests; one of them is the launcher.
#[cfg(test)]
const ENTRY: [&str; 4] =
    ["--exact", "executor::launcher::tests::is_the_launcher", "--ignored", "--nocapture"];

/// Passes wishes on and fates back, until the launcher has ended.
async fn converse(
    mut link: Link,
    lock: Option<OwnedFd>,
    mut wished: mpsc::Receiver<Wish>,
    state: &watch::Sender<State>,
    closing: &CancellationToken,
) -> io::Result<()> {
    let mut fates = BTreeMap::new();
    let tell = |fates: &mut BTreeMap<u64, oneshot::Sender<Fate>>, number, fate| {
        // Nobody listens where a supervisor was let go.
        fates.remove(&number).map(|told| told.send(fate));
    };
    let (mut next, mut is_closed, has_queue) = (0_u64, false, lock.is_some());
    link.send(&Request::Begin, &lock.iter().map(AsFd::as_fd).collect::<Vec<_>>()).await?;
    drop(lock);
    loop {
        tokio::select! {
            report = link.next() => match report? {
                Some(Report::Warned { what }) => {
                    tracing::warn!(what, "before anything is started, what a former worker may have left is ended");
                }
                Some(Report::Ready { groups }) => {
                    state.send_replace(State::Ready(keeper(groups, has_queue)));
                }
                Some(Report::Gone { number }) => tell(&mut fates, number, Fate::Gone),
                Some(Report::Refused { number, reason, is_shortage }) => {
                    tell(&mut fates, number, Fate::Refused(NotStarted { reason, is_shortage }));
                }
                None if closing.is_cancelled() => return Ok(()),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
            () = closing.cancelled(), if !is_closed => {
                link.end().await?;
                is_closed = true;
            }
            Some(Wish { conversation, fate }) = wished.recv() => {
                next += 1;
                fates.insert(next, fate);
                link.send(&Request::Supervise { number: next }, &[conversation.as_fd()]).await?;
            }
        }
    }
}

/// Says which it is, of a launcher whose commands are a queue's.
fn keeper(groups: Result<PathBuf, Without>, has_queue: bool) -> Keeper {
    const NONE: &str = "commands get no control groups; all that descends from them is ended by a subreaper";
    match groups {
        Ok(below) => {
            tracing::info!(below = %below.display(), "each command gets a control group of its own, and is ended with it");
            Keeper::Cgroup
        }
        Err(Without { reason, is_delegated }) => {
            match (has_queue, is_delegated) {
                (true, true) => tracing::warn!(reason, "{NONE}, although one is delegated"),
                (true, false) => tracing::info!(reason, "{NONE}"),
                (false, _) => {}
            }
            Keeper::Subreaper
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A launcher for as long as the test's runtime.
    pub(in crate::executor) fn launcher() -> Launcher {
        Launcher::alone().unwrap()
    }

    /// Not a test: what [`ENTRY`] makes of the program that runs the tests.
    #[test]
    #[ignore = "started by other tests, as a process of its own"]
    fn is_the_launcher() {
        if std::env::var_os("IS_LAUNCHER").is_none() {
            return;
        }
        // The launcher has one thread; the program that runs tests has two.
        match spawn::fork(None).unwrap() {
            spawn::Forked::Child => std::process::exit(i32::from(service::serve().is_err())),
            spawn::Forked::Parent(pid) => drop(spawn::reap(pid)),
        }
    }
}
