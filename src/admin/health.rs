//! Whether the gateway lives, whether it can accept jobs, and how far its audit log goes.
//!
//! Readiness is found out by doing what accepting a job needs, not remembered from the last time that it worked.

use axum::http::StatusCode;
use serde::Serialize;

use super::answer::Answer;
use super::{Desk, Jobs};

#[derive(Serialize)]
struct Health {
    state: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    /// What is wrong although jobs can be accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alarms: Vec<Alarm>,
}

#[derive(Serialize)]
struct Alarm {
    alarm: String,
    reason: String,
}

#[derive(Serialize)]
struct Head {
    seq: u64,
    sha256: String,
}

pub(super) fn healthy() -> Answer {
    Answer::ok(&Health { state: "alive", problems: Vec::new(), alarms: Vec::new() })
}

impl<R> Desk<R> {
    /// Why no job can be accepted.
    pub(super) async fn problems(&self) -> Vec<String> {
        let stored = async {
            match &self.jobs {
                Jobs::Here(kept) => kept.store.writable().await,
                Jobs::Elsewhere(workers) => workers.ready().await,
            }
        };
        let (queue, audit) = tokio::join!(stored, self.recorder.writable());
        let mut problems = Vec::new();
        problems.extend(queue.err().map(|error| error.to_string()));
        problems.extend(audit.err().map(|error| error.to_string()));
        if self.stopping.is_cancelled() {
            problems.push("the gateway is stopping".into());
        }
        problems
    }

    pub(super) async fn ready(&self) -> Answer {
        let problems = self.problems().await;
        let alarms = self.recorder.alarms().into_iter();
        let alarms = alarms.map(|(alarm, reason)| Alarm { alarm: alarm.to_string(), reason }).collect();
        if problems.is_empty() {
            return Answer::ok(&Health { state: "ready", problems, alarms });
        }
        Answer::json(StatusCode::SERVICE_UNAVAILABLE, &Health { state: "not ready", problems, alarms })
    }

    pub(super) fn audit_head(&self) -> Answer {
        let head = self.recorder.head();
        Answer::ok(&Head { seq: head.seq, sha256: head.hex() })
    }
}
