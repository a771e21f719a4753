//! What the TLS scanners of reviewers say of the listener: nothing above informational.

use std::process::Command;
use std::time::SystemTime;

use rcgen::{CertificateParams, CrlDistributionPoint, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use serde_json::Value;

use crate::support::*;

/// A site whose server certificate tells where its CA's revocation list is, as scanners ask for; that is its CA's to
/// write, and not the gateway's.
fn site() -> Site {
    let site = Site::new();
    let validity = days(90);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.crl_distribution_points =
        vec![CrlDistributionPoint { uris: vec!["http://ca.example.com/crl.der".to_owned()] }];
    params.not_before = SystemTime::from(validity.from).into();
    params.not_after = SystemTime::from(validity.until).into();
    let mut ca = CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Server CA");
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = rcgen::CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    site.write("server.pem", &params.signed_by(&key, &ca).unwrap().pem(), 0o644);
    site.write("server.key", &key.serialize_pem(), 0o600);
    site.write("server-ca.pem", &ca.pem(), 0o644);
    site.route(
        "x",
        "method = \"POST\"\npath = \"/x\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"/bin/true\"]]\n",
    );
    site
}

#[test]
fn testssl_finds_nothing() {
    let site = site();
    let gateway = site.serve();
    let found = site.path("testssl.json");
    let output = Command::new("testssl")
        .args([
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "off",
            "--nodns",
            "none",
            "--ip",
            "127.0.0.1",
            "--sneaky",
        ])
        .args(["--protocols", "--standard", "--server-preference", "--server-defaults", "--vulnerable"])
        .arg("--add-ca")
        .arg(site.path("server-ca.pem"))
        .arg("--jsonfile")
        .arg(&found)
        .arg(gateway.authority())
        .output()
        .expect("testssl.sh is installed by tests/run");
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<Value> = serde_json::from_slice(&std::fs::read(found).unwrap()).unwrap();
    // What it says of its own machine stands under the address `/`.
    let of_the_gateway: Vec<_> = all.iter().filter(|finding| finding["ip"] != "/").collect();
    for id in [
        "TLS1_3",
        "cipher_order",
        "cert_chain_of_trust",
        "heartbleed",
        "ROBOT",
        "LUCKY13",
        "secure_client_renego",
    ] {
        assert!(of_the_gateway.iter().any(|finding| finding["id"] == id), "{id} was not looked at:\n{text}");
    }
    let worse = |finding: &&&Value| !matches!(finding["severity"].as_str(), Some("OK" | "INFO"));
    let worse: Vec<_> = of_the_gateway.iter().filter(worse).collect();
    assert!(worse.is_empty(), "{worse:#?}\n{text}");
}

#[test]
fn sslscan_finds_nothing() {
    let site = site();
    let gateway = site.serve();
    let output =
        Command::new("sslscan").args(["--no-colour", "--show-sigs"]).arg(gateway.authority()).output();
    let output = output.expect("sslscan is installed by tests/run");
    let text = String::from_utf8_lossy(&output.stdout);
    for old in ["SSLv2 ", "SSLv3 ", "TLSv1.0 ", "TLSv1.1 "] {
        let line =
            text.lines().find(|line| line.starts_with(old)).unwrap_or_else(|| panic!("{old}:\n{text}"));
        assert!(line.ends_with("disabled"), "{line}");
    }
    assert!(text.contains("Session renegotiation not supported"), "{text}");
    assert!(text.contains("TLSv1.2 not vulnerable to heartbleed"), "{text}");
    let offered = |line: &&str| line.starts_with("Preferred") || line.starts_with("Accepted");
    let suites: Vec<_> = text.lines().filter(offered).collect();
    for suite in &suites {
        let good = match suite.split_whitespace().nth(1) {
            Some("TLSv1.3") => true,
            Some("TLSv1.2") => {
                suite.contains("ECDHE-") && (suite.contains("GCM") || suite.contains("CHACHA20"))
            }
            other => panic!("{other:?}: {suite}"),
        };
        assert!(good, "{suite}");
    }
    assert!(suites.len() >= 6, "{text}");
    assert!(!text.contains("ANY, including") && !text.to_lowercase().contains("sha1"), "{text}");
}
