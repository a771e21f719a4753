//! A Puppet site: its CA, its nodes with an ssldir each, the gateway with a certificate of the same CA, and `puppet`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::gateway::Site;

const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/puppet/certificates.rb");
/// The directory that holds the module under its own name, as a module path must.
pub const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/puppet");

/// Where Debian puts the modules that ours depends on.
const DEBIAN_MODULES: &str = "/usr/share/puppet/modules";

/// The node of most tests, and its certificate's extensions.
pub const WEB: &str = "web01.example.test";
const WEB_EXTENSIONS: &str = "web01.example.test,pp_auth_role=app_internal,pp_role=haproxy_app_internal";

/// Certificates of a Puppet CA, below a directory.
pub struct Puppet {
    pub dir: PathBuf,
}

impl Puppet {
    /// The CA, `WEB`, and whoever else is named as `certificates.rb` wants it.
    pub fn new(below: &Path, others: &[String]) -> Self {
        let dir = below.join("puppet-ca");
        let output = Command::new("ruby")
            .args([CERTIFICATES.as_ref(), dir.as_os_str(), WEB_EXTENSIONS.as_ref()])
            .args(others)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { dir }
    }

    /// Has the gateway of `site` use this CA and a certificate of it, as on a master.
    pub fn furnish(&self, site: &mut Site) {
        for (from, to, mode) in [
            ("localhost.pem", "server.pem", 0o644),
            ("localhost.key", "server.key", 0o600),
            ("ca.pem", "ca.pem", 0o644),
            ("crl-revoked.pem", "crl.pem", 0o644),
        ] {
            site.write(to, &self.read(from), mode);
        }
        site.ca_pem = self.read("ca.pem");
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap()
    }

    /// The directories of a node's agent, with its certificate where the agent keeps it.
    pub fn node(&self, certname: &str) -> Node {
        let root = self.dir.join("nodes").join(certname);
        let ssl = root.join("ssl");
        for (from, to) in [
            ("ca.pem".to_owned(), "certs/ca.pem".to_owned()),
            ("crl.pem".to_owned(), "crl.pem".to_owned()),
            (format!("{certname}.pem"), format!("certs/{certname}.pem")),
            (format!("{certname}.key"), format!("private_keys/{certname}.pem")),
        ] {
            let to = ssl.join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(self.dir.join(from), to).unwrap();
        }
        let modules = root.join("modules");
        fs::create_dir(&modules).unwrap();
        std::os::unix::fs::symlink(MODULE, modules.join("bridgeward")).unwrap();
        Node { root, certname: certname.to_owned() }
    }
}

/// A node and its agent's directories.
pub struct Node {
    pub root: PathBuf,
    certname: String,
}

/// What a run of `puppet apply` came to.
#[derive(Debug)]
pub struct Applied {
    /// 0: nothing changed, 2: something did, 4: something failed, 6: both.
    pub code: i32,
    /// Both streams, without colours.
    pub text: String,
}

impl Node {
    /// `puppet`, as this node.
    pub fn puppet(&self, subcommand: &str) -> Command {
        let mut command = Command::new("puppet");
        command.arg(subcommand).arg("--certname").arg(&self.certname);
        for (setting, directory) in
            [("--confdir", "conf"), ("--vardir", "var"), ("--ssldir", "ssl"), ("--codedir", "code")]
        {
            command.arg(setting).arg(self.root.join(directory));
        }
        let modules = self.root.join("modules");
        command.arg("--modulepath").arg(format!("{}:{DEBIAN_MODULES}", modules.display()));
        command.args(["--color", "false", "--rundir"]).arg(self.root.join("run"));
        command.arg("--logdir").arg(self.root.join("log"));
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str, arguments: &[&str]) -> Applied {
        let file = self.root.join("manifest.pp");
        fs::write(&file, manifest).unwrap();
        // It may hold secrets.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = self.puppet("apply");
        applied(&command.arg("--detailed-exitcodes").args(arguments).arg(&file).output().unwrap())
    }
}

fn applied(output: &Output) -> Applied {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    Applied { code: output.status.code().unwrap(), text: String::from_utf8(text).unwrap() }
}
