//! Signals to all that descends from this process.
//!
//! Only for a subreaper: whatever loses its parent becomes its child, so nothing gets away by `setsid` or by forking
//! twice. A bare number is never signalled, because the kernel may have given it to a stranger since it was looked up.
//! Needs `/proc` with `CONFIG_PROC_CHILDREN`, which the kernels of distributions have.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// Most processes that are found by one look, each of which takes a descriptor. Whoever kills looks again.
const MOST_AT_ONCE: usize = 4000;

/// Asks all of them but `spared` and what descends from those to end.
pub(super) fn terminate(spared: &HashSet<Pid>) -> io::Result<()> {
    for process in find(spared, None)? {
        process.signal(Signal::TERM);
    }
    Ok(())
}

/// Kills what can be found now. To be repeated until there is no child left: a process may be forking meanwhile.
///
/// All are stopped before any is killed. A script whose command is killed would go on to the next one for an instant,
/// and what forks faster than it is found would win.
pub(super) fn kill(spared: &HashSet<Pid>) -> io::Result<()> {
    for process in find(spared, Some(Signal::STOP))? {
        process.signal(Signal::KILL);
    }
    Ok(())
}

/// The children of a process, those of all its threads.
pub(super) fn children(pid: Pid) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("children"))?;
        found.extend(text.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    Ok(found)
}

/// A process, by a descriptor that will never mean another one.
struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    fn signal(&self, signal: Signal) {
        // It fails when the process has ended, and when it has gained rights that this one lacks.
        let _ = pidfd_send_signal(&self.descriptor, signal);
    }

    /// As long as it runs, its number is its own.
    fn runs(&self) -> bool {
        let mut watched = [PollFd::new(&self.descriptor, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::io::retry_on_intr(|| poll(&mut watched, Some(&at_once))), Ok(0))
    }
}

/// Descendants of this process, parents before their children; each is sent `at_sight` as soon as it is found.
fn find(spared: &HashSet<Pid>, at_sight: Option<Signal>) -> io::Result<Vec<Process>> {
    let mut found: Vec<Process> = Vec::new();
    let add = |found: &mut Vec<Process>, pid: Pid, parent: Option<usize>| {
        if found.len() >= MOST_AT_ONCE {
            return;
        }
        let parent_pid = parent.map_or(getpid(), |index| found[index].pid);
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        // The descriptor is of whatever has the number by now. It is a descendant if it is the child of one that still
        // runs and so still has its own number; and if this look is of a later process, the descriptor's is gone.
        let is_child = parent_of(pid) == Some(parent_pid);
        if is_child && parent.is_none_or(|index| found[index].runs()) {
            let process = Process { pid, descriptor };
            if let Some(signal) = at_sight {
                process.signal(signal);
            }
            found.push(process);
        }
    };
    for pid in children(getpid())?.into_iter().filter(|pid| !spared.contains(pid)) {
        add(&mut found, pid, None);
    }
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        // When it has ended, its children have become this process's own, and are found by the next look.
        for pid in children(parent.pid).unwrap_or_default() {
            add(&mut found, pid, Some(next));
        }
        next += 1;
    }
    Ok(found)
}

/// See `proc_pid_stat(5)`: the parent is the second field after the name. A process chooses its own name, of any bytes,
/// but no later field holds a parenthesis.
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(name_ends + 1..)?).ok()?;
    Pid::from_raw(fields.split_ascii_whitespace().nth(1)?.parse().ok()?)
}
