//! What is known of a job: its id, state, steps and how they ended, in the form that senders are shown.
//!
//! Stores and changes nothing.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::identity::Identity;
use super::name::RouteName;
use super::parameters::RawParameters;

/// A job's id: a UUID of version 7 (RFC 9562), so that ids sort by the time they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Uuid);

/// A text that is not a job's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job's id is a UUID in its 36-character form, in small letters")]
pub struct NotAJobId;

impl JobId {
    /// A new id for a job accepted at `at`.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        let seconds = u64::try_from(at.as_second()).unwrap_or(0);
        let nanos = u32::try_from(at.subsec_nanosecond()).unwrap_or(0);
        Self(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos)))
    }

    /// Reads the form that `Display` writes, and no other.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, NotAJobId> {
        let id = Uuid::try_parse(text).map(Self).map_err(|_| NotAJobId)?;
        if id.to_string() == text { Ok(id) } else { Err(NotAJobId) }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl Serialize for JobId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The beginning of a job's id, as a narrow table shows it, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPrefix(String);

/// A text that is no beginning of a job's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job's id, or its first {LEAST_PREFIX} characters or more, in small letters")]
pub struct NotAJobPrefix;

/// Fewest characters of an id that name a job.
const LEAST_PREFIX: usize = 8;

impl JobPrefix {
    /// Reads the first characters of an id, with or without the ellipsis that stands for the others.
    ///
    /// # Errors
    /// When no id begins so, or there are fewer than eight of them.
    pub fn parse(text: &str) -> Result<Self, NotAJobPrefix> {
        let prefix = Self(text.trim_end_matches('…').to_owned());
        let is_beginning = JobId::parse(&prefix.filled("0")).is_ok();
        if prefix.0.len() >= LEAST_PREFIX && is_beginning { Ok(prefix) } else { Err(NotAJobPrefix) }
    }

    /// The first and the last id that begin so, as texts.
    #[must_use]
    pub fn range(&self) -> (String, String) {
        (self.filled("0"), self.filled("f"))
    }

    fn filled(&self, digit: &str) -> String {
        let rest = "00000000-0000-0000-0000-000000000000".get(self.0.len()..).unwrap_or_default();
        format!("{}{}", self.0, rest.replace('0', digit))
    }
}

impl fmt::Display for JobPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a job stands. All but the first two are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted, not started.
    Queued,
    /// A command of it has been started.
    Running,
    /// Every step exited with 0.
    Succeeded,
    /// A step did not.
    Failed,
    /// The run took longer than the route's `timeout`.
    TimedOut,
    /// Its worker died while it ran.
    Interrupted,
    /// An operator ended it.
    Cancelled,
    /// It waited longer than the route's `expires`.
    Expired,
    /// The worker's policy does not offer what it asks for.
    Refused,
}

impl State {
    /// Every state, in the order of a job's life.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Interrupted,
        Self::Cancelled,
        Self::Expired,
        Self::Refused,
    ];

    /// The word for it, on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }

    /// The state that a word stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether nothing can happen to the job any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded
            | Self::Failed
            | Self::TimedOut
            | Self::Interrupted
            | Self::Cancelled
            | Self::Expired
            | Self::Refused => true,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a step's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It was ended because the run's time was over.
    TimedOut,
}

impl Exit {
    /// Whether the next step may run.
    #[must_use]
    pub const fn is_success(self) -> bool {
        match self {
            Self::Code(code) => code == 0,
            Self::Signal(_) | Self::TimedOut => false,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// One finished step of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was executed.
    pub argv: Vec<String>,
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to standard output and standard error, as UTF-8 with replacement characters.
    pub output: String,
    /// Whether there was more output than the route's `output_limit` keeps.
    pub truncated: bool,
    /// How many bytes of its output are not kept, whether they never were or no longer are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// Whether output that was kept at first no longer is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discarded: bool,
}

/// The step of a job that runs now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningStep {
    /// Which, counted from 1.
    pub step: usize,
    /// What is executed.
    pub argv: Vec<String>,
    /// What it has written so far, as in [`Step`].
    pub output: String,
}

/// A job as its submitter is shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// The job's id.
    pub job: JobId,
    /// The route that it was accepted on.
    pub route: RouteName,
    /// Where it stands.
    pub state: State,
    /// Who submitted it.
    pub identity: Identity,
    /// The raw parameters.
    pub parameters: RawParameters,
    /// When it was accepted (RFC 3339, UTC, microseconds; so are the others).
    #[serde(serialize_with = "micros")]
    pub submitted: Timestamp,
    /// When its first command started.
    #[serde(serialize_with = "micros_if_any")]
    pub started: Option<Timestamp>,
    /// When it reached its final state.
    #[serde(serialize_with = "micros_if_any")]
    pub finished: Option<Timestamp>,
    /// The steps that have ended, in order.
    pub steps: Vec<Step>,
    /// The step that runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningStep>,
    /// The job that an operator repeated by this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<JobId>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// Always with six digits after the point, so that times sort as text.
fn micros<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.6}"))
}

fn micros_if_any<S: serde::Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => micros(at, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_has_one_form() {
        let id = JobId::new(Timestamp::UNIX_EPOCH);
        let text = id.to_string();
        assert_eq!(JobId::parse(&text), Ok(id));
        for bad in [
            text.to_uppercase(),
            text.replace('-', ""),
            format!("{{{text}}}"),
            format!("{text} "),
            String::new(),
        ] {
            assert_eq!(JobId::parse(&bad), Err(NotAJobId), "{bad:?}");
        }
    }

    #[test]
    fn the_beginning_of_an_id_is_read_strictly() {
        let prefix = JobPrefix::parse("01890a5d-ac96-774b…").unwrap();
        assert_eq!(prefix.to_string(), "01890a5d-ac96-774b");
        let first = "01890a5d-ac96-774b-0000-000000000000".to_owned();
        assert_eq!(prefix.range(), (first, "01890a5d-ac96-774b-ffff-ffffffffffff".to_owned()));
        let whole = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(JobPrefix::parse(whole).unwrap().range(), (whole.to_owned(), whole.to_owned()));
        for bad in ["", "0189", "01890A5D", "01890a5dac96", "01890a5d%", &format!("{whole}0")] {
            assert_eq!(JobPrefix::parse(bad), Err(NotAJobPrefix), "{bad:?}");
        }
    }

    #[test]
    fn a_state_has_one_word_everywhere() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
