//! News of children, for the small processes that wait for little else: a signal descriptor, and what has ended.
//!
//! Knows nothing of commands or trees.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait};

use super::spawn::exit_of;
use crate::domain::job::Exit;

/// How long is waited where there is no memory to wait for news with.
const WITHOUT_MEMORY: Duration = Duration::from_millis(100);

/// Tells when a child may have ended.
pub(super) struct News(SignalFd);

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaped {
    /// This child has ended so.
    Ended(Pid, Exit),
    /// There are children, and none has ended.
    NoneYet,
    /// There are no children, and so nothing that descends from this process.
    Nobody,
}

impl News {
    /// Listens from now on. No signal ends this process any more, but for those that cannot be blocked: it ends when its
    /// conversation does, not with the terminal or the service that it was started from.
    pub(super) fn listen() -> io::Result<Self> {
        SigSet::all().thread_block()?;
        let mut ends = SigSet::empty();
        ends.add(Signal::SIGCHLD);
        Ok(Self(SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Waits for news, for as long as `limit`, or until `conversation` can be read or is over; says whether that is so.
    pub(super) fn wait(
        &self,
        conversation: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
    ) -> io::Result<bool> {
        let limit = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut watched = vec![PollFd::new(&self.0, PollFlags::IN)];
        watched.extend(conversation.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)));
        match rustix::io::retry_on_intr(|| poll(&mut watched, limit.as_ref())) {
            Ok(_) => {}
            // There was no memory to wait with. Nothing is missed: what there is, the caller looks for itself.
            Err(Errno::NOMEM | Errno::AGAIN) => {
                std::thread::sleep(WITHOUT_MEMORY);
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        // One signal may stand for many: who has ended is asked of the kernel, not read here.
        while self.0.read_signal()?.is_some() {}
        Ok(watched.get(1).is_some_and(|conversation| !conversation.revents().is_empty()))
    }
}

/// Takes the exit of a child that has ended, whoever its first parent was.
pub(super) fn reap() -> io::Result<Reaped> {
    match rustix::io::retry_on_intr(|| wait(WaitOptions::NOHANG)) {
        Ok(Some((pid, status))) => Ok(Reaped::Ended(pid, exit_of(status))),
        Ok(None) => Ok(Reaped::NoneYet),
        Err(Errno::CHILD) => Ok(Reaped::Nobody),
        Err(error) => Err(error.into()),
    }
}
