//! What commands are held to: another user, resource limits, paths that they may write below. Runs as root.

use crate::support::*;

const ROUTE: &str = "method = \"POST\"\npath = \"/run\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nrespond = \"result\"\n";

/// The job of a route with this `[run]`; `@` in it is the site's directory.
fn run(site: &Site, lines: &str) -> serde_json::Value {
    let lines = lines.replace('@', site.dir.path().to_str().unwrap());
    site.route("run", &format!("{ROUTE}{lines}"));
    let gateway = site.serve();
    let answer = gateway.send(&gateway.post("/run", "1").request());
    assert!(matches!(answer.status, 200 | 500 | 504), "{answer:?}");
    assert_eq!(gateway.stop().code(), Some(0));
    answer.json()
}

/// Why the last job ended as it did, which operators alone are told.
fn reason(site: &Site) -> String {
    let log = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut reasons = lines.filter_map(|line| line["reason"].as_str().map(str::to_owned));
    reasons.next_back().unwrap_or_else(|| panic!("{log}"))
}

fn exit(job: &serde_json::Value) -> &serde_json::Value {
    &job["steps"].as_array().unwrap().last().unwrap_or_else(|| panic!("{job}"))["exit"]
}

fn output(job: &serde_json::Value) -> &str {
    job["steps"][0]["output"].as_str().unwrap_or_else(|| panic!("{job}"))
}

/// The words of a line of `/proc/self/status`.
fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name}: {status}")).split_whitespace().collect()
}

fn is_root() {
    assert!(rustix::process::geteuid().is_root(), "the tests of rights need root");
}

#[test]
fn a_command_is_another_user_in_every_respect_and_for_good() {
    is_root();
    let id = |arguments: &[&str]| {
        let told = std::process::Command::new("/usr/bin/id").args(arguments).output().unwrap();
        String::from_utf8(told.stdout).unwrap().trim().to_owned()
    };
    let (uid, gid) = (id(&["-u", "nobody"]), id(&["-g", "nobody"]));
    let groups = id(&["-G", "nobody"]);
    let job = run(&Site::new(), "steps = [[\"/usr/bin/cat\", \"/proc/self/status\"]]\nuser = \"nobody\"");
    let status = output(&job);
    assert_eq!(field(status, "Uid"), [uid.as_str(); 4]);
    assert_eq!(field(status, "Gid"), [gid.as_str(); 4]);
    let mut expected: Vec<&str> = groups.split_whitespace().collect();
    expected.sort_unstable_by_key(|group| group.parse::<u32>().unwrap());
    assert_eq!(field(status, "Groups"), expected);
    assert_eq!(field(status, "NoNewPrivs"), ["1"]);
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(status, capabilities), ["0000000000000000"], "{capabilities}");
    }
    assert_eq!(field(status, "Umask"), ["0077"]);
}

#[test]
fn another_user_cannot_read_what_is_the_gateways() {
    is_root();
    let job = run(&Site::new(), "steps = [[\"/usr/bin/cat\", \"@/jenkins.secret\"]]\nuser = \"nobody\"");
    assert_eq!(job["state"], "failed", "{job}");
    assert!(output(&job).contains("Permission denied"), "{job}");
}

#[test]
fn another_user_cannot_end_what_watches_over_it_and_is_ended_by_it() {
    is_root();
    let script = "setsid --fork sleep 601; kill -KILL $PPID";
    let lines = format!(
        "steps = [[\"/bin/sh\", \"-c\", \"{script}\"]]\nenv = {{ PATH = \"/usr/bin:/bin\" }}\nuser = \"nobody\""
    );
    let job = run(&Site::new(), &lines);
    assert_eq!(exit(&job)["code"], 1, "{job}");
    assert!(output(&job).contains("not permitted"), "{job}");
    let sleeps = |process: std::io::Result<std::fs::DirEntry>| {
        let command = std::fs::read(process.unwrap().path().join("cmdline"));
        command.is_ok_and(|command| command == b"sleep\x00601\x00")
    };
    assert!(!std::fs::read_dir("/proc").unwrap().any(sleeps));
}

#[test]
fn workers_that_cannot_become_the_user_of_a_route_do_not_start_and_a_gate_alone_does() {
    is_root();
    let site = Site::new();
    site.configure("[admin]\nwork_socket = \"admin.sock\"");
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("[queue]", "[queue]\nsocket = \"queue.sock\""), 0o644);
    site.route("run", &format!("{ROUTE}steps = [[\"/bin/true\"]]\nuser = \"daemon\""));
    let own = site.path("bridgeward");
    std::fs::copy(BINARY, &own).unwrap();
    for name in ["", "server.key", "jenkins.secret", "jenkins.next"] {
        std::os::unix::fs::chown(site.path(name), Some(65534), Some(65534)).unwrap();
    }
    let as_nobody = |arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&own);
        command.args(arguments).arg("--policy").arg(site.dir.path());
        command
    };
    let told = |arguments: &[&str]| {
        let output = as_nobody(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    for arguments in [&["serve"][..], &["work"]] {
        let (code, text) = told(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        let error = text.lines().last().unwrap();
        assert!(error.starts_with("error: ") && error.contains("`run`"), "{arguments:?}: {text}");
        assert!(error.contains("`daemon`") && error.contains("root"), "{arguments:?}: {text}");
    }
    // It may be run elsewhere, or by somebody else.
    let (code, text) = told(&["check"]);
    assert!(code == Some(0) && text.contains("cannot become `daemon`"), "{text}");
    let (code, text) = told(&["check", "--part", "gate"]);
    assert!(code == Some(0) && !text.contains("daemon"), "{text}");
    let gate = site.try_start(as_nobody(&["serve", "--no-workers", "--log-format", "json"])).unwrap();
    assert_eq!(gate.stop().code(), Some(0));
}

#[test]
fn a_user_that_is_not_there_is_an_error() {
    is_root();
    let site = Site::new();
    site.route("run", &format!("{ROUTE}steps = [[\"/bin/true\"]]\nuser = \"no-such-user\""));
    let log = site.try_serve().err().unwrap();
    assert!(log.contains("there is no user `no-such-user` on this machine"), "{log}");
}

#[test]
fn limits_are_soft_and_hard() {
    let lines = "steps = [[\"/usr/bin/cat\", \"/proc/self/limits\"]]\n\
                 limits = { processes = 4000, memory = \"512MiB\", files = 77, cpu = \"90s\" }";
    let job = run(&Site::new(), lines);
    let limits = output(&job);
    for (name, limit) in [
        ("Max processes", "4000"),
        ("Max address space", "536870912"),
        ("Max open files", "77"),
        ("Max cpu time", "90"),
        ("Max core file size", "0"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..2], [limit, limit], "{name}");
    }
}

#[test]
fn limits_bind() {
    is_root();
    let memory = "steps = [[\"/usr/bin/head\", \"-c\", \"-500000000\", \"/dev/zero\"]]\nlimits = { memory = \"64MiB\" }";
    assert_eq!(exit(&run(&Site::new(), memory))["code"], 1);
    let cpu = "steps = [[\"/usr/bin/sha256sum\", \"/dev/zero\"]]\nlimits = { cpu = \"1s\" }";
    assert_eq!(exit(&run(&Site::new(), cpu))["signal"], 9);
    let processes = "steps = [[\"/usr/bin/timeout\", \"9\", \"/bin/true\"]]\nuser = \"nobody\"\nlimits = { processes = 1 }";
    let job = run(&Site::new(), processes);
    assert_eq!(job["state"], "failed", "{job}");
}

#[test]
fn a_command_writes_only_below_what_is_writable() {
    let site = Site::new();
    std::fs::create_dir(site.path("inside")).unwrap();
    std::fs::write(site.path("outside"), "as it was").unwrap();
    let job = run(&site, "steps = [[\"/usr/bin/touch\", \"@/inside/x\"]]\nwritable = [\"@/inside\"]");
    let landlock = enforced_by_this_kernel();
    let on_record = |site: &Site| {
        let log = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
        let mut lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.rfind(|line| line["kind"] == "started").map(|line| line["landlock"].clone())
    };
    if !landlock {
        assert_eq!(job["state"], "failed");
        assert!(reason(&site).contains("Landlock"), "{job}");
        assert!(!site.path("inside/x").exists());
        let lines = "steps = [[\"/bin/true\"]]\nwritable = []\nwritable_best_effort = true";
        assert_eq!(run(&site, lines)["state"], "succeeded");
        assert_ne!(on_record(&site).unwrap()["enforced"], "fully");
        return;
    }
    let held = on_record(&site).unwrap();
    assert!(held["enforced"] == "fully" && held["abi"].as_u64().unwrap() >= 3, "{held}");
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(site.path("inside/x").exists());
    for step in [
        "\"/usr/bin/touch\", \"@/new\"",
        "\"/usr/bin/truncate\", \"-s\", \"0\", \"@/outside\"",
        "\"/usr/bin/rm\", \"@/outside\"",
        "\"/usr/bin/mv\", \"@/outside\", \"@/inside/y\"",
        "\"/usr/bin/ln\", \"@/outside\", \"@/inside/z\"",
        "\"/usr/bin/mkdir\", \"@/directory\"",
    ] {
        for best_effort in [false, true] {
            let job = run(
                &site,
                &format!(
                    "steps = [[{step}]]\nwritable = [\"@/inside\"]\nwritable_best_effort = {best_effort}"
                ),
            );
            assert_eq!(exit(&job)["code"], 1, "{step}: {job}");
            assert!(!output(&job).is_empty(), "{job}");
        }
    }
    assert_eq!(std::fs::read_to_string(site.path("outside")).unwrap(), "as it was");
    run(&site, "steps = [[\"/bin/true\"]]");
    assert_eq!(on_record(&site), Some(serde_json::Value::Null), "nothing was asked for");
    let null = "steps = [[\"/usr/bin/dd\", \"if=/dev/zero\", \"of=/dev/null\", \"count=1\"]]\nwritable = []";
    assert_eq!(run(&site, null)["state"], "succeeded");
    let together = "steps = [[\"/usr/bin/touch\", \"/tmp/x\"]]\nwritable = []\nuser = \"nobody\"";
    assert_eq!(run(&site, together)["state"], "failed");
}

/// `landlock_create_ruleset` asks for its version; 3 is Linux 6.2.
fn enforced_by_this_kernel() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap();
    version >= (6, 2) && symbols.contains("landlock_restrict_self")
}

#[test]
fn a_writable_path_that_is_not_there_is_warned_of_and_starts_nothing() {
    let site = Site::new();
    let job = run(&site, "steps = [[\"/usr/bin/touch\", \"@/ran\"]]\nwritable = [\"@/none\"]");
    assert_eq!(job["state"], "refused");
    let reason = reason(&site);
    assert!(reason.contains("/none` of `writable` cannot be opened"), "{reason}");
    assert!(!site.path("ran").exists());
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(!audit.contains("\"started\""), "{audit}");
    let check = || {
        let told = bridgeward(&["check", "--policy", site.dir.path().to_str().unwrap()]);
        String::from_utf8(told.stdout).unwrap() + &String::from_utf8(told.stderr).unwrap()
    };
    let (found, warning) =
        (check(), format!("there is no `{}` on this machine", site.path("none").display()));
    assert!(found.contains(&warning) && found.contains("jobs of this route are refused"), "{found}");
    std::fs::create_dir(site.path("none")).unwrap();
    let found = check();
    assert!(!found.contains(&warning), "{found}");
}
