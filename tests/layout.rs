//! Holds the source tree to its plan: which room may import which, how long a file may be, how it opens, and that
//! processes and `unsafe` stay where they belong.
#![expect(clippy::unwrap_used, reason = "a failing test is the point")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Room, and the rooms that it may import.
const MAY_IMPORT: [(&str, &[&str]); 13] = [
    ("clock", &[]),
    ("domain", &[]),
    ("policy", &["clock", "domain"]),
    ("trust", &["clock", "domain"]),
    ("queue", &["clock", "domain"]),
    ("audit", &["clock", "domain"]),
    ("listener", &["clock", "domain", "policy", "trust"]),
    ("gate", &["clock", "domain", "policy", "trust", "queue", "audit"]),
    ("executor", &["clock", "domain", "policy", "queue", "audit"]),
    ("promote", &["domain", "executor"]),
    ("admin", &["clock", "domain", "queue", "audit"]),
    (
        "app",
        &["clock", "domain", "policy", "trust", "queue", "audit", "listener", "gate", "executor", "admin"],
    ),
    (
        "cli",
        &[
            "clock", "domain", "policy", "trust", "queue", "audit", "listener", "gate", "executor", "admin",
            "promote", "app",
        ],
    ),
];

const MOST_LINES: usize = 400;

struct Source {
    path: PathBuf,
    /// Without comments, and without the tests at the end.
    code: String,
    text: String,
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    assert!(paths.len() > 40, "the source tree was not found");
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let tests =
                ["", "pub(super) ", "pub(crate) "].map(|seen| format!("\n#[cfg(test)]\n{seen}mod tests {{"));
            let end =
                tests.iter().filter_map(|opening| text.find(opening.as_str())).min().unwrap_or(text.len());
            let before_tests = &text[..end];
            let lines = before_tests.lines().map(|line| line.split("//").next().unwrap());
            let code = lines.collect::<Vec<_>>().join("\n");
            Source { path: path.strip_prefix(&root).unwrap().to_owned(), code, text }
        })
        .collect()
}

fn room(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms that a text names after `crate::`, alone or in braces.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| -> String {
            text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = 0;
            for (index, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth > 0 => depth -= 1,
                    ',' | '}' if depth == 0 => {
                        found.insert(name(&group[start..index]));
                        start = index + 1;
                        if c == '}' {
                            break;
                        }
                    }
                    _ => {}
                }
            }
        } else {
            found.insert(name(rest));
        }
    }
    found.remove("");
    found
}

#[test]
fn rooms_import_only_what_the_plan_allows() {
    let mut wrong = Vec::new();
    for source in sources() {
        let room = room(&source.path);
        if matches!(room.as_str(), "lib" | "main") {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            panic!("{}: a room that the plan does not have", source.path.display());
        };
        for import in imports(&source.code) {
            if import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", source.path.display()));
            }
        }
        // `super` must not climb out of the room.
        let is_mod = source.path.file_name().unwrap() == "mod.rs";
        let depth = source.path.components().count() - usize::from(is_mod);
        if source.code.contains(&"super::".repeat(depth)) {
            wrong.push(format!("{} climbs out of its room", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_import_finder_finds() {
    let code =
        "use crate::policy::x; use crate::{audit::{a, b}, queue, domain::c}; fn f() { crate::app::g() }";
    let expected = ["app", "audit", "domain", "policy", "queue"];
    assert_eq!(imports(code).into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source.code.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{}: {lines} lines without tests", source.path.display()));
        }
        let opening = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        if opening < 2 {
            wrong.push(format!("{}: does not open with what it owns", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn i3_one_place_starts_processes() {
    let starts = |source: &Source| {
        ["execv", "posix_spawn", "Command::new"].iter().any(|way| source.code.contains(way))
    };
    let places: Vec<_> = sources().into_iter().filter(starts).map(|source| source.path).collect();
    assert_eq!(places, [Path::new("executor/spawn.rs")]);
}

#[test]
fn unsafe_code_stands_in_one_place() {
    let is_unsafe = |source: &Source| source.code.contains("unsafe {") || source.code.contains("unsafe fn");
    let places: Vec<_> = sources().into_iter().filter(is_unsafe).map(|source| source.path).collect();
    assert_eq!(places, [Path::new("executor/spawn.rs")]);
}

#[test]
fn lints_are_lifted_only_where_the_reason_is_known() {
    let lifted = |source: &Source| source.code.contains("clippy::disallowed_methods");
    let places: BTreeSet<_> = sources().into_iter().filter(lifted).map(|source| source.path).collect();
    assert_eq!(places, BTreeSet::from([PathBuf::from("clock.rs")]));
}

/// The last column of the tables in `SECURITY.md`: names of tests, beginnings of names, and directories.
#[test]
fn the_tests_that_the_security_page_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["src", "tests"] {
        walk(&root.join(directory), &mut files);
    }
    let all: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let page = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut named = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.contains("| shown by |")) {
        let column = row.trim_end_matches('|').rsplit(" | ").next().unwrap();
        let names: Vec<&str> = column.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing shows it: {row}");
        for name in names {
            let is_there = if name.contains('/') {
                root.join(name).exists()
            } else if name.ends_with('_') {
                all.contains(&format!("    fn {name}")) || all.contains(&format!("\nfn {name}"))
            } else {
                all.contains(&format!("fn {name}("))
            };
            assert!(is_there, "`{name}` is no test: {row}");
            named += 1;
        }
    }
    assert!(named > 30, "the table was not found");
}
