//! Invariant I7: what an unproven caller can cost is bounded.

use serde_json::json;

use crate::support::*;

const ROUTE: &str = "method = \"POST\"\npath = \"/x\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[[allow]]\ncertname = [\"node.example.com\"]\n[run]\nsteps = [[\"/bin/true\"]]\n";

fn site(limits: &str) -> Site {
    let site = Site::with_limits(limits);
    site.route("x", ROUTE);
    site
}

#[test]
fn i7_requests_of_a_source_are_counted_on_every_path_alike() {
    let site = site("requests_per_source = \"3/h\"\nrequests_per_identity = \"5/h\"");
    let gateway = site.serve();
    let mut tls = gateway.connect();
    for path in ["/x", "/nothing", "/-/jobs/x"] {
        assert!(tls.ask(&gateway.get(path)).is_wall(), "{path}");
    }
    let mut refusals = Vec::new();
    for path in ["/x", "/nothing", "/-/jobs/x"] {
        let response = tls.ask(&gateway.get(path));
        assert_eq!(response.status, 429, "{path}");
        let retry_after: u32 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=1200).contains(&retry_after));
        refusals.push(response.without_date().replace(&retry_after.to_string(), "N"));
    }
    assert!(refusals.windows(2).all(|pair| pair[0] == pair[1]), "{refusals:#?}");
    // A signature does not help; a verified certificate has a limit of its own.
    assert_eq!(gateway.send(&gateway.post("/x", "1").request()).status, 429);
    let node = site.node("node.example.com", &[]);
    let request = gateway.get("/x").replacen("GET", "POST", 1);
    let mut tls = gateway.connect_as(&node);
    for _ in 0..5 {
        assert_eq!(tls.ask(&request).status, 202);
    }
    assert_eq!(tls.ask(&request).status, 429);
}

#[test]
fn i7_connections_of_a_source_are_counted() {
    // Where there are so few places in all, nobody waits for one.
    let site = site("connections = 3\nconnections_per_source = 2\nconnections_per_identity = 1");
    let gateway = site.serve();
    let mut held: Vec<Tls> = (0..2).map(|_| gateway.connect()).collect();
    assert!(gateway.try_connect(None).is_err());
    for tls in &mut held {
        assert!(tls.ask(&gateway.get("/x")).is_wall());
    }
    drop(held.pop());
    // The place is free as soon as the server has seen the end of the connection.
    let deadline = std::time::Instant::now() + PATIENCE;
    let node = site.node("node.example.com", &[]);
    let request = gateway.get("/x").replacen("GET", "POST", 1);
    let mut certified = loop {
        if let Ok(mut tls) = gateway.try_connect(Some(&node)) {
            assert_eq!(tls.ask(&request).status, 202);
            break tls;
        }
        assert!(std::time::Instant::now() < deadline);
    };
    // It no longer counts for its address, but for its certname.
    let mut again = loop {
        if let Ok(tls) = gateway.try_connect(None) {
            break tls;
        }
        assert!(std::time::Instant::now() < deadline);
    };
    assert!(again.ask(&gateway.get("/x")).is_wall());
    drop(again);
    assert_eq!(certified.ask(&request).status, 202);
}

#[test]
fn i7_a_body_over_the_limit_is_the_wall_and_the_end() {
    let site = site("body = \"1KiB\"");
    let gateway = site.serve();
    let body = "x".repeat(1025);
    for path in ["/x", "/nothing"] {
        let mut tls = gateway.connect();
        let response = tls.ask(&gateway.post(path, &body).request());
        assert!(response.is_wall(), "{path}: {response:?}");
        assert_eq!(response.header("connection"), Some("close"));
        assert!(tls.is_closed());
    }
    let chunked = format!(
        "POST /x HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n401\r\n{body}\r\n0\r\n\r\n",
        gateway.authority()
    );
    assert!(gateway.send(&chunked).is_wall());
    // Whoever has proven an allowed identity by certificate is told.
    let node = site.node("node.example.com", &[]);
    let plain = format!("POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1025\r\n\r\n{body}");
    let response = gateway.send_as(&node, &plain);
    assert_eq!((response.status, response.header("connection")), (413, Some("close")), "{response:?}");
    assert_eq!(response.json()["status"], json!(413));
    assert_eq!(gateway.send(&gateway.post("/x", &"x".repeat(1024)).request()).status, 202);
}

#[test]
fn i7_slow_callers_are_ended() {
    let site = site("handshake = \"300ms\"\nheaders = \"300ms\"\nrequest = \"300ms\"\nidle = \"400ms\"");
    let gateway = site.serve();
    // A handshake that does not begin.
    let mut silent = std::net::TcpStream::connect(gateway.address).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let ended = std::io::Read::read(&mut silent, &mut [0]);
    let waited = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!ended.as_ref().is_err_and(waited) && !ended.is_ok_and(|read| read > 0), "it is still open");
    // A connection that asks nothing.
    assert!(gateway.connect().is_closed());
    // A head that does not end.
    let mut tls = gateway.connect();
    tls.write(b"GET /x HTTP/1.1\r\nhost:").unwrap();
    assert!(tls.is_closed());
    // A body that does not come.
    let mut tls = gateway.connect();
    tls.write(b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n12345").unwrap();
    assert!(tls.read().unwrap().is_wall());
    assert!(tls.is_closed());
    // Whoever has proven an allowed identity by certificate is told that it was too slow, not too large.
    let mut tls = gateway.connect_as(&site.node("node.example.com", &[]));
    tls.write(b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n12345").unwrap();
    let response = tls.read().unwrap();
    assert_eq!(response.status, 413, "{response:?}");
    assert_eq!(response.json()["detail"], json!("the body did not arrive in time"));
    assert!(tls.is_closed());
    // A connection that has asked, and then asks nothing more.
    let mut tls = gateway.connect();
    assert!(tls.ask(&gateway.get("/x")).is_wall());
    assert!(tls.is_closed());
    assert_eq!(gateway.send(&gateway.post("/x", "1").request()).status, 202);
}

#[test]
fn i7_a_handshake_that_trickles_in_is_ended() {
    let site = site("handshake = \"400ms\"");
    let gateway = site.serve();
    let mut slow = std::net::TcpStream::connect(gateway.address).unwrap();
    // The beginning of a record that would hold a ClientHello of 512 bytes, and then one byte after the other.
    std::io::Write::write_all(&mut slow, &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc]).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut sent = 0;
    while std::io::Write::write_all(&mut slow, &[3]).is_ok() {
        sent += 1;
        assert!(sent < 500 && std::time::Instant::now() < deadline, "it may take as long as it likes");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn i7_a_head_is_bounded_in_fields_and_bytes() {
    let site = site("");
    let gateway = site.serve();
    let fields = |count: usize| -> String { (1..count).map(|field| format!("x-{field}: y\r\n")).collect() };
    let bytes = |count: usize| format!("x: {}\r\n", "y".repeat(count));
    for (lines, taken) in [
        (fields(64), true),
        (fields(65), false),
        (bytes(16_000), true),
        // The largest is 16 KiB, with all that belongs to it.
        (bytes(16 * 1024), false),
    ] {
        let mut tls = gateway.connect();
        let _ = tls.write(format!("GET /x HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n").as_bytes());
        match tls.read() {
            Ok(response) if taken => {
                assert!(response.is_wall() && response.header("connection").is_none(), "{response:?}");
                continue;
            }
            Ok(response) => {
                assert_eq!(
                    (response.status, response.header("connection")),
                    (431, Some("close")),
                    "{response:?}"
                );
            }
            // The answer may be lost when the connection ends with bytes that nobody has read.
            Err(error) => assert!(!taken, "{error}"),
        }
        assert!(tls.is_closed());
    }
}

#[test]
fn i7_a_connection_is_idle_again_after_an_answer_that_took_longer_than_every_timer() {
    let site = Site::with_limits("headers = \"200ms\"\nidle = \"300ms\"");
    let slow = ROUTE.replace("[\"/bin/true\"]", "[\"/bin/sleep\", \"1\"]") + "respond = \"result\"\n";
    site.route("x", &slow);
    let gateway = site.serve();
    let node = site.node("node.example.com", &[]);
    let mut tls = gateway.connect_as(&node);
    assert_eq!(tls.ask(&gateway.get("/x").replacen("GET", "POST", 1)).status, 200);
    assert!(tls.is_closed());
}

#[test]
fn malformed_requests_are_never_routed() {
    let site = site("");
    let gateway = site.serve();
    let lines = "x-long: ".to_owned() + &"y".repeat(20_000);
    let many: String = (0..100).map(|index| format!("x-{index}: 1\r\n")).collect();
    for request in [
        "nonsense\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nhost: localhost\r\nbad header: 1\r\n\r\n".to_owned(),
        format!("GET /x HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let mut tls = gateway.connect();
        let _ = tls.write(request.as_bytes());
        // hyper's fixed answer, or none; then the end.
        if let Ok(response) = tls.read() {
            assert!((400..=505).contains(&response.status) && response.status != 404, "{response:?}");
            assert!(response.body.is_empty(), "{response:?}");
        }
        assert!(tls.is_closed(), "{request:.40}");
    }
}

#[test]
fn i7_connections_of_strangers_leave_descriptors_for_accepted_jobs() {
    let site = Site::with_limits("connections_per_source = 4096");
    site.route("x", &ROUTE.replace("[\"/bin/true\"]", "[\"/bin/sh\", \"-c\", \"ulimit -Sn; ulimit -Hn\"]"));
    let mut command = std::process::Command::new("prlimit");
    command.args(["--nofile=256:300", BINARY]);
    let gateway = site.serve_by(command);
    let mut good = gateway.connect();
    // More than there is room for: the rest waits in the kernel.
    let strangers: Vec<_> =
        (0..300).map(|_| std::net::TcpStream::connect(gateway.address).unwrap()).collect();
    let accepted = good.ask(&gateway.post("/x", "1").header("prefer", "wait=20", false).request());
    assert_eq!(accepted.status, 200, "{accepted:?}");
    assert_eq!(accepted.json()["steps"][0]["output"], "300\n300\n");
    drop(strangers);
    assert!(gateway.log.text().contains("LimitNOFILE"), "{}", gateway.log.text());
}

#[test]
fn five_hundred_nodes_behind_one_address_are_not_held_back_by_the_limits_per_source() {
    const NODES: usize = 500;
    let site = Site::with_limits("connections_per_source = 64\nrequests_per_source = \"5/h\"");
    let count = site.path("count");
    let program = site.program("kick", &format!("echo x >> {}", count.display()));
    site.route(
        "kick",
        &format!(
            "method = \"GET\"\npath = \"/kick\"\n[[allow]]\ncertname = [\"*.example.com\"]\n[run]\nsteps = [[\"{program}\"]]\ncoalesce = true\n"
        ),
    );
    let gateway = site.serve();
    // A stranger has used up what the address has.
    let mut stranger = gateway.connect();
    while stranger.ask(&gateway.get("/kick")).status != 429 {}
    let nodes: Vec<_> = (0..NODES).map(|node| site.node(&format!("node{node}.example.com"), &[])).collect();
    // All of them stay connected to the end: far more than the source may have.
    let answers: Vec<(Tls, Response)> = std::thread::scope(|scope| {
        let some = nodes.chunks(NODES / 20).map(|some| {
            let gateway = &gateway;
            scope.spawn(move || {
                let kick = |node| {
                    let mut tls = gateway.connect_as(node);
                    let response = tls.ask(&gateway.get("/kick"));
                    (tls, response)
                };
                some.iter().map(kick).collect::<Vec<_>>()
            })
        });
        let some: Vec<_> = some.collect();
        some.into_iter().flat_map(|some| some.join().unwrap()).collect()
    });
    assert_eq!(answers.len(), NODES);
    for (_, response) in &answers {
        assert_eq!(response.status, 202, "{response:?}");
    }
    assert_eq!(stranger.ask(&gateway.get("/kick")).status, 429);
    drop(answers);
    assert_eq!(gateway.stop().code(), Some(0));
    let runs = wait_for_lines(&count, 1).len();
    assert!(runs < NODES / 5, "{runs} runs");
}

#[test]
fn i7_waits_for_results_are_bounded_and_the_others_are_told_at_once() {
    let site = Site::with_limits("waiting = 1");
    let gate = site.path("gate");
    let program = site.program("slow", &format!("while [ ! -e {} ]; do sleep 0.02; done", gate.display()));
    site.route("x", &ROUTE.replace("/bin/true", &program));
    let gateway = site.serve();
    let waiting = || gateway.post("/x", "1").header("prefer", "wait=20", false).request();
    let mut first = gateway.connect();
    first.write(waiting().as_bytes()).unwrap();
    gateway.log.wait_for(|line| line.contains("\"started\"")).unwrap();
    let second = gateway.send(&waiting());
    assert_eq!((second.status, second.json()["state"].as_str()), (202, Some("queued")), "{second:?}");
    std::fs::write(&gate, "").unwrap();
    assert_eq!(first.read().unwrap().status, 200);
}

#[test]
fn i7_all_bodies_together_are_bounded() {
    let site = site("body = \"8KiB\"\nbodies = \"10KiB\"");
    let gateway = site.serve();
    let mut slow = gateway.connect();
    let half = "x".repeat(8000);
    let head = format!("POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8192\r\n\r\n{half}");
    slow.write(head.as_bytes()).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    // Once it holds its share, there is no room for another one of that size, whatever the path.
    let refused = loop {
        let response = gateway.send(&gateway.post("/nothing", &half).request());
        if response.status == 429 {
            break response;
        }
        assert!(std::time::Instant::now() < deadline, "{response:?}");
    };
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(gateway.send(&gateway.post("/x", &"x".repeat(100)).request()).status, 202);
    slow.write("x".repeat(192).as_bytes()).unwrap();
    assert!(slow.read().unwrap().is_wall());
    assert_eq!(gateway.send(&gateway.post("/x", &half).request()).status, 202);
}
