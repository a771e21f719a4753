//! The shell lines of the page about Jenkins, as it prints them, in the shell that Debian's agents have.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use crate::documents::{blocks, shell_blocks};
use crate::support::*;

const PAGE: &str = "policy/jenkins.md";
const ROUTE: &str = r#"
method = "POST"
path   = "/promote"

[parameters]
environment = { from = "body:/environment", one_of = ["production", "staging"] }
role        = { from = "body:/role", pattern = "[a-z]+" }
version     = { from = "body:/version", pattern = "[0-9]+\\.[0-9]+\\.[0-9]+" }
"#;

struct Page {
    site: Site,
    gateway: Running,
}

impl Page {
    /// A site with the page's keys and rules, whose route writes versions down.
    fn new() -> Self {
        let site = Site::new();
        let toml = blocks(PAGE, "toml");
        let named = |name: &str| toml.iter().find(|block| block.starts_with(&format!("# {name}\n"))).unwrap();
        let keys = named("gateway.toml").replace("secrets/", "");
        let text = fs::read_to_string(site.path("gateway.toml")).unwrap();
        site.write("gateway.toml", &format!("{}\n{keys}", text.split("[keys.").next().unwrap()), 0o644);
        // Bytes that a careless program would take for something else: 6 and \ become NUL, % starts a format.
        site.secret("jenkins", "66\\\\%d%s-\"quoted\"-and-long-enough-for-a-secret'");
        site.secret("jenkins_body", "another-secret-of-more-than-32-bytes-in-all");
        let record = site.program("record", "echo \"$1\" >> \"$2\"");
        let steps =
            format!("[run]\nsteps = [[\"{record}\", \"{{version}}\", \"{}\"]]\n", site.path("ran").display());
        site.route("promote", &format!("{ROUTE}{}{steps}", named("routes/promote.toml")));
        let ci = site.node("ci-1.example.com", &[]);
        site.write("ci.pem", &ci.certificate, 0o644);
        site.write("ci.key", &ci.key, 0o600);
        let gateway = site.serve();
        Self { site, gateway }
    }

    /// Runs lines as a pipeline's `sh` step does, as the build `tag`.
    fn build(&self, lines: &str, secret: &str, version: &str, tag: &str) -> Output {
        let lines = lines.replace("https://gateway.example.com:8443", &self.gateway.url(""));
        assert!(lines.contains(&self.gateway.url("/promote")), "{lines}");
        let binaries = std::path::Path::new(BINARY).parent().unwrap().to_str().unwrap();
        let mut command = Command::new("dash");
        command.args(["-e", "-u", "-c", &lines]).current_dir(self.site.dir.path());
        command.env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap()));
        command.env("SECRET_FILE", self.site.path(secret)).env("VERSION", version).env("BUILD_TAG", tag);
        command.output().unwrap()
    }

    /// Three builds, and the last one's step once more: three runs, in order.
    fn promotes_three_times(&self, lines: &str, secret: &str) {
        let build = |version: &str, tag: &str| {
            let output = self.build(lines, secret, version, tag);
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(output.status.success(), "{text}");
            let is_id = |word: &&str| word.len() == 36 && word.matches('-').count() == 4;
            let mut words = text.split(|c: char| c == '"' || c == ':' || c.is_whitespace());
            words.find(is_id).unwrap_or_else(|| panic!("no job: {text}")).to_owned()
        };
        let mut jobs = Vec::new();
        for (number, version) in ["1.2.3", "1.2.4", "1.2.3"].into_iter().enumerate() {
            jobs.push(build(version, &format!("jenkins-promote web-{number}")));
            wait_for_lines(&self.site.path("ran"), jobs.len());
        }
        assert_eq!(jobs.iter().collect::<BTreeSet<_>>().len(), 3, "{jobs:?}");
        // The last build's step once more is answered with its job.
        assert_eq!(build("1.2.3", "jenkins-promote web-2"), jobs[2]);
        // The same id for something else is no repetition.
        assert!(!self.build(lines, secret, "9.9.9", "jenkins-promote web-2").status.success());
        assert_eq!(wait_for_lines(&self.site.path("ran"), 3), ["1.2.3", "1.2.4", "1.2.3"]);
        // What the route refuses fails the build.
        for version in ["1.2", "1.2.3; true", "1.2.3\\\"}"] {
            assert!(
                !self.build(lines, secret, version, "jenkins-promote web-4").status.success(),
                "{version}"
            );
        }
    }
}

/// The blocks of the page's section that hold this text.
fn lines(text: &str) -> String {
    shell_blocks(PAGE).into_iter().find(|block| block.contains(text)).unwrap()
}

#[test]
fn a_client_certificate_promotes_three_times() {
    Page::new().promotes_three_times(&lines("--cert ci.pem"), "jenkins");
}

#[test]
fn bridgeward_call_promotes_three_times() {
    Page::new().promotes_three_times(&lines("bridgeward call"), "jenkins");
}

#[test]
fn the_shell_function_promotes_three_times() {
    let page = Page::new();
    let lines = format!("{}{}", lines("bridgeward_post() ("), lines("CURL_CA_BUNDLE"));
    page.promotes_three_times(&lines, "jenkins");
    // Another secret, a secret that is too long, and an id that would end its quotes.
    assert!(!page.build(&lines, "jenkins_body", "1.2.3", "other").status.success());
    page.site.secret("long", &"x".repeat(65));
    let output = page.build(&lines, "long", "1.2.3", "other");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("16 to 64 bytes"));
    assert!(!page.build(&lines, "jenkins", "1.2.3", "a\"b").status.success());
    // A secret of 64 bytes, as `openssl rand -hex 32` makes it, and one without a line feed.
    let Page { mut site, gateway } = page;
    drop(gateway);
    for (number, line_feed) in ["", "\n"].into_iter().enumerate() {
        site.write("jenkins", &format!("{}{line_feed}", "0123456789abcdef".repeat(4)), 0o600);
        let page = Page { gateway: site.serve(), site };
        let output = page.build(&lines, "jenkins", "1.2.3", &format!("again-{number}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        site = page.site;
    }
}

#[test]
fn a_signature_of_the_body_promotes_three_times() {
    Page::new().promotes_three_times(&lines("X-Hub-Signature-256"), "jenkins_body");
}
