//! A throwaway site: a CA, a policy directory, and the real gateway in a process of its own.
//!
//! Stands below the build directory, so that what is measured is the file system of the checkout and not a /tmp in memory.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bridgeward::trust::mint::{Authority, Validity};

/// The secret of the key `jenkins`.
pub const SECRET: &str = "jenkins-secret-of-thirty-two-bytes-or-more";

/// Longest that the gateway's start is waited for.
const START: Duration = Duration::from_secs(60);

/// A directory with a policy in it.
pub struct Site {
    dir: tempfile::TempDir,
    pub ca: Authority,
}

impl Site {
    /// One key, one CA, no route; `limits` are lines under `[limits]`, beside those that would slow a benchmark down.
    pub fn new(limits: &str) -> Self {
        let place = env!("CARGO_TARGET_TMPDIR");
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(place).unwrap();
        let ca = Authority::new("Bench CA", days()).unwrap();
        let server = ca.issue_server(&["localhost".to_owned()], days()).unwrap();
        let site = Self { dir, ca };
        site.write("server.pem", &server.certificate, 0o644);
        site.write("server.key", &server.key, 0o600);
        site.write("ca.pem", &site.ca.pem(), 0o644);
        site.write("crl.pem", &site.ca.crl(&[], days()).unwrap(), 0o644);
        site.write("jenkins.secret", SECRET, 0o600);
        std::fs::create_dir(site.path("routes")).unwrap();
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\n\
             client_ca = \"ca.pem\"\nclient_crl = \"crl.pem\"\n\
             [queue]\nfile = \"queue.db\"\n[audit]\nfile = \"audit.jsonl\"\n\
             [limits]\njobs = 10000000\nrequests_per_source = \"1000000/s\"\n\
             requests_per_identity = \"1000000/s\"\n{limits}\n\
             [keys.jenkins]\nscheme = \"rfc9421\"\nsecrets = [\"jenkins.secret\"]\n"
        );
        site.write("gateway.toml", &text, 0o644);
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Starts the gateway and waits until it listens; its log goes to a file, as it would to a journal.
    pub fn serve(&self) -> Gateway {
        let log = self.path("log");
        let child = Command::new(env!("CARGO_BIN_EXE_bridgeward"))
            .args(["serve", "--log-format", "json", "--policy"])
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut gateway = Gateway { child, address: ([127, 0, 0, 1], 0).into() };
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = whole.into_iter().find(|line| line.contains("\"message\":\"listening\"")) {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                gateway.address = line["address"].as_str().unwrap().parse().unwrap();
                return gateway;
            }
            let ended = gateway.child.try_wait().unwrap().is_some();
            assert!(!ended && began.elapsed() < START, "the gateway did not start: {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A gateway that runs; it is killed when dropped.
pub struct Gateway {
    pub child: Child,
    pub address: SocketAddr,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn days() -> Validity {
    Validity::days(std::time::SystemTime::now().try_into().unwrap(), 7)
}
