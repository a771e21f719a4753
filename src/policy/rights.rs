//! Who may own, write and read a file that the gateway relies on.
//!
//! Judges numbers only, and touches no file.

use std::path::{Path, PathBuf};

use super::restrictions::Account;

/// Who opens files: the running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub(super) uid: u32,
    /// The effective group and all supplementary ones.
    pub(super) groups: Vec<u32>,
    /// systemd's `$CREDENTIALS_DIRECTORY`, without symbolic links.
    pub(super) credentials: Option<PathBuf>,
}

/// What a file or directory says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub(super) mode: u32,
}

impl Facts {
    /// Whether a user may read what this is said of, or let itself read it, as its owner can.
    pub(super) fn let_read(&self, account: &Account) -> bool {
        let as_member = account.groups.contains(&self.gid);
        let readable = if as_member { 0o040 } else { 0o004 };
        account.uid == 0 || account.uid == self.uid || self.mode & readable != 0
    }
}

/// Whether others may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrecy {
    Public,
    Secret,
}

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

impl Caller {
    /// The running process.
    #[must_use]
    pub fn current() -> Self {
        let mut groups = vec![rustix::process::getegid().as_raw()];
        groups.extend(rustix::process::getgroups().unwrap_or_default().iter().map(|group| group.as_raw()));
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self {
            uid: rustix::process::geteuid().as_raw(),
            groups,
            credentials: credentials.filter(|path| path.is_absolute()).and_then(|p| p.canonicalize().ok()),
        }
    }

    pub(super) fn judge_owner(&self, facts: &Facts) -> Result<(), String> {
        if facts.uid == 0 || facts.uid == self.uid {
            return Ok(());
        }
        let Facts { uid, .. } = facts;
        Err(format!("belongs to uid {uid}: `chown` it to root or to the running user (uid {})", self.uid))
    }

    /// A directory in which others may write is safe when it is sticky: they can add to it, but not replace.
    pub(super) fn judge_directory(&self, facts: &Facts) -> Result<(), String> {
        self.judge_owner(facts)?;
        if facts.mode & WRITABLE_BY_OTHERS != 0 && facts.mode & STICKY == 0 {
            return Err(format!(
                "is a directory that others may write in (mode {:04o}): `chmod go-w` it",
                facts.mode
            ));
        }
        Ok(())
    }

    /// `canonical` is the file's path without symbolic links.
    pub(super) fn judge_file(&self, facts: &Facts, secrecy: Secrecy, canonical: &Path) -> Result<(), String> {
        self.judge_owner(facts)?;
        if facts.mode & WRITABLE_BY_OTHERS != 0 {
            return Err(format!(
                "is writable by its group or by others (mode {:04o}): `chmod go-w` it",
                facts.mode
            ));
        }
        match secrecy {
            Secrecy::Public => Ok(()),
            Secrecy::Secret if facts.mode & 0o077 == 0 => Ok(()),
            Secrecy::Secret if facts.mode & 0o037 == 0 && self.may_share(facts, canonical) => Ok(()),
            Secrecy::Secret => Err(format!(
                "is readable by its group or by others (mode {:04o}): `chmod 600` it, or make it root's with mode 0640 and this process's group",
                facts.mode
            )),
        }
    }

    /// Whether a file that its group may read is as good as one that only its owner may.
    fn may_share(&self, facts: &Facts, canonical: &Path) -> bool {
        let of_root = facts.uid == 0 && self.groups.contains(&facts.gid);
        of_root || self.credentials.as_ref().is_some_and(|directory| canonical.starts_with(directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller { uid: 500, groups: vec![50, 51], credentials: Some("/run/credentials/b.service".into()) }
    }

    #[test]
    fn directories_that_others_can_rearrange_are_refused() {
        for (uid, mode, fine) in [
            (0, 0o755, true),
            (500, 0o700, true),
            (0, 0o1777, true),
            (0, 0o1770, true),
            (0, 0o777, false),
            (500, 0o775, false),
            (500, 0o757, false),
            (501, 0o755, false),
            (501, 0o1777, false),
        ] {
            let facts = Facts { uid, gid: 0, mode };
            assert_eq!(caller().judge_directory(&facts).is_ok(), fine, "{uid} {mode:o}");
        }
    }

    #[test]
    fn root_the_owner_and_whom_the_mode_lets_can_read_a_file() {
        for (uid, groups, mode, can) in [
            (0, &[0][..], 0o000, true),
            (500, &[9], 0o600, true),
            (500, &[9], 0o000, true),
            (501, &[50], 0o640, true),
            (501, &[9, 50], 0o440, true),
            (501, &[50], 0o600, false),
            (501, &[9], 0o640, false),
            (501, &[9], 0o644, true),
            (501, &[50], 0o604, false),
        ] {
            let account = Account { uid, gid: 9, groups: groups.to_vec() };
            let facts = Facts { uid: 500, gid: 50, mode };
            assert_eq!(facts.let_read(&account), can, "{account:?} {mode:o}");
        }
    }

    #[test]
    fn files_that_others_can_write_are_refused_and_secrets_that_they_can_read() {
        let elsewhere = Path::new("/etc/bridgeward/secret");
        let credential = Path::new("/run/credentials/b.service/secret");
        let beside = Path::new("/run/credentials/b.service.x/secret");
        for (path, uid, gid, mode, public, secret) in [
            (elsewhere, 0, 0, 0o600, true, true),
            (elsewhere, 500, 50, 0o400, true, true),
            (elsewhere, 0, 0, 0o644, true, false),
            (elsewhere, 0, 50, 0o640, true, true),
            (elsewhere, 0, 51, 0o440, true, true),
            (elsewhere, 0, 52, 0o640, true, false),
            (elsewhere, 0, 50, 0o650, true, false),
            (elsewhere, 0, 50, 0o644, true, false),
            (elsewhere, 500, 50, 0o640, true, false),
            (elsewhere, 0, 50, 0o660, false, false),
            (elsewhere, 500, 50, 0o602, false, false),
            (elsewhere, 501, 50, 0o600, false, false),
            (credential, 0, 0, 0o440, true, true),
            (credential, 500, 500, 0o440, true, true),
            (credential, 0, 0, 0o444, true, false),
            (credential, 501, 0, 0o440, false, false),
            (beside, 500, 500, 0o440, true, false),
        ] {
            let facts = Facts { uid, gid, mode };
            let judge = |secrecy| caller().judge_file(&facts, secrecy, path).is_ok();
            let verdict = (judge(Secrecy::Public), judge(Secrecy::Secret));
            assert_eq!(verdict, (public, secret), "{} {uid}:{gid} {mode:o}", path.display());
        }
    }
}
