//! Where key material must not be: logs, records, the database, command lines, environments, and what is left of a
//! crash. Runs as root, who may look at all of them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroups::{AS_NOBODY, NOBODY, children};
use crate::support::*;

const SLOW: &str = "method = \"POST\"\npath = \"/slow\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"@\"]]\nrespond = \"result\"\n";

/// A gateway of which one command runs.
struct Busy {
    site: Site,
    gateway: Running,
    /// Whoever waits for the command.
    sender: Tls,
    /// The gateway, its launcher, and the command's supervisor.
    own: [Pid; 3],
    command: Pid,
}

impl Busy {
    fn start(site: Site, by: Command) -> Self {
        let (ran, gate) = (site.path("ran"), site.path("gate"));
        fs::write(&ran, "").unwrap();
        chown(&ran, Some(NOBODY), Some(NOBODY)).unwrap();
        let script = format!(
            "env\necho $$ >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done",
            ran.display(),
            gate.display()
        );
        let program = site.program("program", &script);
        site.route("slow", &SLOW.replace('@', &program));
        let gateway = site.serve_by(by);
        let mut sender = gateway.connect();
        sender.write(gateway.post("/slow", "1").request().as_bytes()).unwrap();
        let command = Pid::from_raw(wait_for_lines(&ran, 1)[0].parse().unwrap()).unwrap();
        let gateways = Pid::from_child(&gateway.child);
        let [launcher] = children(gateways)[..] else { panic!("{:?}", children(gateways)) };
        let [supervisor] = children(launcher)[..] else { panic!("{:?}", children(launcher)) };
        assert_eq!(children(supervisor), [command]);
        Self { site, gateway, sender, own: [gateways, launcher, supervisor], command }
    }

    /// Lets the command end.
    fn finish(&mut self) {
        fs::write(self.site.path("gate"), "").unwrap();
        assert_eq!(self.sender.read().unwrap().status, 200);
    }

    /// What stands in files that may be secret to nobody.
    fn written(&self) -> Vec<u8> {
        let files = ["queue.db", "queue.db-wal", "queue.db-shm", "audit.jsonl"];
        files.iter().flat_map(|file| fs::read(self.site.path(file)).unwrap_or_default()).collect()
    }
}

fn proc(pid: Pid, file: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(file)
}

/// A secret as it is, in hexadecimal, and in base64 wherever in a longer text it may begin.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex = secret.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let (upper, mut forms) = (hex.to_uppercase(), vec![secret.to_vec(), hex.into_bytes()]);
    forms.push(upper.into_bytes());
    for skipped in 0..3 {
        let whole = &secret[skipped..];
        forms.push(STANDARD_NO_PAD.encode(&whole[..whole.len() / 3 * 3]).into_bytes());
    }
    forms
}

/// All forms of the site's secrets, the lines of its private key included.
fn secrets() -> Vec<Vec<u8>> {
    let secrets = ["jenkins-secret-of-thirty-two-bytes-or-more", "the-next-secret-of-jenkins-is-another-one"];
    secrets.iter().flat_map(|secret| forms(secret.as_bytes())).collect()
}

fn private_key(site: &Site) -> Vec<Vec<u8>> {
    use rustls::pki_types::pem::PemObject as _;
    let pem = fs::read_to_string(site.path("server.key")).unwrap();
    let lines = pem.lines().filter(|line| !line.starts_with("-----")).map(|line| line.as_bytes().to_vec());
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    lines.chain(forms(key.secret_der())).collect()
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn forms_are_found_wherever_they_stand() {
    let secret = b"jenkins-secret-of-thirty-two-bytes-or-more";
    for before in ["", "a", "ab", "abc"] {
        let text = [before.as_bytes(), secret, b"z"].concat();
        let found =
            forms(&text).into_iter().filter(|text| forms(secret).iter().any(|form| holds(text, form)));
        assert_eq!(found.count(), 6, "{before}");
    }
}

#[test]
fn i8_secrets_stay_out_of_logs_records_environment_and_command_line() {
    let mut busy = Busy::start(Site::new(), Command::new(BINARY));
    let mut wrong = busy.gateway.post("/slow", "2");
    wrong.secret = "wrong".into();
    assert!(busy.gateway.send(&wrong.request()).is_wall());
    let mut seen = busy.written();
    for pid in busy.own.into_iter().chain([busy.command]) {
        for file in ["environ", "cmdline"] {
            seen.extend(fs::read(proc(pid, file)).unwrap());
        }
    }
    busy.finish();
    busy.gateway.signal(Signal::TERM);
    assert_eq!(busy.gateway.wait().code(), Some(0));
    seen.extend(busy.written());
    seen.extend(busy.gateway.log.text().into_bytes());
    assert!(
        holds(&seen, b"jenkins") && holds(&seen, b"accepted") && holds(&seen, b"serve\0"),
        "what is looked through"
    );
    for form in secrets().into_iter().chain(private_key(&busy.site)) {
        assert!(!holds(&seen, &form), "{}", String::from_utf8_lossy(&form));
    }
}

/// A command under which the program goes on with the limit of cores that it had, although it is told that it has none.
fn with_cores(site: &Site) -> Command {
    let (trace, none) = (site.path("trace"), site.path("none"));
    let strace = |arguments: &[&str]| {
        let mut command = Command::new("strace");
        command.args(arguments).args(["-qq", "-e", "trace=prlimit64", "-o"]).arg(&trace);
        command
    };
    // Which of its calls gives them up; it does so before it looks for its policy.
    assert!(
        strace(&[]).arg(BINARY).args(["serve", "--policy"]).arg(none).output().unwrap().status.code()
            == Some(1)
    );
    let calls = fs::read_to_string(&trace).unwrap();
    let call = calls.lines().position(|call| call.contains("RLIMIT_CORE, {")).expect("it gives up cores") + 1;
    let mut by = strace(&["-D", "-e", &format!("inject=prlimit64:retval=0:when={call}")]);
    by.arg(BINARY).current_dir(site.dir.path());
    by
}

/// As a program ends that was broken into, or whose C code has a bug; SIGSEGV itself is taken by Rust's runtime first.
#[test]
fn i8_a_gateway_that_crashes_leaves_no_core_behind() {
    // As much as the system gives: what keeps a core from being written is the gateway's own doing.
    let limit = |pid: Pid| {
        let limits = fs::read_to_string(proc(pid, "limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        core.split_whitespace().skip(4).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let most = limit(rustix::process::getpid())[1].clone();
    assert_ne!(most, "0", "no core can be had here: raise the hard limit (`ulimit -Hc`)");
    let raised = |command: &Command| {
        // Tests that run in the background of a shell ignore SIGQUIT, and so would what they start.
        let mut by = Command::new("env");
        by.args(["--default-signal=QUIT", "prlimit", &format!("--core={most}:{most}")]);
        by.arg(command.get_program()).args(command.get_args());
        command.get_current_dir().map(|directory| by.current_dir(directory));
        by
    };
    let site = Site::new();
    let mut busy = Busy::start(site, raised(&Command::new(BINARY)));
    busy.own.iter().for_each(|pid| assert_eq!(limit(*pid), ["0", "0"]));
    busy.finish();

    // And where that limit does not hold, because somebody gives it back.
    for signal in [Signal::ABORT, Signal::QUIT] {
        let site = Site::new();
        let by = raised(&with_cores(&site));
        let mut busy = Busy::start(site, by);
        busy.own.iter().for_each(|pid| assert_eq!(limit(*pid), [most.as_str(); 2], "nothing is forced"));
        let directories = busy.own.map(|pid| fs::read_link(proc(pid, "cwd")).unwrap());
        for pid in busy.own.into_iter().rev() {
            // Whoever is left alone may be gone already.
            let _ = kill_process(pid, signal);
        }
        let ended = busy.gateway.wait();
        // However cores are written on this machine, to files or to a program: none was.
        assert_eq!((ended.signal(), ended.core_dumped()), (Some(signal.as_raw()), false));
        let is_core = |name: &std::ffi::OsString| {
            let name = name.to_string_lossy();
            name == "core"
                || (name.contains("core") && busy.own.iter().any(|pid| name.contains(&pid.to_string())))
        };
        for directory in &directories {
            let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> = names.filter(is_core).collect();
            assert!(left.is_empty(), "{left:?} in {}", directory.display());
        }
    }
}

#[test]
fn i8_nobody_but_root_can_look_into_the_gateway_or_what_starts_its_commands() {
    let site = Site::new();
    let own = site.path("bridgeward");
    fs::copy(BINARY, &own).unwrap();
    for name in ["", "server.key", "jenkins.secret", "jenkins.next"] {
        chown(site.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = || {
        let mut command = Command::new(AS_NOBODY[0]);
        command.args(&AS_NOBODY[1..]);
        command
    };
    let mut by = as_nobody();
    by.arg(&own);
    let mut busy = Busy::start(site, by);
    let owner = |pid: Pid, file: &str| fs::metadata(proc(pid, file)).unwrap().uid();
    let is_readable = |pid: Pid, file: &str| {
        let read = as_nobody().args(["head", "-c", "1"]).arg(proc(pid, file)).output().unwrap();
        read.status.success()
    };
    // What the same user's commands show of themselves, and may be asked for by each other.
    assert_eq!(owner(busy.command, "environ"), NOBODY);
    assert!(is_readable(busy.command, "environ"));
    for pid in busy.own {
        let status = fs::read_to_string(proc(pid, "status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}\t")), "{status}");
        for file in ["environ", "maps", "mem"] {
            assert_eq!(owner(pid, file), 0, "the kernel lets the user debug {pid}");
        }
        assert!(!is_readable(pid, "environ") && !is_readable(pid, "maps"), "{pid}");
    }
    busy.finish();
}
