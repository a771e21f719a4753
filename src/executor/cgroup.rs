//! Control groups of version 2, one for each command, below the group of this process, where that was delegated to it.
//!
//! Whatever descends from a command stays in its group, in whatever session and whoever it becomes; what has the right
//! to may move itself out, and is the subreapers' to end. The kernel kills a whole group at once. Turns no controller
//! on. See cgroups(7), and for what is delegated `CGROUP_DELEGATION` of systemd.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::delegation;
use super::spawn::{self, Forked};

/// From one attempt to end what a former worker has left to the next.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Longest path of a directory.
const LONGEST_PATH: u64 = 4096;

/// Where the groups of a queue's commands are made.
#[derive(Debug)]
pub(super) struct Groups {
    path: PathBuf,
    /// That path's, whatever is mounted or moved there later.
    parent: OwnedFd,
    /// Begins the names of these groups, and of no other queue's.
    queue: String,
}

/// A supervisor's groups: it makes one after the other.
#[derive(Debug)]
pub(super) struct Series<'a> {
    groups: &'a Groups,
    supervisor: u64,
    made: u64,
}

/// The group of one command.
#[derive(Debug)]
pub(super) struct Group<'a> {
    groups: &'a Groups,
    name: String,
    descriptor: OwnedFd,
}

/// Ends all that former workers of a queue have left in groups, wherever these are; then says where new ones are made,
/// or why nowhere. `lock` is the queue's, and held: nobody else makes or ends its groups.
///
/// # Errors
/// When it cannot be told whether anything is left, or that cannot be ended.
pub(super) fn of_queue(lock: &File) -> io::Result<Result<Groups, String>> {
    let facts = lock.metadata()?;
    // The file is open as long as its groups are in use, and so no other file has these numbers.
    let queue = format!("bridgeward-{:x}-{:x}", facts.dev(), facts.ino());
    let former = remembered(lock)?;
    let own = delegation::own();
    for path in former.iter().chain(&own) {
        let ended = || match open(rustix::fs::CWD, path)? {
            Some(parent) => end_all(parent.as_fd(), &format!("{queue}-"), AGAIN_AFTER),
            None => Ok(true),
        };
        while !ended().map_err(|error| at(path, &error))? {}
    }
    Ok(own.and_then(|path| {
        delegation::is_delegated(&path)?;
        let parent = open(rustix::fs::CWD, &path).map_err(|error| error.to_string())?;
        let parent = parent.ok_or_else(|| format!("`{}` is not there any more", path.display()))?;
        let groups = Groups { path, parent, queue };
        groups.remember(lock).and_then(|()| groups.prove()).map_err(|error| error.to_string())?;
        Ok(groups)
    }))
}

/// Where the last worker of a queue made groups, if it did.
fn remembered(lock: &File) -> io::Result<Option<PathBuf>> {
    let mut text = Vec::new();
    let mut file = lock;
    io::Seek::rewind(&mut file)?;
    file.take(LONGEST_PATH).read_to_end(&mut text)?;
    // Without its end, it was not written to its end, and so nothing was made.
    let path = text.strip_suffix(b"\n").filter(|path| path.starts_with(b"/"));
    Ok(path.map(|path| PathBuf::from(OsStr::from_bytes(path))))
}

impl Groups {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The groups of one supervisor, whose number no other one of this process has.
    pub(super) fn of(&self, supervisor: u64) -> Series<'_> {
        Series { groups: self, supervisor, made: 0 }
    }

    /// Kills what a supervisor that was killed has left; false when something still lives.
    pub(super) fn end_of(&self, supervisor: u64, limit: Duration) -> io::Result<bool> {
        end_all(self.parent.as_fd(), &format!("{}-{supervisor}-", self.queue), limit)
    }

    /// In the lock's file, for the next worker; nothing is made before.
    fn remember(&self, lock: &File) -> io::Result<()> {
        lock.set_len(0)?;
        lock.write_all_at(&[self.path.as_os_str().as_bytes(), b"\n"].concat(), 0)
    }

    /// Makes a group, has a process born in it, and ends it: whatever does not let that happen is known now.
    fn prove(&self) -> io::Result<()> {
        // Supervisors are counted from 1.
        let group = self.of(0).make().map_err(|error| at(&self.path, &error))?;
        match spawn::fork(Some(group.as_fd())) {
            Ok(Forked::Child) => spawn::leave(0),
            Ok(Forked::Parent(pid)) => drop(spawn::reap(pid)),
            Err(error) => {
                group.end()?;
                return Err(at(&self.path, &error));
            }
        }
        group.kill()?;
        group.end()
    }
}

impl<'a> Series<'a> {
    /// A group with nobody in it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn make(&mut self) -> io::Result<Group<'a>> {
        let groups = self.groups;
        // What is left of a name that could not be removed is in nobody's way.
        self.made += 1;
        let name = format!("{}-{}-{}", groups.queue, self.supervisor, self.made);
        mkdirat(&groups.parent, &name, Mode::RWXU)?;
        match open(groups.parent.as_fd(), Path::new(&name)) {
            Ok(Some(descriptor)) => Ok(Group { groups, name, descriptor }),
            Ok(None) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => {
                remove(groups.parent.as_fd(), OsStr::new(&name));
                Err(error)
            }
        }
    }
}

impl AsFd for Group<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Group<'_> {
    /// Kills all that is in it; none of that can prevent it, nor fork faster.
    pub(super) fn kill(&self) -> io::Result<()> {
        kill(self.as_fd()).map(drop)
    }

    /// Kills all that is still in it, waits until that is gone, and removes it.
    pub(super) fn end(&self) -> io::Result<()> {
        while !end(self.groups.parent.as_fd(), OsStr::new(&self.name), AGAIN_AFTER)? {}
        Ok(())
    }
}

/// Ends all groups whose names begin so; false when something in them still lives.
fn end_all(parent: BorrowedFd<'_>, prefix: &str, limit: Duration) -> io::Result<bool> {
    let mut all = true;
    for name in below(parent)? {
        if name.as_bytes().starts_with(prefix.as_bytes()) {
            all &= end(parent, &name, limit)?;
        }
    }
    Ok(all)
}

/// Ends one group; false when something in it still lives after `limit`.
fn end(parent: BorrowedFd<'_>, name: &OsStr, limit: Duration) -> io::Result<bool> {
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        // Somebody is in it, or it has groups below it.
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(error) => return Err(at(Path::new(name), &error.into())),
    }
    let Some(group) = open(parent, Path::new(name))? else { return Ok(true) };
    if kill(group.as_fd())? && !is_empty_within(group.as_fd(), limit)? {
        return Ok(false);
    }
    remove(parent, name);
    Ok(true)
}

/// False when there is no such group any more.
fn kill(group: BorrowedFd<'_>) -> io::Result<bool> {
    let killed = openat(group, "cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    match killed.and_then(|file| rustix::io::write(file, b"1")) {
        Ok(_) => Ok(true),
        Err(error) if is_gone(error) => Ok(false),
        Err(error) => Err(at(Path::new("cgroup.kill"), &error.into())),
    }
}

fn is_empty_within(group: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let events = match openat(group, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(events) => File::from(events),
        Err(error) if is_gone(error) => return Ok(true),
        Err(error) => return Err(at(Path::new("cgroup.events"), &error.into())),
    };
    if is_empty(&events)? {
        return Ok(true);
    }
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    // It is told of what has changed since it was read.
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&limit)))?;
    is_empty(&events)
}

fn is_empty(events: &File) -> io::Result<bool> {
    let mut bytes = [0; 256];
    match events.read_at(&mut bytes, 0) {
        Ok(length) => Ok(bytes[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 0")),
        Err(error) if Errno::from_io_error(&error).is_some_and(is_gone) => Ok(true),
        Err(error) => Err(error),
    }
}

/// With all groups below it. What cannot be removed has nobody in it, and its name is not used again.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) {
    if let Ok(Some(group)) = open(parent, Path::new(name)) {
        for name in below(group.as_fd()).unwrap_or_default() {
            remove(group.as_fd(), &name);
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

/// `None` when it is not there.
fn open(parent: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    match openat(parent, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(group) => Ok(Some(group)),
        Err(error) if is_gone(error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The file, or the group that it is of, is not there (any more).
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NODEV)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}
