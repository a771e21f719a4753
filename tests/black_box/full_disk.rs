//! A file system that fills while the gateway works, and is emptied again.
//!
//! It is a tmpfs of a few MiB, which takes root to mount; the tests run as root, as CI does.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use crate::support::*;

/// More than the gateway needs to start, and less than its write-ahead log may grow to.
const SIZE: &str = "size=4m,mode=0700";

/// A tmpfs, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "bridgeward-test"]).arg(&at).status();
        assert!(mounted.unwrap().success(), "these tests must run as root, to mount a tmpfs");
        Self(at)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Leaves no page free.
    fn fill(&self) {
        let mut file = fs::File::create(self.path("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.path("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever still has a file open there, such as a gateway of a test that failed, goes on without it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn route(program: &str) -> String {
    format!(
        "method = \"POST\"\npath = \"/job\"\n[[allow]]\nkey = [\"jenkins\"]\n\
         [parameters]\nid = {{ from = \"body:/id\", integer = {{ min = 0, max = 9999 }} }}\n\
         [run]\nsteps = [[\"{program}\", \"{{id}}\"]]\n"
    )
}

/// A gateway whose files stand on the disk, but for the audit log where `audit` is elsewhere.
fn fills_and_is_emptied(audit_on_disk: bool) {
    let site = Site::with_limits("requests_per_source = \"100000/s\"");
    let disk = Disk::mount(site.path("disk"));
    let audit = if audit_on_disk { disk.path("audit.jsonl") } else { site.path("audit.jsonl") };
    let text = fs::read_to_string(site.path("gateway.toml")).unwrap();
    let text = text.replace("\"queue.db\"", "\"disk/queue.db\"");
    let text = text.replace("\"audit.jsonl\"", &format!("{:?}", audit.display().to_string()));
    site.write("gateway.toml", &text, 0o644);
    let (ran, gate) = (site.path("ran"), site.path("gate"));
    let script = format!(
        "echo \"$1\" >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done\necho out",
        ran.display(),
        gate.display()
    );
    site.route("job", &route(&site.program("program", &script)));
    let gateway = site.serve();
    let post = |id: usize| gateway.send(&gateway.post("/job", &format!("{{\"id\":{id}}}")).request());

    let mut accepted = vec![post(0), post(1)];
    wait_for_lines(&ran, 1);
    disk.fill();
    // Files may have room left in their last page; what is accepted for that reason is kept like everything else.
    let refused = loop {
        let response = post(accepted.len());
        if response.status != 202 {
            break response;
        }
        accepted.push(response);
        assert!(accepted.len() < 500, "a full disk accepts without end");
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(gateway.send(&gateway.get("/job")).is_wall(), "strangers see nothing of it");
    assert!(gateway.send(&gateway.post("/nowhere", "{}").request()).is_wall());

    // The running command ends; its result is held, and what waits behind it does not start.
    fs::write(&gate, "").unwrap();
    gateway.log.wait_for(|line| line.contains("held and tried again")).expect("the result is held");
    assert_eq!(wait_for_lines(&ran, 1), ["0"]);
    assert_eq!(post(9999).status, 503);
    assert_eq!(gateway.job(&accepted[0].location())["state"], "running");

    disk.free();
    let deadline = Instant::now() + PATIENCE;
    let later = loop {
        let response = post(9998);
        if response.status == 202 {
            break response;
        }
        assert_eq!(response.status, 503, "{response:?}");
        assert!(Instant::now() < deadline, "it does not recover by itself:\n{}", gateway.log.text());
    };
    let first = gateway.ended(&accepted[0].location());
    assert_eq!((&first["state"], &first["steps"][0]["output"]), (&json!("succeeded"), &json!("out\n")));
    for response in accepted.iter().chain([&later]) {
        assert_eq!(gateway.ended(&response.location())["state"], "succeeded");
    }
    // Each ran once, in order, and nothing ran that was answered with 503.
    let mut expected: Vec<String> = (0..accepted.len()).map(|id| id.to_string()).collect();
    expected.push("9998".to_owned());
    assert_eq!(wait_for_lines(&ran, expected.len()), expected);
    assert_eq!(gateway.stop().code(), Some(0));
    whole(&disk.path("queue.db"), &audit);
}

fn whole(queue: &Path, audit: &Path) {
    let database = rusqlite::Connection::open(queue).unwrap();
    let intact = database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(intact.unwrap(), "ok");
    let verified = bridgeward(&["audit", "verify", audit.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn i5_a_disk_that_fills_under_queue_and_audit_log_is_503_and_passes() {
    fills_and_is_emptied(true);
}

#[test]
fn i5_a_disk_that_fills_under_the_queue_alone_is_503_and_passes() {
    fills_and_is_emptied(false);
}

#[test]
fn i5_a_gateway_that_dies_on_a_full_disk_leaves_a_database_that_is_whole() {
    let site = Site::with_limits("requests_per_source = \"100000/s\"");
    let disk = Disk::mount(site.path("disk"));
    let text = fs::read_to_string(site.path("gateway.toml")).unwrap();
    let text =
        text.replace("\"queue.db\"", "\"disk/queue.db\"").replace("\"audit.jsonl\"", "\"disk/audit.jsonl\"");
    site.write("gateway.toml", &text, 0o644);
    site.route("job", &route("/bin/true"));
    let gateway = site.serve();
    let post = |gateway: &Running, id: usize| {
        gateway.send(&gateway.post("/job", &format!("{{\"id\":{id}}}")).request())
    };
    let mut accepted: Vec<Response> = (0..20).map(|id| post(&gateway, id)).collect();
    disk.fill();
    while accepted.len() < 500 {
        let response = post(&gateway, accepted.len());
        if response.status != 202 {
            assert_eq!(response.status, 503, "{response:?}");
            break;
        }
        accepted.push(response);
    }
    gateway.kill();
    disk.free();
    let gateway = site.serve();
    for response in &accepted {
        assert_eq!(response.status, 202, "{response:?}");
        let state = gateway.ended(&response.location())["state"].clone();
        assert!(state == "succeeded" || state == "interrupted", "{state}");
    }
    assert_eq!(gateway.stop().code(), Some(0));
    whole(&disk.path("queue.db"), &disk.path("audit.jsonl"));
}
