//! Opens files as sshd does: nobody but root and the running user can have written them or moved them into place.
//!
//! Every directory on the way is held open and judged, those that hold symbolic links included, so that nothing can be
//! swapped between the check and the use. Refuses what is no regular file, and what is larger than its kind may be.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::rights::{Caller, Facts, Secrecy};

/// Most symbolic links on the way to one file; what the kernel follows, too.
const MOST_LINKS: usize = 40;

/// What a file is read as: how large it may be and whom it may be readable by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of policy, up to 1 MiB.
    Policy,
    /// A shared secret or a private key, up to 64 KiB, readable by nobody else.
    Secret,
    /// Certificates, up to 4 MiB.
    Certificates,
    /// Revocation lists, up to 64 MiB.
    RevocationLists,
}

impl Kind {
    const fn limit(self) -> usize {
        match self {
            Self::Policy => 1 << 20,
            Self::Secret => 64 << 10,
            Self::Certificates => 4 << 20,
            Self::RevocationLists => 64 << 20,
        }
    }

    const fn secrecy(self) -> Secrecy {
        match self {
            Self::Secret => Secrecy::Secret,
            Self::Policy | Self::Certificates | Self::RevocationLists => Secrecy::Public,
        }
    }
}

/// Why a file was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// There is nothing at this path.
    #[error("`{}` does not exist", .0.display())]
    Missing(PathBuf),
    /// Somebody else could have written it, or could read it.
    #[error("`{}` {reason}", .path.display())]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// The system refused.
    #[error("`{}` cannot be opened: {reason}", .path.display())]
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The system has no room to look at it now.
    #[error("`{}` cannot be opened now: {reason}", .path.display())]
    Shortage {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
}

/// Why a program cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramProblem {
    /// It is not there (on this machine).
    #[error("there is no program here")]
    Missing,
    /// It is there, but must not be run.
    #[error("{reason}")]
    Unsafe {
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// It cannot be judged now, for want of descriptors or memory; later, it may be.
    #[error("{reason}")]
    Shortage {
        /// What the system said.
        reason: String,
    },
}

/// Whether `path` is a regular, executable file that nobody but root and the running user can have changed.
///
/// # Errors
/// When it is not there, or must not be run.
pub fn check_program(path: &Path) -> Result<(), ProgramProblem> {
    resolve_program(path, &Caller::current()).map(drop)
}

/// As [`check_program`], and says where the program is after all symbolic links.
pub(super) fn resolve_program(path: &Path, caller: &Caller) -> Result<PathBuf, ProgramProblem> {
    let found = walk(path, caller).and_then(|end| {
        let file = end.file()?;
        file.judge(caller, Secrecy::Public)?;
        if file.stat.st_mode & 0o111 == 0 {
            return Err(unsafe_at(&file.canonical, "is not executable: `chmod +x` it"));
        }
        Ok(file.canonical)
    });
    found.map_err(|problem| match problem {
        NotOpened::Missing(_) => ProgramProblem::Missing,
        NotOpened::Unsafe { .. } | NotOpened::Refused { .. } => {
            ProgramProblem::Unsafe { reason: problem.to_string() }
        }
        NotOpened::Shortage { .. } => ProgramProblem::Shortage { reason: problem.to_string() },
    })
}

/// A whole file.
#[derive(Debug)]
pub(super) struct Contents {
    /// What stands in it; wiped, for it may be a secret.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// When it was last written; in files of memory, never yet.
    pub(super) modified: Timestamp,
    /// What tells whether it may have changed since.
    pub(super) stamp: Stamp,
}

impl Contents {
    /// Whether both hold the same, and say that it is equally old.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.modified == other.modified && self.bytes == other.bytes
    }
}

/// Device, inode, size and times of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp([i128; 7]);

impl Stamp {
    /// Of the file that a path leads to; `None` when it cannot be had.
    pub(super) fn of(path: &Path) -> Option<Self> {
        rustix::fs::stat(path).ok().map(|stat| Self::from(&stat))
    }
}

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        Self([
            stat.st_dev.into(),
            stat.st_ino.into(),
            stat.st_size.into(),
            stat.st_mtime.into(),
            stat.st_mtime_nsec.into(),
            stat.st_ctime.into(),
            stat.st_ctime_nsec.into(),
        ])
    }
}

/// Reads a whole file after all checks.
pub(super) fn read(path: &Path, kind: Kind, caller: &Caller) -> Result<Contents, NotOpened> {
    let found = walk(path, caller)?.file()?;
    found.judge(caller, kind.secrecy())?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let descriptor =
        openat(&found.parent, &found.name, flags, Mode::empty()).map_err(|e| refused(&found.canonical, e))?;
    let stat = fstat(&descriptor).map_err(|e| refused(&found.canonical, e))?;
    let opened = FoundFile { stat, ..found };
    opened.judge(caller, kind.secrecy())?;
    let too_large = || unsafe_at(&opened.canonical, format!("is larger than {} bytes", kind.limit()));
    let size = usize::try_from(opened.stat.st_size).map_err(|_| too_large())?;
    if size > kind.limit() {
        return Err(too_large());
    }
    // One byte more than the file has: a buffer that never grows leaves no copy of a secret behind.
    let mut bytes = Zeroizing::new(vec![0; size + 1]);
    let mut file = File::from(descriptor);
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => {
                bytes.truncate(filled);
                let modified = modified(&opened.stat);
                return Ok(Contents { bytes, modified, stamp: Stamp::from(&opened.stat) });
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(NotOpened::Refused { path: opened.canonical, reason: error.to_string() });
            }
        }
    }
    Err(NotOpened::Refused { path: opened.canonical, reason: "it grew while it was read; try again".into() })
}

/// When a file was last written, as its file system says.
fn modified(stat: &Stat) -> Timestamp {
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    Timestamp::new(stat.st_mtime, nanoseconds).unwrap_or(Timestamp::MIN)
}

/// A directory after all checks.
pub(super) struct Directory {
    /// Its path without symbolic links.
    pub(super) canonical: PathBuf,
    /// Whether others may create files in it, as in `/tmp`.
    pub(super) shared: bool,
}

/// Checks a directory and everything above it.
pub(super) fn directory(path: &Path, caller: &Caller) -> Result<Directory, NotOpened> {
    match walk(path, caller)? {
        End::Directory { mode, canonical } => Ok(Directory { shared: mode & 0o022 != 0, canonical }),
        End::File(file) => Err(unsafe_at(&file.canonical, "is not a directory")),
    }
}

/// Where a path led to.
enum End {
    Directory { mode: u32, canonical: PathBuf },
    File(FoundFile),
}

/// Anything but a directory, not yet opened for reading.
struct FoundFile {
    parent: OwnedFd,
    name: OsString,
    stat: Stat,
    canonical: PathBuf,
}

impl End {
    fn file(self) -> Result<FoundFile, NotOpened> {
        match self {
            Self::File(file) => Ok(file),
            Self::Directory { canonical, .. } => Err(unsafe_at(&canonical, "is a directory, not a file")),
        }
    }
}

impl FoundFile {
    fn judge(&self, caller: &Caller, secrecy: Secrecy) -> Result<(), NotOpened> {
        if FileType::from_raw_mode(self.stat.st_mode) != FileType::RegularFile {
            return Err(unsafe_at(&self.canonical, "is not a regular file"));
        }
        let judged = caller.judge_file(&facts(&self.stat), secrecy, &self.canonical);
        judged.map_err(|reason| unsafe_at(&self.canonical, reason))
    }
}

/// Follows a path by hand, from the root, one name at a time, and judges every directory and link on the way.
fn walk(path: &Path, caller: &Caller) -> Result<End, NotOpened> {
    if !path.is_absolute() {
        return Err(unsafe_at(path, "is not an absolute path"));
    }
    let mut canonical = PathBuf::from("/");
    let mut directory = root(caller)?;
    let mut left: Vec<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            directory = look(directory.as_fd(), &name, &canonical)?.0;
            canonical.pop();
            continue;
        }
        let here = canonical.join(&name);
        let (descriptor, stat) = look(directory.as_fd(), &name, &here)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            links += 1;
            if links > MOST_LINKS {
                return Err(unsafe_at(&here, "leads through too many symbolic links"));
            }
            caller.judge_owner(&facts(&stat)).map_err(|reason| unsafe_at(&here, reason))?;
            let target = readlinkat(&descriptor, c"", Vec::new()).map_err(|e| refused(&here, e))?;
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            if target.is_absolute() {
                canonical = PathBuf::from("/");
                directory = root(caller)?;
            }
            left.extend(names(&target));
        } else if kind == FileType::Directory {
            caller.judge_directory(&facts(&stat)).map_err(|reason| unsafe_at(&here, reason))?;
            canonical = here;
            directory = descriptor;
        } else if left.is_empty() {
            return Ok(End::File(FoundFile { parent: directory, name, stat, canonical: here }));
        } else {
            return Err(unsafe_at(&here, "is not a directory"));
        }
    }
    let stat = fstat(&directory).map_err(|e| refused(&canonical, e))?;
    Ok(End::Directory { mode: stat.st_mode, canonical })
}

fn root(caller: &Caller) -> Result<OwnedFd, NotOpened> {
    let (descriptor, stat) = look(CWD, OsStr::new("/"), Path::new("/"))?;
    caller.judge_directory(&facts(&stat)).map_err(|reason| unsafe_at(Path::new("/"), reason))?;
    Ok(descriptor)
}

fn look(directory: BorrowedFd<'_>, name: &OsStr, here: &Path) -> Result<(OwnedFd, Stat), NotOpened> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor = openat(directory, name, flags, Mode::empty()).map_err(|e| refused(here, e))?;
    let stat = fstat(&descriptor).map_err(|e| refused(here, e))?;
    Ok((descriptor, stat))
}

/// The names of a path, last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// What the file that a path leads to says of itself; `None` when it cannot be had.
pub(super) fn facts_of(path: &Path) -> Option<Facts> {
    rustix::fs::stat(path).ok().map(|stat| facts(&stat))
}

fn facts(stat: &Stat) -> Facts {
    Facts { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
}

fn unsafe_at(path: &Path, reason: impl Into<String>) -> NotOpened {
    NotOpened::Unsafe { path: path.to_owned(), reason: reason.into() }
}

fn refused(path: &Path, errno: Errno) -> NotOpened {
    match errno {
        Errno::NOENT => NotOpened::Missing(path.to_owned()),
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => {
            NotOpened::Shortage { path: path.to_owned(), reason: errno.to_string() }
        }
        other => NotOpened::Refused { path: path.to_owned(), reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    struct Room {
        /// Held so that it is removed at the end.
        _directory: tempfile::TempDir,
        path: PathBuf,
        caller: Caller,
    }

    impl Room {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().canonicalize().unwrap();
            let room = Self { _directory: directory, path, caller: Caller::current() };
            room.file("file", 0o600);
            room
        }

        fn at(&self, name: &str) -> PathBuf {
            self.path.join(name)
        }

        fn file(&self, name: &str, mode: u32) -> PathBuf {
            write(self.at(name), b"text\n").unwrap();
            self.mode(name, mode)
        }

        fn directory(&self, name: &str, mode: u32) -> PathBuf {
            create_dir(self.at(name)).unwrap();
            self.mode(name, mode)
        }

        fn mode(&self, name: &str, mode: u32) -> PathBuf {
            set_permissions(self.at(name), Permissions::from_mode(mode)).unwrap();
            self.at(name)
        }

        fn read(&self, name: &str, kind: Kind) -> Result<Vec<u8>, String> {
            read(&self.at(name), kind, &self.caller)
                .map(|read| read.bytes.to_vec())
                .map_err(|e| e.to_string())
        }

        fn refusal(&self, name: &str, kind: Kind) -> String {
            self.read(name, kind).unwrap_err().replace(self.path.to_str().unwrap(), "")
        }
    }

    #[test]
    fn plain_files_are_read_whole_directly_and_through_links() {
        let room = Room::new();
        room.directory("sub", 0o755);
        symlink("file", room.at("link")).unwrap();
        symlink(room.at("link"), room.at("sub/absolute")).unwrap();
        symlink("../sub/../link", room.at("sub/relative")).unwrap();
        for name in ["file", "link", "sub/absolute", "sub/relative", "sub/../file", "./file"] {
            assert_eq!(room.read(name, Kind::Secret).as_deref(), Ok(&b"text\n"[..]), "{name}");
        }
        write(room.at("file"), b"").unwrap();
        assert_eq!(room.read("file", Kind::Policy).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn i1_fail_closed_on_whatever_is_no_safe_regular_file() {
        let room = Room::new();
        room.file("shared", 0o664);
        room.file("readable", 0o644);
        room.directory("open", 0o777);
        room.file("open/file", 0o600);
        symlink("../file", room.at("open/link")).unwrap();
        symlink("open/link", room.at("far")).unwrap();
        symlink("loop", room.at("loop")).unwrap();
        symlink("nowhere", room.at("dangling")).unwrap();
        rustix::fs::mknodat(CWD, room.at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for (name, kind, reason) in [
            (
                "shared",
                Kind::Policy,
                "`/shared` is writable by its group or by others (mode 0664): `chmod go-w` it",
            ),
            (
                "readable",
                Kind::Secret,
                "`/readable` is readable by its group or by others (mode 0644): `chmod 600` it, or make it root's with mode 0640 and this process's group",
            ),
            (
                "open/file",
                Kind::Policy,
                "`/open` is a directory that others may write in (mode 0777): `chmod go-w` it",
            ),
            (
                "open/link",
                Kind::Policy,
                "`/open` is a directory that others may write in (mode 0777): `chmod go-w` it",
            ),
            (
                "far",
                Kind::Policy,
                "`/open` is a directory that others may write in (mode 0777): `chmod go-w` it",
            ),
            ("loop", Kind::Policy, "`/loop` leads through too many symbolic links"),
            ("dangling", Kind::Policy, "`/nowhere` does not exist"),
            ("none/file", Kind::Policy, "`/none` does not exist"),
            ("file/file", Kind::Policy, "`/file` is not a directory"),
            ("pipe", Kind::Policy, "`/pipe` is not a regular file"),
            (
                "open",
                Kind::Policy,
                "`/open` is a directory that others may write in (mode 0777): `chmod go-w` it",
            ),
            (".", Kind::Policy, "`` is a directory, not a file"),
        ] {
            assert_eq!(room.refusal(name, kind), reason, "{name}");
        }
        assert!(room.read("readable", Kind::Certificates).is_ok());
        room.mode("open", 0o1777);
        assert!(room.read("far", Kind::Policy).is_ok(), "a sticky directory is fine");
        let relative = read(Path::new("file"), Kind::Policy, &room.caller).unwrap_err();
        assert_eq!(relative.to_string(), "`file` is not an absolute path");
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused_links_included() {
        let mut room = Room::new();
        symlink("file", room.at("link")).unwrap();
        if room.caller.uid == 0 {
            // Root's own files are everybody's to trust: only root can make some that are not.
            for name in ["file", "link"] {
                rustix::fs::chownat(
                    CWD,
                    room.at(name),
                    Some(rustix::fs::Uid::from_raw(4242)),
                    None,
                    rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
                )
                .unwrap();
            }
            assert!(room.refusal("file", Kind::Policy).starts_with("`/file` belongs to uid 4242"));
            chown(room.at("file"), Some(0), None).unwrap();
            assert!(room.read("file", Kind::Policy).is_ok());
            assert!(room.refusal("link", Kind::Policy).starts_with("`/link` belongs to uid 4242"));
        } else {
            room.caller.uid += 1;
            assert!(room.refusal("file", Kind::Policy).contains("belongs to uid"));
        }
    }

    #[test]
    fn i7_nothing_unbounded_is_read() {
        let room = Room::new();
        for (kind, limit) in [(Kind::Secret, 64 << 10), (Kind::Policy, 1 << 20)] {
            write(room.at("file"), vec![b'x'; limit]).unwrap();
            assert_eq!(room.read("file", kind).map(|bytes| bytes.len()), Ok(limit));
            write(room.at("file"), vec![b'x'; limit + 1]).unwrap();
            assert_eq!(room.refusal("file", kind), format!("`/file` is larger than {limit} bytes"));
        }
    }

    #[test]
    fn programs_are_checked_like_policy_files_and_must_be_executable() {
        let room = Room::new();
        room.file("program", 0o755);
        symlink("program", room.at("link")).unwrap();
        let resolved = resolve_program(&room.at("link"), &room.caller);
        assert_eq!(resolved, Ok(room.at("program")));
        assert_eq!(check_program(&room.at("program")), Ok(()));
        assert_eq!(check_program(&room.at("none")), Err(ProgramProblem::Missing));
        for (mode, reason) in [(0o644, "is not executable"), (0o775, "is writable by its group")] {
            room.mode("program", mode);
            let Err(ProgramProblem::Unsafe { reason: said }) = check_program(&room.at("link")) else {
                panic!("mode {mode:o} was not refused");
            };
            assert!(said.contains(reason), "{said}");
        }
        assert!(matches!(check_program(&room.path), Err(ProgramProblem::Unsafe { .. })));
        assert!(matches!(check_program(Path::new("program")), Err(ProgramProblem::Unsafe { .. })));
    }

    #[test]
    fn directories_are_told_private_from_shared() {
        let room = Room::new();
        let check = |path: &Path| directory(path, &room.caller).map(|found| (found.canonical, found.shared));
        assert_eq!(check(&room.path), Ok((room.path.clone(), false)));
        assert_eq!(check(Path::new("/")), Ok(("/".into(), false)));
        room.directory("sub", 0o755);
        assert_eq!(check(&room.at("sub/..")), Ok((room.path.clone(), false)));
        let shared = room.directory("shared", 0o1777);
        assert_eq!(check(&shared), Ok((shared.clone(), true)));
        room.mode("shared", 0o777);
        assert!(check(&shared).is_err());
        assert!(check(&room.at("file")).is_err());
        assert!(check(&room.at("none")).is_err());
    }
}
