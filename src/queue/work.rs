//! What passes between the store and a worker: claims, and how steps and jobs ended.
//!
//! Values alone; what becomes of them stands in `claim` and `recovery`.

use jiff::Timestamp;

use crate::domain::body::Body;
use crate::domain::identity::{Identity, Proofs};
use crate::domain::job::{Exit, JobId, State};
use crate::domain::name::RouteName;
use crate::domain::parameters::RawParameters;

/// What was done about jobs that a former process left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Waiting again at their old place: never started, or allowed to start again.
    pub requeued: Vec<(JobId, RouteName)>,
    /// Over: they had started.
    pub interrupted: Vec<(JobId, RouteName)>,
}

/// A job that is the caller's to start. It holds its lock until it is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The job.
    pub job: JobId,
    /// The route that it was accepted on.
    pub route: RouteName,
    /// The raw parameters.
    pub parameters: RawParameters,
    /// The body, where it came with one for its commands.
    pub body: Option<Body>,
    /// Who submitted it.
    pub identity: Identity,
    /// What was shown, for the worker's own rules.
    pub proofs: Proofs,
    /// When it was accepted.
    pub submitted: Timestamp,
    /// Which run of it this is, from 1.
    pub attempt: u32,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The final state.
    pub state: State,
    /// Why, where the state alone does not say it.
    pub reason: Option<String>,
    /// The last step, counted from 1, where there was one that is not stored yet: its end is then named by
    /// [`Store::recorded`](super::sqlite::Store::recorded), too.
    pub closing: Option<(usize, StepRecord)>,
}

impl From<State> for End {
    fn from(state: State) -> Self {
        Self { state, reason: None, closing: None }
    }
}

/// How one step of a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// What was executed.
    pub argv: Vec<String>,
    /// How it ended.
    pub exit: Exit,
    /// The output that is kept.
    pub output: Vec<u8>,
    /// How many bytes of output are not kept.
    pub dropped: u64,
}
