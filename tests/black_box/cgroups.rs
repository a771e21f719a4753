//! Control groups: where one is delegated to the gateway, each command gets one below it, and nothing of a command gets
//! away from the gateway, whoever it has become.
//!
//! Runs as root, which mounts the hierarchy of its own kernel where the tests can see it, and delegates a part of it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::fs::XattrFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::*;

pub const NOBODY: u32 = 65534;
/// Begins a command of that user.
pub const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const ROUTE: &str = "method = \"POST\"\npath = \"/PATH\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"@\"]]\n";

fn route(path: &str, program: &str) -> String {
    ROUTE.replace("PATH", path).replace('@', program)
}

/// The hierarchy of version 2, until it is dropped.
pub struct Hierarchy(pub PathBuf);

impl Hierarchy {
    pub fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "cgroup2", "bridgeward-test"]).arg(&at).status();
        assert!(mounted.unwrap().success(), "these tests need root, and a kernel with control groups");
        Self(at)
    }

    /// A new group below the one that the tests are in.
    pub fn group(&self, name: &str) -> Group {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let path = self.0.join(own).join(format!("bridgeward-test-{}-{name}", fresh_nonce()));
        fs::create_dir(&path).unwrap();
        Group(path, self.0.clone())
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A group and the place of its hierarchy, until it is dropped: then all that is in it is killed.
pub struct Group(pub PathBuf, PathBuf);

impl Group {
    /// As systemd does it for `Delegate=yes`.
    pub fn delegate(&self, mark: &str, user: u32) {
        rustix::fs::setxattr(&self.0, mark, b"1", XattrFlags::empty()).unwrap();
        for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            chown(self.0.join(name), Some(user), Some(user)).unwrap();
        }
    }

    /// The names of the groups below it.
    pub fn below(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().map(Result::unwrap);
        let groups = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        groups.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    /// A command that goes into this group, sees the hierarchy where machines have it, as its own and writable, and then
    /// does what `arguments` say.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let usual = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
        let usual = usual.split(' ').nth(4).unwrap();
        let script = "mount --bind \"$1\" \"$2\" && shift 2 && echo $$ > \"$0\" && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", script]);
        command.arg(self.0.join("cgroup.procs")).arg(&self.1).arg(usual).args(arguments);
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let deadline = Instant::now() + PATIENCE;
        let is_there = || {
            self.below().iter().for_each(|name| drop(fs::remove_dir(self.0.join(name))));
            fs::remove_dir(&self.0).is_err()
        };
        while is_there() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// A site whose gateway is nobody's, who has a program that makes anybody root.
pub struct Unprivileged {
    pub site: Site,
    rise: String,
}

impl Unprivileged {
    pub fn new() -> Self {
        let site = Site::new();
        let own = site.path("bridgeward");
        fs::copy(BINARY, &own).unwrap();
        // It becomes whom it is told to be, here with root's right to.
        fs::copy("/usr/bin/setpriv", site.path("rise")).unwrap();
        fs::set_permissions(site.path("rise"), PermissionsExt::from_mode(0o4755)).unwrap();
        fs::write(site.path("pids"), "").unwrap();
        for name in ["", "server.key", "jenkins.secret", "jenkins.next", "pids"] {
            chown(site.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        fs::set_permissions(site.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let rise = site.path("rise").to_str().unwrap().to_owned();
        Self { site, rise }
    }

    pub fn serve(&self, group: &Group) -> Running {
        let own = self.site.path("bridgeward");
        let command: Vec<&str> = AS_NOBODY.into_iter().chain([own.to_str().unwrap()]).collect();
        self.site.serve_by(group.command(&command))
    }

    /// A program of which one half has become root, deaf to TERM, in a session of its own.
    fn rising(&self) -> String {
        let (rise, pids) = (&self.rise, self.site.path("pids"));
        let script = format!(
            "trap '' TERM\n\
             setsid {rise} --reuid=0 --regid=0 --clear-groups sh -c \
             'trap \"\" TERM; sleep 600 & echo $! >> {pids}; echo $$ >> {pids}; wait' &\n\
             sleep 600 & echo $! >> {pids}; while :; do wait; done",
            pids = pids.display()
        );
        self.site.program("rising", &script)
    }

    /// Waits until all three are there, and root among them: nobody could not end them.
    fn risen(&self) -> Vec<Pid> {
        let lines = wait_for_lines(&self.site.path("pids"), 3);
        let pids: Vec<Pid> = lines.iter().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()).collect();
        let is_root = |pid: &&Pid| field(**pid, "Uid").as_deref() == Some("0\t0\t0\t0");
        assert_eq!(pids.iter().filter(is_root).count(), 2, "set-user-id does not work where the tests are");
        pids
    }
}

/// A line of a process's status.
fn field(pid: Pid, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

/// Whether it runs: one that nobody has reaped does not.
pub fn runs(pid: Pid) -> bool {
    field(pid, "State").is_some_and(|state| !state.starts_with('Z'))
}

fn is_there(pid: Pid) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub fn children(pid: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let texts = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    texts
        .flat_map(|text| {
            text.split_whitespace()
                .map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// What the starts of commands on record say of their trees.
pub fn trees(site: &Site) -> Vec<String> {
    let log = fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter_map(|line| (line["kind"] == "started").then(|| line["tree"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn what_has_gained_roots_rights_is_ended_by_a_gateway_that_has_none() {
    let this = Unprivileged::new();
    let hierarchy = Hierarchy::mount(this.site.path("cgroup"));
    let group = hierarchy.group("rights");
    group.delegate("user.delegate", NOBODY);
    let more = "privileges = \"may_gain\"\ntimeout = \"15s\"\nstop_grace = \"200ms\"\nrespond = \"result\"\n";
    this.site.route("run", &(route("run", &this.rising()) + more));
    let gateway = this.serve(&group);
    gateway.log.wait_for(|line| line.contains("a control group of its own")).unwrap();
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| gateway.send(&gateway.post("/run", "1").request()));
        this.risen();
        assert_eq!(group.below().len(), 1);
        asked.join().unwrap()
    });
    assert_eq!((answer.status, answer.json()["state"].as_str()), (504, Some("timed_out")));
    // Not a moment later, but with the answer; not even a zombie is left, nor the group.
    let lines = wait_for_lines(&this.site.path("pids"), 3);
    let left = lines.iter().find(|pid| Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!((left, group.below()), (None, Vec::new()));
    assert_eq!(trees(&this.site), ["cgroup"]);
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn what_all_of_a_former_gateway_has_left_is_ended_before_anything_starts_wherever_the_next_one_is() {
    for moves in [false, true] {
        let this = Unprivileged::new();
        let hierarchy = Hierarchy::mount(this.site.path("cgroup"));
        let (first, other) = (hierarchy.group("first"), hierarchy.group("other"));
        first.delegate("user.delegate", NOBODY);
        other.delegate("user.delegate", NOBODY);
        this.site.route("run", &(route("run", &this.rising()) + "privileges = \"may_gain\"\n"));
        let script = "while read pid; do grep -qs '^State:[^Z]*$' /proc/$pid/status && echo $pid; done < \"$0.pids\"; echo over";
        let look =
            this.site.program("look", &script.replace("$0.pids", this.site.path("pids").to_str().unwrap()));
        this.site.route("look", &(route("look", &look) + "respond = \"result\"\n"));
        let gateway = this.serve(&first);
        gateway.send(&gateway.post("/run", "1").request());
        let risen = this.risen();
        let launcher = children(Pid::from_child(&gateway.child));
        let watching: Vec<Pid> =
            launcher.iter().flat_map(|pid| children(*pid)).chain(launcher.clone()).collect();
        // Held still first: none of them does anything about the end of another one.
        for signal in [Signal::STOP, Signal::KILL] {
            watching.iter().for_each(|pid| kill_process(*pid, signal).unwrap());
            gateway.signal(signal);
        }
        drop(gateway);
        assert!(risen.iter().all(|pid| runs(*pid)), "nobody is left to end them");

        let gateway = this.serve(if moves { &other } else { &first });
        let answer = gateway.send(&gateway.post("/look", "2").request());
        assert_eq!(answer.json()["steps"][0]["output"], "over\n", "{answer:?}");
        assert!(!risen.into_iter().any(runs));
        assert_eq!((first.below(), other.below()), (Vec::new(), Vec::new()));
        assert_eq!(gateway.stop().code(), Some(0));
    }
}

#[test]
fn a_command_is_born_in_its_group_and_what_leaves_that_or_kills_its_supervisor_is_ended_too() {
    let site = Site::new();
    let hierarchy = Hierarchy::mount(site.path("cgroup"));
    let group = hierarchy.group("root");
    group.delegate("trusted.delegate", 0);
    let (pids, procs) = (site.path("pids"), group.0.join("cgroup.procs"));
    let cases = [
        ("born", "grep ^0:: /proc/self/cgroup; ls /proc/self/fd; true".to_owned(), "succeeded"),
        ("leaves", format!("echo $$ > {}; sleep 600 & echo $! >> {}; setsid sleep 600 & echo $! >> {}", procs.display(), pids.display(), pids.display()), "succeeded"),
        ("kills", format!("sleep 600 & echo $! >> {0}; setsid sleep 600 & echo $! >> {0}; kill -KILL $PPID; sleep 600", pids.display()), "failed"),
        ("divides", "own=$(sed -n s/^0:://p /proc/self/cgroup); mkdir -p @$own/a/b; sleep 600 & echo $! > @$own/a/b/cgroup.procs".replace('@', hierarchy.0.to_str().unwrap()), "succeeded"),
    ];
    for (name, script, _) in &cases {
        site.route(name, &(route(name, &site.program(name, script)) + "respond = \"result\"\n"));
    }
    let gateway = site.serve_by(group.command(&[BINARY]));
    for (number, (name, _, state)) in cases.iter().enumerate() {
        let job = gateway.send(&gateway.post(&format!("/{name}"), &number.to_string()).request()).json();
        assert_eq!(job["state"], *state, "{name}: {job}");
        if *name == "born" {
            let output = job["steps"][0]["output"].as_str().unwrap();
            let (own, descriptors) = output.split_once('\n').unwrap();
            let parent = group.0.file_name().unwrap().to_str().unwrap();
            assert!(own.contains(&format!("{parent}/bridgeward-")), "{output}");
            // 3 is the directory that `ls` itself reads.
            assert_eq!(descriptors, "0\n1\n2\n3\n");
        }
        let lines = fs::read_to_string(&pids).unwrap_or_default();
        let left = lines.lines().find(|pid| is_there(Pid::from_raw(pid.parse().unwrap()).unwrap()));
        assert_eq!((left, group.below()), (None, Vec::new()), "{name}");
    }
    assert_eq!(trees(&site), vec!["cgroup"; cases.len()]);
}

#[test]
fn what_is_not_delegated_is_not_divided() {
    let site = Site::new();
    let hierarchy = Hierarchy::mount(site.path("cgroup"));
    let group = hierarchy.group("whose");
    site.route("run", &(route("run", "/bin/true") + "respond = \"result\"\n"));
    let gateway = site.serve_by(group.command(&[BINARY]));
    let told = gateway.log.wait_for(|line| line.contains("commands get no control groups")).unwrap();
    assert!(told.contains("Delegate=yes"), "{told}");
    assert_eq!(gateway.send(&gateway.post("/run", "1").request()).status, 200);
    assert_eq!((trees(&site), group.below()), (vec!["subreaper".to_owned()], Vec::new()));
}

#[test]
fn a_job_waits_for_a_group_and_never_runs_without() {
    let site = Site::new();
    let hierarchy = Hierarchy::mount(site.path("cgroup"));
    let group = hierarchy.group("full");
    group.delegate("trusted.delegate", 0);
    site.route("run", &(route("run", "/bin/true") + "timeout = \"30s\"\n"));
    let gateway = site.serve_by(group.command(&[BINARY]));
    gateway.log.wait_for(|line| line.contains("a control group of its own")).unwrap();
    let most = |number: &str| {
        let mut file = fs::File::options().write(true).open(group.0.join("cgroup.max.descendants")).unwrap();
        file.write_all(number.as_bytes()).unwrap();
    };
    most("0");
    let location = gateway.send(&gateway.post("/run", "1").request()).location();
    gateway
        .log
        .wait_for(|line| line.contains("the system is short") && line.contains("control group"))
        .unwrap();
    assert_eq!(gateway.job(&location)["state"], "running");
    most("max");
    assert_eq!(gateway.ended(&location)["state"], "succeeded");
    assert_eq!(trees(&site), ["cgroup"]);
}
