//! Certificates that openssl made in the shape of Puppet's: accepted, revoked, read.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]
#![expect(
    clippy::disallowed_methods,
    reason = "openssl is a foreign witness here; the product starts no process so"
)]

use std::path::Path;
use std::process::Command;

use bridgeward::clock::Clock;
use bridgeward::domain::extension::Oid;
use bridgeward::trust::mint::{Authority, Validity};
use bridgeward::trust::server::ServerIdentity;
use bridgeward::trust::{NotStanding, Trust, TrustError, certificate};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

struct Shape(tempfile::TempDir);

impl Shape {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/puppet-shape.sh");
        let output = Command::new("sh").arg(script).arg(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(directory)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).unwrap()
    }

    fn der(&self, certname: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(&self.read(&format!("{certname}.pem"))).unwrap()
    }

    fn trust(&self, ca: &str, crl: &str) -> Result<Trust, Vec<TrustError>> {
        Trust::parse(&self.read(ca), Some(&self.read(crl)), Clock::system().now())
    }
}

/// Whether a handshake in which a node sends just its own certificate, as agents do, would succeed now.
fn connects(trust: &Trust, node: &CertificateDer<'_>) -> bool {
    let verifier = trust.client_verifier().unwrap();
    verifier.verify_client_cert(node, &[], UnixTime::now()).is_ok()
}

#[test]
fn puppets_own_files_are_taken_as_they_are() {
    let shape = Shape::make();
    let now = Clock::system().now();
    let trust = shape.trust("ca.pem", "crl.pem").unwrap();

    let web = shape.der("web.example.test");
    let presented = certificate::read(&web).unwrap();
    assert!(connects(&trust, &web));
    assert_eq!(trust.stands(&presented, now), Ok(()));
    assert_eq!(presented.certificate.certname, "web.example.test");
    let value =
        |name: &str| presented.certificate.extensions.get(&Oid::parse(name).unwrap()).map(String::as_str);
    assert_eq!(value("pp_role"), Some("haproxy_app_internal"));
    assert_eq!(value("pp_auth_role"), Some("webhook_sender"));
    assert_eq!(presented.certificate.extensions.len(), 2);

    let revoked = shape.der("revoked.example.test");
    assert!(!connects(&trust, &revoked));
    assert_eq!(trust.stands(&certificate::read(&revoked).unwrap(), now), Err(NotStanding::Revoked));

    let old = shape.der("old.example.test");
    assert!(connects(&trust, &old));
    let values: Vec<_> = certificate::read(&old).unwrap().certificate.extensions.values().cloned().collect();
    assert_eq!(values, ["haproxy"]);

    // The intermediate's list is enough: a node's chain ends at the intermediate, which is an anchor.
    assert!(connects(&shape.trust("ca.pem", "intermediate.crl").unwrap(), &web));
    // The root's list alone says nothing about nodes, so none is let in.
    let root_alone = shape.trust("ca.pem", "root.crl").unwrap();
    assert!(!connects(&root_alone, &web));
    assert_eq!(root_alone.stands(&presented, now), Err(NotStanding::StatusUnknown));
    // With the root alone as anchor there is no way from the leaf to it, and the other list is nobody's.
    assert!(!connects(&shape.trust("root.pem", "root.crl").unwrap(), &web));
    let wrong = shape.trust("root.pem", "crl.pem").err().unwrap();
    assert!(matches!(wrong[0], TrustError::List { block: 1, .. }), "{wrong:?}");

    let own = (shape.read("puppet.example.test.pem"), shape.read("puppet.example.test.key"));
    let server = ServerIdentity::parse(&own.0, &own.1, now).unwrap();
    assert_eq!(server.names(), ["puppet.example.test"]);
    assert!(ServerIdentity::parse(&own.0, &shape.read("web.example.test.key"), now).is_err());
}

#[test]
fn private_keys_are_taken_in_each_form_that_openssl_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let shape = Shape::make();
    let now = Clock::system().now();
    let rsa = (shape.read("puppet.example.test.pem"), shape.read("puppet.example.test.key"));
    let ca = Authority::new("CA", Validity::days(now, 2)).unwrap();
    let ec = ca.issue_server(&["localhost".to_owned()], Validity::days(now, 2)).unwrap();
    let ec = (ec.certificate.into_bytes(), ec.key.as_bytes().to_vec());
    for ((chain, key), tool, label) in [(rsa, "rsa", "RSA PRIVATE KEY"), (ec, "ec", "EC PRIVATE KEY")] {
        std::fs::write(&path, &key).unwrap();
        let output =
            Command::new("openssl").arg(tool).arg("-in").arg(&path).args(traditional(tool)).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(label), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(key.starts_with(b"-----BEGIN ") && key.windows(11).any(|text| text == b"PRIVATE KEY"));
        assert!(ServerIdentity::parse(&chain, &key, now).is_ok(), "{label} as PKCS#8");
        assert!(ServerIdentity::parse(&chain, text.as_bytes(), now).is_ok(), "{label}");
    }
}

/// openssl's `rsa` needs to be told; its `ec` writes SEC1 anyway.
fn traditional(tool: &str) -> &'static [&'static str] {
    if tool == "rsa" { &["-traditional"] } else { &[] }
}
