//! Starting and stopping: SIGTERM, ports in use, databases in use.

use std::os::unix::fs::PermissionsExt;

use crate::support::*;

const SLOW: &str = "method = \"POST\"\npath = \"/slow\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"@\"]]\nrespond = \"result\"\n";

#[test]
fn sigterm_finishes_what_runs_and_leaves_the_rest_queued() {
    let site = Site::new();
    let (ran, gate) = (site.path("ran"), site.path("gate"));
    let program = site.program(
        "program",
        &format!(
            "echo x >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done\necho finished",
            ran.display(),
            gate.display()
        ),
    );
    site.route("slow", &SLOW.replace('@', &program));
    let mut gateway = site.serve();
    let mut waiting = gateway.connect();
    waiting.write(gateway.post("/slow", "1").request().as_bytes()).unwrap();
    wait_for_lines(&ran, 1);
    let queued = gateway.post("/slow", "2").header("prefer", "wait=0", false);
    assert_eq!(gateway.send(&queued.request()).status, 202);

    gateway.signal(rustix::process::Signal::TERM);
    gateway.log.wait_for(|line| line.contains("stopping")).unwrap();
    std::fs::write(&gate, "").unwrap();
    let response = waiting.read().unwrap();
    assert_eq!((response.status, response.json()["steps"][0]["output"].as_str()), (200, Some("finished\n")));
    assert!(waiting.is_closed());
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(gateway.try_connect(None).is_err());
    assert_eq!(wait_for_lines(&ran, 1).len(), 1);

    let gateway = site.serve();
    wait_for_lines(&ran, 2);
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn a_port_in_use_is_said_and_nothing_is_started() {
    let site = Site::new();
    site.route("slow", &SLOW.replace('@', "/bin/true"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("127.0.0.1:0", &address), 0o644);
    let log = site.try_serve().err().unwrap();
    assert!(log.contains(&address) && log.contains("in use"), "{log}");
    assert!(!site.path("queue.db").exists());
}

#[test]
fn a_database_has_one_gateway() {
    let site = Site::new();
    site.route("slow", &SLOW.replace('@', "/bin/true"));
    let gateway = site.serve();
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("audit.jsonl", "second.jsonl"), 0o644);
    let log = site.try_serve().err().unwrap();
    assert!(log.contains("another process"), "{log}");
    assert!(!site.path("second.jsonl").exists(), "who cannot start leaves nothing on record");
    assert_eq!(gateway.send(&gateway.post("/slow", "1").request()).status, 200);
    for file in ["queue.db", "audit.jsonl"] {
        let mode = std::fs::metadata(site.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_stop_does_not_wait_for_jobs_that_stay_queued() {
    let site = Site::with_limits("running = 1");
    let (ran, gate) = (site.path("ran"), site.path("gate"));
    let program = site.program(
        "program",
        &format!("echo x >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done", ran.display(), gate.display()),
    );
    site.route("slow", &SLOW.replace('@', &program));
    let mut gateway = site.serve();
    let [mut running, mut queued] = [gateway.connect(), gateway.connect()];
    running.write(gateway.post("/slow", "1").request().as_bytes()).unwrap();
    wait_for_lines(&ran, 1);
    queued.write(gateway.post("/slow", "2").request().as_bytes()).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while gateway.log.text().matches("\"stored\"").count() < 2 {
        assert!(std::time::Instant::now() < deadline, "{}", gateway.log.text());
        std::thread::yield_now();
    }
    gateway.signal(rustix::process::Signal::TERM);
    gateway.log.wait_for(|line| line.contains("stopping")).unwrap();
    std::fs::write(&gate, "").unwrap();
    assert_eq!(running.read().unwrap().status, 200);
    let told = queued.read().unwrap();
    assert_eq!((told.status, told.json()["state"].as_str()), (202, Some("queued")));
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_gateway_without_a_null_device_says_that_this_is_what_is_missing() {
    let site = Site::new();
    site.route("run", &SLOW.replace('@', "/bin/true"));
    let mut command = std::process::Command::new("unshare");
    let script = "mount -t tmpfs none /dev && exec \"$0\" serve --log-format json --policy \"$1\"";
    command.args(["--mount", "/bin/sh", "-c", script, BINARY]).arg(site.dir.path());
    let log = site.try_start(command).err().unwrap();
    assert!(log.contains("`/dev/null` cannot be opened"), "{log}");
    assert!(!log.contains("/proc/self/exe"), "{log}");
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let site = Site::new();
    site.route("slow", &SLOW.replace('@', "/bin/true"));
    let (reader, writer) = std::io::pipe().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")), 0o644);
    let mut child = std::process::Command::new(BINARY)
        .args(["serve", "--log-level", "trace", "--policy"])
        .arg(site.dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let deadline = std::time::Instant::now() + PATIENCE;
    let connect = || loop {
        match Tls::connect(address, &site.ca_pem, None) {
            Ok(tls) => break tls,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    };
    let request = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(2000));
    // Far more than a pipe holds.
    let mut tls = connect();
    for _ in 0..200 {
        let answer = tls.ask(&request);
        assert!(matches!(answer.status, 404 | 429), "{answer:?}");
    }
    assert!(matches!(connect().ask(&request).status, 404 | 429), "a new connection");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(reader);
}
