//! The operators' socket: health, metrics, the head of the audit log, and jobs.
//!
//! Small JSON answers over HTTP/1.1 on a Unix socket, for root and the gateway's own user alone; nothing of it is reachable
//! from the network. What changes a job is on record, with the user who asked, before it is done.
//!
//! | | |
//! |---|---|
//! | `GET /healthz` | 200 while the process answers |
//! | `GET /readyz` | 200 when jobs can be accepted, 503 with what is wrong when not |
//! | `GET /metrics` | what is counted, in the text form of `OpenMetrics` |
//! | `GET /audit/head` | number and SHA-256 of the last line of the audit log |
//! | `GET /jobs?state=&route=&before=&limit=` | jobs, the newest first |
//! | `GET /jobs/<id>` | one job, also by the beginning of its id, with everyone who submitted it, and why it stands where it does |
//! | `GET /jobs/<id>/output` | what its steps wrote, and nothing else |
//! | `POST /jobs/<id>/cancel` | 200 when it waited, 202 when its worker was told, 409 when it has ended |
//! | `POST /jobs/<id>/retry` | 201 and the new job |
//! | `POST /reload` | 200 and what is in force now, 422 with what is wrong |

use axum::http::{Method, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::audit::Recorder;
use crate::clock::Clock;
use crate::domain::job::{JobId, JobPrefix};
use crate::queue::operate::Repeat;
use crate::queue::socket::SocketIntake;
use crate::queue::sqlite::Store;

mod answer;
mod health;
pub mod jobs;
mod metrics;
mod reload;
pub mod socket;

use answer::Answer;
pub use metrics::Metrics;
pub use reload::{Reload, Reloaded};

/// What the socket speaks of.
pub struct Desk<R> {
    /// Where the jobs are.
    pub jobs: Jobs<R>,
    /// Where what operators do is written down.
    pub recorder: Recorder,
    /// When a repeated job is made.
    pub clock: Clock,
    /// Cancelled when the gateway is told to stop: it accepts nothing any more.
    pub stopping: CancellationToken,
    /// What loads the policy anew.
    pub reload: Reload,
    /// What is counted.
    pub metrics: Metrics,
}

/// Where the jobs are.
pub enum Jobs<R> {
    /// In this process.
    Here(Kept<R>),
    /// In that of the workers, who have a socket of their own for operators.
    Elsewhere(SocketIntake),
}

/// The jobs of this process.
pub struct Kept<R> {
    /// Where they are.
    pub store: Store,
    /// What makes one once more.
    pub repeat: R,
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Caller {
    uid: u32,
}

/// What a request asks for. None of them needs a body.
enum Asked {
    Health,
    Readiness,
    Metrics,
    AuditHead,
    Jobs(Wish),
    Reload,
}

/// What a request about jobs asks for.
enum Wish {
    List,
    Show(JobPrefix),
    Output(JobId),
    Cancel(JobId),
    Retry(JobId),
}

impl Asked {
    fn parse(method: &Method, path: &str) -> Result<Self, Answer> {
        let nothing = || Answer::error(StatusCode::NOT_FOUND, "there is nothing under this path");
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let (allowed, asked) = match segments.as_slice() {
            ["healthz"] => (Method::GET, Self::Health),
            ["readyz"] => (Method::GET, Self::Readiness),
            ["metrics"] => (Method::GET, Self::Metrics),
            ["audit", "head"] => (Method::GET, Self::AuditHead),
            ["jobs"] => (Method::GET, Self::Jobs(Wish::List)),
            ["jobs", id] => (Method::GET, Self::Jobs(Wish::Show(prefix(id)?))),
            ["jobs", id, "output"] => (Method::GET, Self::Jobs(Wish::Output(job(id)?))),
            ["jobs", id, "cancel"] => (Method::POST, Self::Jobs(Wish::Cancel(job(id)?))),
            ["jobs", id, "retry"] => (Method::POST, Self::Jobs(Wish::Retry(job(id)?))),
            ["reload"] => (Method::POST, Self::Reload),
            [..] => return Err(nothing()),
        };
        if *method == allowed {
            Ok(asked)
        } else {
            Err(Answer::error(StatusCode::METHOD_NOT_ALLOWED, format!("this takes {allowed}")))
        }
    }
}

fn prefix(id: &str) -> Result<JobPrefix, Answer> {
    JobPrefix::parse(id).map_err(|error| Answer::error(StatusCode::BAD_REQUEST, error))
}

fn job(id: &str) -> Result<JobId, Answer> {
    JobId::parse(id).map_err(|error| Answer::error(StatusCode::BAD_REQUEST, error))
}

impl<R: Repeat> Desk<R> {
    async fn answer(&self, caller: Caller, method: &Method, path: &str, query: &str) -> Answer {
        match Asked::parse(method, path) {
            Err(answer) => answer,
            Ok(Asked::Health) => health::healthy(),
            Ok(Asked::Readiness) => self.ready().await,
            Ok(Asked::Metrics) => self.metrics().await,
            Ok(Asked::AuditHead) => self.audit_head(),
            Ok(Asked::Jobs(wish)) => match (&self.jobs, wish) {
                (Jobs::Here(kept), Wish::List) => kept.list(query).await,
                (Jobs::Here(kept), Wish::Show(prefix)) => kept.show(&prefix).await,
                (Jobs::Here(kept), Wish::Output(job)) => kept.output(job).await,
                (Jobs::Here(kept), Wish::Cancel(job)) => self.cancel(kept, caller, job).await,
                (Jobs::Here(kept), Wish::Retry(job)) => self.retry(kept, caller, job).await,
                (Jobs::Elsewhere(_), _) => {
                    let why = "this gate keeps no jobs: ask its workers, at `admin.work_socket`";
                    Answer::error(StatusCode::CONFLICT, why)
                }
            },
            Ok(Asked::Reload) => self.reload(caller).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_described_is_answered() {
        let id = JobId::new(jiff::Timestamp::UNIX_EPOCH);
        let status = |method: &Method, path: &str| {
            Asked::parse(method, path).err().map(|answer| answer.status.as_u16())
        };
        for path in [
            "/healthz",
            "/readyz",
            "/metrics",
            "/audit/head",
            "/jobs",
            &format!("/jobs/{id}"),
            &format!("/jobs/{id}/output"),
        ] {
            assert_eq!(status(&Method::GET, path), None, "{path}");
            assert_eq!(status(&Method::POST, path), Some(405), "{path}");
        }
        for path in [format!("/jobs/{id}/cancel"), format!("/jobs/{id}/retry"), "/reload".to_owned()] {
            assert_eq!(status(&Method::POST, &path), None, "{path}");
            for method in [Method::GET, Method::HEAD, Method::DELETE] {
                assert_eq!(status(&method, &path), Some(405), "{path}");
            }
        }
        for path in ["", "/", "/job", "/jobs/", "//jobs", "/healthz/", &format!("/jobs/{id}/steps")] {
            assert!(matches!(status(&Method::GET, path), Some(400 | 404)), "{path}");
        }
        assert_eq!(status(&Method::GET, "/jobs/1"), Some(400));
    }
}
