//! A real gate in front of a queue that only counts. Each target uses what it needs of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bridgeward::audit::Recorder;
use bridgeward::clock::Clock;
use bridgeward::domain::identity::Identity;
use bridgeward::domain::job::{JobId, State};
use bridgeward::domain::parameters::RawParameters;
use bridgeward::domain::submission::Submission;
use bridgeward::policy::{Files, compile_text};
use bridgeward::queue::{Found, How, Intake, OnRecord, SubmitError, Submitted, Unavailable};
use bridgeward::trust::Trust;
use bridgeward::trust::mint::{Authority, Validity};

const GATEWAY: &str = r#"
[listen]
certificate = "a"
private_key = "b"
client_ca = "c"
revocation = "off"
authorities = ["localhost"]
[queue]
file = "q"
[audit]
file = "l"
[limits]
requests_per_source = "1000000000/s"
requests_per_identity = "1000000000/s"
[keys.jenkins]
scheme = "rfc9421"
secrets = ["s"]
"#;

const ROUTE: &str = r#"
method = "POST"
path = "/promote"
[[allow]]
key = ["jenkins"]
[[allow]]
certname = ["ci-*.example.com"]
[parameters]
role = { from = "body:/role", pattern = "[a-z][a-z_/]{0,20}" }
n = { from = "body:/list/0/n", integer = { min = -5, max = 999 }, default = "1" }
[run]
steps = [["/bin/a", "{role}={n}"]]
"#;

pub struct Gate {
    pub runtime: tokio::runtime::Runtime,
    pub router: axum::Router,
    queue: Arc<Counting>,
}

#[derive(Default)]
struct Counting(Mutex<Vec<RawParameters>>);

impl Intake for Counting {
    async fn submit(&self, submission: Submission, decision: OnRecord) -> Result<Submitted, SubmitError> {
        decision.await.map_err(Unavailable)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(submission.parameters);
        let job = JobId::parse("00000000-0000-7000-8000-000000000000").unwrap();
        Ok(Submitted { job, state: State::Queued, how: How::Fresh })
    }

    async fn look_up(&self, _: JobId, _: Vec<Identity>) -> Result<Option<Found>, Unavailable> {
        Ok(None)
    }

    async fn await_end(&self, _: JobId, _: Duration) -> Result<Option<Found>, Unavailable> {
        Ok(None)
    }
}

impl Gate {
    pub fn shared() -> &'static Self {
        static GATE: LazyLock<Gate> = LazyLock::new(Gate::new);
        &GATE
    }

    fn new() -> Self {
        let file = |name: &str| (PathBuf::from(format!("/policy/{name}")), vec![b'x'; 40]);
        let program = (PathBuf::from("/bin/a"), Vec::new());
        let files = Files::Memory(BTreeMap::from([file("a"), file("b"), file("c"), file("s"), program]));
        let policy = compile_text(GATEWAY, &[("promote", ROUTE)], &files).unwrap_or_else(|found| panic!("{found}")).policy;
        let clock = Clock::system();
        let ca = Authority::new("CA", Validity::days(clock.now(), 2)).unwrap();
        let trust = Trust::parse(ca.pem().as_bytes(), None, clock.now()).unwrap();
        let log = std::env::temp_dir().join(format!("bridgeward-fuzz-{}.jsonl", std::process::id()));
        let logged = (NonZeroU32::MIN, Duration::from_secs(3600));
        let recorder = Recorder::open(&log, logged, clock.clone()).unwrap();
        // The log is open; nobody needs its name.
        std::fs::remove_file(&log).unwrap();
        let queue = Arc::new(Counting::default());
        let router = bridgeward::gate::router(bridgeward::gate::Parts {
            counters: bridgeward::gate::Counters::of(&policy, None, &clock),
            policy: Arc::new(policy),
            authorities: vec!["localhost".to_owned()],
            trust: Some(Arc::new(trust)),
            intake: Arc::clone(&queue),
            recorder,
            clock,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, router, queue }
    }

    /// The parameters of the one submission since the last time.
    pub fn take(&self) -> Option<RawParameters> {
        let mut submitted = self.queue.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(submitted.len() < 2);
        submitted.pop()
    }

    pub fn accepted(&self) -> usize {
        self.queue.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
