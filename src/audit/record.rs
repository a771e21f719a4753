//! What is put on record, field by field.
//!
//! Values only; how a line is written and chained is elsewhere.

use std::net::IpAddr;

use serde::Serialize;

use super::outcome::Refusal;
use crate::domain::anchor::Anchor;
use crate::domain::identity::Identity;
use crate::domain::job::{Exit, JobId, State};
use crate::domain::name::RouteName;
use crate::domain::parameters::RawParameters;
use crate::domain::submission::How;

/// What is put on record.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A request was answered without a job. `route` and `identity` are known only when it was allowed.
    Refused {
        /// Where it came from.
        source: IpAddr,
        /// The method as sent.
        method: String,
        /// The path as sent, cut to a bounded length.
        path: String,
        /// The status of the answer.
        status: u16,
        /// Why, for operators; never shown to the sender of a walled request.
        reason: String,
        /// The same as one of few words, to be counted by.
        #[serde(skip)]
        refusal: Refusal,
        /// The route, once allowed.
        #[serde(skip_serializing_if = "Option::is_none")]
        route: Option<RouteName>,
        /// Who, once allowed.
        #[serde(skip_serializing_if = "Option::is_none")]
        identity: Option<Identity>,
    },
    /// What came over a connection was no well-formed HTTP, so that nothing that followed was read.
    Malformed {
        /// Where it came from.
        source: IpAddr,
        /// What was wrong with it, in one of a few fixed phrases.
        reason: String,
    },
    /// A request passed every guard and is about to be stored.
    Accepted {
        /// The route.
        route: RouteName,
        /// Who.
        identity: Identity,
        /// Which entry of `allow`, from 1.
        rule: usize,
        /// Where it came from.
        source: IpAddr,
        /// The raw parameters.
        parameters: RawParameters,
    },
    /// What an accepted request became.
    Stored {
        /// The route.
        route: RouteName,
        /// Who.
        identity: Identity,
        /// The job.
        job: JobId,
        /// Whether a job was made.
        how: How,
        /// How far the audit log of the workers went, where they are another process.
        #[serde(skip_serializing_if = "Option::is_none")]
        worker: Option<Anchor>,
    },
    /// A gate in another process submits a request that it accepted, this process's policy offers it, and it is about
    /// to be stored.
    Submitted {
        /// The route.
        route: RouteName,
        /// Who, as the gate says.
        identity: Identity,
        /// Where it came from, as the gate says.
        source: IpAddr,
        /// The raw parameters.
        parameters: RawParameters,
        /// How far the gate's own audit log goes, as it says.
        gate: Anchor,
    },
    /// Somebody at the socket for submissions got nothing: not the gate's user, not a question, or not what the policy
    /// offers.
    TurnedAway {
        /// Who: the user that the kernel names at the other end.
        uid: u32,
        /// Why.
        reason: String,
        /// The route that was asked for, where that could be read.
        #[serde(skip_serializing_if = "Option::is_none")]
        route: Option<RouteName>,
        /// Whose request it was said to be.
        #[serde(skip_serializing_if = "Option::is_none")]
        identity: Option<Identity>,
    },
    /// An accepted request could not be stored.
    NotStored {
        /// The route.
        route: RouteName,
        /// Who.
        identity: Identity,
        /// Why.
        reason: String,
    },
    /// A step is about to start.
    Started {
        /// The job.
        job: JobId,
        /// The route.
        route: RouteName,
        /// Whose job it is.
        identity: Identity,
        /// Which entry of `allow` lets it run, from 1.
        rule: usize,
        /// Which step, from 1.
        step: usize,
        /// What is executed.
        argv: Vec<String>,
        /// What ends all that descends from it.
        tree: Keeper,
        /// Of a command that may write below some paths alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        landlock: Option<Landlock>,
    },
    /// A step ended.
    Ended {
        /// The job.
        job: JobId,
        /// The route.
        route: RouteName,
        /// Which step, from 1.
        step: usize,
        /// How it ended.
        exit: Exit,
        /// How many bytes of its output are not kept.
        dropped: u64,
    },
    /// A job reached its final state.
    Finished {
        /// The job.
        job: JobId,
        /// The route.
        route: RouteName,
        /// The final state.
        state: State,
        /// Why, where the state alone does not say it.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A run failed, and its job waits for another one.
    Retried {
        /// The job.
        job: JobId,
        /// The route.
        route: RouteName,
        /// Which run it was, from 1.
        attempt: u32,
        /// How it ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An operator asked for something to be done with a job, and it is about to be done.
    Operated {
        /// Who: the user that the kernel names at the other end of the socket.
        uid: u32,
        /// What.
        act: Act,
        /// The job.
        job: JobId,
        /// The route.
        route: RouteName,
    },
    /// A job was made that repeats an earlier one, as an operator asked.
    Repeated {
        /// Who asked.
        uid: u32,
        /// The new job.
        job: JobId,
        /// The job that it repeats.
        retry_of: JobId,
        /// The route.
        route: RouteName,
        /// Whose job it is: the earlier one's.
        identity: Identity,
    },
    /// A policy is in force from now on.
    Loaded {
        /// Why it was loaded.
        cause: Cause,
        /// Its hash.
        policy: String,
    },
    /// A policy was to be loaded and is not valid; the former one stays in force.
    NotLoaded {
        /// Why it was to be loaded.
        cause: Cause,
        /// What is wrong.
        reason: String,
    },
    /// Files that the policy names have changed, and are used as they are now.
    Renewed {
        /// The hash of the policy, which stays.
        policy: String,
        /// What was changed: `certificate`, `trust`, `secret of key <name>`.
        changed: Vec<String>,
    },
    /// Something is wrong, and stays so until it is mended.
    Alarm {
        /// What.
        alarm: String,
        /// Why.
        reason: String,
    },
    /// It is no more.
    AlarmOver {
        /// What.
        alarm: String,
    },
}

/// What a process tree is ended by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Keeper {
    /// The kernel, with the control group that the command was born in, and a subreaper.
    Cgroup,
    /// A subreaper, as far as it may signal what has gained other rights.
    Subreaper,
}

impl From<Keeper> for &'static str {
    fn from(value: Keeper) -> Self {
        match value {
            Keeper::Cgroup => "cgroup",
            Keeper::Subreaper => "subreaper",
        }
    }
}

/// How the kernel holds a command to the paths that it may write below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Landlock {
    /// How far.
    pub enforced: Enforced,
    /// The version of Landlock that the kernel has, as landlock(7) counts them; 0 where it has none.
    pub abi: u32,
}

/// How much of what was asked for holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Enforced {
    /// All of it.
    Fully,
    /// What this kernel can.
    Partially,
    /// Nothing.
    Not,
}

impl From<Enforced> for &'static str {
    fn from(value: Enforced) -> Self {
        match value {
            Enforced::Fully => "fully",
            Enforced::Partially => "partially",
            Enforced::Not => "not",
        }
    }
}

/// Why a policy is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The process began.
    Start,
    /// SIGHUP.
    Signal,
    /// This user asked for it on the operators' socket.
    Operator(u32),
}

impl Cause {
    /// The word for it, as in the record.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Signal => "signal",
            Self::Operator(_) => "operator",
        }
    }

    /// Who asked.
    pub(super) const fn uid(self) -> Option<u32> {
        match self {
            Self::Start | Self::Signal => None,
            Self::Operator(uid) => Some(uid),
        }
    }
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Act {
    /// That a job does not run, or no further.
    Cancel,
    /// That a job that has ended is made once more.
    Retry,
}

impl From<Act> for &'static str {
    fn from(value: Act) -> Self {
        match value {
            Act::Cancel => "cancel",
            Act::Retry => "retry",
        }
    }
}
