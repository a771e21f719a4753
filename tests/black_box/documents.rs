//! The shell lines of the documents do what the documents say.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::*;

/// The blocks of a document that are marked as `sh`, in order.
pub fn shell_blocks(document: &str) -> Vec<String> {
    blocks(document, "sh")
}

/// The blocks of a document that are marked so, in order.
pub fn blocks(document: &str, mark: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
    let opening = format!("```{mark}\n");
    let blocks = text.split(&opening).skip(1);
    blocks.map(|block| block.split("```\n").next().unwrap().to_owned()).collect()
}

/// Runs lines in bash, in `directory`, with the program under test on the path; what they wrote.
fn run(lines: &str, directory: &Path) -> String {
    let binaries = Path::new(BINARY).parent().unwrap().to_str().unwrap();
    let path = format!("{binaries}:{}", std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        // Job control, for `%1`.
        .args(["-m", "-e", "-u", "-o", "pipefail", "-c", lines])
        .current_dir(directory)
        .env("PATH", path)
        .env("HOME", directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{lines}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_readmes_first_policy_works_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = shell_blocks("README.md");
    assert!(blocks.len() >= 5, "{blocks:?}");
    let lines = blocks.concat();
    assert!(lines.contains("localhost:8443"));
    let written = run(&lines.replace(":8443", &format!(":{}", free_port())), dir.path());
    assert!(written.contains(WALL), "{written}");
    assert!(written.contains("Hello, Gandalf\n"), "{written}");
    assert!(written.contains("It would be accepted") && written.contains("greet.toml:4"), "{written}");
    assert!(written.contains("policy: valid; routes: 1, keys: 1"), "{written}");
    assert!(written.contains("{route=\"greet\",outcome=\"accepted\"} 1\n"), "{written}");
    assert!(written.contains("succeeded") && written.contains("audit.jsonl: whole"), "{written}");
}

#[test]
fn the_example_policy_passes_check_once_its_certificates_and_secrets_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("policy");
    fs::create_dir_all(dir.path().join("policy/routes")).unwrap();
    // The one directory outside of the example; a test makes it where it leaves nothing behind.
    let state = dir.path().join("state");
    let moved = |text: &str| text.replace("/var/lib/bridgeward", state.to_str().unwrap());
    let routes = fs::read_dir(source.join("routes")).unwrap().map(|route| route.unwrap().path());
    for file in routes.chain([source.join("gateway.toml")]) {
        let text = moved(&fs::read_to_string(&file).unwrap());
        let name = file.strip_prefix(&source).unwrap();
        fs::write(dir.path().join("policy").join(name), text).unwrap();
    }
    let policy = dir.path().join("policy");
    let check = || {
        let output = Command::new(BINARY).args(["check", "--policy"]).arg(&policy).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // Each line of the page is needed, and together they are enough.
    for missing in ["/certs` does not", "/policy/secrets` does not", "/state` does not"] {
        let (code, found) = check();
        assert!(code == Some(1) && found.contains(missing), "{missing}: {found}");
    }
    let lines = shell_blocks("policy/README.md");
    run(&moved(lines.first().unwrap()), &policy);
    let (code, found) = check();
    assert_eq!(code, Some(0), "{found}");
    // Its commands need not be there, and which users there are it cannot know; nothing else is to be said about it.
    for warning in found.lines().filter(|line| line.starts_with("warning")) {
        assert!(
            ["/usr/bin/mco", "/usr/bin/bridgeward", "/usr/bin/r10k", "run as the gateway's own user"]
                .iter()
                .any(|known| warning.contains(known)),
            "{found}"
        );
    }
}

#[test]
fn development_certificates_are_made_as_their_page_says() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = shell_blocks("certs/README.md");
    let lines = blocks.iter().find(|block| block.contains("bridgeward certs")).unwrap();
    run(lines, dir.path());
    for name in ["bridgeward-certs/client.key", "more-certs/node2.example.com.pem", "more-certs/ca.pem"] {
        assert!(dir.path().join(name).is_file(), "{name}");
    }
}
