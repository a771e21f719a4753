//! The example policy loads, and its reference names every key of the language and no other.

#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bridgeward::policy::{Files, Purpose, compile_text, load};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policy");

/// The example's, one a key.
const SECRETS: [&str; 5] = ["jenkins", "github", "gitea", "bitbucket", "gitlab"];

fn write(path: &Path, bytes: &[u8], mode: u32) {
    let directory = path.parent().unwrap();
    fs::create_dir_all(directory).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A copy of the examples with a fresh secret and files in place of the certificates; the database goes beside it.
fn furnished(below: &Path) -> PathBuf {
    let policy = below.join("policy");
    let gateway = fs::read_to_string(Path::new(EXAMPLES).join("gateway.toml")).unwrap();
    let gateway = gateway.replace("/var/lib/bridgeward", below.to_str().unwrap());
    write(&policy.join("gateway.toml"), gateway.as_bytes(), 0o644);
    for route in fs::read_dir(Path::new(EXAMPLES).join("routes")).unwrap() {
        let route = route.unwrap();
        write(&policy.join("routes").join(route.file_name()), &fs::read(route.path()).unwrap(), 0o644);
    }
    for name in SECRETS {
        let random = format!("{}{}", uuid::Uuid::now_v7().simple(), uuid::Uuid::now_v7().simple());
        // The one that is base64.
        let secret = if name == "gitlab" { format!("whsec_{random}") } else { random };
        write(&policy.join("secrets").join(name), secret.as_bytes(), 0o600);
    }
    for (name, mode) in [("server.pem", 0o644), ("server.key", 0o600), ("ca.pem", 0o644), ("crl.pem", 0o644)]
    {
        write(&below.join("certs").join(name), b"stands in for PEM\n", mode);
    }
    policy
}

#[test]
fn the_examples_load() {
    let directory = tempfile::tempdir().unwrap();
    let loaded = load(&furnished(directory.path()), Purpose::Whole).unwrap_or_else(|found| panic!("{found}"));
    let routes: Vec<&str> =
        loaded.policy.routes.keys().map(bridgeward::domain::name::RouteName::as_str).collect();
    let forges = ["deploy_bitbucket", "deploy_gitea", "deploy_github", "deploy_gitlab"];
    assert_eq!(routes, [&forges[..], &["kick_haproxy_app_internal", "promote"]].concat());
    let (own_user, others): (Vec<&str>, Vec<&str>) =
        loaded.warnings.messages().partition(|warning| warning.contains("run as the gateway's own user"));
    assert_eq!(own_user.len(), 1, "an example cannot know which users a machine has: {own_user:?}");
    for warning in others {
        assert!(warning.starts_with("there is no program"), "only programs may be absent here: {warning}");
    }
    let listen = loaded.policy.listen.unwrap();
    assert!(listen.certificate.path.is_absolute());
    assert!(listen.certificate.path.starts_with(directory.path()), "{:?}", listen.certificate.path);
}

#[test]
fn i1_fail_closed_on_a_file_that_others_can_write_or_a_secret_that_they_can_read() {
    for (file, mode, finding) in [
        ("policy/routes/promote.toml", 0o666, "is writable by its group or by others (mode 0666)"),
        ("policy/gateway.toml", 0o664, "is writable by its group or by others (mode 0664)"),
        ("policy/secrets/jenkins", 0o644, "is readable by its group or by others (mode 0644)"),
        ("certs/server.key", 0o604, "is readable by its group or by others (mode 0604)"),
        ("certs/ca.pem", 0o646, "is writable by its group or by others (mode 0646)"),
        ("policy/routes", 0o777, "is a directory that others may write in (mode 0777)"),
        ("policy", 0o775, "is a directory that others may write in (mode 0775)"),
        ("policy/secrets", 0o757, "is a directory that others may write in (mode 0757)"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let policy = furnished(directory.path());
        fs::set_permissions(directory.path().join(file), Permissions::from_mode(mode)).unwrap();
        let found = load(&policy, Purpose::Whole).unwrap_err();
        // Each of the secrets is named whose directory it is.
        let errors = if file == "policy/secrets" { SECRETS.len() } else { 1 };
        assert_eq!(found.errors(), errors, "{found}");
        assert!(found.to_string().contains(finding), "{found}");
    }
}

/// Blocks of the reference in TOML.
fn toml_of_the_reference() -> Vec<String> {
    let text = fs::read_to_string(Path::new(EXAMPLES).join("README.md")).unwrap();
    let blocks = text.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    blocks.collect()
}

#[test]
fn what_the_reference_shows_of_keys_and_routes_compiles() {
    let file = |path: &str, bytes: &[u8]| (PathBuf::from(path), bytes.to_vec());
    let files = Files::Memory(BTreeMap::from([
        file("/policy/server", b"stands in for PEM"),
        file("/policy/secrets/github", b"the secret of GitHub, 32 bytes or more"),
        file("/policy/secrets/gitlab", b"whsec_dGhlIHNlY3JldCBvZiBHaXRMYWIsIDMyIGJ5dGVzIG9yIG1vcmU="),
        file("/policy/secrets/builds", b"the secret of builds, 32 bytes or more"),
        file("/usr/bin/true", b""),
        file("/usr/local/bin/drain", b""),
    ]));
    let gateway = "[listen]\ncertificate = \"server\"\nprivate_key = \"server\"\n[queue]\nfile = \"q\"\n[audit]\nfile = \"a\"\n[limits]\nbody = \"1MiB\"\n";
    let head = "method = \"POST\"\npath = \"/x\"\n[[allow]]\nkey = [\"builds\"]\n";
    let mut blocks = toml_of_the_reference();
    // Whole gateways have files of their own in this language, and other tests.
    blocks.retain(|block| !block.contains("[queue]"));
    let (keys, routes): (Vec<_>, Vec<_>) = blocks.iter().partition(|block| block.contains("[keys."));
    assert_eq!((keys.len(), routes.len()), (1, 2), "{blocks:?}");
    let gateway = format!("{gateway}{}", keys[0]);
    for block in routes {
        let run = if block.contains("[run]") { "" } else { "[run]\nsteps = [[\"/usr/bin/true\"]]\n" };
        let loaded = compile_text(&gateway, &[("r", &format!("{head}{block}{run}"))], &files);
        let loaded = loaded.unwrap_or_else(|found| panic!("{found}"));
        let warnings: Vec<_> =
            loaded.warnings.messages().filter(|warning| !warning.contains("not signed")).collect();
        assert_eq!(warnings, Vec::<&str>::new());
    }
}

/// Keys by table, as the decoder lists them when it meets one that it does not know.
fn keys_of_the_language() -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let gateway = "zz = 0\n[listen]\nzz = 0\n[admin]\nzz = 0\n[queue]\nzz = 0\n[audit]\nzz = 0\n[limits]\nzz = 0\n[keys.k]\nzz = 0\n";
    let route = "zz = 0\n[[allow]]\nzz = 0\n[[when]]\nzz = 0\n[rate]\nzz = 0\n[parameters]\np = { zz = 0, integer = { zz = 0 } }\n[run]\nzz = 0\nretry = { zz = 0 }\nlimits = { zz = 0 }\n";
    let found = compile_text(gateway, &[("r", route)], &Files::Memory(BTreeMap::new())).unwrap_err();
    let mut tables = BTreeMap::new();
    for block in found.to_string().split("\n\n") {
        let Some(title) =
            block.strip_prefix("error: unknown key `zz` in ").and_then(|rest| rest.lines().next())
        else {
            continue;
        };
        let list = |label: &str| -> BTreeSet<String> {
            let line = block.lines().find_map(|line| line.split_once(label));
            line.map(|(_, keys)| keys.split(", ").map(str::to_owned).collect()).unwrap_or_default()
        };
        let title = title.trim_matches('`').to_owned();
        tables.insert(title, (list("help: allowed here: "), list("help: not supported yet: ")));
    }
    tables
}

/// Rows of the reference by the heading that they stand under: key and the rest of the row.
fn rows_of_the_reference() -> BTreeMap<String, BTreeMap<String, String>> {
    let text = fs::read_to_string(Path::new(EXAMPLES).join("README.md")).unwrap();
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut heading = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title.trim_matches('`').to_owned();
        } else if let Some((key, rest)) = line.strip_prefix("| `").and_then(|row| row.split_once("` |")) {
            sections.entry(heading.clone()).or_default().insert(key.to_owned(), rest.to_owned());
        }
    }
    sections
}

#[test]
fn the_reference_names_every_key_and_no_other() {
    let mut reference = rows_of_the_reference();
    let language = keys_of_the_language();
    assert_eq!(language.len(), 16, "{:?}", language.keys());
    for (title, (built, later)) in language {
        let heading = match title.as_str() {
            "[keys.k]" => "[keys.<name>]",
            "routes/r.toml" => "routes/<name>.toml",
            "the parameter `p" => "[parameters]",
            other => other,
        };
        let rows = reference.remove(heading).unwrap_or_else(|| panic!("no section `{heading}`"));
        let named: BTreeSet<String> = rows.keys().cloned().collect();
        let known: BTreeSet<String> = built.union(&later).cloned().collect();
        assert_eq!(named, known, "{heading}");
        for (key, row) in rows {
            let refused = row.trim_end_matches(" |").ends_with("| not supported yet");
            assert_eq!(refused, later.contains(&key), "{heading} {key}");
        }
    }
    // No keys of the language; `metrics` among the black-box tests holds it to what is shown.
    assert!(reference.remove("Metrics").is_some());
    assert_eq!(reference.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "sections of no table");
}
