//! How the queue behaves with a million jobs waiting and a million finished, beside an empty one: the store alone, without
//! TLS. Run by `cargo bench --bench queue_size`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a benchmark fails by panicking, prints, and reads the real clock"
)]

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use bridgeward::clock::Clock;
use bridgeward::domain::identity::{Identity, Proofs};
use bridgeward::domain::job::State;
use bridgeward::domain::name::{KeyName, RouteName};
use bridgeward::domain::parameters::RawParameters;
use bridgeward::domain::submission::{Message, MessageId, Submission, Terms};
use bridgeward::queue::operate::Wanted;
use bridgeward::queue::sqlite::{Settings, Store};

#[path = "load/figures.rs"]
mod figures;
#[path = "load/report.rs"]
mod report;

const JOBS: usize = 1_000_000;
const SUBMITTERS: usize = 64;
const WORKERS: usize = 16;
const SUBMITS: usize = 20_000;
const RUNS: usize = 4_000;
const PAGES: usize = 200;
/// How long the purge is watched: all of it takes minutes.
const PURGED_FOR: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(86_400);

fn main() {
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (empty, full) = (dir.path().join("empty.db"), dir.path().join("full.db"));
    let small = runtime.block_on(measure(&empty));
    let filled = Instant::now();
    runtime.block_on(fill(&full));
    println!(
        "filled with {JOBS} waiting and {JOBS} finished jobs in {:.0} s",
        filled.elapsed().as_secs_f64()
    );
    let large = runtime.block_on(measure(&full));
    let purged = runtime.block_on(purge(&full));

    let both: Vec<(&str, String)> = small
        .into_iter()
        .zip(large)
        .map(|((name, small), (_, large))| (name, format!("{small} | {large}")))
        .collect();
    report::table(
        "queue_size: an empty queue | one with 1,000,000 jobs waiting and 1,000,000 finished",
        &both,
    );
    report::table("while the finished ones are purged", &purged);
}

type Figures = Vec<(&'static str, String)>;

fn settings(keep: Duration) -> Settings {
    Settings { keep, keep_bytes: 1 << 40, jobs: 10 * JOBS }
}

async fn measure(file: &Path) -> Figures {
    let began = Instant::now();
    let (store, _) = Store::open(file, settings(365 * DAY), Clock::system()).unwrap();
    let opened = began.elapsed();
    let (submits, submit_p99) = submit(&store, SUBMITS).await;
    let (runs, run_p99) = run(&store).await;
    let mut figures = vec![
        ("opening and recovery", figures::ms(opened)),
        ("submissions by 64 at once", format!("{submits:.0}/s")),
        ("  p99", figures::ms(submit_p99)),
        ("claim, start and finish by 16 at once", format!("{runs:.0}/s")),
        ("  p99", figures::ms(run_p99)),
    ];
    let lists = [
        ("newest page of 50, p99", None, None),
        ("newest page of what waits, p99", Some(State::Queued), None),
        ("newest page of what failed, p99", Some(State::Failed), None),
        ("newest page of a route that has none, p99", None, Some("other")),
    ];
    for (name, state, route) in lists {
        let route = route.map(|route| RouteName::parse(route).unwrap());
        let wanted = Wanted { state, route, before: None, limit: 50 };
        let mut times = Vec::new();
        for _ in 0..PAGES {
            let asked = Instant::now();
            store.list(wanted.clone()).await.unwrap();
            times.push(asked.elapsed());
        }
        figures.push((name, figures::ms(figures::percentile(&mut times, 0.99))));
    }
    store.close().await;
    figures
}

/// Opens the queue with nothing to be kept, and submits while finished jobs go.
async fn purge(file: &Path) -> Figures {
    let (store, _) = Store::open(file, settings(Duration::ZERO), Clock::system()).unwrap();
    let reader = rusqlite::Connection::open(file).unwrap();
    let left = || {
        let count = "SELECT COUNT(*) FROM jobs WHERE finished IS NOT NULL";
        reader.query_row(count, [], |row| row.get::<_, u32>(0)).unwrap() as usize
    };
    let (began, before) = (Instant::now(), left());
    let (rate, p99) = submit(&store, SUBMITS).await;
    let submitted = began.elapsed();
    tokio::time::sleep(PURGED_FOR.saturating_sub(submitted)).await;
    let purged = figures::rate(before - left(), began.elapsed());
    store.close().await;
    vec![
        ("submissions by 64 at once", format!("{rate:.0}/s")),
        ("  p99", figures::ms(p99)),
        ("finished jobs purged", format!("{purged:.0}/s")),
    ]
}

fn submission() -> Submission {
    let key = KeyName::parse("jenkins").unwrap();
    let now = Clock::system().now();
    Submission {
        route: RouteName::parse("promote").unwrap(),
        parameters: RawParameters::default(),
        body: None,
        identity: Identity::Key(key.clone()),
        proofs: Proofs { certificate: None, key: Some(key), source: [192, 0, 2, 7].into() },
        message: Message::Identified(MessageId {
            scope: "jenkins".into(),
            id: uuid::Uuid::now_v7().to_string(),
            digest: [7; 32],
            created: Some(now),
            keep_until: now.checked_add(DAY).unwrap(),
        }),
        at: now,
    }
}

fn terms(lock: usize) -> Terms {
    Terms {
        lock: format!("lock-{lock}"),
        concurrency: NonZeroU32::MIN,
        expires: 365 * DAY,
        idempotent: false,
        likeness: None,
        awaits: None,
    }
}

async fn submit(store: &Store, count: usize) -> (f64, Duration) {
    let began = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SUBMITTERS {
        let store = store.clone();
        senders.spawn(async move {
            let mut times = Vec::new();
            for number in 0..count / SUBMITTERS {
                let asked = Instant::now();
                store.submit(&submission(), &terms(sender + number)).await.unwrap();
                times.push(asked.elapsed());
            }
            times
        });
    }
    let mut times = senders.join_all().await.concat();
    (figures::rate(times.len(), began.elapsed()), figures::percentile(&mut times, 0.99))
}

async fn run(store: &Store) -> (f64, Duration) {
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        let store = store.clone();
        workers.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..RUNS / WORKERS {
                let asked = Instant::now();
                let claim = store.claim().await.unwrap().unwrap();
                store.start(claim.job).await.unwrap();
                store.finish(claim.job, State::Succeeded).await.unwrap();
                times.push(asked.elapsed());
            }
            times
        });
    }
    let mut times = workers.join_all().await.concat();
    (figures::rate(times.len(), began.elapsed()), figures::percentile(&mut times, 0.99))
}

/// Copies one job of each kind a million times; the store itself would take minutes for it.
async fn fill(file: &Path) {
    let (store, _) = Store::open(file, settings(365 * DAY), Clock::system()).unwrap();
    store.submit(&submission(), &terms(0)).await.unwrap();
    store.close().await;
    let database = rusqlite::Connection::open(file).unwrap();
    database
        .execute_batch(&format!(
            "PRAGMA synchronous = OFF;
             PRAGMA journal_mode = OFF;
             PRAGMA cache_size = -2000000;
             BEGIN;
             CREATE TEMP TABLE numbers AS
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {JOBS}) SELECT i FROM n;
             INSERT INTO jobs (id, route, parameters, identity, proofs, lock, concurrency, state, idempotent, submitted,
                               claimed, started, finished, recorded, keeps)
                 SELECT printf('019a0000-0000-7000-8000-%012x', i), route, parameters, identity, proofs,
                        'lock-' || (i % 1000), 1, CASE i % 1000 WHEN 0 THEN 'failed' ELSE 'succeeded' END, 0,
                        submitted, submitted, submitted, submitted + i / 1000, submitted, 100
                 FROM numbers, (SELECT * FROM jobs WHERE seq = 1);
             INSERT INTO steps (job, number, argv, exit, output, dropped)
                 SELECT seq, 1, '[\"/bin/true\"]', '{{\"code\":0}}', zeroblob(100), 0 FROM jobs WHERE seq > 1;
             INSERT INTO jobs (id, route, parameters, identity, proofs, lock, concurrency, state, idempotent, submitted,
                               expires_at)
                 SELECT printf('019a0000-0001-7000-8000-%012x', i), route, parameters, identity, proofs,
                        'lock-' || (i % 1000), 1, 'queued', 0, submitted, expires_at + i
                 FROM numbers, (SELECT * FROM jobs WHERE seq = 1);
             INSERT INTO messages (scope, id, digest, job, created, keep_until)
                 SELECT scope, hex(randomblob(16)), digest, jobs.id, created, keep_until + seq
                 FROM jobs, (SELECT scope, digest, created, keep_until FROM messages) WHERE seq > 1;
             COMMIT;"
        ))
        .unwrap();
}
