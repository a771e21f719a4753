//! A machine that is short of descriptors: jobs wait for it, none of them ends, and no attempt is counted.

use std::fs;
use std::process::Command;
use std::time::Instant;

use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, kill_process, pidfd_getfd, pidfd_open,
    prlimit,
};
use serde_json::Value;

use crate::cgroups::{AS_NOBODY, Unprivileged, children};
use crate::support::*;

/// Every descriptor is taken: those that are open stay so, and no other can be had.
pub const NONE: Option<u64> = Some(3);

const SHORT: &str = "the system is short";

fn route(path: &str, program: &str, more: &str) -> String {
    format!(
        "method = \"POST\"\npath = \"/{path}\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n\
         [run]\nsteps = [[\"{program}\"]]\nlock = \"one\"\ntimeout = \"30s\"\n{more}\n"
    )
}

/// Sets how many descriptors a process may have, and says how many it might before; it may be given more again.
pub fn limit(process: Pid, current: Option<u64>) -> Option<u64> {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    prlimit(Some(process), Resource::Nofile, Rlimit { current, maximum }).unwrap().current
}

pub fn gateway_of(gateway: &Running) -> Pid {
    Pid::from_child(&gateway.child)
}

/// The kinds of what is on record about a job, in their order, before its end; that comes on record after it.
pub fn course(site: &Site, location: &str) -> Vec<String> {
    let job = location.rsplit('/').next().unwrap();
    let log = fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_job = lines.filter(|line| line["job"] == job);
    let of_job =
        of_job.filter(|line| !["stored", "ended", "finished"].contains(&line["kind"].as_str().unwrap()));
    of_job.map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
}

/// A gateway on which a job waits for its lock, which is held until there is a file `go`.
fn waiting(site: &Site, more: &str) -> (Running, String) {
    let go = site.path("go");
    let (go, holds) = (go.display(), site.path("holds"));
    let script = format!("echo x > {}; while [ ! -e {go} ]; do /bin/sleep 0.02; done", holds.display());
    let hold = format!("/bin/sh\", \"-c\", \"{script}");
    site.route("hold", &route("hold", &hold, "").replace("30s", "1m"));
    site.route("run", &route("run", "/bin/cat", more));
    let gateway = site.serve();
    assert_eq!(gateway.send(&gateway.post("/hold", "1").request()).status, 202);
    wait_for_lines(&holds, 1);
    let location = gateway.send(&gateway.post("/run", "the body").request()).location();
    (gateway, location)
}

#[test]
fn a_job_waits_while_its_gateway_has_no_descriptors() {
    for more in
        ["", "stdin = \"body\"", "retry = { attempts = 2 }", "writable = []\nwritable_best_effort = true"]
    {
        let site = Site::new();
        let (gateway, location) = waiting(&site, more);
        let before = limit(gateway_of(&gateway), NONE);
        fs::write(site.path("go"), "").unwrap();
        gateway.log.wait_for(|line| line.contains(SHORT)).unwrap();
        assert_eq!(course(&site, &location), Vec::<String>::new(), "nothing has started");
        limit(gateway_of(&gateway), before);
        let job = gateway.ended(&location);
        assert_eq!(job["state"], "succeeded", "{more}: {job}");
        assert_eq!(course(&site, &location), ["started"], "{more}");
    }
}

#[test]
fn a_job_that_waits_for_descriptors_stays_queued_when_its_gateway_is_told_to_stop() {
    let site = Site::new();
    let (gateway, location) = waiting(&site, "");
    limit(gateway_of(&gateway), NONE);
    fs::write(site.path("go"), "").unwrap();
    gateway.log.wait_for(|line| line.contains(SHORT)).unwrap();
    let told = Instant::now();
    assert_eq!(gateway.stop().code(), Some(0));
    assert!(told.elapsed() < PATIENCE);
    assert_eq!(course(&site, &location), Vec::<String>::new());
    let gateway = site.serve();
    assert_eq!(gateway.ended(&location)["state"], "succeeded");
}

#[test]
fn a_later_step_waits_for_descriptors_although_its_gateway_was_told_to_stop() {
    let site = Site::new();
    let (go, holds) = (site.path("go"), site.path("holds"));
    let script =
        format!("echo x > {}; while [ ! -e {} ]; do /bin/sleep 0.02; done", holds.display(), go.display());
    let steps = format!("/bin/sh\", \"-c\", \"{script}\"], [\"/bin/echo\", \"later");
    site.route("run", &route("run", &steps, ""));
    let gateway = site.serve();
    let location = gateway.send(&gateway.post("/run", "1").request()).location();
    wait_for_lines(&holds, 1);
    let before = limit(gateway_of(&gateway), NONE);
    fs::write(&go, "").unwrap();
    gateway.log.wait_for(|line| line.contains(SHORT)).unwrap();
    gateway.signal(Signal::TERM);
    gateway
        .log
        .wait_for(|line| line.contains("stopping"))
        .unwrap_or_else(|| panic!("{}", gateway.log.text()));
    limit(gateway_of(&gateway), before);
    assert_eq!(gateway.stop().code(), Some(0));
    let gateway = site.serve();
    let job = gateway.ended(&location);
    assert_eq!(job["state"], "succeeded", "{job}");
}

/// Whether something waits in a socket of a process to be read.
fn has_an_order(process: Pid) -> bool {
    let own = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap().map(Result::unwrap);
    let sockets =
        entries.filter(|entry| fs::read_link(entry.path()).unwrap().to_string_lossy().starts_with("socket"));
    let numbers = sockets.map(|entry| entry.file_name().into_string().unwrap().parse().unwrap());
    numbers
        .map(|number| pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).unwrap())
        .any(|socket| rustix::io::ioctl_fionread(socket).unwrap() > 0)
}

#[test]
fn a_supervisor_that_is_killed_before_it_took_the_order_costs_the_job_nothing() {
    let site = Site::new();
    site.route("run", &route("run", "/bin/true", ""));
    let gateway = site.serve();
    let first = gateway.send(&gateway.post("/run", "1").request()).location();
    assert_eq!(gateway.ended(&first)["state"], "succeeded");
    let idle = children(children(gateway_of(&gateway))[0]);
    assert_eq!(idle.len(), 1);
    kill_process(idle[0], Signal::STOP).unwrap();
    let location = gateway.send(&gateway.post("/run", "2").request()).location();
    let deadline = Instant::now() + PATIENCE;
    while !has_an_order(idle[0]) {
        assert!(Instant::now() < deadline, "nothing was ordered");
        std::thread::yield_now();
    }
    kill_process(idle[0], Signal::KILL).unwrap();
    let job = gateway.ended(&location);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(course(&site, &location), ["started"]);
}

#[test]
fn a_job_waits_while_what_starts_commands_has_no_descriptors() {
    let site = Site::new();
    site.route("run", &route("run", "/bin/true", ""));
    let gateway = site.serve();
    gateway.log.wait_for(|line| line.contains("control groups")).unwrap();
    let launcher = children(gateway_of(&gateway))[0];
    let starved = |process: Pid, number: &str, reason: &str| {
        let before = limit(process, NONE);
        let location = gateway.send(&gateway.post("/run", number).request()).location();
        gateway
            .log
            .wait_for(|line| line.contains(SHORT) && line.contains(reason))
            .unwrap_or_else(|| panic!("{}", gateway.log.text()));
        limit(process, before);
        let job = gateway.ended(&location);
        assert_eq!(job["state"], "succeeded", "{job}");
        assert_eq!(course(&site, &location), ["started"]);
    };
    starved(launcher, "1", "its conversation is missing");
    // The one that was forked then is used again.
    let supervisors = children(launcher);
    assert_eq!(supervisors.len(), 1);
    starved(supervisors[0], "2", "not the descriptors");
}

#[test]
fn a_job_waits_while_no_process_can_be_made() {
    // Root may have any number of them.
    let this = Unprivileged::new();
    this.site.route("run", &route("run", "/bin/true", "respond = \"result\""));
    let nobodys = |program: &std::path::Path| {
        let mut command = Command::new(AS_NOBODY[0]);
        command.args(&AS_NOBODY[1..]).arg(program);
        command
    };
    let gateway = this.site.serve_by(nobodys(&this.site.path("bridgeward")));
    assert_eq!(gateway.send(&gateway.post("/run", "1").request()).status, 200);
    let supervisors = children(children(gateway_of(&gateway))[0]);
    assert_eq!(supervisors.len(), 1);
    let most = |number: &str| {
        let mut command = nobodys("/usr/bin/prlimit".as_ref());
        command.args(["--pid", &supervisors[0].to_string(), &format!("--nproc={number}:")]);
        assert!(command.status().unwrap().success());
    };
    let before = fs::read_to_string(format!("/proc/{}/limits", supervisors[0])).unwrap();
    let before = before.lines().find_map(|line| line.strip_prefix("Max processes")).unwrap();
    most("0");
    let later = gateway.post("/run", "2").header("prefer", "wait=0", false);
    let location = gateway.send(&later.request()).location();
    gateway.log.wait_for(|line| line.contains(SHORT) && line.contains("no process can be made")).unwrap();
    most(before.split_whitespace().next().unwrap());
    assert_eq!(gateway.ended(&location)["state"], "succeeded");
    assert_eq!(course(&this.site, &location), ["started"]);
}
