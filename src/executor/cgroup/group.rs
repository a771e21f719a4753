//! One control group: it is made, everybody in it is killed, it is seen to be empty, and it is removed.
//!
//! What all of that needs is opened as it is made: whatever is short later, a group can be ended. Knows nothing of
//! queues, and follows no link. See cgroups(7) and the kernel's `cgroup-v2.rst`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Most processes of one group that are signalled by one look, each of which takes a descriptor.
const MOST_AT_ONCE: usize = 1000;
/// How many groups, one in the other, are looked into: whoever runs as the gateway may nest as many as it likes.
const DEEPEST: usize = 256;

/// A control group.
#[derive(Debug)]
pub(in super::super) struct Group<'a> {
    parent: BorrowedFd<'a>,
    name: OsString,
    directory: OwnedFd,
    /// `None` where the kernel has no such file.
    kill: Option<File>,
    events: File,
}

impl AsFd for Group<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl<'a> Group<'a> {
    /// Makes one with nobody in it.
    ///
    /// # Errors
    /// When the system refuses; `AlreadyExists` when there is one of that name.
    pub(super) fn make(parent: BorrowedFd<'a>, name: &OsStr) -> io::Result<Self> {
        mkdirat(parent, name, Mode::RWXU)?;
        Self::open(parent, name.to_owned()).inspect_err(|_| {
            let _ = unlinkat(parent, name, AtFlags::REMOVEDIR);
        })
    }

    fn open(parent: BorrowedFd<'a>, name: OsString) -> io::Result<Self> {
        let directory = directory(parent, &name)?;
        let kill = match file(directory.as_fd(), "cgroup.kill", OFlags::WRONLY) {
            Ok(kill) => Some(kill),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let events = file(directory.as_fd(), "cgroup.events", OFlags::RDONLY)?;
        Ok(Self { parent, name, directory, kill, events })
    }

    /// Has the kernel kill all that is in it; none of that can prevent it, nor fork faster.
    ///
    /// # Errors
    /// When the kernel does not.
    pub(super) fn kill_whole(&self) -> io::Result<()> {
        let Some(kill) = &self.kill else {
            let reason = "it has no `cgroup.kill`, for which Linux 5.14 is needed";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        };
        Ok(rustix::io::write(kill, b"1").map(drop)?)
    }

    /// Kills what is in it now: as a whole, or else, as where it was made threaded, one process after the other. To be
    /// repeated until it is empty.
    ///
    /// # Errors
    /// When that could not be tried.
    pub(in super::super) fn kill(&self) -> io::Result<()> {
        self.kill_whole().or_else(|_| kill_members(self.as_fd(), DEEPEST))
    }

    /// Kills all that is still in it, waits until that is gone, and removes it. Each attempt that fails is made again
    /// after `again_after`.
    pub(in super::super) fn end(&self, again_after: Duration) {
        while !matches!(unlinkat(self.parent, &self.name, AtFlags::REMOVEDIR), Ok(()) | Err(Errno::NOENT)) {
            let _ = self.kill();
            if self.is_empty().unwrap_or(false) {
                return remove(self.parent, &self.name, DEEPEST);
            }
            // It is told of what has changed since it was read.
            let mut watched = [PollFd::new(&self.events, PollFlags::PRI)];
            let limit = Timespec::try_from(again_after).unwrap_or_default();
            if !matches!(poll(&mut watched, Some(&limit)), Ok(_) | Err(Errno::INTR)) {
                std::thread::sleep(again_after);
            }
        }
    }

    /// Whether nobody is in it, nor in a group below it.
    fn is_empty(&self) -> io::Result<bool> {
        let mut bytes = [0; 256];
        let length = self.events.read_at(&mut bytes, 0)?;
        Ok(bytes[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 0"))
    }
}

/// Kills what is in all groups below `parent` whose names begin so, and removes those that are empty; false when one
/// is not, and it is to be called again.
///
/// # Errors
/// When one of them cannot be ended; the others were.
pub(super) fn end_all(parent: BorrowedFd<'_>, prefix: &str) -> io::Result<bool> {
    let mut ended = Ok(true);
    for name in below(parent)? {
        if name.as_bytes().starts_with(prefix.as_bytes()) {
            match end(parent, name) {
                Ok(true) => {}
                Ok(false) => ended = ended.map(|_| false),
                Err(error) => ended = Err(error),
            }
        }
    }
    ended
}

fn end(parent: BorrowedFd<'_>, name: OsString) -> io::Result<bool> {
    // Refused when somebody is in it, or it has groups below it.
    if let Ok(()) | Err(Errno::NOENT) = unlinkat(parent, &name, AtFlags::REMOVEDIR) {
        return Ok(true);
    }
    match Group::open(parent, name).and_then(|group| group.kill().map(|()| group)) {
        Ok(group) => {
            let is_empty = group.is_empty()?;
            if is_empty {
                remove(parent, &group.name, DEEPEST);
            }
            Ok(is_empty)
        }
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Kills what is in a group and in those below it, so many levels of them, one process after the other. Frozen, it does
/// not fork meanwhile.
fn kill_members(group: BorrowedFd<'_>, levels: usize) -> io::Result<()> {
    let _ = file(group, "cgroup.freeze", OFlags::WRONLY).map(|freeze| rustix::io::write(freeze, b"1"));
    let groups = if levels > 0 { below(group)? } else { Vec::new() };
    for name in groups {
        match directory(group, &name).and_then(|below| kill_members(below.as_fd(), levels - 1)) {
            Err(error) if !is_gone(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    let mut found = Vec::new();
    for thread in threads(group)?.into_iter().take(MOST_AT_ONCE) {
        if let Some(process) = process_of(thread) {
            match pidfd_open(process, PidfdFlags::empty()) {
                Ok(descriptor) => found.push((thread, process, descriptor)),
                // It has ended.
                Err(Errno::SRCH) => {}
                // The next look finds the rest.
                Err(_) if !found.is_empty() => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    // The kernel may have given a number to a stranger since; the descriptor is the thread's process's if the thread is
    // still in the group.
    let still = threads(group)?;
    for (thread, process, descriptor) in found {
        if still.contains(&thread) && process_of(thread) == Some(process) {
            // It fails when the process has ended, and when it has gained rights that this one lacks.
            let _ = pidfd_send_signal(&descriptor, Signal::KILL);
        }
    }
    Ok(())
}

/// All threads in a group; unlike its processes, they can be listed where it is threaded.
fn threads(group: BorrowedFd<'_>) -> io::Result<Vec<Pid>> {
    let mut text = String::new();
    file(group, "cgroup.threads", OFlags::RDONLY)?.read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect())
}

/// The process that a thread is of, see `proc_pid_status(5)`.
fn process_of(thread: Pid) -> Option<Pid> {
    let status = fs::read(format!("/proc/{}/status", thread.as_raw_nonzero())).ok()?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    Pid::from_raw(std::str::from_utf8(line).ok()?.trim().parse().ok()?)
}

/// With the groups below it, so many levels of them. What is not removed has nobody in it.
fn remove(parent: BorrowedFd<'_>, name: &OsStr, levels: usize) {
    if levels > 0
        && let Ok(group) = directory(parent, name)
    {
        for name in below(group.as_fd()).unwrap_or_default() {
            remove(group.as_fd(), &name, levels - 1);
        }
    }
    let _ = unlinkat(parent, name, AtFlags::REMOVEDIR);
}

/// The names of the groups right below one.
fn below(group: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(group)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == FileType::Directory && !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, Path::new(name), how, Mode::empty()).map_err(Into::into)
}

fn file(group: BorrowedFd<'_>, name: &str, how: OFlags) -> io::Result<File> {
    Ok(openat(group, name, how | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// The group that a file is of, or was asked for, is not there any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_removed_with_those_below_them_up_to_a_depth() {
        let place = tempfile::tempdir().unwrap();
        let parent = File::open(place.path()).unwrap();
        for (deep, is_left) in [(0, false), (DEEPEST, false), (DEEPEST + 1, true)] {
            let top = place.path().join("g");
            let path = (0..deep).fold(top.clone(), |path, _| path.join("g"));
            fs::create_dir_all(path).unwrap();
            remove(parent.as_fd(), "g".as_ref(), DEEPEST);
            assert_eq!(top.exists(), is_left, "{deep}");
        }
    }
}
