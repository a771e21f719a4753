//! What `check` finds, and where it says that it is. Bad policies that `serve` refuses too are in `command_line`.

use std::os::unix::fs::PermissionsExt as _;

use std::os::unix::fs::chown;
use std::process::Command;

use crate::command_line::{OWN_USER, ROUTE, check, site, titles};
use crate::support::{BINARY, Site, bridgeward};

#[test]
fn errors_of_certificates_are_shown_beside_all_others_at_the_key_that_names_the_file() {
    let site = site();
    site.route("x", &ROUTE.replace("method", "methud"));
    site.configure("[keys.\"a b\"]\nsecrets = []");
    for name in ["server.pem", "ca.pem"] {
        site.write(name, "no PEM", 0o644);
    }
    site.write("server.key", "no PEM either", 0o600);
    let (code, text) = check(&site);
    assert_eq!(code, Some(1));
    let gateway = site.path("gateway.toml");
    for (message, place) in [
        ("unknown key `methud`", site.path("routes/x.toml").display().to_string() + ":1:1"),
        ("`a b` is not the name of a key", gateway.display().to_string() + ":17:7"),
        ("`secrets`: a list of at least one", gateway.display().to_string() + ":18:11"),
        ("the server certificate: holds no", gateway.display().to_string() + ":3:15"),
        ("the private key: none found", gateway.display().to_string() + ":4:15"),
        ("the CA file: holds no", gateway.display().to_string() + ":5:13"),
    ] {
        let block = text.split("\n\n").find(|block| block.contains(message));
        let block = block.unwrap_or_else(|| panic!("no `{message}` in:\n{text}"));
        assert!(block.contains(&format!("--> {place}\n")) && block.contains('^'), "{place}: {block}");
    }
    // A revocation list that will not do is the CRL file's fault, even where the key's file cannot be read.
    site.write("ca.pem", &site.ca_pem, 0o644);
    site.write("crl.pem", "no PEM", 0o644);
    site.write("server.key", "readable", 0o644);
    let (_, text) = check(&site);
    let block = text.split("\n\n").find(|block| block.contains("the CRL file: holds no")).unwrap();
    assert!(block.contains("gateway.toml:6:14\n") && block.contains("client_crl = "), "{block}");
    assert!(text.contains("the server certificate: holds no"), "{text}");
}

#[test]
fn paths_are_shown_as_they_are_written_or_without_detours() {
    let site = site();
    std::fs::create_dir(site.path("sub")).unwrap();
    for (key, file) in [("certificate", "server.pem"), ("client_ca", "ca.pem")] {
        let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
        let text = text.replace(&format!("{key} = \"{file}\""), &format!("{key} = \"sub/../{file}\""));
        site.write("gateway.toml", &text, 0o644);
        site.write(file, "no PEM", 0o644);
    }
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("\"crl.pem\"", "\"sub/../none.pem\""), 0o644);
    let (code, text) = check(&site);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("`{}` does not exist", site.path("none.pem").display())), "{text}");
    for line in text.lines().filter(|line| line.contains("..")) {
        assert!(line.contains("= \"sub/../"), "only the lines of the policy itself: {line}");
    }
}

#[test]
fn a_working_directory_that_is_not_there_is_a_warning_and_one_that_is_a_file_an_error() {
    let site = site();
    site.route("x", &format!("{ROUTE}directory = \"/no/such/directory\"\n"));
    let (code, text) = check(&site);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("routes/x.toml:7:13") && text.contains("`/no/such/directory`"), "{text}");
    assert!(text.ends_with("2 warnings\n"), "{text}");
    for file in ["/bin/echo", "/bin/echo/x"] {
        site.route("x", &format!("{ROUTE}directory = \"{file}\"\n"));
        let (code, text) = check(&site);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&format!("`{file}` is not a directory")), "{text}");
    }
}

#[test]
fn a_policy_can_be_tried_before_it_replaces_another() {
    let site = site();
    site.route("x", ROUTE);
    let next = site.path("next");
    std::fs::create_dir_all(next.join("routes")).unwrap();
    let place = site.dir.path();
    let try_it = |text: &str| {
        std::fs::copy(site.path("gateway.toml"), next.join("gateway.toml")).unwrap();
        site.write("next/routes/y.toml", text, 0o644);
        let arguments = ["check", "--policy", next.to_str().unwrap(), "--as", place.to_str().unwrap()];
        let output = bridgeward(&arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // Its certificates are named relative to the place: it has none of its own.
    let (code, good) = try_it(ROUTE);
    assert_eq!((code, titles(&good)), (Some(0), vec![OWN_USER.replace("`x`", "`y`").as_str()]));
    let (code, text) = try_it(&ROUTE.replace("method", "methud"));
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("{}:1:1", site.path("routes/y.toml").display())), "{text}");
    // What stands there now has no part in it, but for who may write there.
    site.route("x", "nonsense");
    assert_eq!(try_it(ROUTE), (Some(0), good));
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, text) = try_it(ROUTE);
    assert!(code == Some(1) && text.contains("others may write in"), "{text}");
}

#[test]
fn strict_fails_on_warnings() {
    let site = Site::new();
    in_two_parts(&site);
    // The gate's part, for a gate has no commands that could be somebody's.
    let check = |strict: &[&str]| {
        let policy = site.dir.path().to_str().unwrap();
        let arguments = [&["check", "--part", "gate", "--policy", policy], strict].concat();
        let output = bridgeward(&arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let route = "method = \"POST\"\npath = \"/x\"\n[[allow]]\nkey = [\"jenkins\"]\n@[run]\nsteps = [[\"/bin/true\"]]\n";
    site.route("x", &route.replace('@', ""));
    assert_eq!(check(&["--strict"]), (Some(0), String::new()));
    for (rule, run, warning) in [
        ("networks = [\"0.0.0.0/0\"]\n", "", "this network is every address"),
        ("networks = [\"10.0.0.0/8\", \"::/0\"]\n", "", "this network is every address"),
        ("", "privileges = \"may_gain\"\n", "may gain privileges"),
    ] {
        site.route("x", &format!("{}{run}", route.replace('@', rule)));
        let (code, told) = check(&[]);
        assert!(code == Some(0) && told.contains(warning), "{told}");
        assert_eq!(check(&["--strict"]), (Some(1), told));
    }
}

/// Makes the policy one of which each of two processes can check its part.
fn in_two_parts(site: &Site) {
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("[queue]", "[queue]\nsocket = \"queue.sock\""), 0o644);
}

#[test]
fn commands_that_could_read_the_gateways_secrets_are_warned_of() {
    const NOBODY: u32 = 65534;
    let site = site();
    in_two_parts(&site);
    site.route("y", &ROUTE.replace("/x", "/y"));
    let policy = site.dir.path().to_str().unwrap();
    let run = |mut command: Command, more: &[&str]| {
        let output = command.args(["check", "--policy", policy]).args(more).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let check = |more: &[&str]| run(Command::new(BINARY), more);
    let own = OWN_USER.replace("`x`", "`x`, `y`");
    let (code, text) = check(&[]);
    assert_eq!((code, titles(&text)), (Some(0), vec![own.as_str()]));
    assert!(text.contains("gateway.toml:4:15\n") && text.contains("help: give them a `user`"), "{text}");
    assert_eq!(check(&["--strict"]).0, Some(1));
    // A gate runs none, and workers hold no secrets; but root can read them.
    assert_eq!(check(&["--strict", "--part", "gate"]), (Some(0), String::new()));
    let (_, text) = check(&["--part", "work"]);
    let of_workers = own.replace(
        "the gateway's own user, who can read its",
        "the workers' own user, who can read the gate's",
    );
    if !rustix::process::geteuid().is_root() {
        assert_eq!(titles(&text), [""; 0]);
        return;
    }
    assert_eq!(titles(&text), [of_workers.as_str()]);

    // Somebody else is warned of who can read a secret.
    let with = |user: &str| site.route("x", &format!("{ROUTE}user = \"{user}\"\n"));
    std::fs::remove_file(site.path("routes/y.toml")).unwrap();
    with("nobody");
    assert_eq!(check(&["--strict"]), (Some(0), String::new()));
    assert_eq!(check(&["--strict", "--part", "work"]), (Some(0), String::new()));
    with("root");
    assert_eq!(titles(&check(&[]).1), [OWN_USER]);
    with("nobody");
    chown(site.path("jenkins.next"), None, Some(NOBODY)).unwrap();
    std::fs::set_permissions(site.path("jenkins.next"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let mut member = Command::new("setpriv");
    member.args(["--groups", "0,65534", BINARY]);
    let (code, text) = run(member, &[]);
    let shared =
        format!("warning: the `user` of these commands can read `{}`", site.path("jenkins.next").display());
    assert_eq!((code, titles(&text)), (Some(0), vec![shared.as_str()]));
    assert!(text.contains("routes/x.toml:5:1\n"), "{text}");

    // Workers that are nobody special, unless the gate is the same.
    std::fs::copy(BINARY, site.path("bridgeward")).unwrap();
    std::fs::set_permissions(site.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    site.route("x", ROUTE);
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(site.path("bridgeward"));
        run(command, &["--part", "work"])
    };
    assert_eq!(as_nobody(), (Some(0), String::new()));
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("[queue]", "[queue]\ngate_user = \"nobody\""), 0o644);
    assert_eq!(titles(&as_nobody().1), [of_workers.replace("`x`, `y`", "`x`")]);
}
