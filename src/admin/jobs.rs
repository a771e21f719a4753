//! Jobs as operators see them, and the two things that they may do: cancel and retry.
//!
//! Each is put on record before it is done. What a retried job may be is the policy's to say, not the operator's.

use std::fmt::Display;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Body};
use super::{Caller, Desk, Kept};
use crate::audit::{Act, Record};
use crate::domain::identity::Identity;
use crate::domain::job::{JobId, JobPrefix, JobView, State};
use crate::domain::name::RouteName;
use crate::queue::operate::{Cancelled, Repeat, RepeatError, Wanted};
use crate::queue::standing::Standing;
use crate::queue::{Found, SubmitError};

/// Jobs on a page, unless the request says otherwise.
const PAGE: usize = 50;

/// A job, and everyone who submitted or joined it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// The job.
    #[serde(flatten)]
    pub view: JobView,
    /// Everyone, the first one included.
    pub submitters: Vec<Identity>,
    /// Why it stands where it does, which senders are not told.
    #[serde(flatten)]
    pub standing: Standing,
}

/// What became of a job that was to be cancelled or repeated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// The job that was cancelled, or the new one.
    pub job: JobId,
    /// Where it stands.
    pub state: State,
    /// The job that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<JobId>,
}

impl<R> Kept<R> {
    pub(super) async fn list(&self, query: &str) -> Answer {
        let wanted = match wanted(query) {
            Ok(wanted) => wanted,
            Err(error) => return Answer::error(StatusCode::BAD_REQUEST, error),
        };
        match self.store.list(wanted).await {
            Ok(Some(page)) => Answer::ok(&page),
            Ok(None) => {
                Answer::error(StatusCode::NOT_FOUND, "there is no job `before`: it may have been purged")
            }
            Err(error) => error.into(),
        }
    }

    pub(super) async fn show(&self, prefix: &JobPrefix) -> Answer {
        let job = match self.store.beginning(prefix).await.as_deref() {
            Ok([job]) => *job,
            Ok([]) => return unknown(prefix),
            Ok([..]) => {
                let why = format!("several jobs begin with {prefix}: give more of the id");
                return Answer::error(StatusCode::CONFLICT, why);
            }
            Err(error) => return error.clone().into(),
        };
        match self.store.inspect(job).await {
            Ok(Some((Found { view, submitters }, standing))) => {
                let submitters = submitters.into_iter().map(|submitter| submitter.identity).collect();
                Answer::ok(&Shown { view, submitters, standing })
            }
            Ok(None) => unknown(job),
            Err(error) => error.into(),
        }
    }

    pub(super) async fn output(&self, job: JobId) -> Answer {
        match self.store.find(job).await {
            Ok(Some(Found { view, .. })) => {
                let output = view.steps.into_iter().map(|step| step.output).collect::<String>();
                Answer { status: StatusCode::OK, body: Body::Bytes(output.into_bytes()) }
            }
            Ok(None) => unknown(job),
            Err(error) => error.into(),
        }
    }
}

impl<R: Repeat> Desk<R> {
    pub(super) async fn cancel(&self, kept: &Kept<R>, caller: Caller, job: JobId) -> Answer {
        let route = match kept.store.find(job).await {
            Ok(Some(Found { view, .. })) if view.state.is_final() => return over(job, view.state),
            Ok(Some(Found { view, .. })) => view.route,
            Ok(None) => return unknown(job),
            Err(error) => return error.into(),
        };
        if let Err(answer) = self.record(caller, Act::Cancel, job, route.clone()).await {
            return answer;
        }
        match kept.store.cancel(job).await {
            Ok(Some(Cancelled::Now)) => {
                let state = State::Cancelled;
                // That it would be done is on record already; that it has ended is the workers' to record, as of every job.
                Answer::ok(&Done { job, state, retry_of: None })
            }
            Ok(Some(Cancelled::Told)) => {
                Answer::json(StatusCode::ACCEPTED, &Done { job, state: State::Running, retry_of: None })
            }
            Ok(Some(Cancelled::Over(state))) => over(job, state),
            Ok(None) => unknown(job),
            Err(error) => error.into(),
        }
    }

    pub(super) async fn retry(&self, kept: &Kept<R>, caller: Caller, job: JobId) -> Answer {
        let (route, identity) = match kept.store.find(job).await {
            Ok(Some(Found { view, .. })) if !view.state.is_final() => {
                return Answer::error(StatusCode::CONFLICT, RepeatError::NotEnded(job, view.state));
            }
            Ok(Some(Found { view, .. })) => (view.route, view.identity),
            Ok(None) => return unknown(job),
            Err(error) => return error.into(),
        };
        if let Err(answer) = self.record(caller, Act::Retry, job, route.clone()).await {
            return answer;
        }
        match kept.repeat.repeat(job, self.clock.now()).await {
            Ok(submitted) => {
                let (new, uid) = (submitted.job, caller.uid);
                self.recorder.note(Record::Repeated { uid, job: new, retry_of: job, route, identity });
                let done = Done { job: new, state: submitted.state, retry_of: Some(job) };
                Answer::json(StatusCode::CREATED, &done)
            }
            Err(error) => {
                let reason = error.to_string();
                self.recorder.note(Record::NotStored { route, identity, reason });
                Answer::error(status(&error), error)
            }
        }
    }

    async fn record(&self, caller: Caller, act: Act, job: JobId, route: RouteName) -> Result<(), Answer> {
        let record = Record::Operated { uid: caller.uid, act, job, route };
        let written = self.recorder.durable(record).await;
        written.map_err(|error| Answer::error(StatusCode::SERVICE_UNAVAILABLE, error))
    }
}

fn unknown(job: impl Display) -> Answer {
    Answer::error(StatusCode::NOT_FOUND, format!("there is no job {job}: it may have been purged"))
}

fn over(job: JobId, state: State) -> Answer {
    Answer::error(StatusCode::CONFLICT, format!("the job {job} has already ended: {state}"))
}

fn status(error: &RepeatError) -> StatusCode {
    match error {
        RepeatError::Unknown(_) => StatusCode::NOT_FOUND,
        RepeatError::NotEnded(..) | RepeatError::NotStored(SubmitError::Disagrees(_)) => StatusCode::CONFLICT,
        RepeatError::NotStored(
            SubmitError::Conflict(_)
            | SubmitError::Forgotten
            | SubmitError::Full
            | SubmitError::Unavailable(_),
        ) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Which jobs a query asks for; each name at most once, and no other name.
fn wanted(query: &str) -> Result<Wanted, String> {
    let mut wanted = Wanted { state: None, route: None, before: None, limit: PAGE };
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if seen.contains(&name) {
            return Err(format!("`{name}` is given twice"));
        }
        match name.as_ref() {
            "state" => {
                let state = State::parse(&value).ok_or_else(|| {
                    let all = State::ALL.map(State::as_str).join(", ");
                    format!("`state`: one of {all}")
                })?;
                wanted.state = Some(state);
            }
            "route" => {
                let route = RouteName::parse(&value).map_err(|error| format!("`route`: {error}"))?;
                wanted.route = Some(route);
            }
            "before" => {
                let before = JobId::parse(&value).map_err(|error| format!("`before`: {error}"))?;
                wanted.before = Some(before);
            }
            "limit" => wanted.limit = value.parse().map_err(|_| "`limit`: a whole number".to_owned())?,
            _ => return Err(format!("`{name}` is none of `state`, `route`, `before` and `limit`")),
        }
        seen.push(name);
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_strictly() {
        let job = JobId::new(jiff::Timestamp::UNIX_EPOCH);
        let all = wanted(&format!("state=failed&route=kick&limit=7&before={job}")).unwrap();
        assert_eq!((all.state, all.limit, all.before), (Some(State::Failed), 7, Some(job)));
        assert_eq!(all.route.unwrap().as_str(), "kick");
        assert_eq!(wanted("").unwrap().limit, PAGE);
        for bad in
            ["state=done", "route=a/b", "before=1", "limit=-1", "limit=x", "states=failed", "limit=1&limit=2"]
        {
            assert!(wanted(bad).is_err(), "{bad}");
        }
        assert!(wanted("state=x").unwrap_err().contains("timed_out"));
    }
}
