//! What a command is held to by the kernel: resource limits, another user, Landlock.
//!
//! Prepared before the fork, where files are opened and what cannot be enforced is refused; applied in the child, which
//! has one thread. Whatever is taken away is looked at again afterwards, and cannot be taken back.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::process::{Gid, Resource, Rlimit, Uid, getegid, geteuid, getgid, getgroups, getuid, setrlimit};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::shortage::{self, NotStarted};
use crate::audit::{Enforced, Landlock};
use crate::policy::restrictions::{Account, ResourceLimits, Restrictions, Writable};

/// The first version of Landlock that holds every way to change a file's content or name (Linux 6.2).
const ALL_WRITING: ABI = ABI::V3;
/// What programs expect to be able to write, and nobody can keep anything in.
const ALWAYS_WRITABLE: &str = "/dev/null";

/// Ready to be applied in the child.
pub(super) struct Rights {
    limits: ResourceLimits,
    account: Option<Account>,
    /// Taken when it is applied.
    confinement: Option<RulesetCreated>,
}

/// Why a command cannot be held to what its route says.
#[derive(Debug, thiserror::Error)]
pub enum Unenforceable {
    #[error("this worker cannot become the user `{0}`")]
    User(String),
    #[error(
        "`writable` is not started without: {0}; Linux from 6.2 with Landlock can, and `writable_best_effort = true` does with less"
    )]
    Landlock(#[from] RulesetError),
    #[error("`{path}` of `writable` cannot be opened: {source}")]
    Path { path: String, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Rights {
    pub(super) fn prepare(restrictions: &Restrictions) -> Result<Self, Unenforceable> {
        let Restrictions { user, limits, writable } = restrictions;
        let account = match user {
            None => None,
            Some(user) => match &user.account {
                // Only root changes users; to be who one is already needs no change.
                Some(account) if geteuid().is_root() => Some(account.clone()),
                Some(account) if account.uid == geteuid().as_raw() => None,
                Some(_) | None => return Err(Unenforceable::User(user.name.clone())),
            },
        };
        let confinement = writable.as_ref().map(confinement).transpose()?;
        Ok(Self { limits: *limits, account, confinement })
    }

    /// Soft and hard alike.
    pub(super) fn limit(&self) -> io::Result<()> {
        let ResourceLimits { processes, memory, files, cpu } = self.limits;
        for (resource, limit) in [
            (Resource::Nproc, processes),
            (Resource::As, memory),
            (Resource::Nofile, files),
            (Resource::Cpu, cpu),
        ] {
            if limit.is_some() {
                setrlimit(resource, Rlimit { current: limit, maximum: limit })?;
            }
        }
        Ok(())
    }

    /// Groups, group, user, in this order: each is the right to change the one before.
    pub(super) fn change_user(&self) -> io::Result<()> {
        let Some(account) = &self.account else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        let mut now = getgroups()?;
        now.sort_unstable_by_key(|group| group.as_raw());
        let mut asked = groups;
        asked.sort_unstable_by_key(|group| group.as_raw());
        let is_changed = (getuid(), geteuid(), getgid(), getegid()) == (uid, uid, gid, gid) && now == asked;
        let root = (Uid::ROOT, Gid::ROOT);
        let is_final = uid.is_root()
            || (set_thread_res_uid(root.0, root.0, root.0).is_err()
                && (gid.is_root() || set_thread_res_gid(root.1, root.1, root.1).is_err())
                && set_thread_groups(&[root.1]).is_err());
        if is_changed && is_final { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    /// Also sets `no_new_privs`, which is set before in any case.
    pub(super) fn confine(&mut self) -> io::Result<()> {
        match self.confinement.take() {
            Some(confinement) => confinement.restrict_self().map(drop).map_err(io::Error::other),
            None => Ok(()),
        }
    }
}

fn confinement(writable: &Writable) -> Result<RulesetCreated, Unenforceable> {
    let level = if writable.best_effort { CompatLevel::BestEffort } else { CompatLevel::HardRequirement };
    let mut ruleset = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_write(ALL_WRITING))?
        .create()?;
    for path in writable.paths.iter().map(AsRef::as_ref).chain([Path::new(ALWAYS_WRITABLE)]) {
        let unusable = |source| Unenforceable::Path { path: path.display().to_string(), source };
        let is_directory = path.metadata().map_err(|error| unusable(error.into()))?.is_dir();
        let descriptor = PathFd::new(path).map_err(|error| unusable(error.into()))?;
        let all = AccessFs::from_write(ALL_WRITING);
        let access = if is_directory { all } else { all & AccessFs::from_file(ALL_WRITING) };
        ruleset = ruleset.add_rule(PathBeneath::new(descriptor, access))?;
    }
    Ok(ruleset)
}

/// Whether every path of `writable` is there, asked before a start is on record, on a thread that may wait for a slow file
/// system.
///
/// # Errors
/// The first that is not, as a sentence, or that cannot be looked at now.
pub(super) async fn all_there(writable: &Writable) -> Result<(), NotStarted> {
    let paths = writable.paths.clone();
    let looked = tokio::task::spawn_blocking(move || {
        paths.iter().try_for_each(|path| {
            let looked = path.metadata();
            let what = format!("`{}` of `writable` cannot be opened", path.display());
            looked.map(drop).map_err(|error| NotStarted::by(&what, &error))
        })
    });
    let broken = |error| NotStarted::because(format!("`writable` could not be looked at: {error}"));
    looked.await.unwrap_or_else(|error| Err(broken(error)))
}

/// How far this kernel holds commands to `writable`, where each is held as far as it can be.
///
/// # Errors
/// When there was no room to find out.
pub(super) fn landlock() -> Result<Landlock, NotStarted> {
    static KERNELS: OnceLock<Landlock> = OnceLock::new();
    if let Some(known) = KERNELS.get() {
        return Ok(*known);
    }
    let nowhere = Writable { paths: Vec::new(), best_effort: true };
    // The kernel tells as it does it: a thread of its own is held, and ends.
    let held = std::thread::Builder::new()
        .name("landlock".into())
        .spawn(move || Ok(confinement(&nowhere)?.restrict_self()?))
        .map_err(|error| NotStarted::by("`writable` cannot be looked into", &error))?
        .join()
        .map_err(|_| NotStarted::because("`writable` cannot be looked into"))?;
    let status = held.map_err(|error: Unenforceable| NotStarted {
        is_shortage: shortage::is_behind(&error),
        reason: error.to_string(),
    })?;
    let enforced = match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partially,
        RulesetStatus::NotEnforced => Enforced::Not,
    };
    let abi = match status.landlock {
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
        LandlockStatus::Available { effective_abi, kernel_abi } => kernel_abi.unwrap_or(effective_abi as i32),
    };
    Ok(*KERNELS.get_or_init(|| Landlock { enforced, abi: abi.unsigned_abs() }))
}
