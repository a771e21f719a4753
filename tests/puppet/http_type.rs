//! The `http` type: what it sends, with which proof, how often, and what it says when that fails.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::gateway::{Running, Site, wait_for_lines};
use crate::node::{Node, Puppet, WEB};
use crate::wire::{Fate, Plain, Witness, proxy};

const KICK: &str = "method = \"GET\"\npath = \"/kick\"\npayload = \"none\"\n[[allow]]\ncertname = [\"web*.example.test\"]\nextensions = { pp_auth_role = [\"app_internal\"] }\n";

struct Stage {
    site: Site,
    puppet: Puppet,
    node: Node,
}

impl Stage {
    /// A gateway with the routes `kick` (GET) and `deploy` (POST), for `WEB`, which write what they ran with to `ran`.
    fn new() -> Self {
        let mut site = Site::new();
        let puppet = Puppet::new(site.dir.path(), &[]);
        puppet.furnish(&mut site);
        let program = site.program("record", &format!("echo \"$*\" >> {}", site.path("ran").display()));
        site.route("kick", &format!("{KICK}[run]\nsteps = [[\"{program}\", \"kick\"]]\n"));
        let deploy =
            KICK.replace("GET", "POST").replace("/kick", "/deploy").replace("payload = \"none\"\n", "");
        let parameters = "[parameters]\nrole = { from = \"body:/role\", pattern = \"[a-z]+\" }\ncount = { from = \"body:/count\", integer = { min = 1, max = 9 } }\n";
        site.route(
            "deploy",
            &format!("{deploy}{parameters}[run]\nsteps = [[\"{program}\", \"{{role}}\", \"{{count}}\"]]\n"),
        );
        let node = puppet.node(WEB);
        Self { site, puppet, node }
    }

    fn ran(&self) -> Vec<String> {
        let text = fs::read_to_string(self.site.path("ran")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What the gateway decided, record by record.
    fn decisions(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.site.path("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// An `http` resource for the gateway at `port`.
fn http(title: &str, port: u16, lines: &str) -> String {
    format!("http {{ '{title}':\n  fqdn => 'localhost',\n  port => {port},\n{lines}\n}}\n")
}

fn port(gateway: &Running) -> u16 {
    gateway.address.port()
}

#[test]
fn get_and_post_show_the_agents_certificate_without_any_configuration() {
    let stage = Stage::new();
    let gateway = stage.site.serve();
    let mut manifest = http("kick", port(&gateway), "ensure => get,");
    write!(
        manifest,
        "{}",
        http("/deploy", port(&gateway), "ensure => post,\ndata => { 'role' => 'web', 'count' => 3 },")
    )
    .unwrap();
    let applied = stage.node.apply(&manifest, &[]);
    assert_eq!(applied.code, 2, "{}", applied.text);
    for said in [
        format!("Http[kick]/ensure: GET https://localhost:{}/kick: 202 Accepted (job ", port(&gateway)),
        format!("Http[/deploy]/ensure: POST https://localhost:{}/deploy: 202 Accepted (job ", port(&gateway)),
    ] {
        assert!(applied.text.contains(&said), "{said}\n{}", applied.text);
    }
    let mut ran = wait_for_lines(&stage.site.path("ran"), 2);
    ran.sort();
    assert_eq!(ran, ["kick", "web 3"]);
    let named = stage.decisions().iter().filter(|record| record.to_string().contains(WEB)).count();
    assert!(named >= 2, "{:?}", stage.decisions());

    // Each run of Puppet sends anew.
    assert_eq!(stage.node.apply(&http("kick", port(&gateway), "ensure => get,"), &[]).code, 2);
    assert_eq!(wait_for_lines(&stage.site.path("ran"), 3)[2], "kick");
}

#[test]
fn noop_sends_nothing_and_connects_to_nobody() {
    let stage = Stage::new();
    let witness = Witness::new();
    let mut manifest = http("kick", witness.port(), "ensure => get,");
    write!(
        manifest,
        "notify {{ 'change': }}\n{}",
        http(
            "/other",
            witness.port(),
            "ensure => post,\nrefreshonly => true,\nsubscribe => Notify['change'],"
        )
    )
    .unwrap();
    let applied = stage.node.apply(&manifest, &["--noop"]);
    assert!(applied.text.contains("should be 'get' (noop)"), "{}", applied.text);
    assert!(!witness.was_asked());

    let own =
        format!("notify {{ 'change': }}\n{}", http("kick", witness.port(), "ensure => get,\nnoop => true,"))
            + &http(
                "/r",
                witness.port(),
                "ensure => get,\nnoop => true,\nrefreshonly => true,\nsubscribe => Notify['change'],",
            );
    let applied = stage.node.apply(&own, &[]);
    assert!(applied.text.contains("should be 'get' (noop)"), "{}", applied.text);
    assert!(!witness.was_asked());
}

#[test]
fn what_is_not_allowed_fails_with_the_reason_and_holds_up_what_depends_on_it() {
    let stage = Stage::new();
    let gateway = stage.site.serve();
    let manifest = http("nothing_here", port(&gateway), "ensure => get,")
        + "notify { 'after': require => Http['nothing_here'] }\n"
        + &http("deploy", port(&gateway), "ensure => post,\ndata => { 'role' => 'NOT VALID' },");
    let applied = stage.node.apply(&manifest, &[]);
    assert_eq!(applied.code & 4, 4, "{}", applied.text);
    for said in [
        "/nothing_here: 404 Not Found (You shall not pass!); so answers a gateway whatever is not there",
        "Skipping because of failed dependencies",
        "/deploy: 400 Bad Request (",
    ] {
        assert!(applied.text.contains(said), "{said}\n{}", applied.text);
    }
    assert!(!applied.text.contains("defined 'message' as 'after'"), "{}", applied.text);
    assert!(!applied.text.contains("trying again"), "a refusal is final: {}", applied.text);
    assert_eq!(stage.ran(), [""; 0]);

    // The same answer, where it is the expected one.
    let expected = http("nothing_here", port(&gateway), "ensure => get,\nexpect => [200, 404],");
    assert_eq!(stage.node.apply(&expected, &[]).code, 2);
}

#[test]
fn i6_a_repeated_message_runs_once() {
    let stage = Stage::new();
    let gateway = stage.site.serve();
    let lossy = proxy(gateway.address, &[Fate::Refused, Fate::AnswerLost, Fate::Passed]);
    let applied = stage.node.apply(&http("kick", lossy, "ensure => get,\nretries => 2,"), &[]);
    assert_eq!(applied.code, 2, "{}", applied.text);
    assert_eq!(applied.text.matches("trying again in ").count(), 2, "{}", applied.text);
    assert!(applied.text.contains("the gateway had it already"), "{}", applied.text);
    assert_eq!(wait_for_lines(&stage.site.path("ran"), 1), ["kick"]);

    // And when they are used up, the last reason stands.
    let lossy = proxy(gateway.address, &[Fate::Refused, Fate::Refused]);
    let applied = stage.node.apply(&http("kick", lossy, "ensure => get,\nretries => 1,"), &[]);
    assert_eq!(applied.code, 4, "{}", applied.text);
    assert_eq!(applied.text.matches("trying again in 1 s").count(), 1, "{}", applied.text);
    assert_eq!(stage.ran(), ["kick"]);
}

#[test]
fn an_attempt_ends_after_its_time_and_repeats_itself_exactly() {
    let stage = Stage::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = Plain::new(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    let manifest = http(
        "slow",
        silent.local_addr().unwrap().port(),
        "ensure => get,\ntimeout => 0.5,\nretries => 0,",
    ) + &http(
        "plain",
        plain.port,
        "ensure => post,\nscheme => http,\nretries => 3,\ndata => [{ 'a' => [1, 'x', undef, true] }],\nheader => { 'X-Note' => 'n' },",
    );
    let applied = stage.node.apply(&manifest, &[]);
    assert_eq!(applied.code, 4, "{}", applied.text);
    assert!(applied.text.contains("/slow: no answer within 0.5 s"), "{}", applied.text);
    assert!(applied.text.contains("/plain: 503 Service Unavailable"), "{}", applied.text);
    let asked = plain.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|request| *request == asked[0]), "{asked:?}");
    for line in ["POST /plain HTTP/1.1", "X-Note: n", "Content-Type: application/json", "Idempotency-Key: "] {
        assert!(asked[0].contains(line), "{line}\n{}", asked[0]);
    }
    assert!(asked[0].ends_with("\r\n\r\n[{\"a\":[1,\"x\",null,true]}]"), "{}", asked[0]);
}

#[test]
fn a_signature_is_what_the_gateway_demands() {
    let stage = Stage::new();
    let site = &stage.site;
    let program = site.path("record").to_str().unwrap().to_owned();
    site.route(
        "signed",
        &format!(
            "method = \"POST\"\npath = \"/signed\"\n[[allow]]\nkey = [\"jenkins\"]\n[parameters]\nv = {{ from = \"body:/v\", pattern = \".+\" }}\nq = {{ from = \"query:q\", pattern = \".+\" }}\nh = {{ from = \"header:x-tag\", pattern = \".+\" }}\n[run]\nsteps = [[\"{program}\", \"{{v}}\", \"{{q}}\", \"{{h}}\"]]\n"
        ),
    );
    site.route(
        "bare",
        &format!("method = \"GET\"\npath = \"/bare\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\ncertname = [\"{WEB}\"]\n[run]\nsteps = [[\"{program}\", \"bare\"]]\n"),
    );
    let gateway = site.serve();
    let secret = "jenkins-secret-of-thirty-two-bytes-or-more";
    let key = format!("key => 'jenkins',\nsecret => Sensitive(\"{secret}\\n\"),");
    let lossy = proxy(gateway.address, &[Fate::AnswerLost]);
    let post = "ensure => post,\ndata => { 'v' => Sensitive('data-that-is-nobodys') },\nheader => { 'X-Tag' => ' spaced out ' },";
    let manifest = http("/signed?q=%20a%3Db", lossy, &format!("{post}\n{key}"))
        + &http("bare", port(&gateway), &format!("ensure => get,\n{key}"))
        + &http(
            "wrong",
            port(&gateway),
            "ensure => get,\nroute => '/bare',\nkey => 'jenkins',\nsecret => Sensitive('not-the-secret-of-jenkins-at-all'),",
        );
    let applied = stage.node.apply(&manifest, &["--debug", "--trace", "--reports", "store", "--report"]);
    assert_eq!(applied.code, 6, "{}", applied.text);
    assert!(applied.text.contains("the gateway had it already"), "{}", applied.text);
    assert!(
        applied.text.contains("Http[wrong]/ensure: change from 'absent' to 'get' failed: GET"),
        "{}",
        applied.text
    );
    let mut ran = wait_for_lines(&site.path("ran"), 2);
    ran.sort();
    assert_eq!(ran, ["bare", "data-that-is-nobodys  a=b spaced out"]);

    // One that Puppet was not told to be a secret is refused, and not repeated.
    let open =
        http("bare", port(&gateway), &format!("ensure => get,\nkey => 'jenkins',\nsecret => '{secret}',"));
    let refused = stage.node.apply(&open, &["--debug", "--trace"]);
    assert_ne!(refused.code & !2, 0, "{}", refused.text);
    assert!(refused.text.contains("secret must be Sensitive"), "{}", refused.text);

    for hidden in [secret, "not-the-secret-of-jenkins-at-all", "data-that-is-nobodys"] {
        for text in [&applied.text, &refused.text] {
            assert!(!text.contains(hidden), "{hidden} is in the log:\n{text}");
        }
        let found = files_with(&stage.node.root.join("var"), hidden);
        assert!(found.is_empty(), "{hidden} is in {found:?}");
    }
    let reports = files_with(&stage.node.root.join("var"), "Http[wrong]");
    assert!(
        reports.iter().any(|file| file.contains("/reports/")),
        "no report was there to look at: {reports:?}"
    );
}

/// The files below a directory that hold a text.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(text) {
            found.push(path.to_str().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn refreshonly_sends_once_when_something_changed_and_never_otherwise() {
    let stage = Stage::new();
    let gateway = stage.site.serve();
    let file = stage.node.root.join("managed");
    let manifest = format!("file {{ '{}': content => 'x' }}\n", file.display())
        + &http(
            "kick",
            port(&gateway),
            &format!("ensure => get,\nrefreshonly => true,\nsubscribe => File['{}'],", file.display()),
        )
        // Notified before its turn, it has been sent in its turn: the refresh adds nothing.
        + &http("/deploy", port(&gateway), &format!("ensure => post,\ndata => {{ 'role' => 'web', 'count' => 1 }},\nsubscribe => File['{}'],", file.display()));
    let applied = stage.node.apply(&manifest, &[]);
    assert_eq!(applied.code, 2, "{}", applied.text);
    let mut ran = wait_for_lines(&stage.site.path("ran"), 2);
    ran.sort();
    assert_eq!(ran, ["kick", "web 1"]);
    let applied = stage.node.apply(&manifest, &[]);
    assert!(!applied.text.contains("Http[kick]"), "{}", applied.text);
    let ran = wait_for_lines(&stage.site.path("ran"), 3);
    assert_eq!(ran.iter().filter(|line| *line == "kick").count(), 1, "{ran:?}");

    // A refresh that fails fails the resource.
    fs::remove_file(&file).unwrap();
    gateway.kill();
    let applied = stage.node.apply(&manifest.replace("refreshonly", "retries => 0,\nrefreshonly"), &[]);
    assert_eq!(applied.code & 4, 4, "{}", applied.text);
    assert!(applied.text.contains("Failed to call refresh: GET https://localhost:"), "{}", applied.text);
}

#[test]
fn certificates_are_checked_by_both_ends() {
    let stage = Stage::new();
    let gateway = stage.site.serve();
    let manifest = http("kick", port(&gateway), "ensure => get,");

    // The gateway's list says so; the node's own does not know yet.
    let revoked = stage.puppet.node("revoked.example.test").apply(&manifest, &[]);
    assert_eq!(revoked.code, 4, "{}", revoked.text);
    assert!(revoked.text.contains("alert certificate revoked"), "{}", revoked.text);
    assert!(!revoked.text.contains("trying again"), "{}", revoked.text);

    // A server of another CA is told nothing.
    let other = Site::new();
    other.route("kick", &format!("{KICK}[run]\nsteps = [[\"/bin/true\"]]\n"));
    let stranger = other.serve();
    let refused = stage.node.apply(&http("kick", port(&stranger), "ensure => get,"), &[]);
    assert_eq!(refused.code, 4, "{}", refused.text);
    assert!(refused.text.contains("certificate verify failed"), "{}", refused.text);

    // Nor is one that goes by another name than its certificate's.
    let misnamed = manifest
        .replace("fqdn => 'localhost'", "fqdn => 'ip6-localhost'")
        .replace("ensure", "retries => 0,\nensure");
    let refused = stage.node.apply(&misnamed, &[]);
    assert_eq!(refused.code, 4, "{}", refused.text);
    assert_eq!(stage.ran(), [""; 0]);
}
