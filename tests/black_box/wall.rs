//! Invariant I2: whoever has not proven an allowed identity gets one and the same answer.

use crate::support::*;

const ROUTE: &str = r#"
method = "POST"
path = "/deploy"
[[allow]]
key = ["jenkins"]
networks = ["127.0.0.0/8"]
[parameters]
role = { from = "body:/role", pattern = "[a-z]+" }
header = { from = "header:x-ticket", pattern = "[a-z]*", default = "" }
[run]
steps = [["/bin/echo", "{role}"]]
"#;

const OTHER_NETWORK: &str = r#"
method = "POST"
path = "/elsewhere"
[[allow]]
key = ["jenkins"]
networks = ["192.0.2.0/24"]
[run]
steps = [["/bin/echo"]]
"#;

fn site() -> Site {
    let site = Site::new();
    site.route("deploy", ROUTE);
    site.route("elsewhere", OTHER_NETWORK);
    site
}

#[test]
fn the_wall_is_exactly_this() {
    let site = site();
    let gateway = site.serve();
    let response = gateway.send(&gateway.get("/nothing/here"));
    assert_eq!(response.text(), WALL);
    let mut lines: Vec<&str> = response.head.trim_end().lines().collect();
    assert!(lines.pop().unwrap().to_ascii_lowercase().starts_with("date: "));
    assert_eq!(
        lines,
        ["HTTP/1.1 404 Not Found", "content-type: text/plain; charset=utf-8", "content-length: 19"]
    );
}

/// Each row: a request to a path that exists, made wrong in one way; and the same to a path that does not.
#[test]
fn i2_refusals_differ_only_in_date() {
    let site = site();
    let gateway = site.serve();
    let good = |path: &str| gateway.post(path, r#"{"role":"web"}"#);
    type Spoil = Box<dyn Fn(Signing) -> String>;
    let change = |change: fn(&mut Signing)| -> Spoil {
        Box::new(move |mut signing| {
            change(&mut signing);
            signing.request()
        })
    };
    let edit = |from: &'static str, to: &'static str| -> Spoil {
        Box::new(move |signing| {
            let request = signing.request();
            assert!(request.contains(from), "{request}");
            request.replacen(from, to, 1)
        })
    };
    let rows: Vec<(&str, Spoil)> = vec![
        (
            "no signature",
            Box::new(|mut signing| {
                signing.unsigned = "x-nothing: 1\r\n".into();
                let request = signing.request();
                let lines = request.split("\r\n");
                let kept: Vec<&str> = lines.filter(|line| !line.starts_with("signature")).collect();
                kept.join("\r\n")
            }),
        ),
        ("only half a signature", edit("signature: ", "x-signature: ")),
        ("another secret", change(|s| s.secret = "not the secret, but as long as one is".into())),
        ("unknown key", change(|s| s.key_id = "jenkinz".into())),
        ("too old", change(|s| s.created -= 301)),
        ("too new", change(|s| s.created += 301)),
        ("no nonce", edit("nonce=", "monce=")),
        ("body changed", edit("{\"role\":\"web\"}", "{\"role\":\"wob\"}")),
        ("other algorithm", edit("hmac-sha256", "hmac-sha512")),
        ("signature twice", change(|s| s.unsigned = "signature: sig=:AAAA:\r\n".into())),
        ("unsigned query", edit(" HTTP/1.1", "?x=1 HTTP/1.1")),
        (
            "header used by the route, not covered",
            change(|s| {
                s.headers.push(("x-ticket".into(), "abc".into(), false));
            }),
        ),
        ("other host", change(|s| s.authority = "evil.example.com".into())),
        ("absolute target", edit("POST /", "POST https://localhost/")),
        (
            "not JSON, and not signed",
            change(|s| {
                s.body = "{".into();
                s.secret = "x".into();
            }),
        ),
    ];
    for (name, spoil) in rows {
        let known = gateway.send(&spoil(good("/deploy")));
        let unknown = gateway.send(&spoil(good("/deplox")));
        assert!(known.is_wall(), "{name}: {known:?}");
        assert_eq!(known.without_date(), unknown.without_date(), "{name}");
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let mut signing = good("/deploy");
        signing.method = method.into();
        let known = gateway.send(&signing.request());
        let unknown = gateway.send(&gateway.get("/deplox"));
        assert_eq!(known.without_date(), unknown.without_date(), "{method}");
    }
    let foreign = gateway.send(&good("/elsewhere").request());
    assert!(foreign.is_wall(), "a network that the rule does not name: {foreign:?}");
    let nothing = gateway.send(&gateway.get("/-/jobs/00000000-0000-7000-8000-000000000000"));
    assert!(nothing.is_wall());
    // The row that shows that the others were refused for their fault alone.
    assert_eq!(gateway.send(&good("/deploy").request()).status, 202);
}

#[test]
fn i2_head_gets_the_wall_without_its_body() {
    let site = site();
    let gateway = site.serve();
    let mut heads = Vec::new();
    for path in ["/deploy", "/deplox"] {
        let mut tls = gateway.connect();
        tls.write(gateway.get(path).replacen("GET", "HEAD", 1).as_bytes()).unwrap();
        let head = tls.read_bodiless();
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");
        assert!(head.contains("content-length: 19\r\n"), "{head}");
        heads.push(head.lines().filter(|line| !line.starts_with("date")).collect::<String>());
    }
    assert_eq!(heads[0], heads[1]);
}

#[test]
fn paths_are_compared_byte_for_byte() {
    let site = site();
    let gateway = site.serve();
    for path in [
        "/deploy/",
        "//deploy",
        "/./deploy",
        "/%64eploy",
        "/Deploy",
        "/deploy;x",
        "/deploy%00",
        "/x/../deploy",
    ] {
        let response = gateway.send(&gateway.post(path, r#"{"role":"web"}"#).request());
        assert!(response.is_wall(), "{path}: {response:?}");
    }
}

#[test]
fn a_refusal_is_on_record_with_its_reason_but_not_for_the_sender() {
    let site = site();
    let gateway = site.serve();
    let mut signing = gateway.post("/deploy", r#"{"role":"web"}"#);
    signing.created -= 1000;
    assert!(gateway.send(&signing.request()).is_wall());
    assert_eq!(gateway.stop().code(), Some(0));
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(audit.contains("window"), "{audit}");
}
