//! Control groups of version 2, one for each command, below the group of this process, where that was delegated to it.
//!
//! Whatever descends from a command stays in its group, in whatever session and whoever it becomes; what has the right
//! to may move itself out, and is the subreapers' to end. The kernel kills a whole group at once. Turns no controller
//! on. See cgroups(7), and for what is delegated `CGROUP_DELEGATION` of systemd.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fstatfs};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::delegation::{self, at};
use super::shortage;
use super::spawn::{self, Forked};
use super::supervisor::AGAIN_AFTER;
use crate::domain::job::Exit;

mod group;

pub(super) use group::Group;

/// Most paths that are remembered, and the longest text of them.
const MOST_REMEMBERED: usize = 16;
const LONGEST_REMEMBERED: u64 = 64 << 10;
/// How long a process lives that is there to be killed; the kernel takes far less for that.
const LIVES_FOR: Duration = Duration::from_secs(5);

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

/// Why there are no groups.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Without {
    /// In words.
    pub(super) reason: String,
    /// Whether there should be some.
    pub(super) is_delegated: bool,
}

/// Whoever waits for the end of what former workers have left.
pub(super) trait Audience {
    /// Says what an operator should know.
    fn warn(&mut self, what: String);

    /// Waits a moment.
    ///
    /// # Errors
    /// When nobody waits for that end any more.
    fn wait(&mut self) -> io::Result<()>;
}

/// Ends all that former workers of a queue have left in groups, wherever these are; then says where new ones are made,
/// or why nowhere. `lock` is the queue's, and held: nobody else makes or ends its groups. While the system is short of
/// something, that is waited out.
///
/// # Errors
/// When it cannot be told whether anything is left, or that cannot be ended, or when nobody waits for it any more.
pub(super) fn of_queue(lock: &File, audience: &mut dyn Audience) -> io::Result<Result<Groups, Without>> {
    let facts = lock.metadata()?;
    // The file is open as long as its groups are in use, and so no other file has these numbers.
    let queue = format!("bridgeward-{:x}-{:x}", facts.dev(), facts.ino());
    let former = remembered(lock)?;
    let own = patiently(audience, delegation::own);
    let mut hidden = Vec::new();
    for path in former.iter().chain(own.as_ref().ok().filter(|own| !former.contains(own))) {
        let end = || match look(path)? {
            Seen::Here(parent) => group::end_all(parent.as_fd(), &format!("{queue}-")).map(Some),
            Seen::Gone => Ok(Some(true)),
            Seen::Hidden => Ok(None),
        };
        let ended = loop {
            match patiently(audience, end).map_err(|error| at(path, error))? {
                Some(false) => audience.wait()?,
                told @ (Some(true) | None) => break told,
            }
        };
        if ended.is_none() {
            audience.warn(format!(
                "the control group `{}` cannot be seen from here; what a former worker left there may still run",
                path.display()
            ));
            hidden.push(path.clone());
        }
    }
    let path = match own {
        Ok(path) => path,
        Err(error) => return Ok(Err(Without { reason: error.to_string(), is_delegated: false })),
    };
    if let Err(reason) = delegation::is_delegated(&path) {
        return Ok(Err(Without { reason, is_delegated: false }));
    }
    let made = patiently(audience, || {
        let Seen::Here(parent) = look(&path)? else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "no control group can be seen there"));
        };
        remember(lock, hidden.iter().chain([&path]))?;
        let groups = Groups { path: path.clone(), parent, queue: queue.clone() };
        groups.prove()?;
        Ok(groups)
    });
    match made.map_err(|error| at(&path, error)) {
        Ok(groups) => Ok(Ok(groups)),
        Err(error) if is_for_good(&error) => {
            Ok(Err(Without { reason: error.to_string(), is_delegated: true }))
        }
        Err(error) => Err(error),
    }
}

/// Repeats `attempt` while the system is short of something.
fn patiently<T>(audience: &mut dyn Audience, attempt: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if shortage::is_behind(&error) => {
                audience.warn(error.to_string());
                audience.wait()?;
            }
            done @ (Ok(_) | Err(_)) => return done,
        }
    }
}

/// Whether the kernel has no such groups, or lets this process make none, and never will.
fn is_for_good(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, Unsupported};
    // As its number has it: EACCES or EPERM, EROFS, ENOSYS or EOPNOTSUPP.
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// What is where a group was.
enum Seen {
    Here(OwnedFd),
    /// There is a hierarchy, and no such group in it.
    Gone,
    /// No hierarchy is seen there.
    Hidden,
}

fn look(path: &Path) -> io::Result<Seen> {
    for ancestor in path.ancestors() {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(ancestor, how, Mode::empty()) {
            Ok(directory) if !is_control_group(&directory)? => return Ok(Seen::Hidden),
            Ok(directory) if ancestor == path => return Ok(Seen::Here(directory)),
            Ok(_) => return Ok(Seen::Gone),
            Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Seen::Hidden)
}

/// Whatever else is there is not this program's to open or to remove anything in.
fn is_control_group(directory: &OwnedFd) -> io::Result<bool> {
    Ok(u64::try_from(fstatfs(directory)?.f_type).is_ok_and(|kind| kind == CGROUP2_SUPER_MAGIC))
}

/// See statfs(2).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Where former workers of a queue made groups, if they did.
fn remembered(lock: &File) -> io::Result<Vec<PathBuf>> {
    let mut text = Vec::new();
    let mut file = lock;
    file.rewind()?;
    file.take(LONGEST_REMEMBERED).read_to_end(&mut text)?;
    // Without its end, a line was not written to its end, and so nothing was made there.
    let lines = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let paths = lines.filter(|line| line.starts_with(b"/"));
    Ok(paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
}

/// In the lock's file, for the next worker; nothing is made before.
fn remember<'a>(lock: &File, paths: impl Iterator<Item = &'a PathBuf>) -> io::Result<()> {
    let mut lines: Vec<&[u8]> = paths.flat_map(|path| [path.as_os_str().as_bytes(), b"\n"]).collect();
    lines.drain(..lines.len().saturating_sub(2 * MOST_REMEMBERED));
    let text = lines.concat();
    lock.write_all_at(&text, 0)?;
    lock.set_len(u64::try_from(text.len()).map_err(io::Error::other)?)
}

impl Groups {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The groups of one supervisor, whose number no other one of this process has.
    pub(super) fn of(&self, supervisor: u64) -> Series<'_> {
        Series { groups: self, supervisor, made: 0 }
    }

    /// Kills what a supervisor that was killed has left; false when something may still live.
    pub(super) fn end_of(&self, supervisor: u64) -> io::Result<bool> {
        group::end_all(self.parent.as_fd(), &format!("{}-{supervisor}-", self.queue))
    }

    /// Makes a group, has a process born in it, and kills it with the group: whatever does not let that happen is known
    /// now.
    fn prove(&self) -> io::Result<()> {
        // Supervisors are counted from 1.
        let group = self.of(0).make()?;
        let killed = match spawn::fork(Some(group.as_fd())) {
            Ok(Forked::Child) => {
                std::thread::sleep(LIVES_FOR);
                spawn::leave(0)
            }
            Ok(Forked::Parent(pid)) => {
                let killed = group.kill_whole();
                if killed.is_err() {
                    // Only its own parent reaps it, and so its number is still its own.
                    let _ = kill_process(pid, Signal::KILL);
                }
                match (killed, spawn::reap(pid)) {
                    (Ok(()), Exit::Code(_)) => {
                        let reason = "`cgroup.kill` kills nobody";
                        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
                    }
                    (killed, _) => killed,
                }
            }
            Err(error) => Err(error),
        };
        group.end(AGAIN_AFTER);
        killed
    }
}

impl<'a> Series<'a> {
    /// A group with nobody in it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn make(&mut self) -> io::Result<Group<'a>> {
        let groups = self.groups;
        loop {
            self.made += 1;
            let name = format!("{}-{}-{}", groups.queue, self.supervisor, self.made);
            match Group::make(groups.parent.as_fd(), name.as_ref()) {
                // What is left of that name has nobody in it, could not be removed, and is in nobody's way.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made @ (Ok(_) | Err(_)) => return made,
            }
        }
    }
}
