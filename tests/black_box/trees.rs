//! Process trees: nothing that a command starts outlives its run, its time limit or its gateway.

use std::fs;
use std::path::Path;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::*;

const ROUTE: &str = "method = \"POST\"\npath = \"/run\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"@\"]]\n";

/// Tries to get away in every way: twice forked, in sessions of their own, deaf to TERM, with and without the pipe.
const HOSTILE: &str = "trap '' TERM
echo $$ >> {pids}
(setsid sh -c 'echo $$ >> {pids}; sleep 600 & echo $! >> {pids}; wait' &)
setsid setsid sh -c 'echo $$ >> {pids}; exec >&- 2>&-; while :; do sleep 1; done' &
sleep 600 & echo $! >> {pids}
echo ready >> {pids}
while :; do sleep 600; done";

fn hostile(site: &Site, name: &str) -> String {
    site.program(name, &HOSTILE.replace("{pids}", site.path("pids").to_str().unwrap()))
}

/// Waits until the hostile program is all there: five processes.
fn pids(site: &Site) -> Vec<Pid> {
    let lines = wait_for_lines(&site.path("pids"), 6);
    lines.iter().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

fn is_there(pid: Pid) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Waits until none of them is there, not even as a zombie.
fn wait_until_gone(pids: &[Pid]) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(pid) = pids.iter().find(|pid| is_there(**pid)) {
        assert!(Instant::now() < deadline, "{pid} is still there");
        std::thread::yield_now();
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// The launcher of a gateway, whichever of its threads started it.
fn launcher(gateway: &Running) -> Pid {
    let threads = fs::read_dir(format!("/proc/{}/task", gateway.child.id())).unwrap();
    let children = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    let children: Vec<String> = children.filter(|children| !children.is_empty()).collect();
    assert_eq!(children.len(), 1, "{children:?}");
    Pid::from_raw(children[0].trim().parse().unwrap()).unwrap()
}

#[test]
fn a_time_limit_ends_all_that_a_command_has_started() {
    let site = Site::new();
    let more = "timeout = \"1s\"\nstop_grace = \"200ms\"\nrespond = \"result\"\n";
    site.route("run", &(ROUTE.replace('@', &hostile(&site, "hostile")) + more));
    let gateway = site.serve();
    let answer = gateway.send(&gateway.post("/run", "1").request());
    assert_eq!((answer.status, answer.json()["state"].as_str()), (504, Some("timed_out")));
    // Not a moment later, but with the answer.
    let pids = pids(&site);
    assert_eq!(pids.len(), 5);
    assert_eq!(pids.into_iter().find(|pid| is_there(*pid)), None);
    let launcher = launcher(&gateway);
    let supervisors = children(launcher);
    assert_eq!(supervisors.iter().flat_map(|supervisor| children(*supervisor)).count(), 0);
    assert_eq!(gateway.stop().code(), Some(0));
    assert!(!is_there(launcher) && !supervisors.into_iter().any(is_there));
}

#[test]
fn an_operators_cancel_ends_all_that_a_command_has_started() {
    let site = Site::new();
    site.configure(&format!("[admin]\nsocket = \"{}\"", site.path("admin.sock").display()));
    site.route("run", &(ROUTE.replace('@', &hostile(&site, "hostile")) + "stop_grace = \"200ms\"\n"));
    let gateway = site.serve();
    let location = gateway.send(&gateway.post("/run", "1").request()).location();
    let pids = pids(&site);
    let socket = site.path("admin.sock");
    let job = location.rsplit('/').next().unwrap();
    let told = bridgeward(&["jobs", "cancel", "--socket", socket.to_str().unwrap(), job]);
    assert!(told.status.success(), "{told:?}");
    assert_eq!(gateway.ended(&location)["state"], "cancelled");
    assert_eq!(pids.into_iter().find(|pid| is_there(*pid)), None);
}

#[test]
fn a_gateway_that_is_killed_leaves_nothing_running() {
    let site = Site::new();
    site.route("run", &ROUTE.replace('@', &hostile(&site, "hostile")));
    let gateway = site.serve();
    gateway.send(&gateway.post("/run", "1").request());
    let mut all = pids(&site);
    let launcher = launcher(&gateway);
    all.extend(children(launcher));
    all.push(launcher);
    gateway.kill();
    wait_until_gone(&all);
}

#[test]
fn the_next_gateway_starts_nothing_before_all_of_the_former_one_is_gone() {
    let site = Site::new();
    let hostile = hostile(&site, "hostile");
    let started = site.path("started");
    let program = site.program(
        "program",
        &format!("[ -e {0} ] && echo next >> {0} && exit\n: > {0}\nexec {hostile}", started.display()),
    );
    site.route("run", &ROUTE.replace('@', &program));
    let gateway = site.serve();
    gateway.send(&gateway.post("/run", "1").request());
    let mut all = pids(&site);
    let queued = gateway.send(&gateway.post("/run", "2").request()).location();
    let launcher = launcher(&gateway);
    let supervisors = children(launcher);
    // Held still, so that the tree lives on until this test lets it be ended.
    for pid in supervisors.iter().chain([&launcher]) {
        kill_process(*pid, Signal::STOP).unwrap();
    }
    gateway.kill();

    let gateway = site.serve();
    gateway.log.wait_for(|line| line.contains("waiting until nothing of a former worker")).unwrap();
    // It accepts, and starts nothing.
    let accepted = gateway.send(&gateway.post("/run", "3").request());
    assert_eq!(accepted.status, 202);
    assert_eq!(gateway.job(&queued)["state"], "queued");
    assert!(all.iter().all(|pid| is_there(*pid)));
    assert_eq!(fs::read_to_string(&started).unwrap(), "");

    all.extend(&supervisors);
    for pid in supervisors.iter().chain([&launcher]) {
        kill_process(*pid, Signal::CONT).unwrap();
    }
    assert_eq!(gateway.ended(&queued)["state"], "succeeded");
    assert_eq!(all.into_iter().find(|pid| is_there(*pid)), None);
    assert_eq!(gateway.ended(&accepted.location())["state"], "succeeded");
    assert_eq!(wait_for_lines(&started, 2), ["next", "next"]);
    wait_until_gone(&[launcher]);
}

#[test]
fn a_gateway_without_its_launcher_ends_and_says_why() {
    let site = Site::new();
    site.route("run", &(ROUTE.replace('@', "/bin/true") + "respond = \"result\"\n"));
    let mut gateway = site.serve();
    assert_eq!(gateway.send(&gateway.post("/run", "1").request()).status, 200);
    kill_process(launcher(&gateway), Signal::KILL).unwrap();
    assert_eq!(gateway.wait().code(), Some(1));
    assert!(gateway.log.text().contains("commands can no longer be started"), "{}", gateway.log.text());
}

#[test]
fn a_gibibyte_of_output_costs_bounded_memory_and_is_counted() {
    let site = Site::new();
    site.configure("[admin]\nsocket = \"admin.sock\"");
    let program = site.program("program", "exec head -c 1073741824 /dev/zero");
    site.route("run", &(ROUTE.replace('@', &program) + "respond = \"result\"\noutput_limit = \"64KiB\"\n"));
    let gateway = site.serve();
    let answer = gateway.send(&gateway.post("/run", "1").request());
    assert_eq!(answer.status, 200, "{answer:?}");
    let job = answer.json();
    let step = &job["steps"][0];
    assert_eq!((step["truncated"].as_bool(), step["exit"]["code"].as_i64()), (Some(true), Some(0)));
    let beyond = (1 << 30) - (64 << 10);
    assert_eq!(step["dropped"].as_u64(), Some(beyond));
    let logged = gateway.log.wait_for(|line| line.contains("\"ended\"")).unwrap();
    let audit = fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let recorded = audit.lines().find(|line| line.contains("\"kind\":\"ended\"")).unwrap();
    for line in [&logged, recorded] {
        assert!(line.contains(&format!("\"dropped\":{beyond}")), "{line}");
    }
    let job = job["job"].as_str().unwrap();
    let told = |command| bridgeward(&["jobs", command, job, "--policy", site.dir.path().to_str().unwrap()]);
    let (shown, output) = (told("show"), told("output"));
    for told in [shown.stdout, output.stderr] {
        let told = String::from_utf8(told).unwrap();
        assert!(told.contains(&beyond.to_string()), "{told}");
    }
    assert_eq!(step["output"].as_str().map(str::len), Some(64 << 10));
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 200 << 10, "{kib} KiB");
}
