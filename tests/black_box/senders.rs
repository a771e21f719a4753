//! Senders that sign bodies: message ids, conditions, forms, and what stands beside their signatures.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::support::*;

const FORGE: &str = "the secret of the forge, which is long enough";
const OTHER: &str = "the secret of another forge, long enough too";

fn hex(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    mac.finalize().into_bytes().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A site with the keys `gitea`, `github` (the same header as one of Gitea's) and `builds`, whose messages have ids.
fn site() -> Site {
    let site = Site::with_limits("body = \"1MiB\"");
    site.secret("gitea.secret", FORGE);
    site.secret("github.secret", OTHER);
    site.secret("builds.secret", "the secret of all builds, which is long enough");
    site.configure("[keys.gitea]\nscheme = \"gitea\"\nsecrets = [\"gitea.secret\"]");
    site.configure("[keys.github]\nscheme = \"github\"\nsecrets = [\"github.secret\"]");
    site.configure(
        "[keys.builds]\nscheme = \"body-hmac\"\nheader = \"X-Build-Signature\"\nsecrets = [\"builds.secret\"]\nid = \"body:/build_tag\"",
    );
    site
}

fn post(gateway: &Running, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (host, length) = (gateway.authority(), body.len());
    let head = format!("POST {target} HTTP/1.1\r\nhost: {host}\r\n{lines}content-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn ask(gateway: &Running, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut connection = gateway.connect();
    connection.write(&post(gateway, target, headers, body)).unwrap();
    connection.read().unwrap()
}

/// Signed by `gitea`, with what it sends beside.
fn pushed(gateway: &Running, target: &str, event: &str, body: &str) -> Response {
    let signature = hex(FORGE, body.as_bytes());
    let github = format!("sha256={signature}");
    let headers = [
        ("X-Gitea-Event", event),
        ("X-Gitea-Signature", &signature),
        ("X-Gogs-Signature", &signature),
        ("X-Hub-Signature", "sha1=0000000000000000000000000000000000000000"),
        ("X-Hub-Signature-256", &github),
    ];
    ask(gateway, target, &headers, body.as_bytes())
}

const DEPLOY: &str = r#"
method = "POST"
path = "/deploy"
[[allow]]
key = ["gitea"]
[[allow]]
certname = ["node.example.com"]
[[when]]
from = "header:x-gitea-event"
one_of = ["push"]
[[when]]
from = "body:/ref"
pattern = "refs/heads/.+"
[parameters]
environment = { from = "body:/ref", pattern = "refs/heads/(?<value>[a-z/]+)", replace = { "/" = "_" } }
[run]
steps = [["/bin/echo", "deploy {environment}"]]
respond = "result"
idempotent = true
"#;

#[test]
fn conditions_say_what_is_acted_on_and_what_is_ignored() {
    let site = site();
    site.route("deploy", DEPLOY);
    let gateway = site.serve();
    let done = pushed(&gateway, "/deploy", "push", r#"{"ref":"refs/heads/feature/x"}"#);
    assert_eq!((done.status, &done.json()["steps"][0]["output"]), (200, &json!("deploy feature_x\n")));
    for (event, body, condition) in [
        ("ping", r#"{"ref":"refs/heads/main"}"#, "`header:x-gitea-event`"),
        ("PUSH", r#"{"ref":"refs/heads/main"}"#, "`header:x-gitea-event`"),
        ("push", r#"{"ref":"refs/tags/v1"}"#, "`body:/ref`"),
        ("push", r#"{"ref":["refs/heads/main"]}"#, "`body:/ref`"),
        ("push", "{}", "`body:/ref`"),
    ] {
        let ignored = pushed(&gateway, "/deploy", event, body);
        assert_eq!(
            (ignored.status, ignored.header("content-type")),
            (200, Some("application/json")),
            "{event} {body}"
        );
        let told = ignored.json();
        assert_eq!((&told["state"], told.as_object().unwrap().len()), (&json!("ignored"), 2), "{told}");
        assert!(told["reason"].as_str().unwrap().contains(condition), "{told}");
    }
    // Conditions come before parameters, and after the body's own form.
    assert_eq!(pushed(&gateway, "/deploy", "push", r#"{"ref":"refs/heads/MAIN"}"#).status, 400);
    assert_eq!(pushed(&gateway, "/deploy", "ping", "no JSON").status, 400);
    gateway.stop();
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let ignored: Vec<_> =
        audit.lines().filter(|line| line.contains("is not what this route acts on")).collect();
    assert_eq!(ignored.len(), 5, "{audit}");
    assert!(
        ignored.iter().all(|line| line.contains("key:gitea") && line.contains("\"deploy\"")),
        "{ignored:?}"
    );
}

#[test]
fn i2_a_signature_that_fails_is_the_wall_even_beside_a_good_certificate_and_those_of_other_schemes_are_ignored()
 {
    let site = site();
    site.route("deploy", DEPLOY);
    site.route("both", &DEPLOY.replace("/deploy", "/both").replace("[\"gitea\"]", "[\"gitea\", \"github\"]"));
    let node = site.node("node.example.com", &[]);
    let gateway = site.serve();
    let body = r#"{"ref":"refs/heads/main"}"#;
    let good = hex(FORGE, body.as_bytes());
    let wrong = hex(OTHER, body.as_bytes());
    let as_node = |target: &str, headers: &[(&str, &str)]| {
        let mut connection = gateway.connect_as(&node);
        let event = [&[("X-Gitea-Event", "push")], headers].concat();
        connection.write(&post(&gateway, target, &event, body.as_bytes())).unwrap();
        connection.read().unwrap()
    };
    for ignored in [
        &[][..],
        &[("X-Hub-Signature-256", "sha256=00")],
        &[("X-Build-Signature", "00"), ("X-Slack-Signature", "v0=00"), ("Stripe-Signature", "x")],
        &[("Signature", "x"), ("Signature-Input", "y")],
        &[("Authorization", "Basic AAAA"), ("X-Forgejo-Signature", "00")],
    ] {
        let response = as_node("/deploy", ignored);
        assert_eq!(
            (response.status, &response.json()["identity"]),
            (200, &json!("certname:node.example.com")),
            "{ignored:?}"
        );
    }
    let by_key = as_node("/deploy", &[("X-Gitea-Signature", &good)]);
    assert_eq!(
        (by_key.status, &by_key.json()["identity"]),
        (200, &json!("key:gitea")),
        "the first rule that holds"
    );
    for signature in [&wrong, &good[..62], "", &good.to_uppercase()] {
        assert!(as_node("/deploy", &[("X-Gitea-Signature", signature)]).is_wall(), "{signature}");
        assert!(as_node("/nowhere", &[("X-Gitea-Signature", signature)]).is_wall());
    }
    let twice = [("X-Gitea-Signature", &*good), ("X-Gitea-Signature", &good)];
    assert!(as_node("/deploy", &twice).is_wall());
    // Where one route takes both, what the other's header says counts.
    let github = format!("sha256={good}");
    let four = [("X-Gitea-Signature", &*good), ("X-Hub-Signature-256", &github)];
    assert_eq!(as_node("/deploy", &four).status, 200);
    assert!(as_node("/both", &four).is_wall());
    assert_eq!(as_node("/both", &four[..1]).status, 200);
}

#[test]
fn a_message_has_the_id_that_the_key_says() {
    let site = site();
    let route = "method = \"POST\"\npath = \"/@\"\n[[allow]]\nkey = [\"builds\"]\n\
                 [parameters]\nv = { from = \"body:/version\", pattern = \"[0-9.]+\" }\n\
                 [run]\nsteps = [[\"/bin/echo\", \"{v}\"]]\n";
    site.route("promote", &route.replace('@', "promote"));
    site.route("again", &route.replace('@', "again"));
    let gateway = site.serve();
    let send = |target: &str, body: &str| {
        let signature = hex("the secret of all builds, which is long enough", body.as_bytes());
        ask(&gateway, target, &[("X-Build-Signature", &signature)], body.as_bytes())
    };
    let build = |tag: &str, version: &str| format!(r#"{{"build_tag":{tag},"version":"{version}"}}"#);
    let mut jobs = Vec::new();
    // The same version again is another message, because it is another build's.
    for (tag, version) in [("\"b-1\"", "1.2.3"), ("\"b-2\"", "1.2.4"), ("\"b-3\"", "1.2.3"), ("4", "1.2.3")] {
        let first = send("/promote", &build(tag, version));
        assert_eq!((first.status, first.json().get("duplicate")), (202, None), "{first:?}");
        let again = send("/promote", &build(tag, version));
        assert_eq!((again.status, &again.json()["duplicate"]), (202, &json!(true)));
        assert_eq!(again.json()["job"], first.json()["job"]);
        jobs.push(first.json()["job"].clone());
    }
    jobs.dedup();
    assert_eq!(jobs.len(), 4);
    let conflict = send("/promote", &build("\"b-1\"", "1.2.5"));
    assert_eq!((conflict.status, &conflict.json()["job"]), (409, &jobs[0]));
    assert_eq!(send("/promote?a=b", &build("\"b-1\"", "1.2.3")).status, 409, "another query");
    assert_eq!(
        send("/again", &build("\"b-1\"", "1.2.5")).json().get("duplicate"),
        None,
        "ids are a route's own"
    );
    let long = format!("\"{}\"", "x".repeat(257));
    for tag in ["null", "[]", "{}", "\"\"", &long] {
        let refused = send("/promote", &build(tag, "1.2.3"));
        assert_eq!(refused.status, 400, "{tag}: {refused:?}");
        assert!(
            refused.json()["detail"].as_str().unwrap().starts_with("the message id in the body"),
            "{refused:?}"
        );
    }
    assert_eq!(send("/promote", r#"{"version":"1.2.3"}"#).status, 400);
}

#[test]
fn forms_hold_values_and_json() {
    let site = site();
    let route = |payload: &str, parameter: &str| {
        format!(
            "method = \"POST\"\npath = \"/x\"\n{payload}\n[[allow]]\nkey = [\"gitea\"]\n\
             [parameters]\nv = {{ {parameter}, pattern = \"[a-z é/]+\" }}\n\
             [run]\nsteps = [[\"/bin/echo\", \"{{v}}\"]]\nrespond = \"result\"\n"
        )
    };
    site.route("form", &route("payload = \"form:payload\"", "from = \"body:/v\"").replace("/x", "/json"));
    site.route("fields", &route("", "from = \"form:v\"").replace("/x", "/fields"));
    site.route("none", &route("payload = \"none\"", "from = \"query:v\"").replace("/x", "/none"));
    let gateway = site.serve();
    let send =
        |target: &str, body: &[u8]| ask(&gateway, target, &[("X-Gitea-Signature", &hex(FORGE, body))], body);
    let said = |response: Response| response.json()["steps"][0]["output"].as_str().map(str::to_owned);
    let json = b"a=b&payload=%7B%22v%22%3A+%22main%2Fx%22%7D";
    assert_eq!(said(send("/json", json)).as_deref(), Some("main/x\n"));
    for (body, detail) in [
        (&b"payload=1&payload=1"[..], "the body's field `payload` is given more than once"),
        (b"v=x", "the body's field `payload` is missing"),
        (b"payload=%ff", "the body's field `payload` is not UTF-8 text"),
        (b"payload=", "the body is not JSON: syntax error at line 1, column 0"),
        (b"payload=%7B", "the body is not JSON: syntax error at line 1, column 1"),
        (br#"{"v":"x"}"#, "the body's field `payload` is missing"),
    ] {
        let refused = send("/json", body);
        assert_eq!((refused.status, &refused.json()["detail"]), (400, &json!(detail)));
    }
    assert_eq!(
        said(send("/fields", b"token=%00&v=caf%C3%A9+au+lait")).as_deref(),
        Some("caf\u{e9} au lait\n")
    );
    for body in [&b"v=a&v=b"[..], b"w=a", b"v=%ff", b"V=a", br#"{"v":"x"}"#] {
        let refused = send("/fields", body);
        assert_eq!((refused.status, &refused.json()["parameter"]), (400, &json!("v")));
    }
    // Bytes that are no text are signed and taken like any others.
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(said(send("/none?v=x", &bytes)).as_deref(), Some("x\n"));
    assert!(ask(&gateway, "/none?v=x", &[("X-Gitea-Signature", &hex(FORGE, b"x"))], &bytes).is_wall());
}

#[test]
fn headers_that_conditions_use_must_be_covered_by_a_signature_over_the_request() {
    let site = site();
    site.route(
        "covered",
        "method = \"POST\"\npath = \"/x\"\n[[allow]]\nkey = [\"jenkins\"]\n[[when]]\nfrom = \"header:x-event\"\none_of = [\"push\"]\n\
         [run]\nsteps = [[\"/bin/true\"]]\n",
    );
    let gateway = site.serve();
    let event = |value: &str, covered| {
        gateway.send(&gateway.post("/x", "{}").header("x-event", value, covered).request())
    };
    assert_eq!(event("push", true).status, 202);
    assert_eq!(event("pull", true).json()["state"], "ignored");
    assert!(event("push", false).is_wall());
    assert!(event("pull", false).is_wall());
    assert_eq!(gateway.send(&gateway.post("/x", "{}").request()).json()["state"], "ignored");
}

#[test]
fn i3_a_list_becomes_as_many_arguments_as_it_has_items() {
    let site = site();
    site.route(
        "drain",
        "method = \"POST\"\npath = \"/drain\"\n[[allow]]\nkey = [\"gitea\"]\n\
         [parameters]\nhosts = { from = \"body:/hosts\", list = true, max_items = 3, pattern = \".*\", replace = { \"/\" = \"_\" } }\n\
         [run]\nsteps = [[\"/usr/bin/printf\", \"<%s>\", \"{hosts}\", \"end\"]]\nrespond = \"result\"\ncoalesce = true\n",
    );
    let gateway = site.serve();
    let send = |body: &str| {
        ask(&gateway, "/drain", &[("X-Gitea-Signature", &hex(FORGE, body.as_bytes()))], body.as_bytes())
    };
    for (hosts, output) in [
        (json!(["a b", "{hosts}", "$(id)"]), "<a b><{hosts}><$(id)><end>"),
        (json!(["a/b"]), "<a_b><end>"),
        (json!(["", 1, true]), "<><1><true><end>"),
    ] {
        let done = send(&json!({"hosts": hosts}).to_string());
        assert_eq!((done.status, &done.json()["steps"][0]["output"]), (200, &json!(output)), "{done:?}");
        let text =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let raw: Vec<_> = hosts.as_array().unwrap().iter().map(text).collect();
        assert_eq!(done.json()["parameters"], json!({"hosts": raw}));
    }
    for hosts in [
        json!([]),
        json!(["a", "b", "c", "d"]),
        json!("a"),
        json!([["a"]]),
        json!([null]),
        json!(["a", "-x"]),
        json!(["a\u{0}"]),
    ] {
        let refused = send(&json!({"hosts": hosts}).to_string());
        assert_eq!((refused.status, &refused.json()["parameter"]), (400, &json!("hosts")), "{hosts}");
    }
    gateway.stop();
    // What was accepted is on record, and read back as it was.
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(audit.contains(r#""parameters":{"hosts":["a/b"]}"#), "{audit}");
}
