//! What a process that holds secrets does to itself before it reads the first one.
//!
//! Changes only this process; what its children get is `executor::spawn`'s.

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

use crate::policy::Limits;

/// Descriptors that are kept for everything but connections and commands: database, logs, sockets, files being read.
const RESERVE: u64 = 128;
/// Descriptors that one command takes while it is started and runs: its pipe, and what checking its program opens.
const EACH_RUN: u64 = 8;

/// Nothing of this process's memory reaches a core file or another user's debugger, and no file that it creates can be
/// read by others; and it may open as many descriptors as the system lets it.
///
/// # Errors
/// When the kernel refuses, which it does not do for a process's own limits.
pub fn harden() -> std::io::Result<()> {
    umask(Mode::from_raw_mode(0o077));
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // Connections are many; the usual soft limit of 1024 is for programs that use select(2).
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// How many connections there may be at once, so that no number of strangers takes the descriptors that accepted jobs
/// need: at most `limits.connections`.
#[must_use]
pub fn connections(limits: &Limits) -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    room(descriptors, limits.connections.get(), limits.running.get())
}

fn room(descriptors: u64, connections: usize, running: usize) -> usize {
    let runs = u64::try_from(running).unwrap_or(u64::MAX).saturating_mul(EACH_RUN);
    let left = descriptors.saturating_sub(RESERVE).saturating_sub(runs);
    // With too few for anything else, one connection at a time still works.
    connections.min(usize::try_from(left).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_connections_leave_descriptors_for_jobs() {
        assert_eq!(room(524_288, 4096, 16), 4096);
        assert_eq!(room(1024, 4096, 16), 1024 - 128 - 128);
        assert_eq!(room(64, 4096, 16), 1);
        assert_eq!(room(u64::MAX, usize::MAX, usize::MAX), 1);
    }
}
