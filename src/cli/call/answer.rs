//! What a gateway's answer means, for a person and for the exit code.
//! Reads answers, sends nothing.

use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use serde::Deserialize;

use crate::domain::job::{JobId, JobView, State};
use crate::domain::printable::printable;

/// The body of the one answer to everything that is not allowed.
const WALL: &[u8] = b"You shall not pass!";
/// How much of an answer that means nothing here is shown, in characters.
const LONGEST_EXCERPT: usize = 200;

/// An answer, understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// 202: there is a job.
    Accepted(Receipt),
    /// The job itself.
    Job {
        /// Whether the status was 200.
        ok: bool,
        /// How it stands.
        view: Box<JobView>,
    },
    /// 200, but a condition of the route did not hold: nothing runs.
    Ignored(String),
    /// The wall.
    Wall,
    /// 429 or 503: not now. Why, and how long it asks us to wait.
    Busy(StatusCode, String, Option<Duration>),
    /// A problem that the gateway explains.
    Problem(StatusCode, String),
    /// Anything else.
    Other(StatusCode, String),
}

/// The body of a 202, and where it points.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Receipt {
    pub(super) job: JobId,
    pub(super) state: State,
    #[serde(default)]
    pub(super) duplicate: bool,
    #[serde(default)]
    pub(super) coalesced: bool,
    #[serde(skip)]
    pub(super) location: String,
}

#[derive(Deserialize)]
struct Ignored {
    state: String,
    reason: String,
}

#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
}

/// Reads an answer.
pub(super) fn read<B: AsRef<[u8]>>(response: &Response<B>) -> Answer {
    let status = response.status();
    let body = response.body().as_ref();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    if status == StatusCode::NOT_FOUND && (body == WALL || body.is_empty()) {
        return Answer::Wall;
    }
    if status == StatusCode::ACCEPTED
        && let Ok(receipt) = serde_json::from_slice::<Receipt>(body)
    {
        return Answer::Accepted(Receipt { location: header(LOCATION).to_owned(), ..receipt });
    }
    let may_hold_a_job =
        [StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::GATEWAY_TIMEOUT].contains(&status);
    if may_hold_a_job && let Ok(view) = serde_json::from_slice(body) {
        return Answer::Job { ok: status == StatusCode::OK, view: Box::new(view) };
    }
    if status == StatusCode::OK
        && let Ok(Ignored { state, reason }) = serde_json::from_slice(body)
        && state == "ignored"
    {
        return Answer::Ignored(plain(&reason));
    }
    let problem = if header(CONTENT_TYPE).starts_with("application/problem+json") {
        serde_json::from_slice(body).ok()
    } else {
        None
    };
    let problem = problem.map(|Problem { title, detail }| plain(&detail.or(title).unwrap_or_default()));
    let text = || plain(&String::from_utf8_lossy(body));
    if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status) {
        let retry_after = header(RETRY_AFTER).parse().ok().map(Duration::from_secs);
        return Answer::Busy(status, problem.unwrap_or_else(text), retry_after);
    }
    match problem {
        Some(problem) => Answer::Problem(status, problem),
        None => Answer::Other(status, text()),
    }
}

impl Answer {
    /// Whether the exit code is 0: with `wait` when the job succeeded, else when the request was accepted.
    pub(super) fn is_success(&self, wait: bool) -> bool {
        match self {
            Self::Job { view, .. } if wait => view.state == State::Succeeded,
            Self::Job { ok, .. } => *ok,
            Self::Accepted(_) | Self::Ignored(_) => !wait,
            Self::Wall | Self::Busy(..) | Self::Problem(..) | Self::Other(..) => false,
        }
    }
}

/// A stranger's text as one short line that cannot steer a terminal.
fn plain(text: &str) -> String {
    printable(&text.chars().take(LONGEST_EXCERPT).collect::<String>(), false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn answer(status: u16, kind: &str, body: &str) -> Answer {
        let response = Response::builder().status(status).header("content-type", kind);
        read(&response.header("location", format!("/-/jobs/{JOB}")).body(body.to_owned()).unwrap())
    }

    fn view(state: &str) -> String {
        json!({
            "job": JOB, "route": "promote", "state": state, "identity": "key:jenkins", "parameters": {},
            "submitted": "2025-11-22T12:00:00Z", "started": null, "finished": null, "steps": []
        })
        .to_string()
    }

    #[test]
    fn the_exit_code_follows_from_status_and_body() {
        let receipt = format!(r#"{{"job":"{JOB}","state":"queued"}}"#);
        let again = format!(r#"{{"job":"{JOB}","state":"failed","duplicate":true}}"#);
        let json = "application/json";
        for (status, kind, body, accepted, succeeded) in [
            (202, json, &*receipt, true, false),
            (202, json, &again, true, false),
            (200, json, &view("succeeded"), true, true),
            (200, json, &view("failed"), true, false),
            (200, json, &view("running"), true, false),
            (500, json, &view("failed"), false, false),
            (504, json, &view("timed_out"), false, false),
            (200, json, r#"{"state":"ignored","reason":"x"}"#, true, false),
            (404, "text/plain", "You shall not pass!", false, false),
            (404, "text/html", "nginx", false, false),
            (400, "application/problem+json", r#"{"title":"t","detail":"d"}"#, false, false),
            (200, "text/html", "hello", false, false),
            (202, json, "{}", false, false),
            (302, "text/html", "", false, false),
            (503, json, "", false, false),
            (429, "application/problem+json", r#"{"title":"t"}"#, false, false),
        ] {
            let answer = answer(status, kind, body);
            assert_eq!(answer.is_success(false), accepted, "{status} {body}");
            assert_eq!(answer.is_success(true), succeeded, "{status} {body} --wait");
        }
    }

    #[test]
    fn answers_are_told_apart() {
        let Answer::Accepted(receipt) = answer(
            202,
            "application/json",
            &format!(r#"{{"job":"{JOB}","state":"queued","coalesced":true}}"#),
        ) else {
            panic!("no receipt")
        };
        assert!(receipt.coalesced && !receipt.duplicate);
        assert_eq!(receipt.location, format!("/-/jobs/{JOB}"));
        assert_eq!(answer(404, "text/plain", "You shall not pass!"), Answer::Wall);
        assert_eq!(answer(404, "text/plain", ""), Answer::Wall);
        let problem =
            answer(400, "application/problem+json", r#"{"title":"t","detail":"the parameter `x`"}"#);
        assert_eq!(problem, Answer::Problem(StatusCode::BAD_REQUEST, "the parameter `x`".into()));
        let untitled = answer(409, "application/problem+json", r#"{"title":"t"}"#);
        assert_eq!(untitled, Answer::Problem(StatusCode::CONFLICT, "t".into()));
        let busy = |retry_after: Option<&str>| {
            let response = Response::builder().status(503);
            let response = retry_after.into_iter().fold(response, |r, value| r.header(RETRY_AFTER, value));
            read(&response.body("full").unwrap())
        };
        for (retry_after, expected) in [(None, None), (Some("soon"), None), (Some("7"), Some(7))] {
            let expected = expected.map(Duration::from_secs);
            let why = "full".to_owned();
            assert_eq!(busy(retry_after), Answer::Busy(StatusCode::SERVICE_UNAVAILABLE, why, expected));
        }
        assert_eq!(
            answer(500, "text/plain", "a\u{1b}[2Jb"),
            Answer::Other(StatusCode::INTERNAL_SERVER_ERROR, "a\\u{1b}[2Jb".into())
        );
    }
}
