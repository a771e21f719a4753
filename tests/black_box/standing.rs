//! Why a job waits, failed or ended otherwise: operators are told, senders are not.

use serde_json::{Value, json};

use crate::support::*;

const ROUTE: &str =
    "method = \"POST\"\npath = \"/@\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\n";
/// What senders are not shown.
const OPERATORS_ALONE: [&str; 4] = ["reason", "attempt", "lock", "waits"];

fn site(routes: &[(&str, &str)]) -> Site {
    let site = Site::new();
    site.configure("[admin]\nsocket = \"admin.sock\"");
    for (name, run) in routes {
        let run = run.replace('@', site.dir.path().to_str().unwrap());
        site.route(name, &(ROUTE.replace('@', name) + &run));
    }
    site
}

/// Where the sender finds its job.
fn submit(gateway: &Running, route: &str) -> String {
    let response = gateway.send(&gateway.post(&format!("/{route}"), "x").request());
    assert_eq!(response.status, 202, "{response:?}");
    response.location()
}

/// What an operator is shown of it, as JSON and as text.
fn inspect(site: &Site, location: &str) -> (Value, String) {
    let job = location.rsplit('/').next().unwrap();
    let (status, view) = ask_socket(&site.path("admin.sock"), "GET", &format!("/jobs/{job}"));
    assert_eq!(status, 200, "{view}");
    let shown = bridgeward(&["jobs", "show", job, "--socket", site.path("admin.sock").to_str().unwrap()]);
    (view, String::from_utf8(shown.stdout).unwrap())
}

/// Looks until the job waits for its next attempt.
fn failed_once(site: &Site, location: &str) -> (Value, String) {
    let patience = std::time::Instant::now() + PATIENCE;
    loop {
        let (view, text) = inspect(site, location);
        if view["attempt"] == 2 {
            return (view, text);
        }
        assert!(std::time::Instant::now() < patience, "{view}");
    }
}

#[test]
fn operators_are_told_what_a_job_waits_for_and_senders_are_not() {
    let site = site(&[
        ("held", "steps = [[\"/bin/true\"]]\nwait_while_exists = \"@/held\""),
        ("again", "steps = [[\"/bin/false\"]]\nlock = \"mine\"\nretry = { attempts = 2, delay = \"1h\" }"),
        ("behind", "steps = [[\"/bin/true\"]]\nlock = \"mine\""),
    ]);
    site.write("held", &std::process::id().to_string(), 0o644);
    let gateway = site.serve();
    let held = submit(&gateway, "held");
    let again = submit(&gateway, "again");
    let (view, text) = failed_once(&site, &again);
    let behind = submit(&gateway, "behind");
    assert_eq!((&view["waits"]["for"], &view["lock"]), (&json!("retry"), &json!("mine")));
    let not_before: jiff::Timestamp = view["waits"]["not_before"].as_str().unwrap().parse().unwrap();
    assert!(not_before > now(), "{view}");
    for part in ["waits for  another attempt, not before ", "attempt    2\n", "lock       mine\n"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }

    let (view, text) = inspect(&site, &behind);
    assert_eq!(view["waits"], json!({"for": "lock", "active": 0, "concurrency": 1, "before": 1}));
    assert!(text.contains("waits for  its lock: 0 of 1 hold it, 1 wait before it\n"), "{text}");
    let (view, text) = inspect(&site, &held);
    let file = site.path("held");
    assert_eq!(view["waits"], json!({"for": "file", "awaits": file}));
    assert!(text.contains(&format!("waits for  the end of {}\n", file.display())), "{text}");

    let list = bridgeward(&["jobs", "list", "--policy", site.dir.path().to_str().unwrap()]);
    let list = String::from_utf8(list.stdout).unwrap();
    for (job, state) in [(&held, "queued: file"), (&again, "queued: retry"), (&behind, "queued: lock")] {
        let line = list.lines().find(|line| line.starts_with(job.rsplit('/').next().unwrap())).unwrap();
        assert!(line.contains(state), "{list}");
        let sender = gateway.job(job);
        assert!(OPERATORS_ALONE.iter().all(|name| sender.get(name).is_none()), "{sender}");
    }
}

#[test]
fn operators_are_told_why_a_job_ended_and_senders_are_not() {
    let site = site(&[
        ("fails", "steps = [[\"/bin/false\"]]"),
        ("missing", "steps = [[\"/no/such/program\"]]"),
        ("dies", "steps = [[\"/bin/true\"], [\"@/lasts\"]]"),
    ]);
    let begun = site.path("begun");
    site.program("lasts", &format!("echo x >> {}\nexec sleep 600", begun.display()));
    let gateway = site.serve();
    for (route, state, reason) in [
        ("fails", "failed", "step 1: exit code 1"),
        ("missing", "refused", "/no/such/program"),
        ("dies", "interrupted", "its worker ended before step 2 did"),
    ] {
        let location = submit(&gateway, route);
        let restarted = (route == "dies").then(|| {
            wait_for_lines(&begun, 1);
            gateway.signal(rustix::process::Signal::KILL);
            site.serve()
        });
        let gateway = restarted.as_ref().unwrap_or(&gateway);
        let sender = gateway.ended(&location);
        assert_eq!(sender["state"], state);
        assert!(OPERATORS_ALONE.iter().all(|name| sender.get(name).is_none()), "{sender}");
        let (view, text) = inspect(&site, &location);
        assert!(view["reason"].as_str().unwrap().contains(reason), "{view}");
        assert!(text.contains("\nreason     ") && text.contains(reason), "{text}");
    }
}
