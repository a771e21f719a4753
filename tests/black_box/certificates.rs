//! Client certificates: who gets through by one, and who does not.

use bridgeward::trust::mint::Authority;
use serde_json::json;

use crate::support::*;

const KICK: &str = r#"
method = "GET"
path = "/kick"
[[allow]]
certname = ["node*.example.com"]
extensions = { pp_auth_role = ["web", "db"] }
[[allow]]
certname = ["both.example.com"]
key = ["jenkins"]
[parameters]
who = { from = "identity:certname", pattern = "[a-z0-9.-]+" }
role = { from = "identity:pp_auth_role", one_of = ["web", "db"], default = "web" }
signer = { from = "identity:key", pattern = "[a-z]+", default = "nobody" }
[run]
steps = [["/bin/echo", "{who} is {role}"], ["/bin/echo", "{signer}"]]
"#;

fn site() -> Site {
    let site = Site::new();
    site.route("kick", KICK);
    site
}

#[test]
fn a_node_kicks_with_its_certificate() {
    let site = site();
    let gateway = site.serve();
    let node = site.node("node7.example.com", &[("pp_auth_role", "db")]);
    let mut tls = gateway.connect_as(&node);
    let waiting = gateway.get("/kick").replacen("\r\n\r\n", "\r\nprefer: wait=20\r\n\r\n", 1);
    let response = tls.ask(&waiting);
    assert_eq!(response.status, 200, "{response:?}");
    let view = response.json();
    assert_eq!(view["identity"], "certname:node7.example.com");
    assert_eq!(view["steps"][0]["output"], "node7.example.com is db\n");
    let location = format!("/-/jobs/{}", view["job"].as_str().unwrap());
    // A signature beside it whose nonce is not stored counts for nothing.
    let signed = Signing::new("GET", &gateway.authority(), "/kick", "").header("prefer", "wait=20", false);
    assert_eq!(tls.ask(&signed.request()).json()["steps"][1]["output"], "nobody\n");
    let absolute = gateway.get(&location).replacen("GET /", "GET https://localhost/", 1);
    assert!(gateway.send_as(&node, &absolute).is_wall());
    let stray = gateway.get(&location).replacen("\r\n\r\n", "\r\nsignature: x\r\n\r\n", 1);
    assert!(tls.ask(&stray).is_wall(), "the route has a rule that names a key");
    assert_eq!(tls.ask(&gateway.get(&location)).json(), view);
    let other = site.node("node8.example.com", &[("pp_auth_role", "db")]);
    assert!(gateway.send_as(&other, &gateway.get(&location)).is_wall());
}

#[test]
fn i1_a_certificate_alone_grants_nothing() {
    let site = site();
    let gateway = site.serve();
    for (certname, extensions) in [
        ("node1.example.com", &[][..]),
        ("node1.example.com", &[("pp_role", "web")]),
        ("node1.example.com", &[("pp_auth_role", "Web")]),
        ("node1.example.com.evil.org", &[("pp_auth_role", "web")]),
        ("node1.sub.example.com", &[("pp_auth_role", "web")]),
        ("NODE1.example.com", &[("pp_auth_role", "web")]),
        ("both.example.com", &[]),
    ] {
        let node = site.node(certname, extensions);
        let response = gateway.send_as(&node, &gateway.get("/kick"));
        assert!(response.is_wall(), "{certname} {extensions:?}: {response:?}");
    }
    assert!(gateway.send(&gateway.get("/kick")).is_wall());
    let signed = Signing::new("GET", &gateway.authority(), "/kick", "");
    assert!(gateway.send(&signed.request()).is_wall(), "the key without the certificate");
}

#[test]
fn a_rule_that_names_both_needs_both_and_the_key_is_the_identity() {
    let site = site();
    let gateway = site.serve();
    let both = site.node("both.example.com", &[]);
    let signing = Signing::new("GET", &gateway.authority(), "/kick", "");
    let request = signing.request();
    let response = gateway.send_as(&both, &request);
    assert_eq!(response.status, 202, "{response:?}");
    assert_eq!(gateway.send_as(&both, &request).json()["duplicate"], true);
    // A signature that fails is refused beside a certificate that would do.
    let node = site.node("node1.example.com", &[("pp_auth_role", "web")]);
    let mut broken = signing.clone();
    broken.secret = "none of the secrets of this policy at all".into();
    assert!(gateway.send_as(&node, &broken.request()).is_wall());
    assert_eq!(gateway.send_as(&node, &gateway.get("/kick")).status, 202);
}

#[test]
fn a_certificate_that_does_not_verify_ends_the_handshake() {
    let site = site();
    let revoked = site.node("node1.example.com", &[("pp_auth_role", "web")]);
    site.write("crl.pem", &site.ca.crl(&[&revoked], days(30)).unwrap(), 0o644);
    let gateway = site.serve();
    let stranger = Authority::new("Test CA", days(30)).unwrap();
    let foreign =
        stranger.issue_client("node1.example.com", &std::collections::BTreeMap::new(), days(30)).unwrap();
    let past = bridgeward::trust::mint::Validity {
        from: now() - jiff::SignedDuration::from_hours(48),
        until: now() - jiff::SignedDuration::from_hours(24),
    };
    let expired =
        site.ca.issue_client("node1.example.com", &std::collections::BTreeMap::new(), past).unwrap();
    for (name, who) in [("revoked", &revoked), ("foreign", &foreign), ("expired", &expired)] {
        // In TLS 1.3 the client learns of it with its first read.
        let refused = gateway.try_connect(Some(who)).and_then(|mut tls| {
            tls.write(gateway.get("/kick").as_bytes())?;
            tls.read()
        });
        assert!(refused.is_err(), "{name}: {refused:?}");
        // The operator is told; a line may be held back while others are written.
        let told = |line: &str| line.contains("connection refused: invalid peer certificate");
        assert!(gateway.log.wait_for(told).is_some(), "{name}: {}", gateway.log.text());
    }
}

#[test]
fn i6_an_idempotency_key_makes_a_message_of_a_certificates_request() {
    let site = site();
    let gateway = site.serve();
    let node = site.node("node1.example.com", &[("pp_auth_role", "web")]);
    let plain = gateway.get("/kick");
    let with = |lines: &str| plain.replacen("\r\n\r\n", &format!("\r\n{lines}\r\n\r\n"), 1);
    let first = gateway.send_as(&node, &with("idempotency-key: run-1"));
    let again = gateway.send_as(&node, &with("idempotency-key: run-1"));
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(again.json()["job"], first.json()["job"]);
    assert_eq!(again.json()["duplicate"], json!(true));
    assert_ne!(gateway.send_as(&node, &with("idempotency-key: run-2")).json()["job"], first.json()["job"]);
    let other = site.node("node2.example.com", &[("pp_auth_role", "web")]);
    assert_ne!(gateway.send_as(&other, &with("idempotency-key: run-1")).json()["job"], first.json()["job"]);
    // Without one, each request is a message of its own.
    assert_ne!(gateway.send_as(&node, &plain).json()["job"], gateway.send_as(&node, &plain).json()["job"]);
    for bad in [
        "idempotency-key: ",
        &format!("idempotency-key: {}", "x".repeat(129)),
        "idempotency-key: a\r\nidempotency-key: a",
    ] {
        assert_eq!(gateway.send_as(&node, &with(bad)).status, 400, "{bad}");
    }
}
