//! Where a policy's other files come from: the disk with all its checks, or memory for tests and fuzzing.
//!
//! The one way by which compiling a policy reaches outside its own text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::opening::{self, Kind, NotOpened, ProgramProblem};
use super::rights::Caller;

/// Certificates, secrets and programs that a policy names.
#[derive(Clone, Debug)]
pub enum Files {
    /// The disk, as seen by this process.
    Disk(Caller),
    /// These files and programs, by absolute path, and no others; every directory exists.
    Memory(BTreeMap<PathBuf, Vec<u8>>),
}

impl Files {
    /// The disk, as seen by the running process.
    #[must_use]
    pub fn disk() -> Self {
        Self::Disk(Caller::current())
    }

    pub(super) fn read(&self, path: &Path, kind: Kind) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        match self {
            Self::Disk(caller) => opening::read(path, kind, caller),
            Self::Memory(files) => match files.get(path) {
                Some(bytes) => Ok(Zeroizing::new(bytes.clone())),
                None => Err(NotOpened::Missing(path.to_owned())),
            },
        }
    }

    /// Whether a file may be created at `path`: where that is after all symbolic links and `..` on the way, and whether
    /// strangers may write in its directory, too.
    pub(super) fn may_be_created(&self, path: &Path) -> Result<(PathBuf, Surroundings), NotOpened> {
        let caller = match self {
            Self::Disk(caller) => caller,
            Self::Memory(_) => return Ok((path.to_owned(), Surroundings::Private)),
        };
        let unusable = |path: &Path, reason: &str| {
            Err(NotOpened::Unsafe { path: path.to_owned(), reason: reason.into() })
        };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return unusable(path, "is not the path of a file");
        };
        let directory = opening::directory(parent, caller)?;
        let path = directory.canonical.join(name);
        if path.is_dir() {
            return unusable(&path, "is a directory, not a file");
        }
        Ok((path, if directory.shared { Surroundings::Shared } else { Surroundings::Private }))
    }

    /// Whether `path` is a directory that commands can start in; whoever may write there is the operator's to say.
    pub(super) fn directory(&self, path: &Path) -> Result<bool, std::io::Error> {
        match self {
            Self::Disk(_) => match path.metadata() {
                Ok(found) => Ok(found.is_dir()),
                Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(false),
                Err(error) => Err(error),
            },
            Self::Memory(files) => Ok(!files.contains_key(path)),
        }
    }

    /// The program's path after all symbolic links.
    pub(super) fn program(&self, path: &Path) -> Result<PathBuf, ProgramProblem> {
        match self {
            Self::Disk(caller) => opening::resolve_program(path, caller),
            Self::Memory(files) if files.contains_key(path) => Ok(path.to_owned()),
            Self::Memory(_) => Err(ProgramProblem::Missing),
        }
    }
}

/// Whether strangers may write in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surroundings {
    Private,
    /// A sticky directory such as `/tmp`.
    Shared,
}
