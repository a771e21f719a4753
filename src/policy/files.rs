//! Where a policy's other files come from: the disk with all its checks, or memory for tests and fuzzing.
//!
//! Also says what the process that reads is for, because a part of a gateway looks only at what it uses.
//! The one way by which compiling a policy reaches outside its own text.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::opening::{self, Contents, Kind, NotOpened, ProgramProblem, Stamp};
use super::restrictions::Account;
use super::rights::{Caller, Facts};

/// Which process a policy is read for: what it does not use, it does not look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A gate with its workers, or whoever wants to know all about a policy.
    Whole,
    /// A gate alone: it keeps no jobs and runs none.
    Gate,
    /// Workers alone: they hold no certificate and verify no signature.
    Work,
    /// An operator's command, which asks where a gateway is reached and nothing else.
    Operate,
}

impl Purpose {
    /// Whether requests come in.
    pub(super) const fn listens(self) -> bool {
        match self {
            Self::Whole | Self::Gate => true,
            Self::Work | Self::Operate => false,
        }
    }

    /// Whether jobs are kept and run.
    pub(super) const fn works(self) -> bool {
        match self {
            Self::Whole | Self::Work => true,
            Self::Gate | Self::Operate => false,
        }
    }
}

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As the policy names it.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its own group.
    pub gid: u32,
}

/// Certificates, secrets and programs that a policy names.
#[derive(Clone, Debug)]
pub enum Files {
    /// The disk, as seen by this process.
    Disk(Caller),
    /// These files and programs, by absolute path, and no others; every directory exists.
    Memory(BTreeMap<PathBuf, Vec<u8>>),
    /// The same files, for a process that uses only a part of them.
    For(Purpose, Box<Files>),
}

impl Files {
    /// The disk, as seen by the running process.
    #[must_use]
    pub fn disk() -> Self {
        Self::Disk(Caller::current())
    }

    /// What the process that reads is for.
    pub(super) fn purpose(&self) -> Purpose {
        match self {
            Self::Disk(_) | Self::Memory(_) => Purpose::Whole,
            Self::For(purpose, _) => *purpose,
        }
    }

    /// The user of this name; `None` when there is none. In memory there are `root` and `nobody`.
    pub(super) fn user(&self, name: &str) -> Result<Option<User>, std::io::Error> {
        let numbers = match self {
            Self::For(_, files) => return files.user(name),
            Self::Disk(_) => {
                nix::unistd::User::from_name(name)?.map(|user| (user.uid.as_raw(), user.gid.as_raw()))
            }
            Self::Memory(_) => [("root", 0), ("nobody", 65534)]
                .into_iter()
                .find_map(|(known, number)| (known == name).then_some((number, number))),
        };
        Ok(numbers.map(|(uid, gid)| User { name: name.to_owned(), uid, gid }))
    }

    /// The numbers of the user of this name, with all its groups; `None` when there is none.
    pub(super) fn account(&self, name: &str) -> Result<Option<Account>, std::io::Error> {
        let Some(User { uid, gid, .. }) = self.user(name)? else { return Ok(None) };
        let groups = match self {
            Self::For(_, files) => return files.account(name),
            Self::Disk(_) => {
                let name = CString::new(name)?;
                let groups = nix::unistd::getgrouplist(&name, nix::unistd::Gid::from_raw(gid))?;
                groups.into_iter().map(nix::unistd::Gid::as_raw).collect()
            }
            Self::Memory(_) => vec![gid],
        };
        Ok(Some(Account { uid, gid, groups }))
    }

    /// Whether the process that reads can become any user. In memory it can.
    pub(super) fn is_root(&self) -> bool {
        match self {
            Self::For(_, files) => files.is_root(),
            Self::Disk(caller) => caller.uid == 0,
            Self::Memory(_) => true,
        }
    }

    /// The user of the process that reads. In memory there is none.
    pub(super) fn own_uid(&self) -> Option<u32> {
        match self {
            Self::For(_, files) => files.own_uid(),
            Self::Disk(caller) => Some(caller.uid),
            Self::Memory(_) => None,
        }
    }

    /// Who may read a file. In memory files have no owners.
    pub(super) fn facts(&self, path: &Path) -> Option<Facts> {
        match self {
            Self::For(_, files) => files.facts(path),
            Self::Disk(_) => opening::facts_of(path),
            Self::Memory(_) => None,
        }
    }

    /// Whether the process that reads can become that user, or is it.
    pub(super) fn may_become(&self, account: &Account) -> bool {
        match self {
            Self::For(_, files) => files.may_become(account),
            Self::Disk(caller) => caller.uid == 0 || caller.uid == account.uid,
            Self::Memory(_) => true,
        }
    }

    pub(super) fn read(&self, path: &Path, kind: Kind) -> Result<Contents, NotOpened> {
        match self {
            Self::For(_, files) => files.read(path, kind),
            Self::Disk(caller) => opening::read(path, kind, caller),
            Self::Memory(files) => match files.get(path) {
                Some(bytes) => Ok(Contents {
                    bytes: Zeroizing::new(bytes.clone()),
                    modified: Timestamp::MAX,
                    stamp: Stamp::default(),
                }),
                None => Err(NotOpened::Missing(path.to_owned())),
            },
        }
    }

    /// Whether a file may be created at `path`: where that is after all symbolic links and `..` on the way, and whether
    /// strangers may write in its directory, too.
    pub(super) fn may_be_created(&self, path: &Path) -> Result<(PathBuf, Surroundings), NotOpened> {
        let caller = match self {
            Self::For(Purpose::Operate, _) => return Ok((path.to_owned(), Surroundings::Private)),
            Self::For(Purpose::Whole | Purpose::Gate | Purpose::Work, files) => {
                return files.may_be_created(path);
            }
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

    /// Whether `path` is a directory that commands can start in, as for programs; whoever may write there is the operator's to say.
    pub(super) fn directory(&self, path: &Path) -> Result<bool, std::io::Error> {
        match self {
            Self::For(Purpose::Gate | Purpose::Operate, _) => Ok(true),
            Self::For(Purpose::Whole | Purpose::Work, files) => files.directory(path),
            Self::Disk(_) => match path.metadata() {
                Ok(found) => Ok(found.is_dir()),
                Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(false),
                Err(error) => Err(error),
            },
            Self::Memory(files) => Ok(!files.contains_key(path)),
        }
    }

    /// The program's path after all symbolic links; a gate alone starts none, and need not be able to see it.
    pub(super) fn program(&self, path: &Path) -> Result<PathBuf, ProgramProblem> {
        match self {
            Self::For(Purpose::Gate | Purpose::Operate, _) => Ok(path.to_owned()),
            Self::For(Purpose::Whole | Purpose::Work, files) => files.program(path),
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
