//! Requests that two readers could understand differently, sent as raw bytes: refused, the connection closed, and never
//! two answers for one request.

use crate::support::*;

const ROUTES: [(&str, &str); 2] = [
    (
        "x",
        "method = \"POST\"\npath = \"/x\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[[allow]]\n\
         certname = [\"node.example.com\"]\n[run]\nsteps = [[\"/bin/true\"]]\n",
    ),
    (
        "elsewhere",
        "method = \"POST\"\npath = \"/elsewhere\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n\
         networks = [\"192.0.2.0/24\"]\n[[allow]]\ncertname = [\"node.example.com\"]\nnetworks = [\"192.0.2.0/24\"]\n\
         [run]\nsteps = [[\"/bin/true\"]]\n",
    ),
];

fn site() -> Site {
    let site = Site::with_limits("requests_per_source = \"100000/s\"\nrequests_per_identity = \"100000/s\"");
    for (name, text) in ROUTES {
        site.route(name, text);
    }
    site
}

/// How many answers these are, those that only ask to go on left out.
fn answers(text: &str) -> Vec<String> {
    let text = text.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
    let lines = |answer: &str| {
        let kept = answer.split("\r\n").filter(|line| !line.starts_with("date:"));
        kept.collect::<Vec<_>>().join("\r\n")
    };
    text.split("HTTP/1.").skip(1).map(lines).collect()
}

/// Each row is the head behind `POST <path> HTTP/1.1`, host included, and a body.
const MALFORMED: &[(&str, &str)] = &[
    ("no host", "\r\n"),
    ("two hosts", "\r\nhost: localhost\r\nhost: localhost\r\n"),
    ("bare line feed after the request line", "\nhost: localhost\r\n"),
    ("bare line feed after a header", "\r\nhost: localhost\nx: y\r\n"),
    ("bare line feeds only", "\nhost: localhost\n\n"),
    ("bare line feed that hides a header", "\r\nhost: localhost\r\nx: y\ncontent-length: 1\r\n"),
    ("bare carriage return", "\r\nhost: localhost\r\nx: y\rz: 1\r\n"),
    ("bare carriage return at the end", "\r\nhost: localhost\r\nx: y\r\r\n"),
    ("folded line", "\r\nhost: localhost\r\nx: y\r\n z\r\n"),
    ("folded line with a tab", "\r\nhost: localhost\r\nx: y\r\n\tz\r\n"),
    ("folded first line", "\r\n host: localhost\r\n"),
    ("space before the colon", "\r\nhost : localhost\r\n"),
    ("tab before the colon", "\r\nhost: localhost\r\ncontent-length\t: 1\r\n"),
    ("no name", "\r\nhost: localhost\r\n: x\r\n"),
    ("no colon", "\r\nhost: localhost\r\ncontent-length 5\r\n"),
    ("NUL in a name", "\r\nhost: localhost\r\nx\0y: z\r\n"),
    ("NUL in a value", "\r\nhost: localhost\r\nx: y\0z\r\n"),
    ("other control character", "\r\nhost: localhost\r\nx: y\x0bz\r\n"),
    ("upgrade", "\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"),
    ("upgrade to h2c", "\r\nhost: localhost\r\nUpgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"),
    ("length and encoding", "\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n"),
    ("encoding and length", "\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n"),
    ("length twice", "\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 5\r\n"),
    ("two lengths", "\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n"),
    ("list of lengths", "\r\nhost: localhost\r\ncontent-length: 5, 5\r\n"),
    ("signed length", "\r\nhost: localhost\r\ncontent-length: +5\r\n"),
    ("negative length", "\r\nhost: localhost\r\ncontent-length: -1\r\n"),
    ("hexadecimal length", "\r\nhost: localhost\r\ncontent-length: 0x5\r\n"),
    ("length with a gap", "\r\nhost: localhost\r\ncontent-length: 5 5\r\n"),
    ("empty length", "\r\nhost: localhost\r\ncontent-length:\r\n"),
    ("length beyond 64 bits", "\r\nhost: localhost\r\ncontent-length: 18446744073709551616\r\n"),
    ("largest length", "\r\nhost: localhost\r\ncontent-length: 18446744073709551615\r\n"),
    ("other encoding", "\r\nhost: localhost\r\ntransfer-encoding: identity\r\n"),
    ("two encodings", "\r\nhost: localhost\r\ntransfer-encoding: gzip, chunked\r\n"),
    ("chunked twice", "\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
    ("odd chunked", "\r\nhost: localhost\r\ntransfer-encoding: \x0bchunked\r\n"),
];

/// What follows `transfer-encoding: chunked`.
const MALFORMED_CHUNKS: &[(&str, &str)] = &[
    ("extension", "5;a=b\r\n12345\r\n0\r\n\r\n"),
    ("empty extension", "5;\r\n12345\r\n0\r\n\r\n"),
    ("extension of the last chunk", "5\r\n12345\r\n0;a\r\n\r\n"),
    ("space behind the size", "5 \r\n12345\r\n0\r\n\r\n"),
    ("signed size", "+5\r\n12345\r\n0\r\n\r\n"),
    ("size beyond 64 bits", "10000000000000005\r\n12345\r\n0\r\n\r\n"),
    ("bare line feed behind the size", "5\n12345\r\n0\r\n\r\n"),
    ("bare line feed behind the chunk", "5\r\n12345\n0\r\n\r\n"),
    ("more than the size", "4\r\n12345\r\n0\r\n\r\n"),
    ("trailer", "5\r\n12345\r\n0\r\nx: y\r\n\r\n"),
    ("length as trailer", "5\r\n12345\r\n0\r\ncontent-length: 5\r\n\r\n"),
];

#[test]
fn what_is_not_well_framed_is_refused_once_and_ends_the_connection() {
    let site = site();
    let gateway = site.serve();
    let node = site.node("node.example.com", &[]);
    // Behind each request stands one that would be accepted, for whoever takes the first one's end to be elsewhere.
    let smuggled = gateway.post("/x", "12345").request();
    for (row, head) in MALFORMED {
        let sent = |path: &str| format!("POST {path} HTTP/1.1{head}\r\n{smuggled}");
        let mut seen = Vec::new();
        for path in ["/x", "/nothing"] {
            for mut tls in [gateway.connect(), gateway.connect_as(&node)] {
                let _ = tls.write(sent(path).as_bytes());
                seen.push(answers(&tls.rest()));
            }
        }
        let refused = |answer: &String| {
            let end = answer.ends_with("connection: close\r\ncontent-length: 0\r\n\r\n");
            (answer.starts_with("1 400 Bad Request\r\n") || answer.starts_with("1 431 ")) && end
        };
        // The answer may be lost when the connection ends with bytes that nobody has read.
        assert!(
            seen.iter().all(|answers| answers.len() < 2 && answers.iter().all(refused)),
            "{row}: {seen:?}"
        );
        assert!(!seen.concat().is_empty(), "{row}: nobody was answered");
    }
    for (row, body) in MALFORMED_CHUNKS {
        let sent = |path: &str| {
            format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{body}{smuggled}"
            )
        };
        let mut walls = Vec::new();
        for path in ["/x", "/nothing"] {
            let mut tls = gateway.connect();
            let _ = tls.write(sent(path).as_bytes());
            let answers = answers(&tls.rest());
            assert!(answers.len() < 2, "{row}: {answers:?}");
            walls.extend(answers);
        }
        assert!(walls.iter().all(|wall| wall == &walls[0] && wall.ends_with(WALL)), "{row}: {walls:?}");
        assert!(walls[0].contains("connection: close\r\n"), "{row}: {walls:?}");
        let mut tls = gateway.connect_as(&node);
        let _ = tls.write(sent("/x").as_bytes());
        let told = answers(&tls.rest());
        assert!(told.len() < 2 && told.iter().all(|told| told.starts_with("1 400 ")), "{row}: {told:?}");
    }
    let other = [
        "GET /x HTTP/1.1 HTTP/1.1",
        "GET  /x HTTP/1.1",
        "GET\t/x HTTP/1.1",
        "GET /x HTTP/1.1 ",
        "GET /x",
        "GET /x HTTP/2.0",
    ];
    for line in other.into_iter().chain([
        "GET /x http/1.1",
        "GET /x#y HTTP/1.1",
        "GET ?x HTTP/1.1",
        "G\0T /x HTTP/1.1",
        "GET /x\0 HTTP/1.1",
    ]) {
        let mut tls = gateway.connect();
        let _ = tls.write(format!("{line}\r\nhost: localhost\r\n\r\n{smuggled}").as_bytes());
        let answers = answers(&tls.rest());
        assert!(
            answers.len() < 2 && answers.iter().all(|answer| answer.starts_with("1 400 ")),
            "{line}: {answers:?}"
        );
    }
    // HTTP/1.0 knows no encodings.
    let mut tls = gateway.connect();
    let encoded = "POST /x HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let _ = tls.write(format!("{encoded}{smuggled}").as_bytes());
    let answered = answers(&tls.rest());
    assert!(answered.len() < 2 && answered.iter().all(|answer| answer.contains(" 400 ")), "{answered:?}");
    let mut tls = gateway.connect();
    let _ = tls.write(format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{smuggled}").as_bytes());
    assert!(answers(&tls.rest()).is_empty());
    // Nothing that was smuggled was accepted: it is accepted now, as a message that never came before.
    let accepted = gateway.send(&smuggled);
    assert_eq!((accepted.status, accepted.json().get("duplicate")), (202, None), "{accepted:?}");
}

#[test]
fn i10_what_is_malformed_is_on_record_and_counted_together_in_a_flood() {
    let site = Site::with_limits("refusals_logged = \"4/h\"");
    site.route("x", ROUTES[0].1);
    let gateway = site.serve();
    let head = |lines: &str| format!("POST /x HTTP/1.1\r\n{lines}\r\n");
    let sent = [
        (head("host: a\r\nhost: b\r\n"), "there is no host, or more than one"),
        (
            head("host: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n"),
            "a length is given beside an encoding",
        ),
        (head("nothing\r\nhost: a\r\n"), "it is not HTTP/1.1"),
        (head("host: a\r\nx: y\nz: y\r\n"), "a line ends without a carriage return"),
    ];
    let refused = |request: &str| {
        let mut tls = gateway.connect();
        let _ = tls.write(request.as_bytes());
        assert!(tls.rest().contains(" 400 "), "{request}");
    };
    for (request, reason) in &sent {
        refused(request);
        assert!(gateway.log.wait_for(|line| line.contains(reason)).is_some(), "{request}");
    }
    for _ in 0..20 {
        refused(&sent[0].0);
    }
    assert_eq!(gateway.stop().code(), Some(0));
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let malformed: Vec<_> = lines.iter().filter(|line| line["kind"] == "malformed").collect();
    assert!(malformed.iter().all(|line| line["source"] == "127.0.0.1"), "{audit}");
    let reasons: Vec<_> = malformed.iter().map(|line| &line["reason"]).collect();
    assert_eq!(reasons, sent.each_ref().map(|(_, reason)| *reason), "{audit}");
    let counted: u64 = lines.iter().filter_map(|line| line["count"].as_u64()).sum();
    assert_eq!(counted, 20, "{audit}");
}

#[test]
fn well_framed_requests_may_follow_each_other_without_waiting() {
    let site = site();
    let gateway = site.serve();
    let chunked = |signing: Signing| {
        let request =
            signing.request().replacen("content-length: 5\r\n", "transfer-encoding: chunked\r\n", 1);
        request.replacen("\r\n\r\n12345", "\r\n\r\n2\r\n12\r\n003\r\n345\r\n0\r\n\r\n", 1)
    };
    let signed = || gateway.post("/x", "12345");
    let mut tls = gateway.connect();
    // Old clients send an empty line too many after a body.
    let all =
        [signed().request(), "\r\n".into(), chunked(signed()), gateway.get("/nothing"), signed().request()];
    tls.write(all.concat().as_bytes()).unwrap();
    for expected in [202, 202, 404, 202] {
        assert_eq!(tls.read().unwrap().status, expected);
    }
}

#[test]
fn targets_in_another_form_meet_the_wall_and_end_the_connection() {
    let site = site();
    let gateway = site.serve();
    let node = site.node("node.example.com", &[]);
    for target in ["https://evil.example.com/x", "https://localhost/x", "http://localhost", "localhost:443"] {
        for method in ["POST", "CONNECT"] {
            for mut tls in [gateway.connect(), gateway.connect_as(&node)] {
                let wall = tls.ask(&format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
                assert!(wall.is_wall() && wall.header("connection") == Some("close"), "{target}: {wall:?}");
                assert!(tls.is_closed());
            }
        }
    }
}

/// By a certificate that is allowed, so that nothing but the path can be what is wrong.
#[test]
fn a_path_is_what_was_sent() {
    let site = site();
    let gateway = site.serve();
    let mut tls = gateway.connect_as(&site.node("node.example.com", &[]));
    let post = |target: &str| format!("POST {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    for target in [
        "/%78",
        "/x%00",
        "/x%20",
        "/x/",
        "//x",
        "/./x",
        "/x/.",
        "/y/../x",
        "/y/%2e%2e/x",
        "/x;",
        "/x;a=b",
        "/X",
        "/x\u{f6}",
        "/x\\",
        "/\\x",
        "/x,",
        "/x+",
        "/x&",
        "/{path}",
        "/x|",
        "*",
    ] {
        let response = tls.ask(&post(target));
        assert!(response.is_wall() && response.header("connection").is_none(), "{target}: {response:?}");
    }
    for target in ["/x", "/x?", "/x?a=%78", "/x?/../y"] {
        assert_eq!(tls.ask(&post(target)).status, 202, "{target}");
    }
}

#[test]
fn nobody_is_asked_to_go_on_before_the_head_is_accepted() {
    let site = Site::with_limits("requests_per_source = \"4/h\"\nbody = \"1KiB\"");
    site.route("x", ROUTES[0].1);
    let gateway = site.serve();
    let sent = |target: &str, lines: &str| {
        let mut tls = gateway.connect();
        let request =
            format!("POST {target} HTTP/1.1\r\n{lines}expect: 100-continue\r\nconnection: close\r\n\r\n");
        tls.write(request.as_bytes()).unwrap();
        let mut first = [0; 12];
        tls.read_exact(&mut first).unwrap();
        if &first == b"HTTP/1.1 100" {
            tls.write(b"12345").unwrap();
        }
        format!("{}{}", String::from_utf8(first.to_vec()).unwrap(), tls.rest())
    };
    for lines in [
        "content-length: 5\r\n",
        "host: a\r\nhost: a\r\ncontent-length: 5\r\n",
        "host: a\r\nupgrade: x\r\ncontent-length: 5\r\n",
    ] {
        assert!(sent("/x", lines).starts_with("HTTP/1.1 400 "), "{lines}");
    }
    let mut walls = Vec::new();
    for target in ["/x", "/nothing"] {
        let too_large = sent(target, "host: a\r\ncontent-length: 1025\r\n");
        assert!(too_large.starts_with("HTTP/1.1 404 "), "{too_large}");
        // Body and signature are asked for whether there is something at the path or not.
        let asked = sent(target, "host: a\r\ncontent-length: 5\r\n");
        assert!(asked.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 "), "{asked}");
        walls.extend([answers(&too_large), answers(&asked)].concat());
    }
    assert!(walls.iter().all(|wall| *wall == walls[0]), "{walls:#?}");
    for target in ["/x", "/nothing"] {
        let flood = sent(target, "host: a\r\ncontent-length: 5\r\n");
        assert!(flood.starts_with("HTTP/1.1 429 "), "{flood}");
    }
}

#[test]
fn authentication_headers_are_given_once_and_never_behind_the_body() {
    let site = site();
    let gateway = site.serve();
    let good = gateway.post("/x", "12345");
    let request = good.request();
    let line = |name: &str| {
        let line = request.split("\r\n").find(|line| line.starts_with(name)).unwrap();
        format!("{line}\r\n")
    };
    for name in ["signature:", "signature-input:", "content-digest:", "host:"] {
        for doubled in
            [line(name), line(name).to_uppercase().replace(&line(name).to_uppercase()[..name.len()], name)]
        {
            let twice = request.replacen("\r\n", &format!("\r\n{doubled}"), 1);
            let response = gateway.send(&twice);
            assert!(response.is_wall() || response.status == 400, "{doubled}: {response:?}");
        }
    }
    for name in ["signature:", "signature-input:", "content-digest:"] {
        let trailer = line(name);
        let moved = request.replacen(&trailer, "", 1);
        let moved = moved.replacen(
            "content-length: 5\r\n",
            "transfer-encoding: chunked\r\ntrailer: signature\r\n",
            1,
        );
        let moved = moved.replacen("\r\n\r\n12345", &format!("\r\n\r\n5\r\n12345\r\n0\r\n{trailer}\r\n"), 1);
        assert!(gateway.send(&moved).is_wall(), "{name}");
    }
    let node = site.node("node.example.com", &[]);
    let twice = "POST /x HTTP/1.1\r\nhost: localhost\r\nidempotency-key: a\r\nidempotency-key: a\r\n\r\n";
    assert_eq!(gateway.send_as(&node, twice).status, 400);
    assert_eq!(gateway.send(&request).status, 202, "only what was changed was wrong");
}

#[test]
fn headers_that_name_an_address_or_an_identity_mean_nothing() {
    let site = site();
    let gateway = site.serve();
    let claims = [
        ("forwarded", "for=192.0.2.1;host=localhost;proto=https"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-host", "gateway.example.com"),
        ("x-real-ip", "192.0.2.1"),
        ("x-client-ip", "192.0.2.1"),
        ("true-client-ip", "192.0.2.1"),
        ("cf-connecting-ip", "192.0.2.1"),
        ("x-client-dn", "CN=node.example.com"),
        ("x-client-cn", "node.example.com"),
        ("x-client-verify", "SUCCESS"),
        ("x-ssl-client-s-dn", "CN=node.example.com"),
        ("client-cert", ":AAAA:"),
        ("authorization", "Basic bm9kZTpub2Rl"),
        ("x-original-url", "/x"),
        ("x-http-method-override", "POST"),
    ];
    let lines: String = claims.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let with = |target: &str| format!("POST {target} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n");
    for target in ["/x", "/elsewhere", "/nothing"] {
        assert!(gateway.send(&with(target)).is_wall(), "{target}");
    }
    let node = site.node("node.example.com", &[]);
    assert!(gateway.send_as(&node, &with("/elsewhere")).is_wall(), "the network is the connection's");
    assert_eq!(gateway.send_as(&node, &with("/x")).status, 202);
    let sign = |target: &str| {
        let mut signing = gateway.post(target, "12345");
        signing.unsigned = lines.clone();
        signing
    };
    assert!(gateway.send(&sign("/elsewhere").request()).is_wall());
    assert_eq!(gateway.send(&sign("/x").request()).status, 202);
    assert!(gateway.send(&with("/x").replacen("POST", "GET", 1)).is_wall());
}
