//! What the program is built from: licences, unwanted crates, crates in two versions. `deny.toml` says the same to
//! `cargo deny`, which takes as long to build as this whole project and is therefore not needed here.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a failing test is the point, and cargo is asked for its tree"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Licences that oblige to no more than naming authors.
const LICENCES: [&str; 10] = [
    "Apache-2.0",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// A second TLS or cryptography library, HTTP/2, and clients that bring their own.
const UNWANTED: [&str; 12] = [
    "chrono",
    "h2",
    "h3",
    "md-5",
    "native-tls",
    "openssl",
    "openssl-sys",
    "quinn",
    "reqwest",
    "ring",
    "serde_yaml",
    "ureq",
];

/// Crates in two versions, with who keeps the older one.
const TWICE: [&str; 3] = [
    // pem, in rcgen
    "base64",
    // dashmap, in governor
    "hashbrown",
    // derive macros
    "syn",
];

struct Package {
    name: String,
    version: String,
    licence: String,
}

/// What is compiled into the program or runs while it is built, on this platform.
fn packages() -> Vec<Package> {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}|{l}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let lines: BTreeSet<String> = String::from_utf8(tree.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .collect();
    let packages: Vec<_> = lines
        .iter()
        .map(|line| {
            let (package, licence) = line.split_once('|').unwrap();
            let mut words = package.split(' ');
            let mut word = || words.next().unwrap().to_owned();
            Package { name: word(), version: word(), licence: licence.to_owned() }
        })
        .collect();
    assert!(packages.len() > 100, "the tree was not found");
    packages
}

/// Whether an SPDX expression can be met by allowed licences: `AND` binds closer than `OR`.
fn is_allowed(expression: &str) -> bool {
    fn split<'e>(expression: &'e str, by: &str) -> Vec<&'e str> {
        let mut parts = Vec::new();
        let (mut depth, mut start) = (0, 0);
        for (at, c) in expression.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ if depth == 0 && at >= start && expression[at..].starts_with(by) => {
                    parts.push(&expression[start..at]);
                    start = at + by.len();
                }
                _ => {}
            }
        }
        parts.push(&expression[start..]);
        parts
    }
    let alternatives = split(expression, " OR ");
    if alternatives.len() > 1 {
        return alternatives.into_iter().any(is_allowed);
    }
    let all = split(expression, " AND ");
    if all.len() > 1 {
        return all.into_iter().all(is_allowed);
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => is_allowed(inner),
        None => LICENCES.contains(&expression),
    }
}

#[test]
fn expressions_are_understood() {
    for (expression, allowed) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("MIT AND GPL-3.0-only", false),
        ("(MIT OR GPL-3.0-only) AND ISC", true),
        ("(MIT OR ISC) AND (GPL-3.0-only OR MPL-2.0)", false),
        ("MIT AND ISC OR GPL-3.0-only", true),
        ("Apache-2.0 WITH LLVM-exception", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression}");
    }
}

#[test]
fn licences_are_allowed_ones() {
    let wrong: Vec<_> = packages()
        .into_iter()
        // Once, a slash meant `OR`.
        .filter(|package| !is_allowed(&package.licence.replace('/', " OR ")))
        .map(|package| format!("{} {}: {}", package.name, package.version, package.licence))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unwanted_crates_stay_out() {
    let found: Vec<_> = packages()
        .into_iter()
        .map(|package| package.name)
        .filter(|name| UNWANTED.contains(&name.as_str()))
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn crates_in_two_versions_are_known() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    versions.retain(|name, versions| versions.len() > 1 && !TWICE.contains(&name.as_str()));
    assert!(versions.is_empty(), "{versions:#?}");
}

#[test]
fn cargo_deny_is_told_the_same() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).unwrap();
    for name in LICENCES.iter().chain(&UNWANTED).chain(&TWICE) {
        assert!(text.contains(&format!("\"{name}\"")), "deny.toml does not name {name}");
    }
}
