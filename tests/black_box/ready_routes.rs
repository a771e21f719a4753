//! The routes of the example policy as they stand, each asked by what its sender sends; only their programs are stand-ins.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::*;

const SECRET: &str = "a secret of the forge, and a long one at that";
const OLD: &str = "0000000000000000000000000000000000000000";

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn payload(name: &str) -> Value {
    serde_json::from_str(&read(&format!("tests/payloads/{name}.json"))).unwrap()
}

fn mac(bytes: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The header lines that a sender adds to a body.
type Headers = fn(&str) -> String;

fn github(body: &str) -> String {
    format!("X-GitHub-Event: push\r\nX-Hub-Signature-256: sha256={}\r\n", hex(&mac(body.as_bytes())))
}

fn gitlab(body: &str) -> String {
    let (id, at) = (fresh_nonce(), now().as_second());
    let signature = STANDARD.encode(mac(format!("{id}.{at}.{body}").as_bytes()));
    format!(
        "X-Gitlab-Event: Push Hook\r\nwebhook-id: {id}\r\nwebhook-timestamp: {at}\r\nwebhook-signature: v1,{signature}\r\n"
    )
}

fn gitea(body: &str) -> String {
    let signature = hex(&mac(body.as_bytes()));
    format!(
        "X-Gitea-Event: push\r\nX-Gitea-Signature: {signature}\r\nX-Gogs-Signature: {signature}\r\n\
         X-Hub-Signature-256: sha256={signature}\r\n"
    )
}

fn bitbucket(body: &str) -> String {
    format!("X-Event-Key: repo:push\r\nX-Hub-Signature: sha256={}\r\n", hex(&mac(body.as_bytes())))
}

/// The example's keys and one of its routes, running, with `/bin/echo` in place of what it runs.
struct Example {
    gateway: Running,
    site: Site,
}

impl Example {
    fn serve(route: &str) -> Self {
        let site = Site::with_limits("body = \"2MiB\"");
        let example = read("policy/gateway.toml");
        let keys = &example[example.find("[keys.jenkins]").unwrap()..];
        let text = fs::read_to_string(site.path("gateway.toml")).unwrap();
        site.write("gateway.toml", &format!("{}{keys}", text.split("[keys.").next().unwrap()), 0o644);
        fs::create_dir(site.path("secrets")).unwrap();
        for name in ["github", "gitlab", "gitea", "bitbucket", "jenkins"] {
            site.secret(
                &format!("secrets/{name}"),
                &format!("another secret of thirty-two bytes or more: {name}"),
            );
        }
        site.secret(
            "secrets/gitlab",
            &format!("whsec_{}", STANDARD.encode("another secret of thirty-two bytes or more")),
        );
        let key = route.trim_start_matches("deploy_");
        match key {
            "gitlab" => site.secret("secrets/gitlab", &format!("whsec_{}", STANDARD.encode(SECRET))),
            "github" | "gitea" | "bitbucket" => site.secret(&format!("secrets/{key}"), SECRET),
            _ => site.secret("secrets/jenkins", "jenkins-secret-of-thirty-two-bytes-or-more"),
        }
        let mut text = read(&format!("policy/routes/{route}.toml"));
        for program in ["/usr/bin/r10k", "/usr/bin/mco", "/usr/bin/bridgeward"] {
            text = text.replace(&format!("\"{program}\""), &format!("\"/bin/echo\", \"{program}\""));
        }
        site.route(route, &text.replace("10.20.0.0/16", "127.0.0.0/8"));
        Self { gateway: site.serve(), site }
    }

    fn post(&self, path: &str, headers: &str, body: &str) -> Response {
        let (host, length) = (self.gateway.authority(), body.len());
        self.gateway.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// What the job of an accepted request printed, once the audit log says how it ended.
    fn ran(&self, response: &Response) -> String {
        assert_eq!(response.status, 202, "{response:?}");
        let id = response.json()["job"].as_str().unwrap().to_owned();
        let said = |line: &str| line.contains(&id) && line.contains("\"message\":\"output\"");
        let line = self.gateway.log.wait_for(said).unwrap_or_else(|| panic!("{}", self.gateway.log.text()));
        serde_json::from_str::<Value>(&line).unwrap()["line"].as_str().unwrap().to_owned()
    }
}

/// A forge's push: deployed, and ignored or refused when it is changed so.
fn deploys(forge: &str, headers: Headers, branch: &str, prefix: &str, ignored: &[(&str, Value)]) {
    let example = Example::serve(&format!("deploy_{forge}"));
    let path = format!("/deploy/{forge}");
    let send = |payload: &Value| {
        let body = payload.to_string();
        example.post(&path, &headers(&body), &body)
    };
    let recorded = read(&format!("tests/payloads/{forge}_push.json"));
    let changed = |pointer: &str, value: &Value| {
        let mut payload = payload(&format!("{forge}_push"));
        *payload.pointer_mut(pointer).unwrap() = value.clone();
        payload
    };
    // Byte for byte as recorded, then other names of branches.
    let response = example.post(&path, &headers(&recorded), &recorded);
    assert_eq!(example.ran(&response), "/usr/bin/r10k deploy environment feature_web_1_2 --modules");
    for (name, environment) in
        [("production", "production"), ("a--b", "a__b"), ("Release_7/x.y", "Release_7_x_y")]
    {
        let response = send(&changed(branch, &json!(format!("{prefix}{name}"))));
        assert_eq!(
            example.ran(&response),
            format!("/usr/bin/r10k deploy environment {environment} --modules")
        );
    }
    for name in [
        "-x",
        "--config=x",
        "a b",
        "a;b",
        "$(x)",
        "a..b",
        "../x",
        "a/../b",
        "a//b",
        "/a",
        "a/",
        "é",
        &"x".repeat(300),
    ] {
        let response = send(&changed(branch, &json!(format!("{prefix}{name}"))));
        assert_eq!(response.status, 400, "{name:?}: {response:?}");
        assert!(response.text().contains("environment"), "{response:?}");
    }
    assert_ne!(send(&changed(branch, &json!(format!("{prefix}a\nb")))).status, 202);
    for (pointer, value) in ignored {
        let response = send(&changed(pointer, value));
        assert_eq!(
            (response.status, &response.json()["state"]),
            (200, &json!("ignored")),
            "{pointer} {value}"
        );
    }
    // Another secret, another body, and no signature.
    let tampered = recorded.replace("feature", "another");
    for headers in [headers(&recorded), String::new(), headers(&recorded).replace(['0', '1', '2'], "3")] {
        assert!(example.post(&path, &headers, &tampered).is_wall());
    }
    let routes = fs::read_dir(example.site.path("routes")).unwrap().count();
    assert_eq!(routes, 1);
}

#[test]
fn github_deploys_the_branch_that_was_pushed() {
    let ignored = [("/ref", json!("refs/tags/v1")), ("/ref", json!("main")), ("/deleted", json!(true))];
    deploys("github", github, "/ref", "refs/heads/", &ignored);
}

#[test]
fn gitlab_deploys_the_branch_that_was_pushed() {
    let ignored = [("/object_kind", json!("tag_push")), ("/checkout_sha", Value::Null)];
    deploys("gitlab", gitlab, "/ref", "refs/heads/", &ignored);
}

#[test]
fn gitea_deploys_the_branch_that_was_pushed() {
    let ignored = [("/ref", json!("refs/tags/v1")), ("/ref", json!("main")), ("/after", json!(OLD))];
    deploys("gitea", gitea, "/ref", "refs/heads/", &ignored);
}

#[test]
fn bitbucket_deploys_the_branch_that_was_pushed() {
    let ignored = [("/push/changes/0/new/type", json!("tag")), ("/push/changes/0/new", Value::Null)];
    deploys("bitbucket", bitbucket, "/push/changes/0/new/name", "", &ignored);
}

#[test]
fn two_branches_in_one_push_of_bitbucket_are_refused_not_forgotten() {
    let example = Example::serve("deploy_bitbucket");
    let mut payload = payload("bitbucket_push");
    let change = payload["push"]["changes"][0].clone();
    payload["push"]["changes"].as_array_mut().unwrap().push(change);
    let body = payload.to_string();
    let response = example.post("/deploy/bitbucket", &bitbucket(&body), &body);
    assert!(response.status == 400 && response.text().contains("second"), "{response:?}");
}

#[test]
fn a_redelivery_deploys_nothing_again() {
    let example = Example::serve("deploy_github");
    let body = read("tests/payloads/github_push.json");
    let first = example.post("/deploy/github", &github(&body), &body);
    let again = example.post("/deploy/github", &github(&body), &body);
    assert_eq!((again.status, &again.json()["duplicate"]), (202, &json!(true)));
    assert_eq!(first.json()["job"], again.json()["job"]);
}

#[test]
fn jenkins_promotes_a_version_and_runs_puppet() {
    let example = Example::serve("promote");
    let body = read("tests/payloads/jenkins_promote.json");
    let response = example.gateway.send(&example.gateway.post("/promote", &body).request());
    let job = example.gateway.ended(response.header("location").unwrap());
    assert_eq!(job["state"], "succeeded", "{job}");
    let output = |step: usize| job["steps"][step]["output"].as_str().unwrap().trim().to_owned();
    assert_eq!(
        output(0),
        "/usr/bin/bridgeward promote --repo /srv/control --branch staging --file data/roles/web.yaml --set web::version=1.2.3"
    );
    assert_eq!(output(1), "/usr/bin/mco puppet runonce -F role=web");
    for bad in ["1.2.3\\n", "1.2", "-1.2.3", "1.2.3 "] {
        let body = body.replace("1.2.3", bad);
        let response = example.gateway.send(&example.gateway.post("/promote", &body).request());
        assert_eq!(response.status, 400, "{bad}");
    }
}

#[test]
fn a_node_kicks_the_load_balancers_in_front_of_it() {
    let example = Example::serve("kick_haproxy_app_internal");
    let recorded = read("tests/payloads/node_kick.http").replace('\n', "\r\n");
    let request = format!("{recorded}Host: {}\r\n\r\n", example.gateway.authority());
    let node = example.site.node("app-1.example.com", &[("pp_auth_role", "app_internal")]);
    let response = example.gateway.send_as(&node, &request);
    assert_eq!(example.ran(&response), "/usr/bin/mco puppet runonce -F role=haproxy_app_internal");
    // Another name, another role, a role that any node can claim, and nobody.
    for (certname, extensions) in [
        ("web-1.example.com", &[("pp_auth_role", "app_internal")][..]),
        ("app-1.example.com", &[("pp_auth_role", "web")]),
        ("app-1.example.com", &[("pp_role", "app_internal")]),
    ] {
        assert!(example.gateway.send_as(&example.site.node(certname, extensions), &request).is_wall());
    }
    assert!(example.gateway.send(&request).is_wall());
}
