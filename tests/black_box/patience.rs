//! Jobs that wait, for another attempt and for a file to go; and what is kept of those that have ended.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::*;

fn route(name: &str, program: &str, more: &str) -> String {
    format!(
        "method = \"POST\"\npath = \"/{name}\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n\
         [run]\nsteps = [[\"/bin/echo\", \"first step\"], [\"{program}\", \"{name}\"]]\nlock = \"one\"\n{more}\n"
    )
}

fn post(gateway: &Running, path: &str) -> String {
    let response = gateway.send(&gateway.post(path, "").request());
    assert_eq!(response.status, 202, "{response:?}");
    response.location()
}

/// Writes down that it runs, and fails with `code` until the file `enough` is there.
fn failing(site: &Site, code: i32) -> String {
    let (ran, enough) = (site.path("ran"), site.path("enough"));
    site.program(
        "failing",
        &format!("echo \"$1\" >> {}\necho tried\n[ -e {} ] || exit {code}", ran.display(), enough.display()),
    )
}

#[test]
fn a_run_that_fails_is_tried_again_at_its_old_place_and_across_kill_9() {
    let site = Site::new();
    let ran = site.path("ran");
    let program = failing(&site, 75);
    let retry = "retry = { attempts = 3, delay = \"2s\", exit_codes = [75, 76] }";
    site.route("stubborn", &route("stubborn", &program, retry));
    site.route("behind", &route("behind", &program, ""));
    let gateway = site.serve();
    let stubborn = post(&gateway, "/stubborn");
    let behind = post(&gateway, "/behind");
    wait_for_lines(&ran, 1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = gateway.job(&stubborn);
        if view["state"] == "queued" {
            assert_eq!(view["steps"][1]["exit"], json!({"code": 75}), "how it ended is shown meanwhile");
            break;
        }
        assert!(Instant::now() < deadline, "{view}");
        std::thread::sleep(Duration::from_millis(20));
    }
    gateway.kill();
    std::fs::write(site.path("enough"), "").unwrap();
    let gateway = site.serve();
    let view = gateway.ended(&stubborn);
    assert_eq!(view["state"], "succeeded", "{view}");
    let exits: Vec<_> = view["steps"].as_array().unwrap().iter().map(|step| step["exit"].clone()).collect();
    assert_eq!(exits, [json!({"code": 0}), json!({"code": 0})], "the steps of the last run alone");
    assert_eq!(gateway.ended(&behind)["state"], "succeeded");
    assert_eq!(wait_for_lines(&ran, 3), ["stubborn", "stubborn", "behind"]);
}

#[test]
fn attempts_end_and_other_exit_codes_are_not_repeated() {
    let site = Site::new();
    let ran = site.path("ran");
    let program = failing(&site, 75);
    for (name, retry) in [
        ("all", "retry = { attempts = 3, delay = \"20ms\" }"),
        ("other", "retry = { attempts = 3, delay = \"20ms\", exit_codes = [1] }"),
        ("late", "retry = { attempts = 2, delay = \"20ms\" }\ntimeout = \"300ms\"\nstop_grace = \"50ms\""),
    ] {
        let program = match name {
            "late" => site.program("late", &format!("echo late >> {}\nexec sleep 60", ran.display())),
            _ => program.clone(),
        };
        site.route(name, &route(name, &program, retry));
    }
    let gateway = site.serve();
    for (path, state, runs) in [("/all", "failed", 3), ("/other", "failed", 1), ("/late", "timed_out", 2)] {
        let _ = std::fs::remove_file(&ran);
        let view = gateway.ended(&post(&gateway, path));
        assert_eq!((view["state"].as_str(), view["steps"].as_array().map(Vec::len)), (Some(state), Some(2)));
        assert_eq!(wait_for_lines(&ran, runs).len(), runs, "{path}");
    }
}

/// Whether the gateway says that it looked and found the file there.
fn looked(gateway: &Running, file: &Path) -> bool {
    let file = file.to_str().unwrap();
    let held = |line: &str| line.contains("jobs wait while this file exists") && line.contains(file);
    gateway.log.wait_for(held).is_some()
}

#[test]
fn a_job_waits_for_its_file_unless_that_names_a_process_that_is_gone() {
    let site = Site::with_limits("running = 1");
    let (ran, lock) = (site.path("ran"), site.path("agent_catalog_run.lock"));
    std::fs::write(site.path("enough"), "").unwrap();
    let program = failing(&site, 1);
    let waiting = format!("wait_while_exists = \"{}\"", lock.display());
    site.route("kick", &route("kick", &program, &waiting));
    site.route("behind", &route("behind", &program, ""));
    site.route("free", &route("free", &program, "").replace("lock = \"one\"", "lock = \"two\""));
    let mut agent = Command::new("/bin/sleep").arg("600").spawn().unwrap();
    std::fs::write(&lock, agent.id().to_string()).unwrap();
    let gateway = site.serve();
    let kick = post(&gateway, "/kick");
    let behind = post(&gateway, "/behind");
    assert!(looked(&gateway, &lock));
    // Neither the only place of `running` nor another lock is held.
    assert_eq!(gateway.ended(&post(&gateway, "/free"))["state"], "succeeded");
    assert_eq!(gateway.job(&kick)["state"], "queued");
    assert_eq!(gateway.job(&behind)["state"], "queued", "nobody overtakes a head that waits");

    // Killed, the agent leaves its lock behind; a restart looks anew.
    gateway.kill();
    agent.kill().unwrap();
    agent.wait().unwrap();
    let gateway = site.serve();
    assert_eq!(gateway.ended(&kick)["state"], "succeeded");
    assert_eq!(gateway.ended(&behind)["state"], "succeeded");
    assert_eq!(wait_for_lines(&ran, 3), ["free", "kick", "behind"]);

    // A lock without a pid holds until it is gone.
    std::fs::write(&lock, "").unwrap();
    let kick = post(&gateway, "/kick");
    assert!(looked(&gateway, &lock));
    assert_eq!(gateway.job(&kick)["state"], "queued");
    std::fs::remove_file(&lock).unwrap();
    assert_eq!(gateway.ended(&kick)["state"], "succeeded");
}

#[test]
fn the_oldest_outputs_go_first_and_their_jobs_stay() {
    let site = Site::new();
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    let text = text.replace("[queue]", "[queue]\nkeep_bytes = \"40B\"");
    site.write("gateway.toml", &text, 0o644);
    // Twice 11 bytes and twice 15.
    let program = site.program("program", "echo and the second");
    site.route("speak", &route("speak", &program, ""));
    let gateway = site.serve();
    let old = post(&gateway, "/speak");
    gateway.ended(&old);
    let young = post(&gateway, "/speak");
    gateway.ended(&young);
    let deadline = Instant::now() + PATIENCE;
    while gateway.job(&old)["steps"][0]["discarded"] != json!(true) {
        assert!(Instant::now() < deadline, "{}", gateway.job(&old));
        std::thread::sleep(Duration::from_millis(100));
    }
    let view = gateway.job(&old);
    assert_eq!((&view["state"], &view["steps"][1]["output"]), (&json!("succeeded"), &json!("")), "{view}");
    let view = gateway.job(&young);
    assert_eq!(view["steps"][0]["output"], "first step\n", "{view}");
    assert_eq!(view["steps"][0].get("discarded"), None, "{view}");
}
