//! The operators' socket, `bridgeward jobs`, and the audit log: verified, damaged, and rotated.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use bridgeward::audit::verify::{Chain, Head};
use serde_json::{Value, json};

use crate::support::*;

const QUICK: &str = "method = \"POST\"\npath = \"/quick\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"/bin/echo\", \"hello\"]]\nconcurrency = 4\n";

fn site() -> Site {
    furnished(Site::new())
}

fn furnished(site: Site) -> Site {
    site.configure("[admin]\nsocket = \"admin.sock\"");
    site.route("quick", QUICK);
    site
}

/// A route `/slow` whose command writes `begun` and then waits until the file `gate` is there.
fn slow(site: &Site) {
    let program = site.program(
        "slow",
        &format!(
            "echo x >> {}\necho begun\nwhile [ ! -e {} ]; do sleep 0.02; done\necho over",
            site.path("ran").display(),
            site.path("gate").display()
        ),
    );
    site.route(
        "slow",
        &QUICK.replace("/quick", "/slow").replace("/bin/echo\", \"hello", &program).replace("= 4", "= 1"),
    );
}

struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

fn told(arguments: &[&str]) -> Told {
    let output = bridgeward(arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Told { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn jobs(site: &Site, arguments: &[&str]) -> Told {
    let socket = site.path("admin.sock");
    told(&[&["jobs", "--socket", socket.to_str().unwrap()], arguments].concat())
}

/// A job's id, as the gateway told it to the sender.
fn submit(gateway: &Running, path: &str) -> String {
    let response = gateway.send(&gateway.post(path, "x").request());
    assert_eq!(response.status, 202, "{response:?}");
    response.json()["job"].as_str().unwrap().to_owned()
}

#[test]
fn jobs_are_listed_shown_and_their_output_followed() {
    let site = site();
    slow(&site);
    let gateway = site.serve();
    let quick = submit(&gateway, "/quick");
    gateway.ended(&format!("/-/jobs/{quick}"));
    let running = submit(&gateway, "/slow");
    wait_for_lines(&site.path("ran"), 1);
    let waiting = submit(&gateway, "/slow");

    let list = jobs(&site, &["list"]);
    assert_eq!(list.code, Some(0), "{}", list.err);
    let lines: Vec<&str> = list.out.lines().collect();
    let rows = [(&waiting, "queued"), (&running, "running"), (&quick, "succeeded")];
    assert_eq!(lines.len(), 4, "{}", list.out);
    for (line, (job, state)) in lines[1..].iter().zip(rows) {
        assert!(line.starts_with(job.as_str()) && line.contains(state), "{}", list.out);
        assert!(line.ends_with("key:jenkins"), "{}", list.out);
    }
    let one = jobs(&site, &["list", "--state", "succeeded", "--route", "quick", "--json"]);
    let page: Value = serde_json::from_str(&one.out).unwrap();
    assert_eq!((page["jobs"][0]["job"].as_str(), &page["more"]), (Some(quick.as_str()), &json!(false)));
    let first = jobs(&site, &["list", "--limit", "1"]);
    assert!(first.err.contains(&format!("--before {waiting}")), "{}", first.err);
    let next = jobs(&site, &["list", "--before", &waiting]);
    assert!(!next.out.contains(&waiting) && next.out.contains(&running), "{}", next.out);

    let short = jobs(&site, &["show", &format!("{}…", &quick[..18])]);
    assert!(short.out.contains(&quick), "{}{}", short.out, short.err);
    let shown = jobs(&site, &["show", &quick]);
    for part in [
        "route      quick",
        "state      succeeded",
        "identity   key:jenkins",
        "exit code 0",
        "/bin/echo hello",
    ] {
        assert!(shown.out.contains(part), "no {part:?} in\n{}", shown.out);
    }
    assert_eq!(jobs(&site, &["output", &quick]).out, "hello\n");
    let steps: Value = serde_json::from_str(&jobs(&site, &["output", "--json", &quick]).out).unwrap();
    assert_eq!(steps[0]["output"], "hello\n");

    let socket = site.path("admin.sock");
    let follow = std::thread::spawn({
        let running = running.clone();
        move || told(&["jobs", "output", "--follow", &running, "--socket", socket.to_str().unwrap()])
    });
    std::fs::write(site.path("gate"), "").unwrap();
    let followed = follow.join().unwrap();
    assert_eq!((followed.code, followed.out.as_str()), (Some(0), "begun\nover\n"), "{}", followed.err);
    let shown = jobs(&site, &["show", "--follow", "--json", &waiting]);
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!((&shown["state"], &shown["submitters"]), (&json!("succeeded"), &json!(["key:jenkins"])));
}

#[test]
fn a_waiting_and_a_running_job_are_cancelled_and_an_ended_one_is_repeated() {
    let site = site();
    slow(&site);
    let gateway = site.serve();
    let running = submit(&gateway, "/slow");
    wait_for_lines(&site.path("ran"), 1);
    let waiting = submit(&gateway, "/slow");

    let early = jobs(&site, &["retry", &waiting]);
    assert_eq!(early.code, Some(1));
    assert!(early.err.contains("only one that has ended"), "{}", early.err);
    let cancelled = jobs(&site, &["cancel", &waiting]);
    assert_eq!((cancelled.code, cancelled.out), (Some(0), format!("job {waiting}: cancelled\n")));
    assert_eq!(gateway.job(&format!("/-/jobs/{running}"))["state"], "running");
    let cancelled = jobs(&site, &["cancel", "--json", &running]);
    assert_eq!(cancelled.code, Some(0), "{}", cancelled.err);
    let done: Value = serde_json::from_str(&cancelled.out).unwrap();
    assert_eq!((done["job"].as_str(), &done["state"]), (Some(running.as_str()), &json!("cancelled")));
    let view = gateway.job(&format!("/-/jobs/{running}"));
    assert_eq!((&view["state"], &view["steps"][0]["exit"]), (&json!("cancelled"), &json!({"signal": 15})));
    let again = jobs(&site, &["cancel", &running]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("already ended: cancelled"), "{}", again.err);

    std::fs::write(site.path("gate"), "").unwrap();
    let retried = jobs(&site, &["retry", "--follow", &running]);
    assert_eq!((retried.code, retried.out.as_str()), (Some(0), "begun\nover\n"), "{}", retried.err);
    let new = jobs(&site, &["retry", &running]).out.trim().to_owned();
    let view = gateway.ended(&format!("/-/jobs/{new}"));
    assert_eq!((&view["state"], view["retry_of"].as_str()), (&json!("succeeded"), Some(running.as_str())));
    assert_eq!(wait_for_lines(&site.path("ran"), 3).len(), 3, "what was cancelled while it waited never ran");

    assert_eq!(gateway.stop().code(), Some(0));
    let records: Vec<Value> = wait_for_lines(&site.path("audit.jsonl"), 1)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let position = |wanted: &dyn Fn(&Value) -> bool| records.iter().position(wanted).unwrap();
    let uid = rustix::process::geteuid().as_raw();
    for (act, job) in [("cancel", &waiting), ("cancel", &running), ("retry", &running)] {
        position(&|one| {
            one["kind"] == "operated" && one["act"] == act && one["job"] == job.as_str() && one["uid"] == uid
        });
    }
    let asked = position(&|one| one["kind"] == "operated" && one["job"] == running.as_str());
    let ended = position(&|one| one["kind"] == "finished" && one["job"] == running.as_str());
    let repeated = position(&|one| one["kind"] == "repeated" && one["job"] == new.as_str());
    assert!(asked < ended && ended < repeated, "{records:#?}");
    assert_eq!(records[repeated]["retry_of"], running.as_str());
    assert_eq!(records[ended]["state"], "cancelled");
}

#[test]
fn what_cannot_be_done_says_what_to_do() {
    let site = site();
    let nobody = jobs(&site, &["list"]);
    assert_eq!(nobody.code, Some(1));
    for part in ["admin.sock", "`[admin]`", "must run"] {
        assert!(nobody.err.contains(part), "{}", nobody.err);
    }
    let gateway = site.serve();
    let policy = site.dir.path().to_str().unwrap();
    assert_eq!(told(&["jobs", "list", "--policy", policy]).code, Some(0));
    let unknown = jobs(&site, &["show", "01890a5d-ac96-774b-bcce-b302099a8057"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("there is no job"), "{}", unknown.err);
    for usage in [&["show"][..], &["show", "7"], &["list", "--state", "done"], &["list", "--limit", "0"], &[]]
    {
        assert_eq!(jobs(&site, usage).code, Some(2), "{usage:?}");
    }
    let socket = site.path("admin.sock");
    assert_eq!(ask_socket(&socket, "GET", "/jobs?colour=1").0, 400);
    assert_eq!(ask_socket(&socket, "GET", "/metricz").0, 404);
    assert_eq!(ask_socket(&socket, "DELETE", "/jobs").0, 405);
    assert_eq!(gateway.stop().code(), Some(0));

    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("socket =", "#"), 0o644);
    let none = told(&["jobs", "list", "--policy", policy]);
    assert_eq!(none.code, Some(1));
    assert!(none.err.contains("names no socket"), "{}", none.err);
}

#[test]
fn a_stale_socket_is_replaced_a_live_one_is_an_error_and_it_is_removed_at_the_end() {
    let site = site();
    let socket = site.path("admin.sock");
    let gateway = site.serve();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let log = site.try_serve().err().unwrap();
    assert!(log.contains("another process listens on"), "{log}");
    assert_eq!(jobs(&site, &["list"]).code, Some(0));
    gateway.kill();
    assert!(socket.exists());
    let gateway = site.serve();
    assert_eq!(jobs(&site, &["list"]).code, Some(0));
    assert_eq!(gateway.stop().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn operators_can_watch_and_cancel_while_the_gateway_drains() {
    let site = site();
    slow(&site);
    let mut gateway = site.serve();
    let running = submit(&gateway, "/slow");
    wait_for_lines(&site.path("ran"), 1);
    let socket = site.path("admin.sock");
    assert_eq!(ask_socket(&socket, "GET", "/readyz"), (200, json!({"state": "ready"})));
    gateway.signal(rustix::process::Signal::TERM);
    gateway.log.wait_for(|line| line.contains("stopping")).unwrap();
    let (status, health) = ask_socket(&socket, "GET", "/readyz");
    assert_eq!((status, &health["problems"]), (503, &json!(["the gateway is stopping"])));
    assert_eq!(ask_socket(&socket, "GET", "/healthz").0, 200);
    let cancelled = jobs(&site, &["cancel", &running]);
    // Its end may be the gateway's, before it could be asked for.
    assert!(cancelled.code == Some(0) || cancelled.err.contains("admin.sock"), "{}", cancelled.err);
    assert_eq!(gateway.wait().code(), Some(0));
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(audit.contains("\"state\":\"cancelled\""), "{audit}");
}

#[test]
fn i10_without_an_audit_log_it_is_not_ready_accepts_nothing_and_recovers_by_itself() {
    let site = site();
    std::fs::create_dir(site.path("log")).unwrap();
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("audit.jsonl", "log/audit.jsonl"), 0o644);
    let gateway = site.serve();
    let socket = site.path("admin.sock");
    assert_eq!(ask_socket(&socket, "GET", "/readyz").0, 200);
    std::fs::rename(site.path("log"), site.path("away")).unwrap();
    let (status, health) = ask_socket(&socket, "GET", "/readyz");
    assert_eq!(status, 503);
    assert!(health["problems"][0].as_str().unwrap().contains("audit log"), "{health}");
    assert_eq!(gateway.send(&gateway.post("/quick", "x").request()).status, 503);
    std::fs::rename(site.path("away"), site.path("log")).unwrap();
    assert_eq!(ask_socket(&socket, "GET", "/readyz").0, 200);
    gateway.ended(&format!("/-/jobs/{}", submit(&gateway, "/quick")));
    let head = ask_socket(&socket, "GET", "/audit/head").1;
    assert_eq!(gateway.stop().code(), Some(0));
    let audit = site.path("log/audit.jsonl");
    let verified =
        told(&["audit", "verify", audit.to_str().unwrap(), "--head", head["sha256"].as_str().unwrap()]);
    assert_eq!(verified.code, Some(0), "{}", verified.err);
    assert!(verified.out.contains(&format!("record {}", head["seq"])), "{}", verified.out);
}

#[test]
fn a_user_that_is_neither_root_nor_the_gateways_own_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else.
        return;
    }
    let site = site();
    let gateway = site.serve();
    let socket = site.path("admin.sock");
    let as_nobody = || {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl", "--silent", "--show-error"])
            .arg("--unix-socket")
            .arg(&socket)
            .arg("http://localhost/jobs")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    std::fs::set_permissions(site.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(as_nobody(), (Some(7), String::new()), "the file's mode");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let (code, body) = as_nobody();
    assert_eq!(code, Some(0));
    assert!(body.contains("user 65534 may not") && !body.contains("jobs"), "{body}");
    assert!(gateway.log.wait_for(|line| line.contains("\"uid\":65534")).is_some());
}

#[test]
fn a_policy_of_another_user_does_not_say_whom_root_asks() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a file away.
        return;
    }
    let site = site();
    let _gateway = site.serve();
    let (policy, socket) = (site.dir.path(), site.path("admin.sock"));
    let (policy, socket) = (policy.to_str().unwrap(), socket.to_str().unwrap());
    let ask = |how: [&str; 2]| [told(&["jobs", "list", how[0], how[1]]), told(&["reload", how[0], how[1]])];
    for asked in ask(["--policy", policy]) {
        assert_eq!(asked.code, Some(0), "{}", asked.err);
    }
    for of_nobody in ["gateway.toml", "."] {
        let of_nobody = site.path(of_nobody);
        std::os::unix::fs::chown(&of_nobody, Some(65534), None).unwrap();
        for asked in ask(["--policy", policy]) {
            assert_eq!(asked.code, Some(1));
            assert!(asked.err.contains("--socket FILE") && !asked.err.contains("chown"), "{}", asked.err);
        }
        assert_eq!(told(&["jobs", "list", "--socket", socket]).code, Some(0));
        std::os::unix::fs::chown(&of_nobody, Some(0), None).unwrap();
    }
}

#[test]
fn i7_silent_callers_on_the_socket_are_bounded_and_let_go() {
    let site = site();
    let _gateway = site.serve();
    let socket = site.path("admin.sock");
    let mut silent: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let began = std::time::Instant::now();
    assert_eq!(ask_socket(&socket, "GET", "/healthz").0, 200);
    assert!(began.elapsed() < PATIENCE / 2);
    let mut byte = [0];
    silent[0].set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(silent[0].read(&mut byte).unwrap(), 0, "closed");
    let mut long = UnixStream::connect(&socket).unwrap();
    long.set_read_timeout(Some(PATIENCE)).unwrap();
    // The gateway may hang up before all of it is written.
    let _ = write!(long, "GET /jobs?{} HTTP/1.1\r\n", "x".repeat(64 * 1024));
    let mut text = Vec::new();
    let _ = long.read_to_end(&mut text);
    assert!(!String::from_utf8_lossy(&text).starts_with("HTTP/1.1 200"));
}

/// The whole chain through some files, and its head.
fn follow(files: &[&[u8]]) -> Option<Head> {
    let mut chain = Chain::new();
    for bytes in files {
        chain.next_file().ok()?;
        let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        lines.split(|byte| *byte == b'\n').try_for_each(|line| chain.follow(line)).ok()?;
    }
    chain.end().ok()
}

#[test]
fn i10_every_flipped_byte_and_every_moved_line_of_a_real_log_is_found() {
    let site = site();
    let gateway = site.serve();
    gateway.ended(&format!("/-/jobs/{}", submit(&gateway, "/quick")));
    assert!(gateway.send(&gateway.get("/nowhere")).is_wall());
    let log = std::sync::Arc::clone(&gateway.log);
    assert_eq!(gateway.stop().code(), Some(0));
    let audit = site.path("audit.jsonl");
    let bytes = std::fs::read(&audit).unwrap();
    let head = follow(&[&bytes]).expect("it is whole");
    // The head that is logged at the end is the one to keep elsewhere.
    let closed = log.wait_for(|line| line.contains("the audit log is closed")).unwrap();
    assert!(closed.contains(&head.hex()), "{closed}");
    assert!(log.text().contains("the audit log is open"));

    let is_found = |changed: &[u8]| follow(&[changed]).is_none_or(|other| other.hash != head.hash);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x20, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            assert!(is_found(&changed), "byte {at} ^ {flip:#x}: {:?}", String::from_utf8_lossy(&bytes));
        }
    }
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    assert!(lines.len() > 6);
    for index in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(index);
        let mut repeated = lines.clone();
        repeated.insert(index, lines[index]);
        let mut added = lines.clone();
        added.insert(index, b"{\"seq\":1,\"kind\":\"accepted\"}\n");
        let mut swapped = lines.clone();
        swapped.swap(index, (index + 1) % lines.len());
        for changed in [removed, repeated, added, swapped] {
            assert!(is_found(&changed.concat()), "line {index}");
        }
    }

    // The command says the same, and where.
    let file = audit.to_str().unwrap();
    let hash = head.hex();
    let verified = told(&["audit", "verify", file, "--head", &hash]);
    assert_eq!(verified.code, Some(0), "{}", verified.err);
    assert!(verified.out.contains(&format!("head: record {}, sha256 {hash}", head.seq)), "{}", verified.out);
    let second = lines[0].len() + 20;
    for (at, line) in [(10, 1..=2), (second, 2..=3), (bytes.len() - 20, u64::MAX..=u64::MAX)] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        std::fs::write(&audit, &changed).unwrap();
        let verified = told(&["audit", "verify", file, "--head", &hash]);
        assert_eq!(verified.code, Some(1), "byte {at}: {}", verified.out);
        let named = line.clone().any(|line| verified.err.contains(&format!("line {line}:")));
        assert!(named || verified.err.contains("--head"), "byte {at}: {}", verified.err);
    }
    std::fs::write(&audit, lines[..lines.len() - 1].concat()).unwrap();
    assert_eq!(told(&["audit", "verify", file]).code, Some(0), "a cut end is a chain");
    assert_eq!(told(&["audit", "verify", file, "--head", &hash]).code, Some(1), "but not with its head");
    assert_eq!(told(&["audit", "verify"]).code, Some(2));
    assert_eq!(told(&["audit", "verify", file, "--head", "abc"]).code, Some(2));
}

#[test]
fn i10_rotation_under_load_keeps_the_chain() {
    const SENDERS: usize = 4;
    const REQUESTS: usize = 25;
    const ROTATIONS: usize = 8;
    let site = furnished(Site::with_limits("requests_per_source = \"100000/s\""));
    let gateway = site.serve();
    let audit = site.path("audit.jsonl");
    let rotated = |number: usize| site.path(&format!("audit.jsonl.{number}"));
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..REQUESTS {
                        submit(&gateway, "/quick");
                    }
                })
            })
            .collect();
        for number in 0..ROTATIONS {
            // Each file gets a record before it is put aside.
            wait_for_lines(&audit, 2);
            std::fs::rename(&audit, rotated(number)).unwrap();
            if number % 2 == 1 {
                // As logrotate's `create` does; the gateway may have been faster.
                let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&audit);
                made.map(|file| file.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap()).ok();
            }
            submit(&gateway, "/quick");
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
    let total = SENDERS * REQUESTS + ROTATIONS;
    for job in serde_json::from_str::<Value>(&jobs(&site, &["list", "--json", "--limit", "1000"]).out)
        .unwrap()["jobs"]
        .as_array()
        .unwrap()
    {
        gateway.ended(&format!("/-/jobs/{}", job["job"].as_str().unwrap()));
    }
    assert_eq!(gateway.stop().code(), Some(0));
    // While nobody writes, too.
    std::fs::rename(&audit, rotated(ROTATIONS)).unwrap();
    assert_eq!(site.serve().stop().code(), Some(0));

    let mut files: Vec<_> = (0..=ROTATIONS).map(rotated).collect();
    files.push(audit);
    let names: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let verified = told(&[&["audit", "verify"][..], &names].concat());
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    for kind in ["accepted", "stored", "started", "finished"] {
        assert_eq!(text.matches(&format!("\"kind\":\"{kind}\"")).count(), total, "{kind}");
    }
    let mut without: Vec<&str> = names.clone();
    without.remove(3);
    assert_eq!(told(&[&["audit", "verify"][..], &without].concat()).code, Some(1));
    let later = told(&[&["audit", "verify"][..], &names[3..]].concat());
    assert_eq!(later.code, Some(0), "{}", later.err);
    assert!(later.out.contains("continues an older file"), "{}", later.out);
}

#[test]
fn i10_a_log_that_was_truncated_stops_the_gateway_until_it_is_moved_away() {
    let site = site();
    let gateway = site.serve();
    submit(&gateway, "/quick");
    let audit = site.path("audit.jsonl");
    std::fs::copy(&audit, site.path("copy")).unwrap();
    std::fs::OpenOptions::new().write(true).open(&audit).unwrap().set_len(0).unwrap();
    assert_eq!(gateway.send(&gateway.post("/quick", "x").request()).status, 503);
    assert!(gateway.log.wait_for(|line| line.contains("copytruncate")).is_some());
    std::fs::rename(&audit, site.path("evidence")).unwrap();
    gateway.ended(&format!("/-/jobs/{}", submit(&gateway, "/quick")));
    let listed = jobs(&site, &["list", "--json"]).out;
    assert_eq!(listed.matches("\"job\":").count(), 2, "what is not on record is not stored: {listed}");
    assert_eq!(gateway.stop().code(), Some(0));
    let text = std::fs::read_to_string(&audit).unwrap();
    assert!(!text.contains("not_stored"), "nor is it taken back: {text}");
}

#[test]
fn i10_nothing_that_is_sent_forges_a_line() {
    let site = site();
    site.route(
        "any",
        "method = \"POST\"\npath = \"/any\"\n[[allow]]\nkey = [\"jenkins\"]\n\
         [parameters]\ntext = { from = \"body:/text\", pattern = \"(?s).*\" }\n\
         [run]\nsteps = [[\"/bin/echo\", \"said: {text}\"]]\n",
    );
    let gateway = site.serve();
    let hostile =
        "a\n{\"seq\":9,\"kind\":\"accepted\"}\r\u{b}\u{c}\u{85}\u{2028}\u{2029}\u{202e}\u{feff}\u{1b}[2J\"\\";
    let body = json!({ "text": hostile }).to_string();
    let response = gateway.send(&gateway.post("/any", &body).request());
    assert_eq!(response.status, 202, "{response:?}");
    let job = response.json()["job"].as_str().unwrap().to_owned();
    assert_eq!(gateway.ended(&response.location())["state"], "succeeded");
    assert!(gateway.send(&gateway.get("/x%0a%e2%80%a8\"seq\":9}")).is_wall());
    let shown = jobs(&site, &["show", &job]).out;
    assert!(shown.contains("\\u{2028}") && !shown.contains(['\u{1b}', '\u{2028}', '\u{202e}']), "{shown}");
    assert_eq!(jobs(&site, &["output", &job]).out, format!("said: {hostile}\n"), "byte for byte into a pipe");
    assert_eq!(gateway.stop().code(), Some(0));
    let text = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(!text.chars().any(|c| c != '\n' && (c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c))));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), text.matches("\n{\"seq\":").count() + 1);
    assert!(lines.iter().any(|line| line["parameters"]["text"] == hostile));
    assert!(lines.iter().any(|line| line["argv"][1] == format!("said: {hostile}")));
    assert!(follow(&[text.as_bytes()]).is_some());
}
