//! The demonstration's own site: a CA, certificates, a secret and a policy in a private temporary directory.
//!
//! Everything is made anew each time, and goes with the value.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::cli::request::fresh_nonce;
use crate::clock::Clock;
use crate::domain::extension::Oid;
use crate::trust::mint::{Authority, Validity};

const GATEWAY: &str = r#"[listen]
address     = "127.0.0.1:0"
certificate = "server.pem"
private_key = "server.key"
client_ca   = "ca.pem"
client_crl  = "crl.pem"

[queue]
file = "queue.db"

[audit]
file = "audit.jsonl"

[keys.jenkins]
scheme  = "rfc9421"
secrets = ["jenkins.secret"]
"#;

const PROMOTE: &str = r#"method = "POST"
path   = "/promote"

[[allow]]
key = ["jenkins"]

[parameters]
environment = { from = "body:/environment", one_of = ["production", "staging"] }
role        = { from = "body:/role", pattern = "[a-z][a-z0-9_]{0,62}" }
version     = { from = "body:/version", pattern = "\\d+\\.\\d+\\.\\d+" }

[run]
steps = [["/bin/echo", "promoting {role} to {version} in {environment}"]]
"#;

const KICK: &str = r#"method = "GET"
path   = "/kick_haproxy_app_internal"

[[allow]]
certname   = ["*.example.com"]
extensions = { pp_auth_role = ["haproxy"] }

[run]
steps    = [["/bin/echo", "mco puppet runonce -F role=haproxy_app_internal"]]
coalesce = true
"#;

/// A site that lives as long as this value.
pub(super) struct Site(TempDir);

impl Site {
    /// Makes one.
    ///
    /// # Errors
    /// When a certificate cannot be made or a file cannot be written.
    pub(super) fn make(clock: &Clock) -> anyhow::Result<Self> {
        let site = Self(tempfile::Builder::new().prefix("bridgeward-demo-").tempdir()?);
        let validity = Validity::days(clock.now(), 1);
        let ca = Authority::new("bridgeward demonstration CA", validity)?;
        let server = ca.issue_server(&["localhost".to_owned(), "127.0.0.1".to_owned()], validity)?;
        let role = BTreeMap::from([(Oid::parse("pp_auth_role")?, "haproxy".to_owned())]);
        let node = ca.issue_client("node1.example.com", &role, validity)?;
        fs::create_dir(site.file("routes"))?;
        for (name, text) in [
            ("gateway.toml", GATEWAY),
            ("routes/promote.toml", PROMOTE),
            ("routes/kick_haproxy_app_internal.toml", KICK),
            ("ca.pem", &ca.pem()),
            ("crl.pem", &ca.crl(&[], validity)?),
            ("server.pem", &server.certificate),
            ("server.key", &server.key),
            ("node1.pem", &node.certificate),
            ("node1.key", &node.key),
            // As random as a nonce, twice as long.
            ("jenkins.secret", &format!("{}{}\n", fresh_nonce()?, fresh_nonce()?)),
        ] {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(site.file(name))?;
            file.write_all(text.as_bytes())?;
        }
        Ok(site)
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
