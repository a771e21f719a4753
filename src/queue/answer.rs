//! What workers in another process answer a gate.
//!
//! Says what became of a submission, or how a job stands; reasons are for the gate's operators, never for senders.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::frame::distinct;
use super::question::{One, Shown};
use super::{Found, How, SubmitError, Submitted, Submitter, Unavailable};
use crate::domain::anchor::Anchor;
use crate::domain::identity::{Identity, Proofs};
use crate::domain::job::{JobId, JobView, State};
use crate::domain::name::ParameterName;
use crate::domain::parameters::{RawParameters, Value};

/// What workers answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The job is durable.
    Submitted(Stored),
    /// The message id was used for something else, for this job.
    Conflict(One),
    /// The message is older than what is still remembered.
    Forgotten,
    /// As many jobs wait as may.
    Full,
    /// The workers' policy does not offer it.
    Disagrees(Because),
    /// The job, if there is one.
    Found(Option<Box<Known>>),
    /// A job could be stored.
    Ready,
    /// Nothing was done.
    Unavailable(Because),
}

/// What became of a submission, and how far the workers' audit log goes: it says so there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    job: JobId,
    state: State,
    how: Made,
    head: Anchor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Made {
    Fresh,
    Duplicate,
    Coalesced,
}

/// A reason, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Because {
    /// The reason.
    pub reason: String,
}

/// A job, and whose it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    view: JobView,
    submitters: Vec<Asker>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asker {
    identity: Identity,
    proofs: Shown,
    #[serde(deserialize_with = "distinct")]
    parameters: BTreeMap<ParameterName, Value>,
}

impl Answer {
    /// What is answered to a submission; `head` is how far the workers' audit log goes.
    #[must_use]
    pub fn to_submission(outcome: Result<Submitted, SubmitError>, head: Anchor) -> Self {
        match outcome {
            Ok(Submitted { job, state, how }) => {
                let how = match how {
                    How::Fresh => Made::Fresh,
                    How::Duplicate => Made::Duplicate,
                    How::Coalesced => Made::Coalesced,
                };
                Self::Submitted(Stored { job, state, how, head })
            }
            Err(SubmitError::Conflict(job)) => Self::Conflict(One { job }),
            Err(SubmitError::Forgotten) => Self::Forgotten,
            Err(SubmitError::Full) => Self::Full,
            Err(SubmitError::Disagrees(reason)) => Self::Disagrees(Because { reason }),
            Err(SubmitError::Unavailable(Unavailable(reason))) => Self::Unavailable(Because { reason }),
        }
    }

    /// What is answered to whoever asks for a job.
    #[must_use]
    pub fn of_job(found: Result<Option<Found>, Unavailable>) -> Self {
        match found {
            Ok(found) => Self::Found(found.map(|found| Box::new(found.into()))),
            Err(Unavailable(reason)) => Self::Unavailable(Because { reason }),
        }
    }
}

impl Stored {
    pub(super) fn into_parts(self) -> (Submitted, Anchor) {
        let Self { job, state, how, head } = self;
        let how = match how {
            Made::Fresh => How::Fresh,
            Made::Duplicate => How::Duplicate,
            Made::Coalesced => How::Coalesced,
        };
        (Submitted { job, state, how }, head)
    }
}

impl From<Found> for Known {
    fn from(Found { view, submitters }: Found) -> Self {
        let asker = |Submitter { identity, proofs, parameters }: Submitter| Asker {
            identity,
            proofs: Shown::from(proofs),
            parameters: parameters.0,
        };
        Self { view, submitters: submitters.into_iter().map(asker).collect() }
    }
}

impl From<Known> for Found {
    fn from(Known { view, submitters }: Known) -> Self {
        let submitter = |Asker { identity, proofs, parameters }: Asker| Submitter {
            identity,
            proofs: Proofs::from(proofs),
            parameters: RawParameters(parameters),
        };
        Self { view, submitters: submitters.into_iter().map(submitter).collect() }
    }
}
