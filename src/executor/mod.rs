//! From a submission to a job, and from a job to exits.
//!
//! [`intake`] turns what the gate accepted into a job, [`door`] takes that from a gate in another process, [`worker`] claims jobs and runs them, and both ask this process's
//! own policy what a job may be (`agreement`): a queue can ask for nothing that the policy does not offer. `hold` looks
//! at the files that jobs wait for. `run` takes the steps of one job in order, `step` one process from its start to its
//! end, `output` what it writes. [`spawn`] is the one place that starts processes: no other file names a command type,
//! and none takes a command as one string.
//!
//! What a command gets:
//! - a session and a process group of its own, so that one signal reaches all that it started;
//! - a niceness above the gateway's, and `no_new_privs` unless its route says `privileges = "may_gain"`;
//! - `/dev/null` as standard input, and one pipe as standard output and standard error;
//! - umask 077, every signal at its default and none blocked;
//! - its directory, its arguments byte for byte, and its environment, exactly as the policy says.
//!
//! What it does not get:
//! - a shell, a search path, or a variable of the gateway's own environment;
//! - a descriptor above 2, a terminal, the gateway's umask, or a signal that somebody chose to ignore;
//! - more time than its run has: TERM, then KILL, to its whole group;
//! - a reader for ever: when it has ended, what it left behind in its group is killed and its pipe closed. A descendant
//!   that made a session of its own escapes that kill until trees are held by a cgroup or a subreaper.

mod agreement;
pub mod door;
mod ends;
mod hold;
pub mod intake;
mod output;
mod persist;
mod program;
mod run;
pub mod spawn;
pub mod step;
pub mod worker;
