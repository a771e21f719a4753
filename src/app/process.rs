//! What a process that holds secrets does to itself before it reads the first one.
//!
//! Changes only this process; what its children get is `executor::spawn`'s.

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};

/// Nothing of this process's memory reaches a core file or another user's debugger, and no file that it creates can be
/// read by others.
///
/// # Errors
/// When the kernel refuses, which it does not do for a process's own limits.
pub fn harden() -> std::io::Result<()> {
    umask(Mode::from_raw_mode(0o077));
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
