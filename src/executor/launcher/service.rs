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

use rustix::fs::{FlockOperation, flock};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, getpid, getrlimit, set_child_subreaper, set_dumpable_behavior,
    setrlimit,
};
use serde::{Deserialize, Serialize};

use super::super::cgroup::{self, Groups};
use super::super::news::{News, Reaped, reap};
use super::super::shortage;
use super::super::supervisor::supervise;
use super::super::{descendants, frame, spawn};

/// The argument that makes this program a launcher.
pub const SUBCOMMAND: &str = "launcher";
/// From one attempt to end orphans to the next, when nothing has ended meanwhile.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

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
    /// The lock is taken: nothing of a former worker's runs any more.
    Ready {
        /// Below which control group each command gets one of its own, or why none does.
        groups: Result<PathBuf, String>,
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
    descendants::children(getpid())?;
    let news = News::listen()?;
    let worker = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(spawn::nothing().map_err(io::Error::other)?)?;
    let Some((Request::Begin, locks)) = frame::receive(&worker)? else {
        return Err(io::Error::other("something else came first"));
    };
    let lock = locks.into_iter().next().map(File::from);
    let groups = match &lock {
        Some(lock) => {
            rustix::io::retry_on_intr(|| flock(lock, FlockOperation::LockExclusive))?;
            cgroup::of_queue(lock)?
        }
        None => Err("it is for no queue".into()),
    };
    let told = groups.as_ref().map(|groups| groups.path().to_owned()).map_err(String::clone);
    frame::send(&worker, &Report::Ready { groups: told })?;
    let (worker, groups, supervisors, ended) = (Some(worker), groups.ok(), HashMap::new(), Vec::new());
    Service { worker, is_over: false, news, _lock: lock, groups, supervisors, ended }.run()
}

impl Service {
    fn run(mut self) -> io::Result<()> {
        loop {
            let is_alone = self.reap_all()?;
            self.sweep()?;
            if self.is_over && is_alone {
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
    /// supervisor. A supervisor that ended by itself has left nothing.
    fn sweep(&mut self) -> io::Result<()> {
        if self.ended.is_empty() {
            return Ok(());
        }
        let mut is_empty = true;
        if let Some(groups) = &self.groups {
            for number in &self.ended {
                is_empty &= groups.end_of(*number, Duration::ZERO)?;
            }
        }
        let supervisors: HashSet<Pid> = self.supervisors.keys().copied().collect();
        if is_empty && descendants::children(getpid())?.iter().all(|child| supervisors.contains(child)) {
            for number in std::mem::take(&mut self.ended) {
                self.tell(&Report::Gone { number });
            }
            return Ok(());
        }
        descendants::kill(&supervisors)
    }

    /// A worker that does not listen any more has ended, or is about to.
    fn tell(&mut self, report: &Report) {
        if self.worker.as_ref().is_some_and(|worker| frame::send(worker, report).is_err()) {
            self.is_over = true;
        }
    }
}
