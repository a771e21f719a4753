//! Promotions with real git, from an empty environment: races, refusals, and what Ruby, hiera and r10k read afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::*;

const WEB: &str =
    "---\n# The web role.\nweb::version: \"1.2.3\"   # pinned\nweb::hosts:\n    - a\nweb::build: 17\n";

/// A bare repository with the branches `production` and `staging`.
struct Control {
    dir: TempDir,
}

impl Control {
    fn new() -> Self {
        let control = Self { dir: tempfile::tempdir().unwrap() };
        let tree = control.tree();
        fs::create_dir_all(tree.join("data/roles")).unwrap();
        fs::write(tree.join("data/roles/web.yaml"), WEB).unwrap();
        fs::write(tree.join("data/common.yaml"), "---\ncommon: 1\n").unwrap();
        fs::write(tree.join("hiera.yaml"), HIERA).unwrap();
        symlink("web.yaml", tree.join("data/roles/link.yaml")).unwrap();
        symlink("roles", tree.join("data/linked")).unwrap();
        symlink("/etc", tree.join("data/etc")).unwrap();
        fs::set_permissions(tree.join("data/common.yaml"), fs::Permissions::from_mode(0o755)).unwrap();
        git(control.dir.path(), &["init", "--quiet", "--bare", "control.git"]);
        git(&tree, &["init", "--quiet"]);
        git(&tree, &["add", "."]);
        git(&tree, &["commit", "--quiet", "--message", "start"]);
        for branch in ["production", "staging"] {
            let refspec = format!("HEAD:refs/heads/{branch}");
            git(&tree, &["push", "--quiet", &control.repo(), &refspec]);
        }
        control
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn repo(&self) -> String {
        self.dir.path().join("control.git").to_str().unwrap().to_owned()
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(Path::new(&self.repo()), arguments)
    }

    fn head(&self, branch: &str) -> String {
        self.git(&["rev-parse", &format!("refs/heads/{branch}")])
    }

    fn read(&self, branch: &str, file: &str) -> String {
        self.git(&["show", &format!("{branch}:{file}")])
    }

    /// Promotes from an empty environment, as a route's step does.
    fn promote(&self, file: &str, more: &[&str]) -> Output {
        let repo = self.repo();
        let start = ["promote", "--repo", &repo, "--branch", "production", "--file", file];
        run(&[&start[..], more].concat())
    }
}

const HIERA: &str = "---\nversion: 5\ndefaults: { datadir: data, data_hash: yaml_data }\nhierarchy:\n  - { name: role, path: \"roles/%{facts.role}.yaml\" }\n  - { name: common, path: common.yaml }\n";

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().current_dir("/");
    command.output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", told(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, why: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", told(output));
    assert!(output.stdout.is_empty(), "{}", told(output));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(why), "{why}: {error}");
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    fs::create_dir_all(directory).unwrap();
    let mut command = Command::new("git");
    command.current_dir(directory).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.args(["-c", "user.name=Test", "-c", "user.email=test@example.com"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
}

#[test]
fn a_promotion_changes_one_value_in_one_file_of_one_branch() {
    let control = Control::new();
    let before = control.head("production");
    let said = done(&control.promote("data/roles/web.yaml", &["--set", "web::version=1.2.4"]));
    let head = control.head("production");
    assert!(said.contains("web::version: \"1.2.3\" -> \"1.2.4\"") && said.contains(&head), "{said}");
    let changed = control.git(&["diff", "--name-status", &before, &head]);
    assert_eq!(changed, "M\tdata/roles/web.yaml");
    let expected = WEB.replace("1.2.3", "1.2.4");
    assert_eq!(control.read("production", "data/roles/web.yaml"), expected.trim_end());
    assert_eq!(
        control.git(&["show", "--no-patch", "--format=%P|%s|%cn", &head]),
        format!("{before}|Set web::version to 1.2.4|bridgeward")
    );
    assert_eq!(control.head("staging"), before);

    // The same again: nothing to change, nothing committed.
    let said = done(&control.promote("data/roles/web.yaml", &["--set", "web::version=1.2.4"]));
    assert!(said.contains("nothing to change") && said.contains(&head), "{said}");
    assert_eq!(control.head("production"), head);

    // Author, message and mode; two values; a number becomes a string.
    let words = ["--message", "A release\n\nwith words", "--author", "Jane Doe <jane@example.com>"];
    let sets = ["--set", "web::build=0018", "--set", "web::version=2.0.0"];
    done(&control.promote("data/roles/web.yaml", &[&words[..], &sets].concat()));
    let commit = control.git(&["show", "--no-patch", "--format=%an|%ae|%cn|%B", "production"]);
    assert_eq!(commit.trim_end(), "Jane Doe|jane@example.com|bridgeward|A release\n\nwith words");
    assert!(control.read("production", "data/roles/web.yaml").contains("web::build: '0018'"));
    done(&control.promote("data/common.yaml", &["--set", "common=x"]));
    let listed = control.git(&["ls-tree", "production", "data/common.yaml"]);
    assert!(listed.starts_with("100755 "), "{listed}");
    control.git(&["fsck", "--strict"]);
}

#[test]
fn a_dry_run_shows_the_patch_and_pushes_nothing() {
    let control = Control::new();
    let before = control.head("production");
    let more = ["--set", "web::version=1.2.4", "--dry-run"];
    let said = done(&control.promote("data/roles/web.yaml", &more));
    for line in [
        "-web::version: \"1.2.3\"   # pinned\n",
        "+web::version: \"1.2.4\"   # pinned\n",
        "nothing was committed",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(said.lines().filter(|line| line.starts_with(['+', '-'])).count(), 4, "{said}");
    assert_eq!(control.head("production"), before);
}

#[test]
fn i1_fail_closed_on_what_is_missing_or_leads_elsewhere() {
    let control = Control::new();
    let before = control.head("production");
    let set = ["--set", "web::version=9.9.9"];
    for (file, code, why) in [
        ("data/roles/link.yaml", 1, "`data/roles/link.yaml` is a symbolic link"),
        ("data/linked/web.yaml", 1, "`data/linked` is a symbolic link"),
        ("data/etc/passwd", 1, "`data/etc` is a symbolic link"),
        ("data/roles", 1, "`data/roles` is a directory"),
        ("data/common.yaml/x", 1, "`data/common.yaml` is a file, not a directory"),
        ("data/roles/none.yaml", 1, "there is no `data/roles/none.yaml` on production"),
        ("none/web.yaml", 1, "there is no `none/web.yaml`"),
        ("data/common.yaml", 1, "no key `web::version`"),
        ("../web.yaml", 2, "without `.`, `..`"),
        ("/etc/passwd", 2, "without `.`, `..`"),
        (".git/config", 2, "git's own"),
        ("data/.GIT/config", 2, "git's own"),
    ] {
        refused(&control.promote(file, &set), code, why);
    }
    // --create makes what is missing, and still follows nothing.
    for file in ["data/linked/new.yaml", "data/etc/new.yaml", "data/roles/link.yaml"] {
        refused(&control.promote(file, &[&set[..], &["--create"]].concat()), 1, "is a symbolic link");
    }
    refused(
        &control.promote("data/common.yaml/x", &[&set[..], &["--create"]].concat()),
        1,
        "not a directory",
    );
    refused(&control.promote("data/roles/web.yaml", &["--set", "web::hosts=x"]), 1, "a list");
    assert_eq!(control.head("production"), before);

    let repo = control.repo();
    let at = |branch: &str, repo: &str| {
        run(&["promote", "--repo", repo, "--branch", branch, "--file", "data/roles/web.yaml", set[0], set[1]])
    };
    refused(&at("none", &repo), 1, "git could not fetch the branch");
    for (branch, repo) in [("--force", repo.as_str()), ("a..b", &repo), ("+production", "ext::sh -c true")] {
        assert_ne!(at(branch, repo).status.code(), Some(0));
    }
    refused(&at("production", "ext::sh -c true"), 1, "--repo");
    refused(&at("production", "/none"), 1, "git could not fetch the branch");

    done(&control.promote("data/roles/new.yaml", &["--set", "a::b=1", "--create"]));
    assert_eq!(control.read("production", "data/roles/new.yaml"), "---\na::b: '1'");
    done(&control.promote("deep/down/new.yaml", &["--set", "a::b=1", "--create"]));
    done(&control.promote("data/common.yaml", &["--set", "a::b=1", "--create"]));
    assert_eq!(control.read("production", "data/common.yaml"), "---\ncommon: 1\na::b: '1'");
}

#[test]
fn i1_fail_closed_on_branch_names_that_git_refuses() {
    let control = Control::new();
    let repo = control.repo();
    let words = ["a", ".", "/", "..", "@{", "lock", ".lock", "-", "@", "~", "é", " ", "HEAD", ":", "\\", "*"];
    let mut judged = BTreeSet::new();
    for first in words {
        for second in words {
            let name = format!("{first}{second}");
            let output = run(&["promote", "--repo", &repo, "--branch", &name, "--file", "x", "--set", "a=b"]);
            let is_usage = output.status.code() == Some(2);
            let mut by_git = Command::new("git");
            by_git.args(["check-ref-format", "--branch", &name]).current_dir("/");
            let by_git = by_git.output().unwrap().status.success();
            assert_eq!(!is_usage, by_git, "{name:?}: {}", told(&output));
            judged.insert(by_git);
        }
    }
    assert_eq!(judged.len(), 2);
}

#[test]
fn the_repository_has_the_last_word_and_the_callers_hooks_have_none() {
    let control = Control::new();
    let repo = PathBuf::from(control.repo());
    let hook = repo.join("hooks/pre-receive");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, "#!/bin/sh\necho no releases on Fridays\nexit 1\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let before = control.head("production");
    let promote = || control.promote("data/roles/web.yaml", &["--set", "web::version=1.2.4"]);
    refused(&promote(), 1, "no releases on Fridays");
    assert_eq!(control.head("production"), before);
    fs::remove_file(&hook).unwrap();

    // Hooks of the caller's own configuration do not run, and nothing asks for a signature or a word.
    let home = control.dir.path().join("home");
    let hooks = home.join("hooks");
    fs::create_dir_all(&hooks).unwrap();
    // The repository's own side of a push reads the same configuration, and may.
    let script = format!(
        "#!/bin/sh\n[ \"$PWD\" = '{}' ] && exit 0\necho ran >> \"$HOME/ran\"\nexit 1\n",
        repo.display()
    );
    for name in ["pre-push", "reference-transaction", "post-index-change"] {
        fs::write(hooks.join(name), &script).unwrap();
        fs::set_permissions(hooks.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let config = format!("[core]\n\thooksPath = {}\n[commit]\n\tgpgSign = true\n", hooks.display());
    fs::write(home.join(".gitconfig"), config).unwrap();
    let mut command = Command::new(BINARY);
    command.args([
        "promote",
        "--repo",
        &control.repo(),
        "--branch",
        "production",
        "--file",
        "data/roles/web.yaml",
    ]);
    command.args(["--set", "web::version=1.2.4"]).env_clear().env("HOME", &home).current_dir("/");
    // What would lead git astray is not handed on.
    command.env("GIT_DIR", "/none").env("GIT_SSH_COMMAND", "false").env("GIT_CONFIG_COUNT", "x");
    done(&command.output().unwrap());
    assert!(!home.join("ran").exists());
    assert_ne!(control.head("production"), before);
}

#[test]
fn a_work_directory_is_kept_shared_and_mended() {
    let control = Control::new();
    let kept = control.dir.path().join("kept");
    let promote = |value: &str| {
        let set = format!("web::version={value}");
        control.promote("data/roles/web.yaml", &["--set", &set, "--work-dir", kept.to_str().unwrap()])
    };
    done(&promote("1.0.0"));
    let objects = || fs::read_dir(kept.join("control.git/objects")).unwrap().count();
    assert!(objects() > 2);
    // What a killed promotion would leave.
    fs::write(kept.join("unfinished"), "").unwrap();
    fs::write(kept.join("control.git/shallow.lock"), "").unwrap();
    done(&promote("1.0.1"));
    std::thread::scope(|scope| {
        let promote = &promote;
        let all: Vec<_> = (0..4).map(|n| scope.spawn(move || done(&promote(&format!("2.0.{n}"))))).collect();
        for one in all {
            assert!(one.join().unwrap().contains("pushed"));
        }
    });
    assert_eq!(control.git(&["rev-list", "--count", "production"]), "7");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o777)).unwrap();
    refused(&promote("3.0.0"), 1, "others may write in it");
}

#[test]
fn four_gateways_that_push_at_once_lose_nothing() {
    const GATEWAYS: usize = 4;
    const PROMOTIONS: usize = 10;
    let control = Control::new();
    let before: usize = control.git(&["rev-list", "--count", "production"]).parse().unwrap();
    let attempts: usize = std::thread::scope(|scope| {
        let promote = |gateway: usize| {
            let control = &control;
            move || {
                let mut attempts = 0;
                for number in 0..PROMOTIONS {
                    let set = format!("gateway{gateway}::step{number}=1.{gateway}.{number}");
                    let more = ["--set", &set, "--create"];
                    let said = done(&control.promote("data/roles/web.yaml", &more));
                    let again = said.rsplit("at attempt ").next().and_then(|rest| rest.trim().parse().ok());
                    attempts += again.unwrap_or(1);
                }
                attempts
            }
        };
        let all: Vec<_> = (0..GATEWAYS).map(|gateway| scope.spawn(promote(gateway))).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    let data = control.read("production", "data/roles/web.yaml");
    for gateway in 0..GATEWAYS {
        for number in 0..PROMOTIONS {
            let line = format!("\ngateway{gateway}::step{number}: '1.{gateway}.{number}'");
            assert_eq!(data.matches(&line).count(), 1, "{line}: {data}");
        }
    }
    assert!(data.starts_with(WEB), "{data}");
    let after: usize = control.git(&["rev-list", "--count", "production"]).parse().unwrap();
    assert_eq!(after, before + GATEWAYS * PROMOTIONS);
    assert_eq!(control.git(&["rev-list", "--merges", "production"]), "");
    assert!(attempts > GATEWAYS * PROMOTIONS, "nobody met anybody: the test shows nothing");
    control.git(&["fsck", "--strict"]);
}

/// What Ruby's Psych says of keys of a YAML text: class and value, one a line.
fn psych(text: &str, keys: &[String]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data.yaml"), text).unwrap();
    fs::write(dir.path().join("keys"), keys.join("\n")).unwrap();
    let script = "data = YAML.load_file(ARGV[0], permitted_classes: [Date, Time, Symbol], aliases: true)\n\
        File.readlines(ARGV[1], chomp: true).each { |key| puts \"#{data[key].class} #{data[key]}\" }\n";
    let mut command = Command::new("ruby");
    command
        .args(["-ryaml", "-rdate", "-e", script])
        .arg(dir.path().join("data.yaml"))
        .arg(dir.path().join("keys"));
    let output = command.env("LC_ALL", "C.UTF-8").output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn values_are_strings_to_ruby_whatever_they_look_like() {
    let values = [
        "1",
        "1.10",
        "1.2.3",
        "1.2.3-rc.1",
        "0017",
        "0o17",
        "0x1f",
        "1e3",
        "1_000",
        "1,000",
        ".5",
        "-1",
        "~",
        "null",
        "yes",
        "No",
        "on",
        "true",
        "y",
        "N",
        "2024-01-01",
        "2024-01-01 10:00:00",
        "12:30:45",
        "190:20:30.15",
        "=",
        "<<",
        ".inf",
        ".NaN",
        ":symbol",
        "!ruby/object:Object",
        "*a",
        "&a",
        "a: b",
        "a #b",
        " a ",
        "[a]",
        "{a}",
        "- a",
        "é",
        "it's",
        "\"q\"",
        "back\\slash",
        "%d",
        "web",
        "v1.2",
        "main-2",
        "",
    ];
    let keys: Vec<String> = (0..values.len()).map(|number| format!("k{number}")).collect();
    let expected: Vec<String> = values.iter().map(|value| format!("String {value}")).collect();
    for old in ["plain.old.value", "'single'", "\"double\"", "", "3.14", "2020-02-02", "yes"] {
        let control = Control::new();
        let tree = control.tree();
        let text: String = keys.iter().map(|key| format!("{key}: {old} # note\n")).collect();
        fs::write(tree.join("data/all.yaml"), &text).unwrap();
        git(&tree, &["add", "."]);
        git(&tree, &["commit", "--quiet", "--message", "more"]);
        git(&tree, &["push", "--quiet", &control.repo(), "HEAD:production"]);
        let sets: Vec<String> =
            keys.iter().zip(values).map(|(key, value)| format!("--set={key}={value}")).collect();
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        done(&control.promote("data/all.yaml", &sets));
        let text = control.read("production", "data/all.yaml");
        assert_eq!(psych(&text, &keys), expected, "{old}: {text}");
        assert_eq!(text.matches(" # note").count(), values.len());
    }
}

#[test]
fn hiera_reads_what_r10k_deploys_of_a_promotion_that_a_route_ran() {
    let control = Control::new();
    let site = Site::new();
    site.route(
        "promote",
        &format!(
            "method = \"POST\"\npath = \"/promote\"\n[[allow]]\nkey = [\"jenkins\"]\n[parameters]\n\
             role = {{ from = \"body:/role\", pattern = \"[a-z]+\" }}\n\
             version = {{ from = \"body:/version\", pattern = \"[0-9.]+\" }}\n[run]\nsteps = [[\"{BINARY}\", \"promote\", \
             \"--repo\", \"{}\", \"--branch\", \"production\", \"--file\", \"data/roles/{{role}}.yaml\", \"--set\", \
             \"{{role}}::version={{version}}\"]]\n",
            control.repo()
        ),
    );
    let gateway = site.serve();
    for (version, state) in
        [("1.10", "succeeded"), ("1.10", "succeeded"), ("2.0.0", "succeeded"), ("3.1", "succeeded")]
    {
        let body = format!("{{\"role\":\"web\",\"version\":\"{version}\"}}");
        let response = gateway.send(&gateway.post("/promote", &body).request());
        let job = gateway.ended(response.header("location").unwrap());
        assert_eq!(job["state"], state, "{job}");
    }
    let body = "{\"role\":\"none\",\"version\":\"1\"}";
    let response = gateway.send(&gateway.post("/promote", body).request());
    let job = gateway.ended(response.header("location").unwrap());
    assert!(
        job["state"] == "failed"
            && job["steps"][0]["output"].as_str().unwrap().contains("no `data/roles/none.yaml`")
    );
    assert_eq!(control.git(&["rev-list", "--count", "production"]), "4");

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let config = format!(
        "cachedir: {}\nsources:\n  control:\n    remote: {}\n    basedir: {}\n",
        at("cache"),
        control.repo(),
        at("environments")
    );
    fs::write(at("r10k.yaml"), config).unwrap();
    fs::write(at("facts.yaml"), "role: web\n").unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).env("HOME", dir.path()).output().unwrap();
        done(&output)
    };
    run("r10k", &["deploy", "environment", "--config", &at("r10k.yaml"), "production"]);
    let (conf, var, environments, facts) = (at("conf"), at("var"), at("environments"), at("facts.yaml"));
    let place = [
        "--confdir",
        &conf,
        "--vardir",
        &var,
        "--environmentpath",
        &environments,
        "--environment",
        "production",
    ];
    let asked = ["--node", "node.example.com", "--facts", &facts, "--render-as", "json", "web::version"];
    let read = run("puppet", &[&["lookup"][..], &place, &asked].concat());
    assert_eq!(read.trim(), "\"3.1\"");
}
