//! The worker's side of the processes that commands descend from.
//!
//! One launcher is started with the worker; it forks supervisors, each of which runs one command at a time and is used
//! again. To start a command is to send a message: no thread of the gateway forks for one. What a command is given, and
//! how its tree is ended, is the supervisor's; how long it may take is the caller's.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::frame::Link;
use super::input::Input;
use super::spawn::{self, Conditions, Streams};
use super::supervisor::{Event, Order};
use crate::domain::argv::Argv;
use crate::domain::job::Exit;
use crate::queue::sqlite::{OpenError, runs_lock};

pub mod service;

use service::{Report, Request};

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
    Ready,
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
    Refused(String),
}

#[derive(Debug)]
struct Supervisor {
    link: Link,
    /// Known when it has ended, with all that it left.
    fate: oneshot::Receiver<Fate>,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotStarted(String);

impl From<io::Error> for NotStarted {
    fn from(error: io::Error) -> Self {
        Self(format!("it cannot be started: {error}"))
    }
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

/// A command that was ordered, and what it writes.
#[must_use = "a tree that is dropped is killed"]
pub(super) struct Started {
    /// The command and all that descends from it.
    pub(super) tree: Tree,
    /// Standard output and standard error, in the order they were written.
    pub(super) output: Receiver,
}

/// A command and all that descends from it. Dropping it kills all of that.
pub(super) struct Tree {
    launcher: Launcher,
    /// The supervisor's; `None` once it has ended although nobody told it to.
    link: Option<Link>,
    fate: oneshot::Receiver<Fate>,
    exit: Option<Result<Exit, NotStarted>>,
    is_gone: bool,
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
        let (link, theirs) = Link::pair().map_err(failed)?;
        let streams = Streams { input: theirs.into(), output: Stdio::null(), error: Stdio::inherit() };
        let (argv, conditions) = itself()?;
        let pid = spawn::launch(&argv, &conditions, streams)
            .map_err(|error| LaunchError::Process(error.to_string()))?;
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

    /// Orders a supervisor to start a command. Whether it did is the first that the tree tells.
    ///
    /// # Errors
    /// When there is no supervisor to be had, or the order is too long.
    pub(super) async fn launch(&self, call: &Call<'_>) -> Result<Started, NotStarted> {
        let Call { argv, conditions, input } = *call;
        let input = input.map(Input::open).transpose()?;
        let has_input = input.is_some();
        let conditions = Box::new(conditions.clone());
        let order = Order::Start { argv: argv.to_list(), conditions, has_input };
        let (reader, writer) = io::pipe()?;
        let output = Receiver::from_owned_fd(reader.into())?;
        let beside: Vec<_> = [writer.as_fd()].into_iter().chain(input.as_ref().map(AsFd::as_fd)).collect();
        loop {
            let idle = self.idle().pop();
            let is_new = idle.is_none();
            let mut supervisor = match idle {
                Some(supervisor) => supervisor,
                None => self.hire().await?,
            };
            match supervisor.link.send(&order, &beside).await {
                Ok(()) => {
                    let Supervisor { link, fate } = supervisor;
                    let (launcher, link) = (self.clone(), Some(link));
                    let tree = Tree { launcher, link, fate, exit: None, is_gone: false };
                    return Ok(Started { tree, output });
                }
                // Somebody killed it while it had nothing to do; another one will do.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe && !is_new => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn hire(&self) -> Result<Supervisor, NotStarted> {
        let (link, conversation) = Link::pair()?;
        let (told, fate) = oneshot::channel();
        let wished = self.0.wishes.send(Wish { conversation, fate: told }).await;
        wished.map_err(|_| NotStarted("the launcher of commands has ended".into()))?;
        Ok(Supervisor { link, fate })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Supervisor>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
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
    let (mut next, mut is_closed) = (0_u64, false);
    link.send(&Request::Begin, &lock.iter().map(AsFd::as_fd).collect::<Vec<_>>()).await?;
    drop(lock);
    loop {
        tokio::select! {
            report = link.next() => match report? {
                Some(Report::Ready) => drop(state.send_replace(State::Ready)),
                Some(Report::Gone { number }) => tell(&mut fates, number, Fate::Gone),
                Some(Report::Refused { number, reason }) => tell(&mut fates, number, Fate::Refused(reason)),
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

impl Tree {
    /// Waits until the command itself has ended, or was not even started. May be dropped and called again.
    pub(super) async fn ended(&mut self) {
        while self.exit.is_none() && !self.is_gone {
            self.listen().await;
        }
    }

    /// Waits until nothing of the tree is left. May be dropped and called again.
    pub(super) async fn gone(&mut self) {
        while !self.is_gone {
            self.listen().await;
        }
    }

    /// TERM to all of it.
    pub(super) async fn terminate(&mut self) {
        self.order(&Order::Terminate).await;
    }

    /// KILL to all of it, until nothing is left.
    pub(super) async fn kill(&mut self) {
        self.order(&Order::Kill).await;
    }

    /// How the command ended, of a tree that is gone.
    ///
    /// # Errors
    /// When it was not started.
    pub(super) fn finish(self) -> Result<Exit, NotStarted> {
        if let (Some(link), true) = (self.link, self.is_gone) {
            let mut idle = self.launcher.idle();
            if idle.len() < MOST_IDLE {
                idle.push(Supervisor { link, fate: self.fate });
            }
        }
        // What is not known is no success: it was killed with its supervisor.
        self.exit.unwrap_or(Ok(Exit::Signal(libc::SIGKILL)))
    }

    async fn order(&mut self, order: &Order) {
        // Most commands leave nothing, which came with the news of their end.
        while let Some(told) = self.link.as_mut().and_then(|link| link.received().transpose()) {
            self.hear(told.map(Some));
        }
        if let (Some(link), false) = (&mut self.link, self.is_gone)
            && link.send(order, &[]).await.is_err()
        {
            self.link = None;
        }
    }

    async fn listen(&mut self) {
        if let Some(link) = &mut self.link {
            let told = link.next().await;
            self.hear(told);
            return;
        }
        match (&mut self.fate).await {
            Ok(Fate::Refused(reason)) => self.exit = Some(Err(NotStarted(reason))),
            // Without a launcher nobody can tell, and the worker stops.
            Ok(Fate::Gone) | Err(_) => {}
        }
        self.is_gone = true;
    }

    fn hear(&mut self, told: io::Result<Option<Event>>) {
        match told {
            Ok(Some(Event::NotStarted { reason })) => {
                self.exit = Some(Err(NotStarted(reason)));
                self.is_gone = true;
            }
            Ok(Some(Event::Ended { exit })) => self.exit = Some(Ok(exit)),
            Ok(Some(Event::Gone)) => self.is_gone = true,
            Ok(None) | Err(_) => {
                tracing::error!("the supervisor of a command has ended; whatever runs is killed");
                self.link = None;
            }
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
        match spawn::fork().unwrap() {
            spawn::Forked::Child => std::process::exit(i32::from(service::serve().is_err())),
            spawn::Forked::Parent(pid) => drop(spawn::reap(pid)),
        }
    }
}
