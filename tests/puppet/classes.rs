//! The classes applied for real, below a directory of their own: a policy lands as a whole or not at all, and the gateway
//! that it describes runs, as a user without rights, and takes it over.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::gateway::{BINARY, PATIENCE};
use crate::node::{Applied, Node, Puppet, WEB};

/// Debian's user that owns nothing, and its group.
const USER: (&str, &str) = ("nobody", "nogroup");

struct Place {
    _dir: tempfile::TempDir,
    root: PathBuf,
    binary: PathBuf,
    puppet: Puppet,
    node: Node,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bridgeward-test-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let puppet = Puppet::new(dir.path(), &[]);
        let node = puppet.node("localhost");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        // Where the user may run it, wherever it was built.
        let binary = dir.path().join("bridgeward");
        fs::copy(BINARY, &binary).unwrap();
        Self { _dir: dir, root, binary, puppet, node }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Applies the class with these lines beside it.
    fn apply(&self, lines: &str) -> Applied {
        let root = self.root.display();
        let (user, group) = USER;
        let manifest = format!(
            "class {{ 'bridgeward':
  package        => false,
  binary         => '{}',
  user           => '{user}',
  group          => '{group}',
  manage_user    => false,
  manage_service => false,
  config_dir     => '{root}/etc/bridgeward',
  state_dir      => '{root}/state',
  run_dir        => '{root}/run',
  ssldir         => '{}',
  certname       => 'localhost',
  addresses      => ['127.0.0.1:0'],
  reload_command => ['/bin/sh', '-c', 'echo reloaded >> {root}/reloads'],
}}
bridgeward::key {{ 'jenkins':
  secrets => [Sensitive('a-secret-of-jenkins-that-is-long-enough')],
}}
{lines}",
            self.binary.display(),
            self.node.root.join("ssl").display(),
        );
        self.node.apply(&manifest, &[])
    }

    fn reloads(&self) -> usize {
        fs::read_to_string(self.path("reloads")).unwrap_or_default().lines().count()
    }

    fn gateway(&self) -> Command {
        let mut command = Command::new("/sbin/runuser");
        command.args(["-u", USER.0, "--"]).arg(&self.binary).stdin(Stdio::null());
        command
    }
}

fn route(name: &str, path: &str, key: &str) -> String {
    format!(
        "bridgeward::route {{ '{name}':\n  method => 'GET',\n  path => '{path}',\n  allow => [{{ 'key' => ['{key}'] }}],\n  run => {{ 'steps' => [['/bin/true']] }},\n}}\n"
    )
}

#[test]
fn i9_a_policy_lands_as_a_whole_or_not_at_all() {
    let place = Place::new();
    let kick = "etc/bridgeward/routes/kick.toml";
    let good = route("kick", "/kick", "jenkins") + &route("other", "/other", "jenkins");
    let applied = place.apply(&good);
    assert_eq!(applied.code, 2, "{}", applied.text);
    assert!(!applied.text.contains("a-secret-of-jenkins"), "{}", applied.text);
    assert_eq!(place.reloads(), 1);
    let landed = fs::read_to_string(place.path(kick)).unwrap();

    // Applied again, there is nothing to do.
    let applied = place.apply(&good);
    assert_eq!(applied.code, 0, "{}", applied.text);
    assert_eq!(place.reloads(), 1);

    // A bad route: neither it nor what else changed lands, nothing is removed, and nothing is reloaded.
    let bad = route("kick", "/kick?", "jenkins") + &route("third", "/third", "jenkins");
    for _ in 0..2 {
        let applied = place.apply(&bad);
        assert_eq!(applied.code & 4, 4, "{}", applied.text);
        let root = place.root.display();
        assert!(applied.text.contains(&format!("{root}/{kick}:4:")), "where it is wrong: {}", applied.text);
        assert_eq!(fs::read_to_string(place.path(kick)).unwrap(), landed);
        assert!(!place.exists("etc/bridgeward/routes/third.toml"));
        assert!(place.exists("etc/bridgeward/routes/other.toml"));
        assert_eq!(place.reloads(), 1);
    }

    // What is not declared goes: a route, and a file that somebody put there.
    fs::write(place.path("etc/bridgeward/routes/by-hand.toml"), "nonsense").unwrap();
    let applied = place.apply(&route("kick", "/kick", "jenkins"));
    assert_eq!(applied.code, 2, "{}", applied.text);
    assert!(!place.exists("etc/bridgeward/routes/by-hand.toml"));
    assert!(!place.exists("etc/bridgeward/routes/other.toml"));
    assert_eq!(place.reloads(), 2);

    // Changes that are good only together: two routes change places, and a key goes with the route that named it.
    let with_key =
        "bridgeward::key { 'second': secrets => [Sensitive('another-secret-that-is-long-enough')] }\n";
    let both = |first, second| route("kick", first, "jenkins") + &route("other", second, "second") + with_key;
    assert_eq!(place.apply(&both("/kick", "/other")).code, 2);
    let applied = place.apply(&both("/other", "/kick"));
    assert_eq!(applied.code, 2, "{}", applied.text);
    let applied = place.apply(&(route("kick", "/kick", "jenkins") + &route("other", "/other", "jenkins")));
    assert_eq!(applied.code, 2, "{}", applied.text);
}

#[test]
fn the_gateway_runs_on_what_landed_as_a_user_without_rights() {
    let place = Place::new();
    let listener = "bridgeward::listener { 'puppet':\n  port => 8443,\n  address => '127.0.0.2',\n  allow => [{ 'certname' => ['web*.example.test'] }],\n  routes => { 'kick' => { 'method' => 'GET', 'command' => ['/bin/echo', 'hello'] } },\n}\n";
    let applied = place.apply(listener);
    assert_eq!(applied.code, 2, "{}", applied.text);
    let gateway_toml = fs::read_to_string(place.path("etc/bridgeward/gateway.toml")).unwrap();
    assert!(gateway_toml.contains("\"127.0.0.2:8443\""), "{gateway_toml}");

    // No one else may read secrets and keys.
    for name in ["secrets/jenkins.1", "tls/server.key"] {
        let mode = fs::metadata(place.path("etc/bridgeward").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640, "{name}");
    }
    // The test's port is any that is free.
    let free = gateway_toml.replace("\"127.0.0.2:8443\",", "");
    fs::write(place.path("etc/bridgeward/gateway.toml"), free).unwrap();
    let mut gateway =
        Served::start(place.gateway().args(["serve", "--policy"]).arg(place.path("etc/bridgeward")));
    let port = gateway.port();
    let kick = format!("http {{ 'kick': ensure => get, fqdn => 'localhost', port => {port} }}\n");
    let applied = place.puppet.node(WEB).apply(&kick, &[]);
    assert_eq!(applied.code, 2, "{}\n{}", applied.text, gateway.log);
    assert!(applied.text.contains("202 Accepted"), "{}", applied.text);
}

/// A gateway that is ended with the test.
struct Served {
    child: Child,
    log: String,
}

impl Served {
    fn start(command: &mut Command) -> Self {
        let child = command.args(["--log-format", "json"]).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, log: String::new() }
    }

    /// The port that it says that it listens at.
    fn port(&mut self) -> u16 {
        let (send, lines) = std::sync::mpsc::channel();
        let stderr = self.child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(stderr)).map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        while let Ok(line) = lines.recv_timeout(PATIENCE) {
            self.log += &(line.clone() + "\n");
            if line.contains("\"message\":\"listening\"") {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                let address: std::net::SocketAddr = line["address"].as_str().unwrap().parse().unwrap();
                return address.port();
            }
        }
        panic!("the gateway did not start:\n{}", self.log);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // runuser passes SIGTERM on to what it started.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}
