//! From a submission to a job, and from a job to exits.
//!
//! [`intake`] turns what the gate accepted into a job, [`door`] takes that from a gate in another process, [`worker`]
//! claims jobs and runs them, and both ask this process's own policy what a job may be (`agreement`): a queue can ask
//! for nothing that the policy does not offer. `hold` looks at the files that jobs wait for. `run` takes the steps of one job in order, `step` one command from its start to its
//! end, `input` what it reads, `output` what it writes. [`spawn`] is the one place that starts processes: no other file names a command type,
//! and none takes a command as one string.
//!
//! # Processes
//!
//! ```text
//! worker (the gateway)            sends orders, reads output, keeps time
//!   └─ launcher                   this program anew: small, one thread, no secrets; forks supervisors
//!        └─ supervisor, ...       one command at a time each: starts it, adopts its orphans, ends its tree
//!             └─ command
//!                  └─ whatever it starts
//! ```
//!
//! Launcher and supervisors are subreapers: whatever loses its parent becomes their child, so that neither `setsid` nor
//! forking twice gets anything away. They talk with the worker over sockets, and a socket that closes is an order: when
//! the worker ends, by whatever, every supervisor kills its tree; when a command kills its supervisor, the launcher kills
//! what that leaves; when the launcher ends, so does the worker. All of them hold the lock of the queue's runs, and the
//! next worker starts nothing before it has that lock.
//!
//! Where a control group is delegated to the worker, each command is born in a group of its own below that (`cgroup`,
//! `delegation`): the kernel then ends also what a supervisor may not signal, and the next worker what all of these
//! processes left when they were killed. What is short, and not the job's fault, is waited for (`shortage`).
//!
//! What a command gets:
//! - a session and a process group of its own;
//! - a niceness above the gateway's, and `no_new_privs` unless its route says `privileges = "may_gain"`;
//! - `/dev/null` as standard input, or the request's body where its route says `stdin = "body"`, and one pipe as standard output and standard error;
//! - umask 077, every signal at its default and none blocked;
//! - its directory, its arguments byte for byte, and its environment, exactly as the policy says.
//!
//! What it does not get:
//! - a shell, a search path, or a variable of the gateway's own environment;
//! - a descriptor above 2, a terminal, the gateway's umask, or a signal that somebody chose to ignore;
//! - more time than its run has: TERM, then KILL, to all that descends from it;
//! - anything left running: when it has ended, so has all that descends from it, before the next step or job starts.

mod agreement;
mod cgroup;
mod delegation;
mod descendants;
pub mod door;
mod ends;
mod frame;
mod hold;
pub mod input;
pub mod intake;
pub mod launcher;
mod news;
pub mod output;
mod persist;
mod program;
mod rights;
mod run;
mod shortage;
pub mod spawn;
pub mod step;
mod supervisor;
pub mod worker;
