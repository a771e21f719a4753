//! What commands are held to, besides their time: whose rights they have, how much they may take, where they may write.
//!
//! Values only. Who they are is looked up when the policy is read; the executor, and through it the kernel, enforces.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `user`, `limits` and `writable` of `[run]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restrictions {
    /// Whose rights; without it, those of the worker's own user.
    pub user: Option<RunAs>,
    /// How much each process may take.
    pub limits: ResourceLimits,
    /// Where alone they may write; without it, wherever their user may.
    pub writable: Option<Writable>,
}

/// The user that commands run as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunAs {
    /// As the policy names it.
    pub name: String,
    /// Who that is; `None` when there is no such user, or the policy was read by a process that runs nothing.
    pub account: Option<Account>,
    /// Whether the process that read the policy can become that user.
    pub attainable: bool,
}

/// The numbers of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The user.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    /// All groups that it is in, its own included.
    pub groups: Vec<u32>,
}

/// `limits`; soft and hard alike, so that nobody can raise them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceLimits {
    /// Processes and threads of the user, whoever started them. Does not bind root.
    pub processes: Option<u64>,
    /// Address space of each process, in bytes.
    pub memory: Option<u64>,
    /// Descriptors of each process.
    pub files: Option<u64>,
    /// Processor time of each process, in seconds.
    pub cpu: Option<u64>,
}

/// `writable` and `writable_best_effort`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writable {
    /// Directories, with all below them, and files; may be none. `/dev/null` always is.
    pub paths: Vec<PathBuf>,
    /// Whether commands also run where the kernel can enforce only a part of this, or nothing.
    pub best_effort: bool,
}
