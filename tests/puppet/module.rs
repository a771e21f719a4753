//! The module as a whole: its own specifications, the linter, and Puppet's parser.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node::MODULE;

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|given| given == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{command:?}\n{text}");
    text
}

#[test]
fn the_specifications_hold() {
    let text = succeeds(Command::new("rspec").current_dir(MODULE).env("LC_ALL", "C.UTF-8"));
    let count = text.split(" examples, 0 failures").next().and_then(|before| before.rsplit('\n').next());
    let count: usize = count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    let written = files(&Path::new(MODULE).join("spec"), "rb");
    assert!(count >= written.len(), "{count} examples of {} files", written.len());
    assert!(!text.contains("pending"), "{text}");
}

#[test]
fn manifests_parse_and_the_linter_finds_nothing() {
    let manifests = files(&Path::new(MODULE).join("manifests"), "pp");
    assert!(!manifests.is_empty());
    let types = files(&Path::new(MODULE).join("types"), "pp");
    succeeds(Command::new("puppet").args(["parser", "validate"]).args(manifests.iter().chain(&types)));
    let found = succeeds(Command::new("puppet-lint").current_dir(MODULE).args(["manifests", "types"]));
    assert_eq!(found, "");
}
