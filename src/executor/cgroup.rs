//! Control groups of version 2, one for each command, below the group of this process, where that was delegated to it.
//!
//! Whatever descends from a command stays in its group, in whatever session and whoever it becomes; what has the right
//! to may move itself out, and is the subreapers' to end. The kernel kills a whole group at once. Turns no controller
//! on. See cgroups(7), and for what is delegated `CGROUP_DELEGATION` of systemd.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
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
    directory: PathBuf,
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
pub(super) struct Group {
    path: PathBuf,
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
    for directory in former.iter().chain(&own) {
        while !end_all(directory, &format!("{queue}-"), AGAIN_AFTER)? {}
    }
    Ok(own.and_then(|directory| {
        delegation::is_delegated(&directory)?;
        let groups = Groups { directory, queue };
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
    Ok(path.map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path))))
}

impl Groups {
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The groups of one supervisor, whose number no other one of this process has.
    pub(super) fn of(&self, supervisor: u64) -> Series<'_> {
        Series { groups: self, supervisor, made: 0 }
    }

    /// Kills what a supervisor that was killed has left; false when something still lives.
    pub(super) fn end_of(&self, supervisor: u64, limit: Duration) -> io::Result<bool> {
        end_all(&self.directory, &format!("{}-{supervisor}-", self.queue), limit)
    }

    /// In the lock's file, for the next worker; nothing is made before.
    fn remember(&self, lock: &File) -> io::Result<()> {
        lock.set_len(0)?;
        lock.write_all_at(&[self.directory.as_os_str().as_bytes(), b"\n"].concat(), 0)
    }

    /// Makes a group, has a process born in it, and ends it: whatever does not let that happen is known now.
    fn prove(&self) -> io::Result<()> {
        // Supervisors are counted from 1.
        let group = self.of(0).make()?;
        match spawn::fork(Some(group.as_fd())) {
            Ok(Forked::Child) => spawn::leave(0),
            Ok(Forked::Parent(pid)) => drop(spawn::reap(pid)),
            Err(error) => {
                group.end()?;
                return Err(at(&group.path, &error));
            }
        }
        group.kill()?;
        group.end()
    }
}

impl Series<'_> {
    /// A group with nobody in it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn make(&mut self) -> io::Result<Group> {
        // What is left of a name that could not be removed is in nobody's way.
        self.made += 1;
        let Groups { directory, queue } = self.groups;
        let path = directory.join(format!("{queue}-{}-{}", self.supervisor, self.made));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        let descriptor = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Group { path, descriptor })
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Group {
    /// Kills all that is in it; none of that can prevent it, nor fork faster.
    pub(super) fn kill(&self) -> io::Result<()> {
        kill(&self.path).map(drop)
    }

    /// Kills all that is still in it, waits until that is gone, and removes it.
    pub(super) fn end(&self) -> io::Result<()> {
        while !end(&self.path, AGAIN_AFTER)? {}
        Ok(())
    }
}

/// Ends all groups whose names begin so; false when something in them still lives.
fn end_all(directory: &Path, prefix: &str, limit: Duration) -> io::Result<bool> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(true),
        Err(error) => return Err(at(directory, &error)),
    };
    let mut all = true;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            all &= end(&entry.path(), limit)?;
        }
    }
    Ok(all)
}

/// Ends one group; false when something in it still lives after `limit`.
fn end(path: &Path, limit: Duration) -> io::Result<bool> {
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        // Somebody is in it, or it has groups below it.
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(error) => return Err(at(path, &error.into())),
    }
    if kill(path)? && !is_empty_within(path, limit).map_err(|error| at(path, &error))? {
        return Ok(false);
    }
    remove(path);
    Ok(true)
}

/// False when there is no such group.
fn kill(path: &Path) -> io::Result<bool> {
    let killed = OpenOptions::new().write(true).open(path.join("cgroup.kill"));
    match killed.and_then(|mut file| file.write_all(b"1")) {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(at(path, &error)),
    }
}

fn is_empty_within(path: &Path, limit: Duration) -> io::Result<bool> {
    let events = match File::open(path.join("cgroup.events")) {
        Ok(events) => events,
        Err(error) if is_gone(&error) => return Ok(true),
        Err(error) => return Err(error),
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
        Err(error) if is_gone(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

/// With all groups below it. What cannot be removed has nobody in it, and its name is not used again.
fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// The file, or the group that it is of, is not there (any more).
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}
