//! Certificates, keys, secrets and revocation lists are used as they are now, within five seconds, without a reload.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bridgeward::domain::alarm::Alarm;
use bridgeward::trust::mint::{Authority, Issued};
use serde_json::{Value, json};

use crate::metrics::scrape;
use crate::support::*;

const ROUTE: &str = "method = \"POST\"\npath = \"/x\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[[allow]]\ncertname = [\"*.example.com\"]\n[run]\nsteps = [[\"/bin/true\"]]\nconcurrency = 4\n";
const FIRST: &str = "jenkins-secret-of-thirty-two-bytes-or-more";
const SECOND: &str = "the-next-secret-of-jenkins-is-another-one";

fn site(limits: &str) -> Site {
    let site = Site::with_limits(limits);
    site.configure("[admin]\nsocket = \"admin.sock\"");
    site.route("x", ROUTE);
    site
}

/// Puts a file in place at once, as configuration managers do.
fn place(site: &Site, name: &str, text: &str, mode: u32) {
    site.write(".new", text, mode);
    std::fs::rename(site.path(".new"), site.path(name)).unwrap();
}

fn crl(site: &Site, number: u64, revoked: &[&Issued]) -> String {
    site.ca.numbered_crl(number, revoked, days(30)).unwrap()
}

/// The alarms that stand, each with its reason.
fn alarms(site: &Site) -> Vec<(String, String)> {
    let (status, ready) = ask_socket(&site.path("admin.sock"), "GET", "/readyz");
    assert_eq!((status, &ready["state"]), (200, &json!("ready")), "{ready}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let alarms = ready["alarms"].as_array().cloned().unwrap_or_default();
    alarms.iter().map(|alarm| (text(&alarm["alarm"]), text(&alarm["reason"]))).collect()
}

/// Waits until there is no alarm, or one of this name whose reason holds `part`.
fn wait_for_alarm(site: &Site, wanted: Option<(&str, &str)>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let alarms = alarms(site);
        let found = match wanted {
            None => alarms.is_empty(),
            Some((name, part)) => alarms.iter().any(|(alarm, reason)| alarm == name && reason.contains(part)),
        };
        if found {
            let shown = scrape(&site.path("admin.sock"));
            for kind in Alarm::KINDS {
                let stands = wanted.is_some_and(|(name, _)| name.split(' ').next() == Some(kind));
                let value = shown.get(&format!("alarm{{kind=\"{kind}\"}}"));
                assert!(value == f64::from(stands) || kind == "reload", "{kind}: {value}");
            }
            return;
        }
        assert!(Instant::now() < deadline, "{wanted:?}, but {alarms:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A file system that never answers, over a directory, until it is dropped: FUSE, and nobody at the other end. Takes root.
struct Silence<'a>(Option<std::fs::File>, &'a std::path::Path);

impl<'a> Silence<'a> {
    fn over(directory: &'a std::path::Path) -> Self {
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "bridgeward-test"]);
        let mounted = mount.arg(directory).stdin(device.try_clone().unwrap()).status().unwrap();
        assert!(mounted.success(), "this test must run as root, to mount a file system");
        Self(Some(device), directory)
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // Whoever waits for an answer is told that there will be none.
        drop(self.0.take());
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.1).status();
    }
}

#[test]
fn a_file_system_that_does_not_answer_raises_an_alarm_and_holds_up_nothing() {
    let site = site("");
    let directory = site.path("keys");
    std::fs::create_dir(&directory).unwrap();
    std::fs::rename(site.path("jenkins.next"), directory.join("jenkins.next")).unwrap();
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("jenkins.next", "keys/jenkins.next"), 0o644);
    let gateway = site.serve();
    {
        let _silence = Silence::over(&directory);
        wait_for_alarm(&site, Some(("watch", "file systems")));
        assert_eq!(signed(&gateway, FIRST), 202);
    }
    wait_for_alarm(&site, None);
    place(&site, "keys/jenkins.next", "and-yet-another-secret-of-jenkins-of-length", 0o600);
    wait_until("it is looked at again", || signed(&gateway, SECOND) == 404);
    let _silence = Silence::over(&directory);
    wait_for_alarm(&site, Some(("watch", "file systems")));
    assert_eq!(gateway.stop().code(), Some(0));
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signed(gateway: &Running, secret: &str) -> u16 {
    let mut request = gateway.post("/x", "1");
    request.secret = secret.to_owned();
    gateway.send(&request.request()).status
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_one_without_its_key_is_not() {
    let site = site("");
    let gateway = site.serve();
    let mut open = gateway.connect();
    let renewed = Authority::new("Renewed CA", days(30)).unwrap();
    let own = renewed.issue_server(&["localhost".to_owned()], days(30)).unwrap();
    place(&site, "server.pem", &own.certificate, 0o644);
    wait_for_alarm(&site, Some(("certificate", "does not belong to")));
    gateway.connect();
    place(&site, "server.key", &own.key, 0o600);
    wait_for_alarm(&site, None);
    let trusts = |ca: &str| Tls::connect(gateway.address, ca, None).is_ok();
    assert!(trusts(&renewed.pem()) && !trusts(&site.ca_pem));
    assert!(open.ask(&gateway.get("/x")).is_wall(), "what is open stays open");
    std::fs::remove_file(site.path("server.key")).unwrap();
    wait_for_alarm(&site, Some(("certificate", "does not exist")));
    assert!(trusts(&renewed.pem()), "the last good one is kept");
}

#[test]
fn keys_rotate_under_load_without_a_refusal() {
    let site = site("requests_per_source = \"1000000/s\"\nconnections_per_source = 1000");
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write(
        "gateway.toml",
        &text.replace("\"jenkins.next\"", "\"jenkins.next\", \"jenkins.spare\""),
        0o644,
    );
    site.secret("jenkins.spare", &"spare-".repeat(9));
    let gateway = site.serve();
    let over = AtomicBool::new(false);
    let send = |secret: &str| {
        let mut tls = gateway.connect();
        let mut sent = 0_u32;
        while !over.load(Ordering::Relaxed) {
            let mut request = gateway.post("/x", "1");
            request.secret = secret.to_owned();
            let response = tls.ask(&request.request());
            assert_eq!(response.status, 202, "{sent} {response:?}");
            sent += 1;
        }
        sent
    };
    std::thread::scope(|scope| {
        let senders = [FIRST, SECOND].map(|secret| scope.spawn(move || send(secret)));
        // At each moment every secret that is signed with stands in a file; which one, changes all the time, by renaming
        // and by writing into them. Each change is seen, or its successor is.
        for round in 0..4 {
            let (one, other) = if round % 2 == 0 { (SECOND, FIRST) } else { (FIRST, SECOND) };
            for (name, secret) in
                [("spare", other), ("secret", one), ("next", other), ("spare", "spare-".repeat(9).as_str())]
            {
                let name = format!("jenkins.{name}");
                if round < 2 {
                    place(&site, &name, &format!("{secret}\n"), 0o600);
                } else {
                    site.secret(&name, secret);
                }
            }
            let renewed =
                || std::fs::read_to_string(site.path("audit.jsonl")).unwrap().matches("\"renewed\"").count();
            wait_until("the change is used", || renewed() > round);
        }
        over.store(true, Ordering::Relaxed);
        for sender in senders {
            assert!(sender.join().unwrap() > 10);
        }
    });
    assert_eq!(alarms(&site), []);
}

#[test]
fn a_secret_that_vanishes_or_is_none_any_more_stops_verifying() {
    let site = site("");
    let gateway = site.serve();
    assert_eq!((signed(&gateway, FIRST), signed(&gateway, SECOND)), (202, 202));
    std::fs::remove_file(site.path("jenkins.secret")).unwrap();
    wait_for_alarm(&site, Some(("secret of key jenkins", "jenkins.secret` does not exist")));
    assert_eq!((signed(&gateway, FIRST), signed(&gateway, SECOND)), (404, 202));
    for (text, mode, part) in [
        ("short\n".to_owned(), 0o600, "fewer than 16 bytes"),
        (format!("{FIRST}\n"), 0o644, "is readable by"),
    ] {
        place(&site, "jenkins.secret", &text, mode);
        wait_for_alarm(&site, Some(("secret of key jenkins", part)));
        assert_eq!((signed(&gateway, FIRST), signed(&gateway, SECOND)), (404, 202), "{part}");
    }
    place(&site, "jenkins.secret", "a-third-secret-of-jenkins-that-is-long-enough\n", 0o600);
    wait_for_alarm(&site, None);
    assert_eq!(signed(&gateway, FIRST), 404);
    assert_eq!(signed(&gateway, "a-third-secret-of-jenkins-that-is-long-enough"), 202);
    // Through a directory that is exchanged as a whole.
    std::fs::create_dir(site.path("a")).unwrap();
    site.secret("a/secret", FIRST);
    std::os::unix::fs::symlink("a/secret", site.path(".link")).unwrap();
    std::fs::rename(site.path(".link"), site.path("jenkins.secret")).unwrap();
    wait_until("the linked secret verifies", || signed(&gateway, FIRST) == 202);
    let log = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(log.contains("\"kind\":\"renewed\"") && log.contains("\"kind\":\"alarm_over\""), "{log}");
}

#[test]
fn a_certificate_that_is_revoked_while_its_connection_lives_is_refused_and_the_connection_ends() {
    let site = site("");
    let (bad, good) = (site.node("bad.example.com", &[]), site.node("good.example.com", &[]));
    place(&site, "crl.pem", &crl(&site, 5, &[]), 0o644);
    let gateway = site.serve();
    let post = gateway.get("/x").replacen("GET", "POST", 1);
    let (mut live, mut other) = (gateway.connect_as(&bad), gateway.connect_as(&good));
    assert_eq!((live.ask(&post).status, other.ask(&post).status), (202, 202));
    place(&site, "crl.pem", &crl(&site, 6, &[&bad]), 0o644);
    let revoked = Instant::now();
    let refused = loop {
        let response = live.ask(&post);
        if response.status != 202 {
            break response;
        }
        assert!(revoked.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(refused.is_wall() && refused.header("connection") == Some("close"), "{refused:?}");
    assert!(live.is_closed());
    assert_eq!(other.ask(&post).status, 202);
    let again = gateway.try_connect(Some(&bad)).and_then(|mut tls| {
        tls.write(post.as_bytes())?;
        tls.read()
    });
    assert!(again.is_err(), "{again:?}");

    // Whatever takes the place of the list, the last good one stays.
    let elsewhere = Authority::new("Test CA", days(30)).unwrap();
    let whole = crl(&site, 7, &[]);
    for (text, part) in [
        (String::new(), "holds no revocation list"),
        (whole[..whole.len() / 2].to_owned(), "damaged"),
        ("garbage\n".to_owned(), "holds no revocation list"),
        (elsewhere.numbered_crl(9, &[], days(30)).unwrap(), "is not signed by CN=Test CA"),
        (crl(&site, 5, &[]), "is older than the one in force"),
    ] {
        place(&site, "crl.pem", &text, 0o644);
        wait_for_alarm(&site, Some(("trust", part)));
        assert_eq!(other.ask(&post).status, 202, "{part}");
        assert!(gateway.log.wait_for(|line| line.contains("\"alarm\"") && line.contains(part)).is_some());
        let refused = gateway.try_connect(Some(&bad)).and_then(|mut tls| {
            tls.write(post.as_bytes())?;
            tls.read()
        });
        assert!(refused.is_err(), "{part}: {refused:?}");
        // A reload does not take it either.
        let reload = bridgeward(&["reload", "--socket", site.path("admin.sock").to_str().unwrap()]);
        assert_eq!(reload.status.code(), Some(1), "{part}");
        assert!(String::from_utf8(reload.stderr).unwrap().contains(part), "{part}");
    }
    place(&site, "crl.pem", &whole, 0o644);
    wait_until("a good list ends the alarm", || !alarms(&site).iter().any(|(alarm, _)| alarm == "trust"));
    assert_eq!(gateway.send_as(&bad, &post).status, 202, "the CA says so itself");
}

#[test]
fn at_a_cold_start_a_bad_list_is_an_error() {
    let site = site("");
    let stranger = Authority::new("Test CA", days(30)).unwrap();
    let whole = crl(&site, 1, &[]);
    for text in ["", "garbage\n", &whole[..whole.len() / 2], &stranger.crl(&[], days(30)).unwrap()] {
        place(&site, "crl.pem", text, 0o644);
        let log = site.try_serve().err().unwrap();
        assert!(log.contains("the CRL file: ") && log.contains("client_crl = \"crl.pem\""), "{log}");
    }
    // All that is wrong with both files is said at once.
    let client = site.node("node.example.com", &[]);
    place(&site, "ca.pem", &format!("{}{}", site.ca_pem, client.certificate), 0o644);
    place(&site, "crl.pem", &format!("{whole}{whole}"), 0o644);
    let log = site.try_serve().err().unwrap();
    assert!(log.contains("is not a CA's") && log.contains("is a second one of CN=Test CA"), "{log}");
}

#[test]
fn a_list_that_nobody_refreshes_makes_certificates_say_nothing() {
    let site = Site::new();
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("[queue]", "crl_max_age = \"7d\"\n[queue]"), 0o644);
    site.configure("[admin]\nsocket = \"admin.sock\"");
    site.route("x", ROUTE);
    let gateway = site.serve();
    let node = site.node("node.example.com", &[]);
    let post = gateway.get("/x").replacen("GET", "POST", 1);
    let mut live = gateway.connect_as(&node);
    assert_eq!(live.ask(&post).status, 202);
    let set_age = |days: u64| {
        let file = std::fs::File::options().write(true).open(site.path("crl.pem")).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(days * 86_400)).unwrap();
    };
    set_age(8);
    wait_for_alarm(&site, Some(("trust", "older than listen.crl_max_age")));
    let refused = live.ask(&post);
    assert!(refused.is_wall() && live.is_closed(), "{refused:?}");
    let refused = gateway.try_connect(Some(&node)).and_then(|mut tls| {
        tls.write(post.as_bytes())?;
        tls.read()
    });
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(signed(&gateway, FIRST), 202, "signatures do not depend on it");
    // A restart knows it, too, and says so before anybody is refused.
    let check = bridgeward(&["check", "--policy", site.dir.path().to_str().unwrap()]);
    let warned = String::from_utf8(check.stderr).unwrap();
    assert!(check.status.code() == Some(0) && warned.contains("older than listen.crl_max_age"), "{warned}");
    set_age(6);
    wait_for_alarm(&site, None);
    assert_eq!(gateway.send_as(&node, &post).status, 202);
}
