//! Invariant I9: a bad policy never replaces a good one, and a reload drops no request.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::*;

const ROUTE: &str = "method = \"POST\"\npath = \"/x\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"/bin/echo\", \"@\"]]\nconcurrency = 4\n";

fn site(limits: &str) -> Site {
    let site = Site::with_limits(limits);
    site.configure("[admin]\nsocket = \"admin.sock\"");
    site.route("x", &ROUTE.replace('@', "one"));
    site
}

/// `bridgeward reload`: exit code, standard output, standard error.
fn reload(site: &Site) -> (Option<i32>, String, String) {
    let output = bridgeward(&["reload", "--socket", site.path("admin.sock").to_str().unwrap()]);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn said(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["steps"][0]["output"].as_str().unwrap().trim().to_owned()
}

fn waiting(gateway: &Running, path: &str) -> String {
    gateway.post(path, "1").header("prefer", "wait=20", false).request()
}

#[test]
fn i9_a_reload_puts_the_whole_policy_in_force_also_for_open_connections() {
    let site = site("");
    let gateway = site.serve();
    let mut tls = gateway.connect();
    assert_eq!(said(&tls.ask(&waiting(&gateway, "/x"))), "one");
    assert!(tls.ask(&waiting(&gateway, "/y")).is_wall());

    site.route("x", &ROUTE.replace('@', "two"));
    site.route("y", &ROUTE.replace("/x", "/y").replace('@', "three"));
    assert_eq!(said(&tls.ask(&waiting(&gateway, "/x"))), "one", "nothing changes by itself");
    let (code, out, err) = reload(&site);
    assert_eq!(code, Some(0));
    assert!(
        err.contains("commands of `x`, `y` run as the gateway's own user") && err.ends_with("1 warning\n\n"),
        "{err}"
    );
    let checked = bridgeward(&["check", "--policy", site.dir.path().to_str().unwrap()]);
    let checked = String::from_utf8(checked.stdout).unwrap();
    let hash = checked.trim().rsplit(' ').next().unwrap();
    assert_eq!(out, format!("in force: policy {hash}; routes: 2, keys: 1\n"));
    assert_eq!(said(&tls.ask(&waiting(&gateway, "/x"))), "two");
    assert_eq!(said(&tls.ask(&waiting(&gateway, "/y"))), "three");

    std::fs::remove_file(site.path("routes/y.toml")).unwrap();
    gateway.signal(rustix::process::Signal::HUP);
    gateway.log.wait_for(|line| line.contains("in force") && line.contains("\"cause\":\"signal\"")).unwrap();
    assert!(tls.ask(&waiting(&gateway, "/y")).is_wall());
    assert_eq!(said(&tls.ask(&waiting(&gateway, "/x"))), "two");
    // Which policy was in force when, and who asked, is on record.
    let log = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let loaded: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["kind"] == "loaded")
        .collect();
    let operator = json!({ "operator": rustix::process::geteuid().as_raw() });
    let causes: Vec<_> = loaded.iter().map(|line| &line["cause"]).collect();
    assert_eq!(causes, [&json!("start"), &operator, &json!("signal")]);
    assert_eq!(loaded[1]["policy"], hash);
}

#[test]
fn i9_a_bad_policy_changes_nothing_and_says_why() {
    let site = site("");
    let gateway = site.serve();
    let socket = site.path("admin.sock");
    site.route("x", &ROUTE.replace('@', "two").replace("concurrency", "concurency"));
    let (code, out, err) = reload(&site);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    for part in ["error: unknown key `concurency`", "routes/x.toml:8:1", "^^^^^", "nothing has changed"] {
        assert!(err.contains(part), "no {part:?} in\n{err}");
    }
    assert_eq!(said(&gateway.send(&waiting(&gateway, "/x"))), "one");
    let (status, ready) = ask_socket(&socket, "GET", "/readyz");
    assert_eq!((status, &ready["alarms"][0]["alarm"]), (200, &json!("reload")), "{ready}");
    assert!(
        ready["alarms"][0]["reason"].as_str().unwrap().contains("routes/x.toml:8: unknown key"),
        "{ready}"
    );

    gateway.signal(rustix::process::Signal::HUP);
    gateway
        .log
        .wait_for(|line| {
            line.contains("the former one stays in force") && line.contains("\"cause\":\"signal\"")
        })
        .unwrap();
    assert_eq!(said(&gateway.send(&waiting(&gateway, "/x"))), "one");
    std::fs::rename(site.path("gateway.toml"), site.path("elsewhere")).unwrap();
    assert_eq!(reload(&site).0, Some(1));
    assert_eq!(said(&gateway.send(&waiting(&gateway, "/x"))), "one");

    std::fs::rename(site.path("elsewhere"), site.path("gateway.toml")).unwrap();
    site.route("x", &ROUTE.replace('@', "two"));
    assert_eq!(reload(&site).0, Some(0));
    assert_eq!(said(&gateway.send(&waiting(&gateway, "/x"))), "two");
    assert_eq!(ask_socket(&socket, "GET", "/readyz"), (200, json!({ "state": "ready" })));
    assert_eq!(gateway.stop().code(), Some(0));
    let (code, _, err) = reload(&site);
    assert!(code == Some(1) && err.contains("no gateway listens"), "{err}");
}

#[test]
fn i9_what_only_a_restart_can_change_is_refused_by_name() {
    let site = site("");
    let gateway = site.serve();
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    for (from, to, key) in [
        ("127.0.0.1:0", "127.0.0.1:1", "listen.address"),
        ("admin.sock", "other.sock", "admin.socket"),
        ("queue.db", "other.db", "queue.file"),
        ("audit.jsonl", "other.jsonl", "audit.file"),
    ] {
        site.write("gateway.toml", &text.replace(from, to), 0o644);
        let (code, _, err) = reload(&site);
        assert_eq!(code, Some(1), "{key}");
        assert!(
            err.contains(&format!("`{key}` is another one than in force: that needs a restart")),
            "{err}"
        );
    }
    site.write("gateway.toml", &text, 0o644);
    assert_eq!(reload(&site).0, Some(0));
    assert_eq!(said(&gateway.send(&waiting(&gateway, "/x"))), "one");
}

#[test]
fn i9_no_request_is_dropped_while_the_policy_is_loaded_again_and_again() {
    let site = site("requests_per_source = \"1000000/s\"\nconnections_per_source = 1000");
    site.route("x", &ROUTE.replace("/bin/echo\", \"@", "/bin/true"));
    let gateway = site.serve();
    let over = AtomicBool::new(false);
    let sent: Vec<usize> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let (gateway, over) = (&gateway, &over);
                scope.spawn(move || {
                    let mut tls = gateway.connect();
                    let mut sent = 0;
                    while !over.load(Ordering::Relaxed) {
                        // Half of them come with connections of their own.
                        if sender % 2 == 0 {
                            tls = gateway.connect();
                        }
                        let response = tls.ask(&gateway.post("/x", "1").request());
                        assert_eq!(response.status, 202, "{response:?}");
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        for round in 0..20 {
            let text = ROUTE.replace("/bin/echo\", \"@", "/bin/true");
            site.route("x", &format!("{text}# {round}\n"));
            if round % 2 == 0 {
                assert_eq!(reload(&site).0, Some(0));
            } else {
                gateway.signal(rustix::process::Signal::HUP);
            }
        }
        over.store(true, Ordering::Relaxed);
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    assert!(sent.iter().all(|sent| *sent > 5), "{sent:?}");
}

#[test]
fn i9_what_was_counted_and_what_waits_outlives_a_reload() {
    let site = site("running = 1\nrequests_per_identity = \"3/h\"");
    let (ran, gate) = (site.path("ran"), site.path("gate"));
    let program = site.program(
        "program",
        &format!("echo $1 >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done", ran.display(), gate.display()),
    );
    let slow = |word: &str, limit: &str| {
        let text = ROUTE.replace("/bin/echo", &program).replace('@', word);
        site.route("x", &format!("{text}[rate]\nlimit = \"{limit}\"\n"));
    };
    slow("one", "3/h");
    let gateway = site.serve();
    let node = site.node("node.example.com", &[]);
    let mut certified = gateway.connect_as(&node);
    let status = |gateway: &Running| gateway.send(&gateway.post("/x", "1").request()).status;
    assert_eq!((status(&gateway), status(&gateway)), (202, 202));
    for _ in 0..2 {
        assert!(certified.ask(&gateway.get("/x")).is_wall());
    }
    wait_for_lines(&ran, 1);

    slow("two", "3/h");
    assert_eq!(reload(&site).0, Some(0));
    assert_eq!((status(&gateway), status(&gateway)), (202, 429), "three were let through in all");
    assert!(certified.ask(&gateway.get("/x")).is_wall());
    assert_eq!(certified.ask(&gateway.get("/x")).status, 429);
    // A rate that is another one counts anew.
    slow("three", "4/h");
    assert_eq!(reload(&site).0, Some(0));
    assert_eq!(status(&gateway), 202);
    // What waited runs as the policy says by then.
    std::fs::write(&gate, "").unwrap();
    assert_eq!(wait_for_lines(&ran, 4), ["one", "three", "three", "three"]);
}

#[test]
fn i4_a_waiting_job_that_the_new_policy_does_not_offer_is_refused() {
    let site = site("running = 1");
    let (ran, gate) = (site.path("ran"), site.path("gate"));
    let program = site.program(
        "program",
        &format!("echo x >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done", ran.display(), gate.display()),
    );
    site.route("slow", &ROUTE.replace("/x", "/slow").replace("/bin/echo", &program));
    let gateway = site.serve();
    assert_eq!(gateway.send(&gateway.post("/slow", "1").request()).status, 202);
    wait_for_lines(&ran, 1);
    let queued = gateway.send(&gateway.post("/x", "1").request()).location();
    site.route("x", &ROUTE.replace("[\"jenkins\"]", "[\"jenkins\"]\nnetworks = [\"192.0.2.1\"]"));
    assert_eq!(reload(&site).0, Some(0));
    std::fs::write(&gate, "").unwrap();
    gateway.log.wait_for(|line| line.contains("finished") && line.contains("refused")).unwrap();
    assert!(gateway.send(&gateway.get(&queued)).is_wall());
}

#[test]
fn lowered_limits_of_jobs_hold_from_a_reload_on() {
    let site = site("running = 2\njobs = 10");
    let (ran, gates) = (site.path("ran"), site.path("gates"));
    std::fs::create_dir(&gates).unwrap();
    let program = site.program(
        "program",
        &format!("echo $1 >> {}\nwhile [ ! -e {}/$1 ]; do sleep 0.02; done", ran.display(), gates.display()),
    );
    for name in ["a", "b", "c", "d", "e"] {
        let text = ROUTE.replace("/x", &format!("/{name}")).replace("/bin/echo", &program);
        site.route(name, &text.replace('@', name));
    }
    let gateway = site.serve();
    let send = |name: &str| gateway.send(&gateway.post(&format!("/{name}"), "1").request());
    let running = ["a", "b"].map(|name| send(name).location());
    wait_for_lines(&ran, 2);
    let waiting = ["c", "d"].map(|name| send(name).location());

    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("running = 2\njobs = 10", "running = 1\njobs = 2"), 0o644);
    assert_eq!(reload(&site).0, Some(0));
    let full = send("e");
    assert_eq!((full.status, full.header("retry-after")), (503, Some("5")), "two wait already: {full:?}");
    // One of the two that run ends: the other one is as many as may run.
    let end = |name: &str| std::fs::write(gates.join(name), "").unwrap();
    end("a");
    assert_eq!(gateway.ended(&running[0])["state"], "succeeded");
    assert_eq!(waiting.each_ref().map(|job| gateway.job(job)["state"].clone()), ["queued"; 2]);
    end("b");
    assert_eq!(wait_for_lines(&ran, 3).len(), 3);
    assert_eq!(gateway.ended(&running[1])["state"], "succeeded");
    assert_eq!(gateway.job(&waiting[1])["state"], "queued", "one at a time");
    assert_eq!(send("e").status, 202, "there is room again");
    ["c", "d", "e"].iter().for_each(|name| end(name));
    assert_eq!(wait_for_lines(&ran, 5)[2..], ["c", "d", "e"]);
}
