//! `stdin = "body"`: what was sent is what commands read.

use serde_json::Value;

use crate::support::*;

/// Every byte there is, NUL and what is no UTF-8 among them, and more than a pipe holds.
fn any_bytes() -> Vec<u8> {
    (0..=255).cycle().take(200_000).collect()
}

/// A route that hands the body to these steps.
fn route(site: &Site, steps: &str, more: &str) {
    site.route(
        "x",
        &format!(
            "method = \"POST\"\npath = \"/x\"\npayload = \"none\"\nbody = \"256KiB\"\n\
             [[allow]]\ncertname = [\"node.example.com\"]\n[[allow]]\nkey = [\"jenkins\"]\n\
             [run]\nsteps = {steps}\nstdin = \"body\"\n{more}\n"
        ),
    );
}

fn site() -> Site {
    Site::with_limits("body = \"256KiB\"")
}

fn send(site: &Site, gateway: &Running, body: &[u8]) -> Response {
    let mut tls = gateway.connect_as(&site.node("node.example.com", &[]));
    let head = gateway.get("/x").replacen("GET", "POST", 1);
    let head = head.trim_end_matches("\r\n");
    let head = format!("{head}\r\ncontent-length: {}\r\n\r\n", body.len());
    tls.write(&[head.as_bytes(), body].concat()).unwrap();
    tls.read().unwrap()
}

#[test]
fn each_step_reads_the_whole_body_byte_for_byte() {
    let site = site();
    let copy = |name: &str| {
        let program = site
            .program(name, &format!("exec /usr/bin/cat > {}", site.path(&format!("{name}.out")).display()));
        format!("[\"{program}\"]")
    };
    let (one, two) = (copy("one"), copy("two"));
    route(&site, &format!("[{one}, {two}, [\"/usr/bin/wc\", \"-c\"]]"), "respond = \"result\"");
    let gateway = site.serve();
    for body in [any_bytes(), Vec::new()] {
        let response = send(&site, &gateway, &body);
        let view: Value = response.json();
        assert_eq!((response.status, view["state"].as_str()), (200, Some("succeeded")), "{view}");
        for name in ["one.out", "two.out"] {
            assert!(std::fs::read(site.path(name)).unwrap() == body, "{name}");
        }
        assert_eq!(view["steps"][2]["output"], format!("{}\n", body.len()));
    }
}

#[test]
fn a_command_that_reads_nothing_ends_as_ever() {
    let site = site();
    route(&site, "[[\"/usr/bin/true\"]]", "respond = \"result\"");
    let gateway = site.serve();
    let response = send(&site, &gateway, &any_bytes());
    assert_eq!(response.json()["state"], "succeeded", "{response:?}");
}

#[test]
fn only_equal_bodies_join_and_each_job_has_its_own() {
    let site = site();
    let gate = site.path("gate");
    // The first job holds the lock until the others wait.
    let program = site.program(
        "program",
        &format!(
            "cat >> {}\nwhile ! test -e {}; do sleep 0.05; done",
            site.path("ran").display(),
            gate.display()
        ),
    );
    route(&site, &format!("[[\"{program}\"]]"), "coalesce = true");
    let gateway = site.serve();
    let job = |body: &str| {
        let response = gateway.send(&gateway.post("/x", body).request());
        assert_eq!(response.status, 202, "{response:?}");
        response.location()
    };
    let first = job("first\n");
    wait_for_lines(&site.path("ran"), 1);
    let (same, again, other) = (job("same\n"), job("same\n"), job("other\n"));
    assert_eq!(same, again);
    assert!(first != same && same != other);
    std::fs::write(&gate, "").unwrap();
    assert_eq!(gateway.ended(&other)["state"], "succeeded");
    assert_eq!(wait_for_lines(&site.path("ran"), 3), ["first", "same", "other"]);
}

#[test]
fn a_body_survives_a_crash_and_a_repetition_has_it() {
    let site = site();
    site.configure("[admin]\nsocket = \"admin.sock\"");
    let held = site.path("held");
    std::fs::write(&held, "").unwrap();
    route(&site, "[[\"/usr/bin/cat\"]]", &format!("wait_while_exists = \"{}\"", held.display()));
    let gateway = site.serve();
    let location = gateway.send(&gateway.post("/x", "kept over a crash").request()).location();
    gateway.kill();
    std::fs::remove_file(&held).unwrap();
    let gateway = site.serve();
    assert_eq!(gateway.ended(&location)["steps"][0]["output"], "kept over a crash");

    let policy = site.dir.path().to_str().unwrap();
    let job = location.rsplit('/').next().unwrap();
    let output = bridgeward(&["jobs", "retry", "--policy", policy, job]);
    assert!(output.status.success(), "{output:?}");
    let new = String::from_utf8(output.stdout).unwrap();
    let view = gateway.ended(&format!("/-/jobs/{}", new.trim()));
    assert_eq!(view["steps"][0]["output"], "kept over a crash");
}
