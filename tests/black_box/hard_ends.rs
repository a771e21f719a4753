//! Trees that are ended whatever stands against it: descriptors that run out, groups that were made threaded, and former
//! gateways that have left something in the way. Runs as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::cgroups::{Group, Hierarchy, NOBODY, Unprivileged, children, runs, trees};
use crate::shortage::{NONE, gateway_of, limit};
use crate::support::*;

fn route(path: &str, program: &str, more: &str) -> String {
    format!(
        "method = \"POST\"\npath = \"/{path}\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n\
         [run]\nsteps = [[\"{program}\"]]\nstop_grace = \"200ms\"\n{more}\n"
    )
}

/// A site, and a group that is delegated to root.
fn delegated(name: &str) -> (Site, Hierarchy, Group) {
    let site = Site::new();
    let hierarchy = Hierarchy::mount(site.path("cgroup"));
    let group = hierarchy.group(name);
    group.delegate("trusted.delegate", 0);
    (site, hierarchy, group)
}

/// A program that notes who it is and what it has started, and goes on.
fn sleeper(site: &Site, before: &str) -> String {
    let pids = site.path("pids");
    let script = format!(
        "{before}\ntrap '' TERM\nsetsid sleep 600 & echo $! >> {0}\necho $$ >> {0}\nwhile :; do wait; done",
        pids.display()
    );
    site.program("sleeper", &script)
}

fn noted(site: &Site) -> Vec<Pid> {
    let lines = wait_for_lines(&site.path("pids"), 2);
    lines.iter().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()).collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        std::thread::yield_now();
    }
}

/// The launcher, and the supervisors that it has.
fn those_who_end(gateway: &Running) -> Vec<Pid> {
    let launcher = children(gateway_of(gateway))[0];
    [vec![launcher], children(launcher)].concat()
}

/// The start of the names of the groups of a site's queue.
fn groups_of(site: &Site) -> String {
    let facts = fs::metadata(site.path("queue.db.runs")).unwrap();
    format!("bridgeward-{:x}-{:x}-", facts.dev(), facts.ino())
}

#[test]
fn a_tree_is_ended_by_those_who_have_no_descriptors() {
    for has_group in [true, false] {
        for is_supervisor_killed in [false, true] {
            let (site, _hierarchy, group) = delegated("short");
            let more = "timeout = \"3s\"";
            site.route("run", &route("run", &sleeper(&site, ""), more));
            let gateway = if has_group { site.serve_by(group.command(&[BINARY])) } else { site.serve() };
            let location = gateway.send(&gateway.post("/run", "1").request()).location();
            let pids = noted(&site);
            let ends = those_who_end(&gateway);
            assert_eq!(ends.len(), 2);
            limit(ends[1], NONE);
            let before = limit(ends[0], NONE);
            let expected = if is_supervisor_killed {
                kill_process(ends[1], Signal::KILL).unwrap();
                wait_until("all are killed", || !pids.iter().any(|pid| runs(*pid)));
                // The group itself can only be looked into when there are descriptors again.
                limit(ends[0], before);
                "failed"
            } else {
                "timed_out"
            };
            let job = gateway.ended(&location);
            assert_eq!(job["state"], expected, "{job}");
            assert!(!pids.iter().any(|pid| runs(*pid)));
            assert_eq!(group.below(), Vec::<String>::new());
        }
    }
}

#[test]
fn those_who_are_killed_leave_a_job_that_has_not_ended() {
    let site = Site::new();
    site.route("run", &route("run", &sleeper(&site, ""), ""));
    let mut gateway = site.serve();
    let location = gateway.send(&gateway.post("/run", "1").request()).location();
    let pids = noted(&site);
    let ends = those_who_end(&gateway);
    for signal in [Signal::STOP, Signal::KILL] {
        ends.iter().for_each(|pid| kill_process(*pid, signal).unwrap());
    }
    gateway.wait();
    assert!(pids.iter().all(|pid| runs(*pid)), "nobody is left to end them");
    let gateway = site.serve();
    let job = gateway.ended(&location);
    pids.iter().for_each(|pid| kill_process(*pid, Signal::KILL).unwrap());
    assert_eq!(job["state"], "interrupted", "{job}");
}

/// Makes its own group threaded, which `cgroup.kill` does not work on.
fn threaded(group: &Group, hierarchy: &Hierarchy) -> String {
    format!(
        "own={}$(sed -n s/^0:://p /proc/self/cgroup)\necho $$ > {}/cgroup.procs\n\
         echo threaded > $own/cgroup.type && echo $$ > $own/cgroup.procs || exit 9",
        hierarchy.0.display(),
        group.0.display()
    )
}

#[test]
fn a_threaded_group_is_ended_and_who_can_have_none_beside_it_waits() {
    let (site, hierarchy, group) = delegated("threaded");
    site.route("run", &route("run", &sleeper(&site, &threaded(&group, &hierarchy)), "timeout = \"5s\""));
    site.route("other", &route("other", "/bin/true", ""));
    let gateway = site.serve_by(group.command(&[BINARY]));
    let location = gateway.send(&gateway.post("/run", "1").request()).location();
    let pids = noted(&site);
    let other = gateway.send(&gateway.post("/other", "2").request()).location();
    gateway.log.wait_for(|line| line.contains("the system is short") && line.contains("threaded")).unwrap();
    let job = gateway.ended(&location);
    assert_eq!(job["state"], "timed_out", "{job}");
    assert!(!pids.into_iter().any(runs));
    assert_eq!(gateway.ended(&other)["state"], "succeeded");
    assert_eq!((trees(&site), group.below()), (vec!["cgroup".to_owned(); 2], Vec::new()));
}

#[test]
fn what_a_former_gateway_has_left_in_a_threaded_group_is_ended_by_the_next() {
    let (site, hierarchy, group) = delegated("former");
    site.route("run", &route("run", &sleeper(&site, &threaded(&group, &hierarchy)), ""));
    site.route("other", &route("other", "/bin/true", ""));
    let gateway = site.serve_by(group.command(&[BINARY]));
    gateway.send(&gateway.post("/run", "1").request());
    let pids = noted(&site);
    let ends = those_who_end(&gateway);
    for signal in [Signal::STOP, Signal::KILL] {
        ends.iter().for_each(|pid| kill_process(*pid, signal).unwrap());
        gateway.signal(signal);
    }
    drop(gateway);
    assert!(pids.iter().all(|pid| runs(*pid)), "nobody is left to end them");
    let gateway = site.serve_by(group.command(&[BINARY]));
    let other = gateway.send(&gateway.post("/other", "2").request()).location();
    assert_eq!(gateway.ended(&other)["state"], "succeeded");
    assert!(!pids.into_iter().any(runs));
    assert_eq!(group.below(), Vec::<String>::new());
}

#[test]
fn a_gateway_that_is_short_of_groups_at_start_waits_for_them() {
    let (site, _hierarchy, group) = delegated("start");
    site.route("run", &route("run", "/bin/true", ""));
    fs::write(group.0.join("cgroup.max.descendants"), "0").unwrap();
    let gateway = site.serve_by(group.command(&[BINARY]));
    let told = gateway.log.wait_for(|line| line.contains("os error 11")).unwrap();
    assert!(told.contains("WARN"), "{told}");
    let location = gateway.send(&gateway.post("/run", "1").request()).location();
    assert_eq!(gateway.job(&location)["state"], "queued");
    fs::write(group.0.join("cgroup.max.descendants"), "max").unwrap();
    assert_eq!(gateway.ended(&location)["state"], "succeeded");
    assert_eq!(trees(&site), ["cgroup"]);
}

#[test]
fn a_group_that_cannot_be_removed_is_in_nobodys_way() {
    let this = Unprivileged::new();
    let hierarchy = Hierarchy::mount(this.site.path("cgroup"));
    let group = hierarchy.group("name");
    group.delegate("user.delegate", NOBODY);
    this.site.route("run", &route("run", "/bin/true", "respond = \"result\""));
    assert_eq!(this.serve(&group).stop().code(), Some(0));
    // The group of root's below it is nobody's to remove.
    let left = group.0.join(format!("{}1-1", groups_of(&this.site)));
    fs::create_dir_all(left.join("a/b")).unwrap();
    chown(&left, Some(NOBODY), Some(NOBODY)).unwrap();
    for entry in fs::read_dir(&left).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            chown(entry.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let gateway = this.serve(&group);
    let answer = gateway.send(&gateway.post("/run", "1").request());
    assert_eq!(answer.json()["state"], "succeeded", "{answer:?}");
    assert!(left.exists());
    assert_eq!(gateway.stop().code(), Some(0));
    for directory in [left.join("a/b"), left.join("a"), left] {
        fs::remove_dir(directory).unwrap();
    }
}

#[test]
fn a_place_without_a_hierarchy_is_neither_touched_nor_forgotten() {
    let (site, _hierarchy, group) = delegated("hidden");
    site.route("run", &route("run", "/bin/true", ""));
    site.write("queue.db.runs", "", 0o600);
    let (forged, victim) = (site.path("forged"), site.path("victim"));
    let inside = forged.join(format!("{}1-1", groups_of(&site)));
    fs::create_dir_all(&inside).unwrap();
    fs::write(inside.join("cgroup.events"), "populated 1\n").unwrap();
    fs::write(&victim, "as it was").unwrap();
    symlink(&victim, inside.join("cgroup.kill")).unwrap();
    site.write("queue.db.runs", &format!("{}\n", forged.display()), 0o600);
    let gateway = site.serve_by(group.command(&[BINARY]));
    let told = gateway.log.wait_for(|line| line.contains("cannot be seen from here")).unwrap();
    assert!(told.contains("WARN") && told.contains("forged"), "{told}");
    let location = gateway.send(&gateway.post("/run", "1").request()).location();
    assert_eq!(gateway.ended(&location)["state"], "succeeded");
    assert_eq!(fs::read_to_string(victim).unwrap(), "as it was");
    let remembered = fs::read_to_string(site.path("queue.db.runs")).unwrap();
    let lines: Vec<&str> = remembered.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, forged.to_str().unwrap()), "{remembered}");
    assert_eq!(fs::metadata(site.path("queue.db.runs")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_launcher_that_waits_hears_its_gateway_end() {
    let site = Site::new();
    site.write("queue.db.runs", "", 0o600);
    let mut holder = Command::new("flock");
    let mut holder = holder.arg(site.path("queue.db.runs")).args(["sleep", "600"]).spawn().unwrap();
    let held = || {
        let tried = Command::new("flock").arg("-n").arg(site.path("queue.db.runs")).arg("true").status();
        !tried.unwrap().success()
    };
    wait_until("somebody holds the lock", held);
    let gateway = site.serve();
    let launcher = children(gateway_of(&gateway))[0];
    assert!(runs(launcher));
    gateway.kill();
    wait_until("the launcher has ended", || !runs(launcher));
    let sleeps = children(Pid::from_child(&holder));
    sleeps
        .iter()
        .chain([&Pid::from_child(&holder)])
        .for_each(|pid| kill_process(*pid, Signal::KILL).unwrap());
    holder.wait().unwrap();
}
