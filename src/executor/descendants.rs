//! Signals to all that descends from this process.
//!
//! Only for a subreaper: whatever loses its parent becomes its child, so nothing gets away by `setsid` or by forking
//! twice. A bare number is signalled only if it is a child's, which keeps it until this process reaps it; any other the
//! kernel may have given to a stranger since it was looked up. So children are signalled whatever is short. Needs `/proc` with `CONFIG_PROC_CHILDREN`, which the kernels of distributions have.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal};

use super::shortage;

/// Most processes that are found by one look, each of which takes a descriptor. Whoever kills looks again.
const MOST_AT_ONCE: usize = 4000;

/// The children of this process, which has one thread; to see them again takes no further descriptor.
pub(super) struct Children(File);

impl Children {
    /// Of this process, and not of what it forks.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let this = getpid();
        Ok(Self(File::open(format!("/proc/{this}/task/{this}/children"))?))
    }

    pub(super) fn now(&self) -> io::Result<Vec<Pid>> {
        let (mut file, mut text) = (&self.0, String::new());
        file.rewind()?;
        file.read_to_string(&mut text)?;
        Ok(pids(&text).collect())
    }

    /// Asks all that descends from this process to end.
    ///
    /// # Errors
    /// When not all of them can be found; then none is asked.
    pub(super) fn terminate(&self) -> io::Result<()> {
        let Found { processes, shortage } = self.find(&HashSet::new(), None)?;
        shortage.map_or(Ok(()), Err)?;
        for process in processes {
            process.signal(Signal::TERM);
        }
        Ok(())
    }

    /// Kills what can be found now, but for `spared` and what descends from those. To be repeated until there is no
    /// child left: a process may be forking meanwhile.
    ///
    /// All are stopped before any is killed. A script whose command is killed would go on to the next one for an instant,
    /// and what forks faster than it is found would win.
    pub(super) fn kill(&self, spared: &HashSet<Pid>) -> io::Result<()> {
        // What is not found for want of descriptors becomes a child once its parents are killed.
        for process in self.find(spared, Some(Signal::STOP))?.processes {
            process.signal(Signal::KILL);
        }
        Ok(())
    }

    /// Descendants of this process, parents before their children; each is sent `at_sight` as soon as it is found.
    fn find(&self, spared: &HashSet<Pid>, at_sight: Option<Signal>) -> io::Result<Found> {
        let mut found = Found { processes: Vec::new(), shortage: None };
        let add = |found: &mut Found, process: Process| {
            if let Some(signal) = at_sight {
                process.signal(signal);
            }
            found.processes.push(process);
        };
        for pid in self.now()?.into_iter().filter(|pid| !spared.contains(pid)).take(MOST_AT_ONCE) {
            add(&mut found, Process { pid, descriptor: None });
        }
        let mut next = 0;
        while let Some(parent) = found.processes.get(next).map(|parent| parent.pid) {
            // When it has ended, its children have become this process's own, and are found by the next look.
            let children = children(parent).unwrap_or_else(|error| found.note(error));
            for pid in children {
                if found.processes.len() >= MOST_AT_ONCE {
                    break;
                }
                match Process::of(pid, &found.processes[next]) {
                    Ok(process) => process.into_iter().for_each(|process| add(&mut found, process)),
                    Err(error) => drop(found.note(error)),
                }
            }
            next += 1;
        }
        Ok(found)
    }
}

/// What a look has found, and whether it could have found more.
struct Found {
    processes: Vec<Process>,
    shortage: Option<io::Error>,
}

impl Found {
    /// Whoever has ended is not missed.
    fn note(&mut self, error: io::Error) -> Vec<Pid> {
        if shortage::is(&error) {
            self.shortage = Some(error);
        }
        Vec::new()
    }
}

/// The children of a process, those of all its threads.
fn children(pid: Pid) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        found.extend(pids(&fs::read_to_string(thread?.path().join("children"))?));
    }
    Ok(found)
}

fn pids(text: &str) -> impl Iterator<Item = Pid> {
    text.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
}

/// A process, by a descriptor that will never mean another one; without, it is a child of this process.
struct Process {
    pid: Pid,
    descriptor: Option<OwnedFd>,
}

impl Process {
    /// The process with that number, if it is a child of `parent`.
    fn of(pid: Pid, parent: &Self) -> io::Result<Option<Self>> {
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The descriptor is of whatever has the number by now. It is a descendant if it is the child of one that still
        // runs and so still has its own number; and if this look is of a later process, the descriptor's is gone.
        let is_child = parent_of(pid)? == Some(parent.pid) && parent.runs();
        Ok(is_child.then_some(Self { pid, descriptor: Some(descriptor) }))
    }

    fn signal(&self, signal: Signal) {
        // It fails when the process has ended, and when it has gained rights that this one lacks.
        let _ = match &self.descriptor {
            Some(descriptor) => pidfd_send_signal(descriptor, signal),
            None => kill_process(self.pid, signal),
        };
    }

    /// As long as it runs, its number is its own.
    fn runs(&self) -> bool {
        let Some(descriptor) = &self.descriptor else { return true };
        let mut watched = [PollFd::new(descriptor, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::io::retry_on_intr(|| poll(&mut watched, Some(&at_once))), Ok(0))
    }
}

/// See `proc_pid_stat(5)`: the parent is the second field after the name. A process chooses its own name, of any bytes,
/// but no later field holds a parenthesis.
fn parent_of(pid: Pid) -> io::Result<Option<Pid>> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(|byte| *byte == b')').next().and_then(|fields| std::str::from_utf8(fields).ok());
    let parent = fields.and_then(|fields| fields.split_ascii_whitespace().nth(1)?.parse().ok());
    Ok(parent.and_then(Pid::from_raw))
}
