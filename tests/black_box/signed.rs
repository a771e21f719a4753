//! Signed POSTs: what an allowed sender is told, and what runs.

use serde_json::json;

use crate::support::*;

const PROMOTE: &str = r#"
method = "POST"
path = "/promote"
body = "2KiB"
[[allow]]
key = ["jenkins"]
[parameters]
environment = { from = "body:/environment", one_of = ["production", "staging"] }
role = { from = "body:/role", pattern = "[a-z-][a-z0-9_-]{0,62}" }
version = { from = "body:/version", pattern = "v?(?P<value>\\d+\\.\\d+\\.\\d+)" }
count = { from = "query:count", integer = { min = 1, max = 9 }, default = "1" }
branch = { from = "header:x-branch", pattern = "[a-z/]+", replace = { "/" = "_" }, default = "main" }
[run]
steps = [["/bin/echo", "{environment} {role}", "{version}", "{count}{branch}", "{{}}"], ["/bin/echo", "{role}"]]
"#;

const GOOD: &str = r#"{"environment":"production","role":"web","version":"v1.2.3"}"#;

fn site() -> Site {
    let site = Site::new();
    site.route("promote", PROMOTE);
    site
}

#[test]
fn i3_a_signed_post_runs_its_argv_and_nothing_else() {
    let site = site();
    let gateway = site.serve();
    let mut signing = gateway.post("/promote?count=7", GOOD).header("x-branch", "feature/x", true);
    signing.headers.push(("content-type".into(), "application/json".into(), false));
    let response = gateway.send(&signing.request());
    assert_eq!(response.status, 202, "{response:?}");
    let body = response.json();
    let job = body["job"].as_str().unwrap();
    assert_eq!(body, json!({"job": job, "state": "queued"}));
    assert_eq!(response.location(), format!("/-/jobs/{job}"));
    let view = gateway.ended(&response.location());
    assert_eq!(view["job"], job);
    assert_eq!(view["route"], "promote");
    assert_eq!(view["state"], "succeeded");
    assert_eq!(view["identity"], "key:jenkins");
    assert_eq!(view["parameters"]["version"], "v1.2.3");
    let step = |argv: serde_json::Value, output: &str| json!({"argv": argv, "exit": {"code": 0}, "output": output, "truncated": false});
    assert_eq!(
        view["steps"],
        json!([
            step(
                json!(["/bin/echo", "production web", "1.2.3", "7feature_x", "{}"]),
                "production web 1.2.3 7feature_x {}\n"
            ),
            step(json!(["/bin/echo", "web"]), "web\n"),
        ])
    );
    for time in ["submitted", "started", "finished"] {
        assert!(view[time].as_str().unwrap().ends_with('Z'), "{view}");
    }
}

#[test]
fn any_secret_of_the_key_verifies() {
    let site = site();
    let gateway = site.serve();
    let mut signing = gateway.post("/promote", GOOD);
    signing.secret = "the-next-secret-of-jenkins-is-another-one".into();
    assert_eq!(gateway.send(&signing.request()).status, 202);
}

#[test]
fn i6_the_same_message_runs_once() {
    let site = site();
    let gateway = site.serve();
    let signing = gateway.post("/promote", GOOD);
    let first = gateway.send(&signing.request()).json();
    gateway.ended(&format!("/-/jobs/{}", first["job"].as_str().unwrap()));
    for _ in 0..3 {
        let again = gateway.send(&signing.request());
        assert_eq!(again.status, 202);
        assert_eq!(again.json(), json!({"job": first["job"], "state": "succeeded", "duplicate": true}));
    }
    let mut other = signing.clone();
    other.body = GOOD.replace("web", "db");
    let conflict = gateway.send(&other.request());
    assert_eq!((conflict.status, conflict.header("content-type")), (409, Some("application/problem+json")));
    other.nonce = fresh_nonce();
    let second = gateway.send(&other.request()).json();
    assert_ne!(second["job"], first["job"]);
    assert_eq!(second.get("duplicate"), None);
}

#[test]
fn i1_an_invalid_parameter_runs_nothing_and_is_named_but_not_repeated() {
    let site = site();
    let gateway = site.serve();
    let nested = format!(r#"{{"x":{}1{}}}"#, "[".repeat(40), "]".repeat(40));
    for (body, parameter) in [
        (r#"{"environment":"production","role":"web"}"#, Some("version")),
        (r#"{"environment":"SECRETVALUE","role":"web","version":"1.2.3"}"#, Some("environment")),
        (r#"{"environment":"staging","role":"web\nSECRETVALUE","version":"1.2.3"}"#, Some("role")),
        (r#"{"environment":"staging","role":"web\u0000","version":"1.2.3"}"#, Some("role")),
        (r#"{"environment":"staging","role":["SECRETVALUE"],"version":"1.2.3"}"#, Some("role")),
        (r#"{"environment":"staging","role":null,"version":"1.2.3"}"#, Some("role")),
        (r#"{"environment":"staging","role":"-rf","version":"1.2.3"}"#, Some("role")),
        (r#"{"environment":"staging","role":"web","role":"SECRETVALUE","version":"1.2.3"}"#, None),
        (nested.as_str(), None),
        ("SECRETVALUE", None),
        ("", None),
    ] {
        let response = gateway.send(&gateway.post("/promote", body).request());
        assert_eq!(response.status, 400, "{body}: {response:?}");
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        let problem = response.json();
        assert_eq!(problem.get("parameter").and_then(|name| name.as_str()), parameter, "{body}");
        assert!(!response.text().contains("SECRETVALUE"), "{}", response.text());
        if let Some(parameter) = parameter {
            assert!(problem["detail"].as_str().unwrap().contains(parameter), "{problem}");
        }
    }
    for target in [
        "/promote?count=0",
        "/promote?count=10",
        "/promote?count=1&count=1",
        "/promote?count=01",
        "/promote?count=",
    ] {
        let response = gateway.send(&gateway.post(target, GOOD).request());
        assert_eq!((response.status, &response.json()["parameter"]), (400, &json!("count")), "{target}");
    }
    let detail = |target: &str, body: &str| {
        let response = gateway.send(&gateway.post(target, body).request());
        (response.status, response.json()["detail"].as_str().unwrap().to_owned())
    };
    for body in ["", "\r\n"] {
        assert_eq!(
            detail("/promote", body),
            (400, "the body is empty, and this route takes JSON".to_owned())
        );
    }
    let not_text = "the parameter `count` is not UTF-8 text".to_owned();
    assert_eq!(detail("/promote?count=%ff", GOOD), (400, not_text));
    gateway.stop();
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(!audit.contains("started"), "{audit}");
}

#[test]
fn a_body_over_the_routes_limit_is_413() {
    let site = site();
    let gateway = site.serve();
    let body = format!(r#"{{"pad":"{}"}}"#, "x".repeat(3000));
    let response = gateway.send(&gateway.post("/promote", &body).request());
    assert_eq!(response.status, 413, "{response:?}");
    let detail = "the body is larger than the 2048 bytes that this route takes";
    assert_eq!(response.json()["detail"], json!(detail));
}

#[test]
fn a_route_has_a_rate_of_its_own() {
    let site = site();
    let rate = "[rate]\nlimit = \"2/h\"\nburst = 2\nper = \"identity\"\n";
    site.route("promote", &format!("{PROMOTE}{rate}"));
    let gateway = site.serve();
    for _ in 0..2 {
        assert_eq!(gateway.send(&gateway.post("/promote", GOOD).request()).status, 202);
    }
    let refused = gateway.send(&gateway.post("/promote", GOOD).request());
    assert_eq!(refused.status, 429);
    let retry_after: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1800).contains(&retry_after), "{retry_after}");
    // Whoever is not allowed is not told so.
    let mut stranger = gateway.post("/promote", GOOD);
    stranger.secret = "none of the secrets of this policy at all".into();
    assert!(gateway.send(&stranger.request()).is_wall());
}

#[test]
fn a_result_can_be_waited_for() {
    let site = site();
    let run = |name: &str, steps: &str, more: &str| {
        site.route(
            name,
            &format!(
                "method = \"POST\"\npath = \"/{name}\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n\
                 [run]\nsteps = {steps}\n{more}\n"
            ),
        );
    };
    run("fine", r#"[["/bin/echo", "done"]]"#, "respond = \"result\"");
    run("fails", r#"[["/bin/false"], ["/bin/echo", "never"]]"#, "respond = \"result\"");
    run(
        "late",
        r#"[["/bin/sleep", "60"]]"#,
        "respond = \"result\"\ntimeout = \"200ms\"\nstop_grace = \"1s\"",
    );
    run("gone", r#"[["/nonexistent/program"]]"#, "respond = \"result\"");
    run("quick", r#"[["/bin/echo", "hello"]]"#, "");
    run("slow", r#"[["/bin/sleep", "60"]]"#, "stop_grace = \"100ms\"");
    let gateway = site.serve();
    for (path, status, state, steps) in [
        ("/fine", 200, "succeeded", 1),
        ("/fails", 500, "failed", 1),
        ("/late", 504, "timed_out", 1),
        ("/gone", 500, "refused", 0),
    ] {
        let signing = gateway.post(path, "x");
        let response = gateway.send(&signing.request());
        assert_eq!(response.status, status, "{path}: {response:?}");
        let view = response.json();
        assert_eq!(
            (view["state"].as_str(), view["steps"].as_array().map(Vec::len)),
            (Some(state), Some(steps)),
            "{view}"
        );
        // A duplicate waits, and is answered, alike.
        assert_eq!(gateway.send(&signing.request()).json(), view);
    }
    let waited = gateway.send(&gateway.post("/quick", "x").header("prefer", "wait=20", false).request());
    assert_eq!((waited.status, &waited.json()["steps"][0]["output"]), (200, &json!("hello\n")));
    let not_waited = gateway.send(&gateway.post("/slow", "x").header("prefer", "wait=1", false).request());
    assert_eq!(not_waited.status, 202, "{not_waited:?}");
    assert_eq!(not_waited.json()["state"], "running");
}

#[test]
fn a_job_is_shown_to_its_submitter_alone() {
    let site = site();
    site.configure("[keys.other]\nscheme = \"rfc9421\"\nsecrets = [\"other.secret\"]");
    site.secret("other.secret", "another secret, of another key, long enough");
    site.route("promote", &PROMOTE.replace("[\"jenkins\"]", "[\"jenkins\", \"other\"]"));
    let gateway = site.serve();
    let response = gateway.send(&gateway.post("/promote", GOOD).request());
    let location = response.location();
    let mut other = Signing::new("GET", &gateway.authority(), &location, "");
    other.key_id = "other".into();
    other.secret = "another secret, of another key, long enough".into();
    assert!(gateway.send(&other.request()).is_wall());
    assert!(gateway.send(&gateway.get(&location)).is_wall());
    assert!(gateway.send(&Signing::new("POST", &gateway.authority(), &location, "").request()).is_wall());
    assert_eq!(gateway.job(&location)["job"], response.json()["job"]);
}

#[test]
fn a_full_queue_is_503_but_knows_what_it_has() {
    let site = Site::with_limits("jobs = 1\nrunning = 1");
    site.route(
        "slow",
        "method = \"POST\"\npath = \"/slow\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"/bin/sleep\", \"60\"]]\nstop_grace = \"100ms\"\n",
    );
    let gateway = site.serve();
    let running = gateway.send(&gateway.post("/slow", "1").request());
    gateway.log.wait_for(|line| line.contains("started")).unwrap();
    let waiting = gateway.post("/slow", "2");
    let first = gateway.send(&waiting.request());
    assert_eq!((running.status, first.status), (202, 202));
    let full = gateway.send(&gateway.post("/slow", "3").request());
    assert_eq!(full.status, 503, "{full:?}");
    assert!(full.header("retry-after").is_some());
    let again = gateway.send(&waiting.request());
    assert_eq!((again.status, &again.json()["duplicate"]), (202, &json!(true)));
    assert_eq!(again.json()["job"], first.json()["job"]);
}
