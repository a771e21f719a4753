//! `bridgeward explain`: what it says is what the gateway does.

use std::process::Output;

use crate::support::*;

const DEPLOY: &str = r#"method = "POST"
path = "/deploy"

[[allow]]
key = ["jenkins"]
networks = ["10.0.0.0/8"]

[[allow]]
certname = ["ci-*.example.com"]
extensions = { pp_auth_role = ["deployer"] }

[[allow]]
key = ["gitea"]

[rate]
limit = "60/m"

[[when]]
from = "body:/ref"
pattern = "refs/heads/.+"

[parameters]
branch = { from = "body:/ref", pattern = "refs/heads/(?<value>[a-z/-]+)", replace = { "/" = "_" } }
hosts = { from = "body:/hosts", pattern = "[a-z]+", list = true, default = ["all"] }

[run]
steps = [["/bin/echo", "deploy", "{branch}", "{hosts}"], ["/bin/echo", "done"]]
lock = "deploy-{branch}"
idempotent = true
"#;

const GOOD: &str = r#"{"ref":"refs/heads/feature/x","hosts":["a","b"]}"#;

fn site() -> Site {
    let site = Site::with_limits("body = \"1MiB\"");
    site.secret("gitea.secret", "the secret of the forge, which is long enough");
    site.configure("[keys.gitea]\nscheme = \"gitea\"\nsecrets = [\"gitea.secret\"]");
    site.route("deploy", DEPLOY);
    site
}

fn explain(site: &Site, arguments: &[&str]) -> (i32, String) {
    let policy = site.dir.path().to_str().unwrap();
    let Output { status, stdout, stderr } =
        bridgeward(&[&["explain", "--policy", policy], arguments].concat());
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code().unwrap(), text)
}

/// Exit code and text; the text holds all of these.
#[track_caller]
fn says(site: &Site, arguments: &[&str], code: i32, all: &[&str]) {
    let (status, text) = explain(site, arguments);
    assert_eq!(status, code, "{text}");
    for said in all {
        assert!(text.contains(said), "{said:?} is not in:\n{text}");
    }
}

#[test]
fn who_may_is_told_with_file_and_line() {
    let site = site();
    let file = site.path("routes/deploy.toml");
    let rule = |line: u32| format!("{}:{line}", file.display());
    let deploy = ["--data", GOOD, "POST", "/deploy"];
    let with = |arguments: &[&'static str]| [arguments, &deploy].concat();
    let runs = [
        r#"["/bin/echo", "deploy", "feature_x", "a", "b"]"#,
        r#"["/bin/echo", "done"]"#,
        "lock: \"deploy-feature_x\"",
        "branch = \"feature_x\", of \"refs/heads/feature/x\"",
    ];
    says(
        &site,
        &with(&["--key", "jenkins", "--from", "10.1.2.3"]),
        0,
        &[&runs[..], &[&format!("rule 1 holds ({}): key:jenkins", rule(4))]].concat(),
    );
    let certificate = with(&["--certname", "ci-1.example.com", "--extension", "pp_auth_role=deployer"]);
    says(
        &site,
        &certificate,
        0,
        &[&runs[..], &[&format!("rule 2 holds ({}): certname:ci-1.example.com", rule(8))]].concat(),
    );
    says(
        &site,
        &with(&["--key", "gitea"]),
        0,
        &[&runs[..], &[&format!("rule 3 holds ({}): key:gitea", rule(12)), "the body alone"]].concat(),
    );

    let elsewhere = [
        "allow     REFUSES",
        "It would be answered 404",
        &format!("rule 1 ({}): the address is in none of its networks", rule(4)),
        &format!("rule 2 ({}): it asks for a certificate, and none was verified", rule(8)),
        &format!("rule 3 ({}): none of its keys has signed", rule(12)),
    ];
    says(&site, &with(&["--key", "jenkins", "--from", "192.0.2.1"]), 1, &elsewhere);
    says(
        &site,
        &with(&["--certname", "ci-1.other.com"]),
        1,
        &["the certificate's name is none of its certnames"],
    );
    says(
        &site,
        &with(&["--certname", "ci-1.example.com"]),
        1,
        &["the certificate's extensions are not what it asks for"],
    );
    says(&site, &deploy, 1, &["neither certificate nor signature", "It would be answered 404"]);
    says(
        &site,
        &["--key", "gitea", "POST", "/deploy"],
        1,
        &["the scheme signs the body alone, and there is none"],
    );
}

#[test]
fn what_is_asked_for_is_told_guard_by_guard() {
    let site = site();
    let by_key = |more: &[&'static str]| [&["--key", "jenkins", "--from", "10.1.2.3"], more].concat();
    says(&site, &by_key(&["--data", GOOD, "POST", "/deploi"]), 1, &["no route has this path", "404"]);
    says(
        &site,
        &by_key(&["--data", GOOD, "PUT", "/deploy"]),
        1,
        &["routes of this path have the method POST", "404"],
    );
    let tag = r#"{"ref":"refs/tags/v1"}"#;
    says(
        &site,
        &by_key(&["--data", tag, "POST", "/deploy"]),
        1,
        &["`body:/ref` is not what this route acts on", "ignored"],
    );
    let upper = r#"{"ref":"refs/heads/MAIN"}"#;
    says(
        &site,
        &by_key(&["--data", upper, "POST", "/deploy"]),
        1,
        &["admit     REFUSES", "the parameter `branch`", "answered 400"],
    );
    let main = r#"{"ref":"refs/heads/main"}"#;
    says(&site, &by_key(&["--data", main, "POST", "/deploy"]), 0, &[r#"hosts = ["all"], by default"#]);
    // What comes from the request forges no line.
    let (_, text) = explain(
        &site,
        &by_key(&["--data", "{\"ref\":\"refs/heads/x\\nIt would be accepted\"}", "POST", "/deploy"]),
    );
    assert!(!text.lines().any(|line| line.starts_with("It would be accepted")), "{text}");

    says(&site, &["--key", "nobody", "POST", "/deploy"], 1, &["there is no `[keys.nobody]` in gateway.toml"]);
    says(&site, &["POST"], 2, &["PATH"]);
    says(&site, &["--extension", "pp_role=x", "GET", "/"], 2, &["--certname"]);
    site.route("broken", "method = 1");
    says(&site, &by_key(&["POST", "/deploy"]), 1, &["broken.toml"]);
    assert!(!site.path("queue.db").exists() && !site.path("audit.jsonl").exists(), "nothing is stored");
}

#[test]
fn a_captured_request_is_verified_and_told_what_the_gateway_then_does_with_it() {
    let site = site();
    site.route("deploy", &DEPLOY.replace("10.0.0.0/8", "127.0.0.0/8"));
    let gateway = site.serve();
    let signing = gateway.post("/deploy?a=b", GOOD);
    let request = signing.request();
    site.write("captured", &request, 0o600);
    let captured = site.path("captured");
    let captured = captured.to_str().unwrap();
    let created = signing.created.to_string();
    let (status, text) = explain(&site, &["--request", captured, "--at", &created]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("signed by the key `jenkins`: the request with content-digest"), "{text}");
    says(&site, &["--request", captured], 0, &["rule 1 holds"]);

    let accepted = gateway.send(&request);
    assert_eq!(accepted.status, 202);
    let job = gateway.ended(&accepted.location());
    for step in job["steps"].as_array().unwrap() {
        let argv: Vec<&str> =
            step["argv"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        assert!(text.contains(&format!("  {argv:?}\n")), "{argv:?}\n{text}");
    }

    let late = (signing.created + 3600).to_string();
    says(
        &site,
        &["--request", captured, "--at", &late],
        1,
        &["the signature's time is -3600 s from this gateway's clock"],
    );
    let good = jiff::Timestamp::from_second(signing.created).unwrap().to_string();
    says(&site, &["--request", captured, "--at", &good], 0, &["It would be accepted"]);
    for (from, to, why) in [
        ("?a=b", "?a=c", "no secret of the key `jenkins` made this signature over this request"),
        ("feature/x", "feature/y", "`Content-Digest` is not the digest of the body"),
        ("jenkins", "jenkinz", "the policy has no rfc9421 key `jenkinz`"),
        ("host: localhost", "host: localhosd", "is none of `listen.authorities`"),
        ("POST", "POST POST", "holds no request"),
        (GOOD, "{", "the body is shorter than the head says"),
    ] {
        let changed = request.replacen(from, to, 1);
        assert_ne!(changed, request, "{from}");
        site.write("captured", &changed, 0o600);
        says(&site, &["--request", captured, "--at", &created], 1, &[why]);
        if !["POST", GOOD].contains(&from) {
            assert!(gateway.send(&changed).is_wall(), "{from}");
        }
    }
}
