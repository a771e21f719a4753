//! Invariant I2, inside: what a stranger makes the gate work does not depend on the path. A real gate, in front of a
//! queue that must not be asked; not part of the program.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::scheme::macs;
use super::{Counters, Parts, router};
use crate::audit::Recorder;
use crate::clock::Clock;
use crate::domain::identity::{Identity, Peer, Shown};
use crate::domain::job::JobId;
use crate::domain::submission::Submission;
use crate::policy::tests::{GATEWAY, ROUTE, compile};
use crate::queue::{Found, Intake, OnRecord, SubmitError, Submitted, Unavailable};

/// A queue that is asked nothing by whoever has proven nothing.
#[derive(Default)]
struct Untouched(Mutex<Vec<JobId>>);

impl Intake for Untouched {
    async fn submit(&self, _: Submission, _: OnRecord) -> Result<Submitted, SubmitError> {
        Err(SubmitError::Full)
    }

    async fn look_up(&self, job: JobId, _: Vec<Identity>) -> Result<Option<Found>, Unavailable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(job);
        Ok(None)
    }

    async fn await_end(&self, job: JobId, _: Duration) -> Result<Option<Found>, Unavailable> {
        self.look_up(job, Vec::new()).await
    }
}

fn gate(directory: &std::path::Path) -> (Router, Arc<Untouched>) {
    let gateway = format!(
        "{GATEWAY}\n[limits]\nrequests_per_source = \"1000000/s\"\nbody = \"1KiB\"\n\
         [keys.many]\nscheme = \"github\"\nsecrets = [\"secrets/other\", \"secrets/third\"]\n"
    );
    let forge = ROUTE.replace("/promote", "/forge").replace("jenkins", "many");
    let policy =
        compile(&gateway, &[("promote", ROUTE), ("forge", &forge)]).map_err(|found| found.to_string());
    let clock = Clock::system();
    let logged = (NonZeroU32::MIN, Duration::from_secs(3600));
    let intake = Arc::new(Untouched::default());
    let policy = Arc::new(policy.unwrap().policy);
    let parts = Parts {
        counters: Counters::of(&policy, None, &clock),
        policy,
        authorities: vec!["localhost".to_owned()],
        trust: None,
        intake: Arc::clone(&intake),
        recorder: Recorder::open(&directory.join("audit.jsonl"), logged, clock.clone()).unwrap(),
        clock,
    };
    (router(parts), intake)
}

#[tokio::test]
async fn i2_every_path_costs_a_stranger_as_many_macs() {
    let directory = tempfile::tempdir().unwrap();
    let (gate, queue) = gate(directory.path());
    let peer = Arc::new(Peer { address: "192.0.2.1:1".parse().unwrap(), shown: Shown::Nothing });
    let native = |key: &str| {
        let covered = r#"("@method" "@authority" "@path" "content-digest")"#;
        let input = format!("sig={covered};created=1700000000;keyid=\"{key}\";nonce=\"n\"");
        let mac = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        vec![
            ("signature-input", input),
            ("signature", format!("sig=:{mac}:")),
            ("content-digest", format!("sha-256=:{mac}:")),
        ]
    };
    let github = ("x-hub-signature-256", format!("sha256={}", "0".repeat(64)));
    let callers: Vec<Vec<(&str, String)>> = vec![
        vec![],
        native("jenkins"),
        native("nobody"),
        vec![("signature", "sig=:AAAA:".to_owned())],
        vec![github.clone()],
        vec![("x-hub-signature-256", "sha256=0".to_owned())],
        [native("jenkins"), vec![github]].concat(),
    ];
    let paths =
        ["/promote", "/forge", "/unknown", "/-/jobs/00000000-0000-7000-8000-000000000000", "/-/jobs/x"];
    let large = "x".repeat(1025);
    for headers in &callers {
        for (method, body) in [("POST", "{}"), ("GET", ""), ("DELETE", "{"), ("POST", &large)] {
            let mut counted = Vec::new();
            for path in paths {
                let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
                for (name, value) in headers {
                    request = request.header(*name, value);
                }
                let request = request.extension(Arc::clone(&peer)).body(Body::from(body.to_owned())).unwrap();
                let before = macs();
                let answer: Result<_, Infallible> = gate.clone().oneshot(request).await;
                let (parts, body) = answer.unwrap().into_parts();
                assert_eq!(
                    (parts.status.as_u16(), &*body.collect().await.unwrap().to_bytes()),
                    (404, super::WALL.as_bytes())
                );
                counted.push(macs() - before);
            }
            assert!(counted[0] > 0, "{method}, {headers:?}: nothing was computed");
            assert!(counted.iter().all(|count| *count == counted[0]), "{method}, {headers:?}: {counted:?}");
        }
    }
    assert!(queue.0.lock().unwrap().is_empty(), "a stranger made the gate look something up");
}
