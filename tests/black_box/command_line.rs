//! The command line as its users meet it, bad input above all.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;

use crate::support::*;

pub const ROUTE: &str = "method = \"POST\"\npath = \"/x\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"/bin/echo\", \"hello\"]]\n";

pub fn check(site: &Site) -> (Option<i32>, String) {
    let output = bridgeward(&["check", "--policy", site.dir.path().to_str().unwrap()]);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

pub fn site() -> Site {
    let site = Site::new();
    site.route("x", ROUTE);
    site
}

/// What `check` says of a policy whose one route, `x`, has no `user`.
pub const OWN_USER: &str = "warning: commands of `x` run as the gateway's own user, who can read its private key and its senders' secrets";

/// The titles of all findings.
pub fn titles(text: &str) -> Vec<&str> {
    let is_title = |line: &&str| line.starts_with("error: ") || line.starts_with("warning: ");
    text.lines().filter(is_title).collect()
}

#[test]
fn a_good_policy_passes() {
    let (code, text) = check(&site());
    assert_eq!((code, titles(&text)), (Some(0), vec![OWN_USER]));
}

#[test]
fn bad_policies_say_where_and_what() {
    type Spoil = fn(&Site);
    let rows: [(&str, Spoil, &[&str]); 10] = [
        (
            "empty directory",
            |site| {
                std::fs::remove_file(site.path("gateway.toml")).unwrap();
                std::fs::remove_dir_all(site.path("routes")).unwrap();
            },
            &["gateway.toml"],
        ),
        (
            "typo in a key",
            |site| site.route("x", &ROUTE.replace("method", "methud")),
            &["routes/x.toml:1:1", "methud", "method"],
        ),
        (
            "missing secret",
            |site| std::fs::remove_file(site.path("jenkins.secret")).unwrap(),
            &["gateway.toml:", "jenkins.secret"],
        ),
        (
            "world-writable route",
            |site| {
                std::fs::set_permissions(site.path("routes/x.toml"), std::fs::Permissions::from_mode(0o666))
                    .unwrap();
            },
            &["routes/x.toml", "writable"],
        ),
        (
            "readable secret",
            |site| {
                std::fs::set_permissions(site.path("jenkins.secret"), std::fs::Permissions::from_mode(0o644))
                    .unwrap();
            },
            &["jenkins.secret", "read"],
        ),
        ("short secret", |site| site.secret("jenkins.secret", "short"), &["gateway.toml:", "16 bytes"]),
        (
            "no identity",
            |site| site.route("x", &ROUTE.replace("key = [\"jenkins\"]", "networks = [\"10.0.0.0/8\"]")),
            &["routes/x.toml:3:1"],
        ),
        (
            "not built",
            |site| site.configure("[admin]\naddress = \"127.0.0.1:8444\""),
            &["gateway.toml", "`address` is not supported yet in `[admin]`"],
        ),
        (
            "expired certificate",
            |site| {
                let past = bridgeward::trust::mint::Validity {
                    from: now() - jiff::SignedDuration::from_hours(48),
                    until: now() - jiff::SignedDuration::from_hours(24),
                };
                let server = site.ca.issue_server(&["localhost".to_owned()], past).unwrap();
                site.write("server.pem", &server.certificate, 0o644);
                site.write("server.key", &server.key, 0o600);
            },
            &["gateway.toml:3:15", "certificate = \"server.pem\"", "expired"],
        ),
        (
            "key of another certificate",
            |site| {
                let server = site.ca.issue_server(&["localhost".to_owned()], days(1)).unwrap();
                site.write("server.key", &server.key, 0o600);
            },
            &["gateway.toml:4:15", "private_key = \"server.key\"", "does not belong"],
        ),
    ];
    for (name, spoil, expected) in rows {
        let site = site();
        spoil(&site);
        let (code, text) = check(&site);
        assert_eq!(code, Some(1), "{name}: {text}");
        for expected in expected {
            assert!(text.contains(expected), "{name}: no `{expected}` in:\n{text}");
        }
        // `serve` says the same, and starts nothing.
        let log = site.try_serve().err().expect(name);
        assert!(expected.iter().all(|expected| log.contains(expected)), "{name}: {log}");
        assert!(!site.path("queue.db").exists(), "{name}");
    }
}

#[test]
fn all_errors_are_shown_at_once() {
    let site = site();
    site.route(
        "x",
        &ROUTE.replace("method", "methud").replace("\"/x\"", "\"x\"").replace("/bin/echo", "echo"),
    );
    site.route("y", "method = \"TRACE\"\n");
    let (code, text) = check(&site);
    assert_eq!(code, Some(1));
    for expected in ["x.toml:1:1", "x.toml:2:8", "x.toml:6:", "y.toml"] {
        assert!(text.contains(expected), "no `{expected}` in:\n{text}");
    }
}

#[test]
fn a_program_that_is_not_there_is_a_warning_and_refuses_the_job() {
    let site = site();
    site.route("x", &ROUTE.replace("/bin/echo", "/bin/no-such-program"));
    let (code, text) = check(&site);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("warning") && text.contains("/bin/no-such-program"), "{text}");
    let gateway = site.serve();
    let response = gateway.send(&gateway.post("/x", "1").request());
    assert_eq!(gateway.ended(&response.location())["state"], "refused");
}

#[test]
fn call_is_accepted_waits_and_explains_the_wall() {
    let site = site();
    let node = site.node("node.example.com", &[]);
    site.write("node.pem", &node.certificate, 0o644);
    site.write("node.key", &node.key, 0o600);
    site.route(
        "kick",
        &ROUTE.replace("POST", "GET").replace("key = [\"jenkins\"]", "certname = [\"node.example.com\"]"),
    );
    site.route("fails", &ROUTE.replace("/x", "/fails").replace("/bin/echo", "/bin/false"));
    let gateway = site.serve();
    let path = |name: &str| site.path(name).to_str().unwrap().to_owned();
    let (ca, secret, certificate, key) =
        (path("ca.pem"), path("jenkins.secret"), path("node.pem"), path("node.key"));
    let call = |arguments: &[&str]| {
        let output = bridgeward(&[&["call", "--ca", &ca], arguments].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let signed = ["--key", "jenkins", "--secret", &secret, "--data", "{}"];
    let (code, out, err) = call(&[&signed[..], &[&gateway.url("/x")]].concat());
    assert_eq!(code, Some(0), "{out}{err}");
    let (code, out, err) = call(&[&signed[..], &["--wait", &gateway.url("/x")]].concat());
    assert_eq!((code, out.as_str()), (Some(0), "hello\n"), "{err}");
    let (code, _, err) = call(&[&signed[..], &["--wait", &gateway.url("/fails")]].concat());
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("failed"), "{err}");
    let (code, out, err) = call(&["--cert", &certificate, "--cert-key", &key, "--wait", &gateway.url("/x")]);
    assert_eq!((code, out.as_str()), (Some(0), "hello\n"), "{err}");
    let (code, _, err) = call(&[&gateway.url("/x")]);
    assert_eq!(code, Some(1));
    assert!(err.contains(WALL) || err.contains("404"), "{err}");
    assert!(err.contains("log"), "where to look: {err}");
    let (code, _, err) = call(&["https://localhost:1/x"]);
    assert_eq!(code, Some(1), "{err}");
    let nobody = bridgeward(&["call", &gateway.url("/x")]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("--ca"));
}

#[test]
fn call_prints_each_step_when_it_has_ended() {
    let site = site();
    let (go, wait) =
        (site.path("go"), site.program("wait", "until test -e \"$1\"; do sleep 0.05; done; echo went"));
    let steps = format!("[\"/bin/echo\", \"hello\"], [\"{wait}\", \"{}\"]", go.display());
    site.route(
        "x",
        &ROUTE
            .replace("[\"/bin/echo\", \"hello\"]", &steps)
            .replace("[run]", "[run]\nenv = { PATH = \"/usr/bin:/bin\" }"),
    );
    let gateway = site.serve();
    let mut call = std::process::Command::new(BINARY)
        .args(["call", "--wait", "--key", "jenkins", "--data", "{}", "--ca"])
        .arg(site.path("ca.pem"))
        .arg("--secret")
        .arg(site.path("jenkins.secret"))
        .arg(gateway.url("/x"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(call.stderr.take().unwrap()).lines().map(Result::unwrap);
    let job = told.next().unwrap();
    let job = job.strip_prefix("accepted: job ").expect(&job);
    // Where it runs already as it is accepted, the line says so.
    let job = job.split(',').next().unwrap();
    let mut out = BufReader::new(call.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    // The second step still waits: only now may it end.
    std::fs::write(go, "").unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "went\n");
    let told: Vec<String> = told.collect();
    // That it runs is only news when it did not run yet as it was accepted.
    assert!(told.iter().all(|line| !line.contains("queued")), "{told:?}");
    assert_eq!(told.last(), Some(&format!("job {job}: succeeded")), "{told:?}");
    assert!(call.wait().unwrap().success());
}

#[test]
fn call_says_where_the_reason_is_when_no_step_ran() {
    let site = site();
    site.route("x", &ROUTE.replace("/bin/echo", "/bin/no-such-program"));
    let gateway = site.serve();
    let (ca, secret) = (site.path("ca.pem"), site.path("jenkins.secret"));
    let (ca, secret, url) = (ca.to_str().unwrap(), secret.to_str().unwrap(), gateway.url("/x"));
    let output =
        bridgeward(&["call", "--ca", ca, "--key", "jenkins", "--secret", secret, "-d", "{}", "--wait", &url]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(": refused\n") && text.contains("the gateway's log says why"), "{text}");
}

#[test]
fn usage_errors_are_exit_code_2() {
    for arguments in [&[][..], &["serv"], &["check"], &["call"], &["serve", "--policy"]] {
        assert_eq!(bridgeward(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let url = "https://localhost:1/";
    let sign = ["sign", "--key", "jenkins", "--secret", "/nonexistent"];
    for command in [&["call"][..], &sign] {
        for (arguments, hint) in [
            (&["http://localhost/"][..], "https://"),
            (&["foo"], "not a URL"),
            (&["https://localhost/#x"], "%23"),
            (&["-X", "A B", url], "such as POST"),
            (&["-H", "no colon", url], "X-GitHub-Event: push"),
            (&["-H", "Host: other", url], "leave it out"),
            (&["-H", "X-A: 1", "-H", "x-a: 2", url], "twice"),
            (&["-d", "@", url], "@FILE"),
        ] {
            let output = bridgeward(&[command, arguments].concat());
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
            assert!(text.contains(hint), "{arguments:?}: {text}");
        }
    }
    let help = bridgeward(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for command in ["demo", "serve", "check", "call", "sign", "certs", "jobs", "audit"] {
        assert!(text.contains(command), "{text}");
    }
}

#[test]
fn certs_are_made_once_and_privately() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("certs");
    let out = out.to_str().unwrap();
    let made = bridgeward(&["certs", "--out", out]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for name in ["ca.pem", "crl.pem", "server.pem", "server.key", "client.pem", "client.key"] {
        let mode = std::fs::metadata(format!("{out}/{name}")).expect(name).permissions().mode();
        assert_eq!(mode & 0o077 != 0, name.ends_with(".pem") && mode & 0o077 != 0, "{name}: {mode:o}");
    }
    let key = std::fs::read(format!("{out}/server.key")).unwrap();
    assert_eq!(bridgeward(&["certs", "--out", out]).status.code(), Some(1), "overwrites");
    assert_eq!(std::fs::read(format!("{out}/server.key")).unwrap(), key);
}

#[test]
fn the_demonstration_shows_all_three_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(BINARY)
        .args(["demo", "--once"])
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for expected in ["202", WALL, "bridgeward call", "curl"] {
        assert!(text.contains(expected), "no `{expected}` in:\n{text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it left files behind");
}

#[test]
fn a_demonstration_that_is_cut_short_leaves_nothing() {
    use std::io::{BufRead, BufReader};
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::HUP] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(BINARY)
            .arg("demo")
            .env("TMPDIR", dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next().unwrap().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        // It goes on writing until it has noticed.
        for line in lines {
            line.unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{signal:?}");
    }
}
