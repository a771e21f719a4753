//! What the launcher process does: it forks supervisors, and takes care of what one that was killed leaves behind.
//!
//! Small, with one thread, and without secrets: it executes this program anew, so that nothing of the gateway's memory is
//! in it, and forking it costs little. It holds the lock of all runs, and so do its supervisors: whoever waits for that
//! lock knows that nothing of theirs runs any more.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, getpid, getrlimit, set_child_subreaper, set_dumpable_behavior,
    setrlimit,
};
use serde::{Deserialize, Serialize};

use super::super::cgroup::{self, Audience, Groups, Without};
use super::super::descendants::Children;
use super::super::news::{News, Reaped, reap};
use super::super::shortage;
use super::super::supervisor::supervise;
use super::super::{frame, spawn};

/// The argument that makes this program a launcher.
pub const SUBCOMMAND: &str = "launcher";
/// From one attempt to end what others have left to the next, when nothing has ended meanwhile.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Most warnings before it is ready.
const MOST_WARNINGS: usize = 64;

/// What a worker asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// The first request. A descriptor beside it is the file whose lock is to be taken before all others.
    Begin,
    /// Fork a supervisor; the descriptor beside it is its conversation.
    Supervise {
        /// What it is called in reports.
        number: u64,
    },
}

/// What a worker is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Report {
    /// What an operator should know, before it is ready.
    Warned {
        /// In words.
        what: String,
    },
    /// The lock is taken: nothing of a former worker's runs any more.
    Ready {
        /// Below which control group each command gets one of its own, or why none does.
        groups: Result<PathBuf, Without>,
    },
    /// This supervisor has ended, and nothing that descended from it is left.
    Gone {
        /// Which.
        number: u64,
    },
    /// There is no such supervisor.
    Refused {
        /// Which.
        number: u64,
        /// Why.
        reason: String,
        /// Whether there may be one, later.
        is_shortage: bool,
    },
}

struct Service {
    /// Open until this process ends, which the worker learns by it. `None` in a supervisor.
    worker: Option<UnixStream>,
    /// Whether the worker says nothing more.
    is_over: bool,
    news: News,
    children: Children,
    /// Held, not used: closing it lets go of the lock.
    _lock: Option<File>,
    groups: Option<Groups>,
    supervisors: HashMap<Pid, u64>,
    /// Supervisors that have ended, and whose worker has not been told yet.
    ended: Vec<u64>,
}

/// Serves the worker at the other end of standard input, until it ends and everything that it started has ended, too.
///
/// # Errors
/// When the system refuses what this cannot do without.
pub fn serve() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_child_subreaper(Some(getpid()))?;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    // Every end of a tree rests on this.
    let children = Children::of_this_process()?;
    let news = News::listen()?;
    let worker = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(spawn::nothing().map_err(io::Error::other)?)?;
    let Some((Request::Begin, locks)) = frame::receive(&worker)? else {
        return Err(io::Error::other("something else came first"));
    };
    let lock = locks.into_iter().next().map(File::from);
    let mut waiting = Waiting { worker: &worker, news: &news, told: HashSet::new(), is_over: false };
    let groups = match waiting.for_all_of(lock.as_ref()) {
        Ok(groups) => groups,
        Err(_) if waiting.is_over => return Ok(()),
        Err(error) => return Err(error),
    };
    let told = groups.as_ref().map(|groups| groups.path().to_owned()).map_err(Clone::clone);
    frame::send(&worker, &Report::Ready { groups: told })?;
    let (worker, groups, supervisors, ended) = (Some(worker), groups.ok(), HashMap::new(), Vec::new());
    Service { worker, is_over: false, news, children, _lock: lock, groups, supervisors, ended }.run()
}

/// A worker that waits until nothing of a former one runs any more.
struct Waiting<'a> {
    worker: &'a UnixStream,
    news: &'a News,
    /// What it was told already.
    told: HashSet<String>,
    /// Whether it has ended.
    is_over: bool,
}

impl Waiting<'_> {
    fn for_all_of(&mut self, lock: Option<&File>) -> io::Result<Result<Groups, Without>> {
        let Some(lock) = lock else {
            return Ok(Err(Without { reason: "it is for no queue".into(), is_delegated: false }));
        };
        loop {
            match flock(lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return cgroup::of_queue(lock, self),
                Err(Errno::WOULDBLOCK | Errno::INTR | Errno::NOLCK) => self.wait()?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Audience for Waiting<'_> {
    fn warn(&mut self, what: String) {
        if self.told.len() < MOST_WARNINGS && self.told.insert(what.clone()) {
            // Whether it is heard shows by the next wait.
            let _ = frame::send(self.worker, &Report::Warned { what });
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        self.news.wait(None, Some(AGAIN_AFTER))?;
        let mut watched = [PollFd::new(self.worker, PollFlags::RDHUP)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let has_ended = rustix::io::retry_on_intr(|| poll(&mut watched, Some(&at_once)));
        self.is_over = has_ended.is_ok_and(|ended| ended > 0);
        if self.is_over { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl Service {
    fn run(mut self) -> io::Result<()> {
        loop {
            let is_alone = self.reap_all()?;
            self.sweep();
            if self.is_over && is_alone && self.ended.is_empty() {
                return Ok(());
            }
            let limit = (!self.ended.is_empty()).then_some(AGAIN_AFTER);
            let worker = self.worker.as_ref().filter(|_| !self.is_over);
            if self.news.wait(worker.map(AsFd::as_fd), limit)? {
                self.listen();
            }
        }
    }

    fn listen(&mut self) {
        let Some(worker) = &self.worker else { return };
        match frame::receive(worker) {
            Ok(Some((Request::Supervise { number }, descriptors))) => self.fork(number, descriptors),
            // The supervisors' conversations end with their worker, too.
            Ok(Some((Request::Begin, _)) | None) | Err(_) => self.is_over = true,
        }
    }

    fn fork(&mut self, number: u64, mut descriptors: Vec<OwnedFd>) {
        let Some(orders) = descriptors.pop().map(UnixStream::from) else {
            // The kernel lets fall what this process has no descriptor for.
            let reason = "its conversation is missing".into();
            return self.tell(&Report::Refused { number, reason, is_shortage: true });
        };
        match spawn::fork(None) {
            Ok(spawn::Forked::Parent(pid)) => drop(self.supervisors.insert(pid, number)),
            Ok(spawn::Forked::Child) => {
                // Were it held here, the launcher would not hear of the worker's end, nor the worker of the launcher's.
                self.worker = None;
                let groups = self.groups.as_ref().map(|groups| groups.of(number));
                std::process::exit(i32::from(supervise(&orders, &self.news, groups).is_err()))
            }
            Err(error) => {
                let (reason, is_shortage) = (error.to_string(), shortage::is(&error));
                self.tell(&Report::Refused { number, reason, is_shortage });
            }
        }
    }

    /// Takes the exits of all that have ended; true when nobody is left.
    fn reap_all(&mut self) -> io::Result<bool> {
        loop {
            match reap()? {
                Reaped::Ended(pid, _) => self.ended.extend(self.supervisors.remove(&pid)),
                Reaped::NoneYet => return Ok(false),
                Reaped::Nobody => return Ok(true),
            }
        }
    }

    /// Kills what a supervisor that was killed has left: its groups, and whatever is a child of this process and no
    /// supervisor. A supervisor that ended by itself has left nothing. What fails is tried again.
    fn sweep(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let groups = self.groups.as_ref();
        let ends = self.ended.iter().map(|number| groups.map_or(Ok(true), |groups| groups.end_of(*number)));
        let is_empty = ends.fold(true, |all, end| all & end.unwrap_or(false));
        let supervisors: HashSet<Pid> = self.supervisors.keys().copied().collect();
        let is_alone = |children: Vec<Pid>| children.iter().all(|child| supervisors.contains(child));
        if is_empty && self.children.now().is_ok_and(is_alone) {
            for number in std::mem::take(&mut self.ended) {
                self.tell(&Report::Gone { number });
            }
            return;
        }
        let _ = self.children.kill(&supervisors);
    }

    /// A worker that does not listen any more has ended, or is about to.
    fn tell(&mut self, report: &Report) {
        if self.worker.as_ref().is_some_and(|worker| frame::send(worker, report).is_err()) {
            self.is_over = true;
        }
    }
}
