//! What goes back: the wall, and everything that is not the wall.
//!
//! The only place that writes a status. Nothing here decides anything, and no answer repeats a value that was sent.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::rejection::{Flood, Notice, Rejection};
use crate::domain::job::{JobId, JobView, State};
use crate::queue::{How, Submitted};

/// The wall's body.
pub const WALL: &str = "You shall not pass!";
/// When to try again, where nothing better is known.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// When to try again after the bodies of all requests were too large together.
const BODIES_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What an accepted or answered request is told.
#[derive(Debug)]
pub(super) enum Receipt {
    /// Stored, now or before.
    Accepted(Submitted),
    /// The sender waited, and the job has ended.
    Ended(JobView),
    /// The sender asked for its job.
    Status(JobView),
}

#[derive(Serialize)]
struct AcceptedBody {
    job: JobId,
    state: State,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    coalesced: bool,
}

/// The answer to an allowed request of which a condition does not hold.
#[derive(Serialize)]
struct IgnoredBody {
    state: &'static str,
    reason: String,
}

/// Problem details (RFC 9457).
#[derive(Serialize)]
struct Problem {
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<JobId>,
}

/// The answer to a request that was let through.
pub(super) fn receipt(receipt: &Receipt) -> Response<Body> {
    match receipt {
        Receipt::Accepted(Submitted { job, state, how }) => {
            let (duplicate, coalesced) = match how {
                How::Fresh => (false, false),
                How::Duplicate => (true, false),
                How::Coalesced => (false, true),
            };
            let body = AcceptedBody { job: *job, state: *state, duplicate, coalesced };
            let mut response = json(StatusCode::ACCEPTED, "application/json", &body);
            if let Ok(location) = HeaderValue::try_from(format!("/-/jobs/{job}")) {
                response.headers_mut().insert(LOCATION, location);
            }
            response
        }
        Receipt::Ended(view) => json(status_of(view.state), "application/json", view),
        Receipt::Status(view) => json(StatusCode::OK, "application/json", view),
    }
}

/// The answer to a request that was refused.
pub(super) fn rejection(rejection: &Rejection) -> Response<Body> {
    match rejection {
        Rejection::Wall(_) => text(StatusCode::NOT_FOUND, WALL),
        Rejection::Flood(flood) => {
            let retry_after = match flood {
                Flood::Requests { retry_after } => *retry_after,
                Flood::Bodies => BODIES_RETRY_AFTER,
            };
            later(text(StatusCode::TOO_MANY_REQUESTS, "Too many requests"), retry_after)
        }
        Rejection::Told(told) => notice(told.notice()),
    }
}

/// Lets the connection end with this answer.
pub(super) fn and_close(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn notice(notice: &Notice) -> Response<Body> {
    let problem = |status, title, parameter, job| {
        let body = Problem {
            title,
            status: StatusCode::as_u16(&status),
            detail: notice.to_string(),
            parameter,
            job,
        };
        json(status, "application/problem+json", &body)
    };
    match notice {
        Notice::TooOften { retry_after } => {
            later(problem(StatusCode::TOO_MANY_REQUESTS, "Too many requests", None, None), *retry_after)
        }
        Notice::BodyTooLarge { .. } => problem(StatusCode::PAYLOAD_TOO_LARGE, "Body too large", None, None),
        Notice::BodyTooSlow => problem(StatusCode::PAYLOAD_TOO_LARGE, "Body too slow", None, None),
        Notice::BodyBroken
        | Notice::BodyEmpty
        | Notice::BodyNotJson(_)
        | Notice::Field { .. }
        | Notice::MessageId(_) => problem(StatusCode::BAD_REQUEST, "Body not valid", None, None),
        Notice::Ignored { .. } => {
            let body = IgnoredBody { state: "ignored", reason: notice.to_string() };
            json(StatusCode::OK, "application/json", &body)
        }
        Notice::Parameter(invalid) => {
            let parameter = Some(invalid.parameter.to_string());
            problem(StatusCode::BAD_REQUEST, "Parameter not valid", parameter, None)
        }
        Notice::Header(_) => problem(StatusCode::BAD_REQUEST, "Header not valid", None, None),
        Notice::Conflict(job) => {
            problem(StatusCode::CONFLICT, "Message id used for something else", None, Some(*job))
        }
        Notice::Busy { .. } => {
            later(problem(StatusCode::SERVICE_UNAVAILABLE, "Not stored", None, None), TRY_AGAIN_AFTER)
        }
    }
}

/// The status with which a job's end is answered.
fn status_of(state: State) -> StatusCode {
    match state {
        State::Succeeded => StatusCode::OK,
        State::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        State::Failed | State::Interrupted | State::Cancelled | State::Expired | State::Refused => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        // Not an end; whoever asks is told as of an accepted job.
        State::Queued | State::Running => StatusCode::ACCEPTED,
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", Body::from(body))
}

fn json(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response<Body> {
    // None of these types has a map with keys that are not text, which alone could fail.
    respond(status, content_type, Body::from(serde_json::to_vec(body).unwrap_or_default()))
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Adds `Retry-After` (RFC 9110, section 10.2.3), rounded up to whole seconds.
fn later(mut response: Response<Body>, after: Duration) -> Response<Body> {
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::rejection::Why;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn i2_every_wall_is_the_same() {
        let mut seen = Vec::new();
        for why in
            [Why::UnknownPath, Why::WrongMethod, Why::Forgotten, Why::NothingProven("x"), Why::NoSuchJob]
        {
            let (parts, body) = rejection(&Rejection::Wall(why)).into_parts();
            seen.push((parts.status, parts.headers, body.collect().await.unwrap().to_bytes()));
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(seen[0].0, StatusCode::NOT_FOUND);
        assert_eq!(seen[0].2, WALL.as_bytes());
    }

    #[test]
    fn retry_after_is_never_too_early() {
        for (after, expected) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_999, "60")] {
            let response = later(text(StatusCode::TOO_MANY_REQUESTS, ""), Duration::from_millis(after));
            assert_eq!(response.headers()[RETRY_AFTER], expected);
        }
    }
}
