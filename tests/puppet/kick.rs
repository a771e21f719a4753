//! The kick, as it is meant: nodes with certificates of a Puppet CA, the example route, mcollective over `RabbitMQ`.
//! Only the agent's run itself is a stand-in.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::gateway::{Running, Site, wait_for_lines};
use crate::node::Puppet;

const START: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/puppet/mcollective/start");
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policy/routes/kick_haproxy_app_internal.toml");
const NODES: usize = 50;
/// The load balancer that is meant, and another node.
const MEANT: &str = "lb01.example.com";
const OTHER: &str = "web01.example.com";

/// Broker and nodes, which end with the test.
struct Collective {
    child: Child,
    dir: PathBuf,
}

impl Collective {
    fn start(dir: PathBuf) -> Self {
        let child = Command::new(START)
            .arg(&dir)
            .args([format!("{MEANT}=haproxy_app_internal"), format!("{OTHER}=web")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut this = Self { child, dir };
        let mut line = String::new();
        BufReader::new(this.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        this
    }

    /// What a node does instead of running its agent.
    fn run_by(&self, node: &str, site: &Site, script: &str) {
        let program = format!("{}/run", self.dir.join(node).strip_prefix(site.dir.path()).unwrap().display());
        site.program(&program, script);
    }
}

impl Drop for Collective {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The example route, but with a home where `mco` finds its configuration.
fn example(home: &Path) -> String {
    let text = fs::read_to_string(EXAMPLE).unwrap();
    let command = "[\"/usr/bin/mco\", \"puppet\", \"runonce\", \"-F\", \"role=haproxy_app_internal\"]";
    assert!(text.contains(command), "{text}");
    format!("{text}env = {{ HOME = \"{}\" }}\n", home.display())
}

fn kick(gateway: &Running, ca: &Path, certname: &str) -> Child {
    Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
        .arg(ca.join("ca.pem"))
        .arg("--cert")
        .arg(ca.join(format!("{certname}.pem")))
        .arg("--key")
        .arg(ca.join(format!("{certname}.key")))
        .arg(gateway.url("/kick_haproxy_app_internal"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn answer(kick: Child) -> Value {
    let output = kick.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// How a job ended, from the operators' view.
fn ended(site: &Site, job: &str) -> Value {
    let socket = site.path("admin.sock");
    let deadline = std::time::Instant::now() + crate::gateway::PATIENCE;
    loop {
        let output = crate::gateway::bridgeward(&[
            "jobs",
            "show",
            "--json",
            "--socket",
            socket.to_str().unwrap(),
            job,
        ]);
        let view: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        if !matches!(view["state"].as_str().unwrap(), "queued" | "running") {
            return view;
        }
        assert!(std::time::Instant::now() < deadline, "the job does not end: {view}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn fifty_simultaneous_kicks_reach_the_right_node_in_two_runs() {
    let mut site = Site::new();
    let certnames: Vec<String> = (1..=NODES).map(|number| format!("app-{number}.example.com")).collect();
    let nodes: Vec<_> = certnames.iter().map(|name| format!("{name},pp_auth_role=app_internal")).collect();
    let puppet = Puppet::new(site.dir.path(), &nodes);
    puppet.furnish(&mut site);
    let collective = Collective::start(site.path("collective"));
    site.route("kick_haproxy_app_internal", &example(&collective.dir.join("client")));
    site.configure("[admin]\nsocket = \"admin.sock\"");

    // The first run is held until all have asked, so that the others can only join one that waits.
    let (runs, go) = (site.path("runs"), site.path("go"));
    let hold = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    collective.run_by(MEANT, &site, &format!("echo {MEANT} >> {}\n{hold}", runs.display()));
    collective.run_by(OTHER, &site, &format!("echo {OTHER} >> {}", runs.display()));

    let gateway = site.serve();
    let first = answer(kick(&gateway, &puppet.dir, &certnames[0]));
    wait_for_lines(&runs, 1);
    let kicks: Vec<Child> =
        certnames[1..].iter().map(|certname| kick(&gateway, &puppet.dir, certname)).collect();
    let answers: Vec<Value> = kicks.into_iter().map(answer).collect();
    fs::write(&go, "").unwrap();

    let jobs: BTreeSet<&str> = answers.iter().map(|answer| answer["job"].as_str().unwrap()).collect();
    assert_eq!(jobs.len(), 1, "one run serves all who asked before it began: {answers:?}");
    let joined = answers.iter().filter(|answer| answer["coalesced"] == true).count();
    assert_eq!(joined, NODES - 2, "{answers:?}");
    for job in jobs.into_iter().chain([first["job"].as_str().unwrap()]) {
        let view = ended(&site, job);
        assert_eq!(view["state"], "succeeded", "{view}");
    }
    assert_eq!(wait_for_lines(&runs, 2), [MEANT, MEANT]);

    // A node that is found and then never answers: `mco` exits with 0, but its output fails the run.
    collective.run_by(MEANT, &site, "kill -9 $PPID");
    let kicked = answer(kick(&gateway, &puppet.dir, &certnames[0]));
    let view = ended(&site, kicked["job"].as_str().unwrap());
    assert_eq!(view["state"], "failed", "{view}");
    assert!(view["steps"][0]["output"].to_string().contains(MEANT), "{view}");

    // The broker goes: `mco` would try again for ever, without a word.
    drop(collective);
    let route = fs::read_to_string(site.path("routes/kick_haproxy_app_internal.toml")).unwrap();
    site.route("kick_haproxy_app_internal", &route.replace("timeout    = \"5m\"", "timeout = \"3s\""));
    assert!(gateway.stop().success());
    let gateway = site.serve();
    let kicked = answer(kick(&gateway, &puppet.dir, &certnames[0]));
    let view = ended(&site, kicked["job"].as_str().unwrap());
    assert_eq!(view["state"], "timed_out", "{view}");
}
