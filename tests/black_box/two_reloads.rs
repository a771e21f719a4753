//! Gate and workers in two processes load their policies anew, each its own and one after the other (invariant I9).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::*;
use crate::two_processes::{Pair, body, route};

const GATE: &str = "gate/admin.sock";
const WORKERS: &str = "work/admin.sock";

/// `bridgeward reload --socket`: exit code, standard output, standard error.
fn reload(pair: &Pair, socket: &str) -> (Option<i32>, String, String) {
    let output = bridgeward(&["reload", "--socket", pair.site.path(socket).to_str().unwrap()]);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Status of `/readyz`, and the alarms that it lists, each with its reason.
fn alarms(pair: &Pair, socket: &str) -> (u16, Vec<(String, String)>) {
    let (status, health) = ask_socket(&pair.site.path(socket), "GET", "/readyz");
    let text = |alarm: &Value, key: &str| alarm[key].as_str().unwrap().to_owned();
    let alarms = health["alarms"].as_array().cloned().unwrap_or_default();
    (status, alarms.iter().map(|alarm| (text(alarm, "alarm"), text(alarm, "reason"))).collect())
}

fn hash(pair: &Pair, directory: &str, part: &str) -> String {
    let policy = pair.site.path(directory);
    let checked = bridgeward(&["check", "--part", part, "--policy", policy.to_str().unwrap()]);
    String::from_utf8(checked.stdout).unwrap().trim().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn i9_where_only_one_of_the_two_has_loaded_its_policy_senders_are_told_to_try_again() {
    let pair = Pair::new("");
    let (wide, narrow) = (route(&pair, ""), route(&pair, "").replace("9999", "99"));
    pair.route("job", &wide);
    let (workers, gate) = (pair.work(), pair.gate());
    let ask = |path: &str, id| gate.send(&gate.post(path, &body(id)).request());
    let told_to_try_again = |path: &str, id| {
        let response = ask(path, id);
        assert_eq!((response.status, response.header("retry-after")), (503, Some("5")), "{response:?}");
    };
    assert_eq!(ask("/job", 100).status, 202);

    // The workers first, by their socket.
    pair.site.write("work/routes/job.toml", &narrow, 0o644);
    let (code, out, err) = reload(&pair, WORKERS);
    let expected = format!("in force: policy {}; routes: 1, keys: 0\n", hash(&pair, "work", "work"));
    assert_eq!((code, out), (Some(0), expected), "{err}");
    told_to_try_again("/job", 100);
    let (status, standing) = alarms(&pair, GATE);
    assert_eq!((status, standing.len()), (200, 1), "{standing:?}");
    let (alarm, reason) = &standing[0];
    assert!(alarm == "disagreement over route job" && reason.contains("`id`"), "{standing:?}");
    // Then the gate, by a signal: it says no itself now, and is at one with its workers.
    pair.site.route("job", &narrow);
    gate.signal(Signal::HUP);
    gate.log.wait_for(|line| line.contains("in force") && line.contains("\"cause\":\"signal\"")).unwrap();
    assert_eq!(ask("/job", 100).status, 400);
    assert_eq!(alarms(&pair, GATE), (200, Vec::new()));
    assert_eq!(ask("/job", 99).status, 202);

    // The gate first, by its socket; and its senders are served again once the workers have followed, by a signal.
    let other = wide.replace("/job", "/other");
    pair.route("other", &other);
    let (code, out, err) = reload(&pair, GATE);
    let expected = format!("in force: policy {}; routes: 2, keys: 1\n", hash(&pair, "", "gate"));
    assert_eq!((code, out), (Some(0), expected), "{err}");
    told_to_try_again("/other", 1);
    told_to_try_again("/other", 2);
    let standing = alarms(&pair, GATE);
    let reason = "it has no route `other`".to_owned();
    assert_eq!(standing, (200, vec![("disagreement over route other".to_owned(), reason)]));
    assert_eq!(ask("/job", 98).status, 202, "the other route is as it was");
    assert_eq!(alarms(&pair, GATE), standing);
    workers.signal(Signal::HUP);
    workers.log.wait_for(|line| line.contains("in force") && line.contains("\"cause\":\"signal\"")).unwrap();
    assert_eq!(ask("/other", 1).status, 202);
    assert_eq!(alarms(&pair, GATE), standing, "one request that goes well does not tell that all do");
    assert_eq!(reload(&pair, GATE).0, Some(0));
    assert_eq!(alarms(&pair, GATE), (200, Vec::new()));
    assert_eq!(gate.stop().code(), Some(0));
    workers.stop();

    let kinds = |file: &str| -> Vec<String> {
        let lines = pair.audit(file).into_iter();
        lines.map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
    };
    let count = |file: &str, kind: &str| kinds(file).iter().filter(|found| *found == kind).count();
    let gates = ["loaded", "alarm", "alarm_over", "not_stored"].map(|kind| count("gate/audit.jsonl", kind));
    assert_eq!(gates, [4, 2, 2, 3]);
    let theirs = ["loaded", "turned_away"].map(|kind| count("work/audit.work.jsonl", kind));
    assert_eq!(theirs, [3, 3]);
}

#[test]
fn i9_a_bad_policy_for_one_of_the_two_changes_nothing_there_and_it_says_why() {
    let pair = Pair::new("");
    let good = route(&pair, "");
    pair.route("job", &good);
    let (workers, gate) = (pair.work(), pair.gate());
    let accepted = || assert_eq!(gate.send(&gate.post("/job", &body(1)).request()).status, 202);
    let bad = good.replace("integer", "interger").replace("9999", "1");
    for (socket, file, gateway) in
        [(GATE, "routes/job.toml", "gateway.toml"), (WORKERS, "work/routes/job.toml", "work/gateway.toml")]
    {
        pair.site.write(file, &bad, 0o644);
        let (code, out, err) = reload(&pair, socket);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        for part in ["unknown key `interger`", file, "nothing has changed"] {
            assert!(err.contains(part), "no {part:?} in\n{err}");
        }
        accepted();
        let (status, standing) = alarms(&pair, socket);
        assert_eq!((status, standing[0].0.as_str()), (200, "reload"), "{standing:?}");
        assert!(standing[0].1.contains("unknown key `interger`"), "{standing:?}");
        let log = if socket == GATE {
            gate.signal(Signal::HUP);
            &gate.log
        } else {
            workers.signal(Signal::HUP);
            &workers.log
        };
        log.wait_for(|line| {
            line.contains("the former one stays in force") && line.contains("\"cause\":\"signal\"")
        })
        .unwrap();
        accepted();

        // What both have agreed on needs a restart of both.
        pair.site.write(file, &good, 0o644);
        let text = std::fs::read_to_string(pair.site.path(gateway)).unwrap();
        pair.site.write(gateway, &text.replace("queue.sock", "other.sock"), 0o644);
        let (code, _, err) = reload(&pair, socket);
        assert!(code == Some(1) && err.contains("`queue.socket` is another one than in force"), "{err}");
        pair.site.write(gateway, &text, 0o644);
        assert_eq!(reload(&pair, socket).0, Some(0));
        assert_eq!(alarms(&pair, socket), (200, Vec::new()));
        accepted();
    }
}

#[test]
fn i9_no_request_is_dropped_while_both_load_their_policies_again_and_again() {
    let pair = Pair::new("");
    let text = std::fs::read_to_string(pair.site.path("gateway.toml")).unwrap();
    pair.site.write(
        "gateway.toml",
        &text.replace("[limits]", "[limits]\nrequests_per_source = \"1000000/s\""),
        0o644,
    );
    let offered = route(&pair, "").replace("[run]", "[run]\ncoalesce = true");
    let not_offered = offered.replace("9999", "0");
    pair.route("job", &offered);
    let (workers, gate) = (pair.work(), pair.gate());
    let (over, accepted, put_off) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    // Until the senders have met what is in force.
    let met = |counter: &AtomicUsize| {
        let (before, deadline) = (counter.load(Ordering::Relaxed), Instant::now() + PATIENCE);
        while counter.load(Ordering::Relaxed) < before + 4 {
            assert!(Instant::now() < deadline, "nobody meets it");
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let (gate, over, accepted, put_off) = (&gate, &over, &accepted, &put_off);
                scope.spawn(move || {
                    let mut tls = gate.connect();
                    while !over.load(Ordering::Relaxed) {
                        // Half of them come with connections of their own.
                        if sender % 2 == 0 {
                            tls = gate.connect();
                        }
                        let response = tls.ask(&gate.post("/job", &body(1)).request());
                        match response.status {
                            202 => accepted.fetch_add(1, Ordering::Relaxed),
                            503 if response.header("retry-after") == Some("5") => {
                                put_off.fetch_add(1, Ordering::Relaxed)
                            }
                            _ => panic!("{response:?}"),
                        };
                    }
                })
            })
            .collect();
        for round in 0..20 {
            let theirs = if round % 4 < 2 { &not_offered } else { &offered };
            pair.site.write("work/routes/job.toml", &format!("{theirs}# {round}\n"), 0o644);
            pair.site.route("job", &format!("{offered}# {round}\n"));
            if round % 2 == 0 {
                assert_eq!(reload(&pair, WORKERS).0, Some(0));
                gate.signal(Signal::HUP);
                met(if round % 4 < 2 { &put_off } else { &accepted });
            } else {
                workers.signal(Signal::HUP);
                assert_eq!(reload(&pair, GATE).0, Some(0));
            }
        }
        assert_eq!(reload(&pair, WORKERS).0, Some(0));
        over.store(true, Ordering::Relaxed);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
    // At one again.
    assert_eq!(gate.send(&gate.post("/job", &body(1)).request()).status, 202);
    assert_eq!(reload(&pair, GATE).0, Some(0));
    assert_eq!(alarms(&pair, GATE), (200, Vec::new()));
}
