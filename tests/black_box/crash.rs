//! Invariants I5 and I6 against a hundred `kill -9` at any moment, with senders that go on meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::*;

/// Gateways that are killed.
const LIVES: usize = 100;
/// Requests that are sent for the first time in each life.
const EACH: usize = 4;
const SENDERS: usize = 4;
/// Longest life of a gateway that listens, and of one that is killed while it starts.
const LIFE: u64 = 80;
const START: u64 = 40;

/// What the senders know: where the gateway is now, and which requests may be sent.
#[derive(Default)]
struct Stage {
    now: Mutex<(Option<SocketAddr>, usize)>,
    changed: Condvar,
}

impl Stage {
    fn set(&self, address: Option<SocketAddr>, released: usize) {
        *self.now.lock().unwrap() = (address, released);
        self.changed.notify_all();
    }

    /// Where a gateway listens, once request `number` may be sent.
    fn address(&self, number: usize) -> SocketAddr {
        let ready = |now: &mut (Option<SocketAddr>, usize)| now.0.is_none() || now.1 <= number;
        self.changed.wait_while(self.now.lock().unwrap(), ready).unwrap().0.unwrap()
    }
}

/// A request that its sender repeats, byte for byte, until it is answered.
struct Sent {
    number: usize,
    signing: Signing,
    answer: Value,
}

fn idempotent(number: usize) -> bool {
    number.is_multiple_of(4)
}

/// Sends every `SENDERS`th request, each as often as it takes, and now and then an earlier one again.
fn send(sender: usize, stage: &Stage, ca_pem: &str) -> Vec<Sent> {
    let mut all: Vec<Sent> = Vec::new();
    let mut connection: Option<(SocketAddr, Tls)> = None;
    let mut ask = |number: usize, request: &str| loop {
        let address = stage.address(number);
        let mut tls = match connection.take() {
            Some((known, tls)) if known == address => tls,
            Some(_) | None => match Tls::connect(address, ca_pem, None) {
                Ok(tls) => tls,
                Err(_) => continue,
            },
        };
        let Ok(response) = tls.write(request.as_bytes()).and_then(|()| tls.read()) else { continue };
        connection = Some((address, tls));
        // While it starts or stops, a gateway may be busy; a sender tries again.
        if response.status != 503 {
            return response;
        }
    };
    for number in (sender..LIVES * EACH).step_by(SENDERS) {
        let path = if idempotent(number) { "/again" } else { "/job" };
        let authority = format!("localhost:{}", stage.address(number).port());
        let signing = Signing::new("POST", &authority, path, &format!("{{\"id\":{number}}}"));
        let response = ask(number, &signing.request());
        assert_eq!(response.status, 202, "{response:?}");
        all.push(Sent { number, signing, answer: response.json() });
        if number.is_multiple_of(3) {
            let earlier = &all[all.len() / 2];
            let replay = ask(number, &earlier.signing.request()).json();
            assert_eq!((&replay["job"], &replay["duplicate"]), (&earlier.answer["job"], &json!(true)));
        }
    }
    all
}

/// Kills gateways, each after a moment that nobody chose.
fn kill_all(site: &Site, stage: &Stage) {
    let mut chance = Chance(u64::try_from(now().as_microsecond()).unwrap());
    for life in 0..LIVES {
        if life % 4 == 3 {
            let mut child = Command::new(BINARY)
                .args(["serve", "--policy"])
                .arg(site.dir.path())
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(chance.below(START));
            child.kill().unwrap();
            child.wait().unwrap();
            continue;
        }
        let gateway = site.serve();
        stage.set(Some(gateway.address), (life + 1) * EACH);
        std::thread::sleep(chance.below(LIFE));
        gateway.kill();
        stage.set(None, (life + 1) * EACH);
    }
}

/// Numbers without a pattern (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, milliseconds: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % (milliseconds * 1000))
    }
}

#[test]
fn i5_i6_a_hundred_kill_9_lose_nothing_and_repeat_nothing() {
    let site = Site::with_limits("requests_per_source = \"100000/s\"\nconnections_per_source = 4096");
    let ran = site.path("ran");
    fs::write(&ran, "").unwrap();
    let program = site.program("program", &format!("echo \"$1\" >> {}\nsleep 0.02", ran.display()));
    for (name, more) in [("job", ""), ("again", "idempotent = true")] {
        let text = format!(
            "method = \"POST\"\npath = \"/{name}\"\n[[allow]]\nkey = [\"jenkins\"]\n\
             [parameters]\nid = {{ from = \"body:/id\", integer = {{ min = 0, max = 9999 }} }}\n\
             [run]\nsteps = [[\"{program}\", \"{{id}}\"]]\nstop_grace = \"100ms\"\nconcurrency = 3\n{more}\n"
        );
        site.route(name, &text);
    }
    let stage = Stage::default();
    let (all, gateway) = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (stage, ca_pem) = (&stage, &site.ca_pem);
                scope.spawn(move || send(sender, stage, ca_pem))
            })
            .collect();
        kill_all(&site, &stage);
        let gateway = site.serve();
        stage.set(Some(gateway.address), usize::MAX);
        let all: Vec<Sent> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
        (all, gateway)
    });
    assert_eq!(all.len(), LIVES * EACH);

    let mut tls = gateway.connect();
    let mut states = BTreeMap::new();
    for sent in &all {
        let replay = tls.ask(&sent.signing.request()).json();
        assert_eq!((&replay["job"], &replay["duplicate"]), (&sent.answer["job"], &json!(true)), "{replay}");
        let job = replay["job"].as_str().unwrap();
        states.insert(job.to_owned(), (sent.number, ended(&gateway, &mut tls, job)));
    }
    assert_eq!(states.len(), all.len(), "each message has a job of its own");
    assert_eq!(gateway.stop().code(), Some(0));

    let database = rusqlite::Connection::open(site.path("queue.db")).unwrap();
    let count = |sql: &str| database.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap() as usize;
    assert_eq!(count("SELECT COUNT(*) FROM jobs"), all.len());
    assert_eq!(count("SELECT COUNT(*) FROM jobs WHERE recorded IS NULL"), 0);
    let intact = database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(intact.unwrap(), "ok");
    let audit = site.path("audit.jsonl");
    let verified = bridgeward(&["audit", "verify", audit.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");

    let mut started: BTreeMap<String, usize> = BTreeMap::new();
    let mut finished: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in fs::read_to_string(&audit).unwrap().lines() {
        // What a crash cut short is no record.
        let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
        let job = || record["job"].as_str().unwrap().to_owned();
        match record["kind"].as_str().unwrap() {
            "started" => *started.entry(job()).or_default() += 1,
            "finished" => {
                finished.entry(job()).or_default().insert(record["state"].as_str().unwrap().to_owned());
            }
            _ => {}
        }
    }
    let mut runs: BTreeMap<usize, usize> = BTreeMap::new();
    for line in fs::read_to_string(&ran).unwrap().lines() {
        *runs.entry(line.parse().unwrap()).or_default() += 1;
    }
    let (mut interrupted, mut repeated) = (0, 0);
    for (job, (number, state)) in &states {
        let runs = runs.remove(number).unwrap_or_default();
        let starts = started.get(job).copied().unwrap_or_default();
        let told = format!("request {number}, job {job}: {state}, {runs} runs, {starts} starts on record");
        assert_eq!(finished.get(job), Some(&BTreeSet::from([state.clone()])), "{told}");
        assert!(runs <= starts, "nothing runs that is not on record: {told}");
        match (idempotent(*number), state.as_str()) {
            (true, "succeeded") => {
                assert!(runs >= 1, "{told}");
                repeated += usize::from(runs > 1);
            }
            (false, "succeeded") => assert_eq!(runs, 1, "{told}"),
            (false, "interrupted") => {
                assert!(runs <= 1 && starts >= 1, "{told}");
                interrupted += 1;
            }
            (_, _) => panic!("{told}"),
        }
    }
    assert!(runs.is_empty(), "nobody asked for {runs:?}");
    assert!(interrupted > 0 && repeated > 0, "the kills hit no command: {interrupted}, {repeated}");
}

/// The final state of a job.
fn ended(gateway: &Running, tls: &mut Tls, job: &str) -> String {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let location = format!("/-/jobs/{job}");
        let view = tls.ask(&Signing::new("GET", &gateway.authority(), &location, "").request()).json();
        let state = view["state"].as_str().unwrap();
        if !matches!(state, "queued" | "running") {
            return state.to_owned();
        }
        assert!(std::time::Instant::now() < deadline, "the job does not end: {view}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
