//! Many requests for the same: few runs, none of them too early for anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bridgeward::trust::mint::Issued;
use serde_json::{Value, json};

use crate::support::*;

const SENDERS: usize = 500;
/// Connections at once: minting and handshakes are the test's own cost.
const THREADS: usize = 12;

fn kick(program: &str, more: &str) -> String {
    format!(
        "method = \"GET\"\npath = \"/kick\"\npayload = \"none\"\n[[allow]]\ncertname = [\"node*.example.com\"]\n\
         [run]\nsteps = [[\"{program}\"]]\ncoalesce = true\n{more}\n"
    )
}

/// A kick that was answered: when it was sent, and with what.
struct Kicked {
    node: Issued,
    certname: String,
    sent: jiff::Timestamp,
    answer: Value,
}

/// Kicks with a certificate of its own for each of `count` nodes.
fn kick_from_many(site: &Site, gateway: &Running, count: usize) -> Vec<Kicked> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let next = Arc::clone(&next);
                scope.spawn(move || {
                    let mut kicked = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return kicked;
                        }
                        let certname = format!("node{number}.example.com");
                        let node = site.node(&certname, &[]);
                        let mut tls = gateway.connect_as(&node);
                        let sent = now();
                        let response = tls.ask(&gateway.get("/kick"));
                        assert_eq!(response.status, 202, "{response:?}");
                        kicked.push(Kicked { node, certname, sent, answer: response.json() });
                    }
                })
            })
            .collect();
        for thread in threads {
            all.extend(thread.join().unwrap());
        }
    });
    all
}

/// The job of a kick, as its sender sees it once it has ended.
fn seen(gateway: &Running, kicked: &Kicked) -> Value {
    let location = format!("/-/jobs/{}", kicked.answer["job"].as_str().unwrap());
    let mut tls = gateway.connect_as(&kicked.node);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let response = tls.ask(&gateway.get(&location));
        assert_eq!(response.status, 200, "{response:?}");
        let view = response.json();
        if view["state"] == "succeeded" {
            return view;
        }
        assert!(matches!(view["state"].as_str(), Some("queued" | "running")), "{view}");
        assert!(Instant::now() < deadline, "{view}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn five_hundred_kicks_cause_the_few_runs_that_are_needed_and_none_is_too_early() {
    let site = Site::new();
    let ran = site.path("ran");
    let program = site.program("program", &format!("echo run >> {}\nsleep 0.5", ran.display()));
    site.route("kick", &kick(&program, ""));
    let gateway = site.serve();
    let began = Instant::now();
    let all = kick_from_many(&site, &gateway, SENDERS);
    let took = began.elapsed();
    assert_eq!(all.len(), SENDERS);
    for kicked in &all {
        let view = seen(&gateway, kicked);
        assert_eq!(view["identity"], format!("certname:{}", kicked.certname));
        let started: jiff::Timestamp = view["started"].as_str().unwrap().parse().unwrap();
        assert!(started >= kicked.sent, "a run that started before the kick: {view}, sent {}", kicked.sent);
    }
    let runs = wait_for_lines(&ran, 1).len();
    let most = took.as_millis() / 500 + 2;
    assert!(runs as u128 <= most, "{runs} runs in {took:?}");
    let mut jobs: Vec<_> = all.iter().map(|kicked| kicked.answer["job"].as_str().unwrap()).collect();
    jobs.sort_unstable();
    jobs.dedup();
    assert_eq!(jobs.len(), runs, "each job ran once");
    let fresh = all.iter().filter(|kicked| kicked.answer["coalesced"] != json!(true)).count();
    assert_eq!(fresh, runs, "whoever did not join made a job");
    // Nobody else may look.
    let stranger = site.node("node9999.example.com", &[]);
    assert!(gateway.send_as(&stranger, &gateway.get(&format!("/-/jobs/{}", jobs[0]))).is_wall());
}

#[test]
fn a_kick_while_a_run_is_under_way_causes_one_more_run_also_across_kill_9() {
    let site = Site::new();
    let (ran, gate) = (site.path("ran"), site.path("gate"));
    let program = site.program(
        "program",
        &format!("echo run >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done", ran.display(), gate.display()),
    );
    site.route("kick", &kick(&program, ""));
    let gateway = site.serve();
    let first = kick_from_many(&site, &gateway, 1);
    wait_for_lines(&ran, 1);
    let later = kick_from_many(&site, &gateway, 20);
    let job = &later[0].answer["job"];
    assert!(later.iter().all(|kicked| kicked.answer["job"] == *job), "all of them wait for the same run");
    assert_ne!(first[0].answer["job"], *job);
    assert_eq!(later.iter().filter(|kicked| kicked.answer["coalesced"] == json!(true)).count(), 19);

    gateway.kill();
    std::fs::write(&gate, "").unwrap();
    let gateway = site.serve();
    for kicked in &later {
        assert_eq!(seen(&gateway, kicked)["identity"], format!("certname:{}", kicked.certname));
    }
    assert_eq!(wait_for_lines(&ran, 2).len(), 2);
}

#[test]
fn whoever_joins_and_waits_is_told_the_result_as_its_own() {
    let site = Site::new();
    let (ran, gate) = (site.path("ran"), site.path("gate"));
    let program = site.program(
        "program",
        &format!(
            "echo run >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done\necho done",
            ran.display(),
            gate.display()
        ),
    );
    site.route("kick", &kick(&program, "respond = \"result\""));
    let gateway = site.serve();
    let no_wait = |request: String| request.replacen("\r\n\r\n", "\r\nprefer: wait=0\r\n\r\n", 1);
    let node = |number: usize| site.node(&format!("node{number}.example.com"), &[]);
    assert_eq!(gateway.send_as(&node(1), &no_wait(gateway.get("/kick"))).status, 202);
    wait_for_lines(&ran, 1);
    let waiting = gateway.send_as(&node(2), &no_wait(gateway.get("/kick"))).json();
    let mut joined = gateway.connect_as(&node(3));
    joined.write(gateway.get("/kick").as_bytes()).unwrap();
    // Its acceptance is on record before the run may go on.
    let audit = site.path("audit.jsonl");
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&audit).unwrap().contains("\"how\":\"coalesced\"") {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    std::fs::write(&gate, "").unwrap();
    let response = joined.read().unwrap();
    let view = response.json();
    assert_eq!((response.status, &view["job"]), (200, &waiting["job"]), "{view}");
    assert_eq!(view["identity"], "certname:node3.example.com");
    assert_eq!(view["steps"][0]["output"], "done\n");
}

#[test]
fn joining_keeps_the_order_within_a_lock() {
    let site = Site::new();
    let (ran, gate) = (site.path("ran"), site.path("gate"));
    let program = site.program(
        "program",
        &format!("echo \"$1\" >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done", ran.display(), gate.display()),
    );
    for name in ["set", "twin"] {
        site.route(
            name,
            &format!(
                "method = \"POST\"\npath = \"/{name}\"\n[[allow]]\nkey = [\"jenkins\"]\n\
                 [parameters]\nversion = {{ from = \"body:/version\", pattern = \"v?(?<value>[0-9]+)\" }}\n\
                 [run]\nsteps = [[\"{program}\", \"{name} {{version}}\"]]\nlock = \"set\"\ncoalesce = true\n"
            ),
        );
    }
    let gateway = site.serve();
    let post = |path: &str, version: &str| {
        let response = gateway.send(&gateway.post(path, &format!("{{\"version\":\"{version}\"}}")).request());
        assert_eq!(response.status, 202, "{response:?}");
        let answer = response.json();
        (answer["job"].as_str().unwrap().to_owned(), answer["coalesced"] == json!(true))
    };
    post("/set", "0");
    wait_for_lines(&ran, 1);
    let (one, _) = post("/set", "1");
    assert_eq!(post("/set", "v1"), (one, true), "what was derived is equal");
    let (two, _) = post("/set", "2");
    assert_eq!(post("/set", "2"), (two, true));
    // Joining the first one would let version 2 be the last word.
    assert!(!post("/set", "1").1);
    assert!(!post("/twin", "1").1, "another route");
    assert!(!post("/set", "1").1, "the other route's job came after it");
    std::fs::write(&gate, "").unwrap();
    assert_eq!(wait_for_lines(&ran, 6), ["set 0", "set 1", "set 2", "set 1", "twin 1", "set 1"]);
}
