//! `GET /metrics` of the operators' socket: what is counted, by what, and that nobody outside can make it grow.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bridgeward::trust::mint::Authority;

use crate::support::*;

const ROUTE: &str = "method = \"POST\"\npath = \"/x\"\n[[allow]]\nkey = [\"jenkins\"]\n[[allow]]\ncertname = [\"node.example.com\"]\n\
                     [parameters]\nid = { from = \"body:/id\", integer = { min = 0, max = 9 } }\n\
                     [[when]]\nfrom = \"body:/ref\"\none_of = [\"main\"]\n[run]\nsteps = [[\"/bin/echo\", \"{id}\"]]\nconcurrency = 4\n";

/// One answer of `/metrics`, as it is and by sample: name and labels, and the number.
pub struct Scrape {
    text: String,
    samples: BTreeMap<String, f64>,
}

/// Asks the operators' socket for what it shows.
pub fn scrape(socket: &Path) -> Scrape {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, text) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(head.contains(kind), "{head}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let samples: BTreeMap<_, _> = lines
        .iter()
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(sample, value)| (sample.to_owned(), value.parse().unwrap()))
        .collect();
    assert_eq!(samples.len(), lines.len(), "each sample is there once:\n{text}");
    Scrape { text: text.to_owned(), samples }
}

impl Scrape {
    /// The number of one sample; its name without `bridgeward_`.
    pub fn get(&self, sample: &str) -> f64 {
        let value = self.samples.get(&format!("bridgeward_{sample}"));
        *value.unwrap_or_else(|| panic!("no {sample} in:\n{}", self.text))
    }

    fn labelled(&self) -> BTreeSet<&str> {
        self.samples.keys().map(String::as_str).collect()
    }

    /// Names as they are asked for, with types.
    pub fn families(&self) -> BTreeMap<String, String> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let named = types.map(|(name, kind)| match kind {
            "counter" => (format!("{name}_total"), kind.to_owned()),
            _ => (name.to_owned(), kind.to_owned()),
        });
        named.collect()
    }
}

fn site(limits: &str) -> Site {
    let site = Site::with_limits(limits);
    site.configure("[admin]\nsocket = \"admin.sock\"");
    site.route("x", ROUTE);
    site
}

/// Waits until a sample has a number: of what happens beside what a client sees.
fn wait_for(site: &Site, sample: &str, wanted: f64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = scrape(&site.path("admin.sock"));
        if shown.get(sample) == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{sample} does not become {wanted}:\n{}", shown.text);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn body(id: u32, branch: &str) -> String {
    format!("{{\"id\":{id},\"ref\":\"{branch}\"}}")
}

#[test]
fn what_becomes_of_requests_and_jobs_is_counted_by_route() {
    let site = site("");
    site.route("slow", &ROUTE.replace("/x", "/slow").replace("[run]", "[rate]\nlimit = \"1/h\"\n[run]"));
    let gateway = site.serve();
    let send = |path: &str, text: &str| gateway.send(&gateway.post(path, text).request()).status;
    let accepted = gateway.post("/x", &body(1, "main"));
    let first = gateway.send(&accepted.request());
    assert_eq!((first.status, gateway.send(&accepted.request()).status), (202, 202));
    gateway.ended(&first.location());
    assert_eq!(send("/x", &body(1, "other")), 200);
    assert_eq!(send("/x", &body(10, "main")), 400);
    assert_eq!(send("/x", "{"), 400);
    let mut conflict = gateway.post("/x", &body(2, "main"));
    conflict.nonce.clone_from(&accepted.nonce);
    assert_eq!(gateway.send(&conflict.request()).status, 409);
    assert_eq!((send("/slow", &body(1, "main")), send("/slow", &body(1, "main"))), (202, 429));

    assert!(gateway.send(&gateway.get("/x")).is_wall());
    assert!(gateway.send(&gateway.get("/nothing")).is_wall());
    gateway.connect().write(b"GET /x HTTP/1.1\nhost: x\n\n").unwrap();
    wait_for(&site, "refusals_total{reason=\"malformed\"}", 1.0);
    let mut forged = gateway.post("/x", &body(1, "main"));
    forged.secret = "none of the secrets of this policy at all".to_owned();
    assert!(gateway.send(&forged.request()).is_wall());
    assert!(gateway.send(&gateway.get("/x").replacen("GET", "POST", 1)).is_wall());

    wait_for(&site, "jobs_ended_total{route=\"slow\",state=\"succeeded\"}", 1.0);
    let shown = scrape(&site.path("admin.sock"));
    for (route, outcome, count) in [
        ("x", "accepted", 1.0),
        ("x", "duplicate", 1.0),
        ("x", "coalesced", 0.0),
        ("x", "ignored", 1.0),
        ("x", "parameter", 1.0),
        ("x", "body", 1.0),
        ("x", "conflict", 1.0),
        ("x", "not_stored", 0.0),
        ("slow", "accepted", 1.0),
        ("slow", "too_often", 1.0),
        ("", "accepted", 0.0),
    ] {
        let sample = format!("decisions_total{{route=\"{route}\",outcome=\"{outcome}\"}}");
        assert_eq!(shown.get(&sample), count, "{sample}");
    }
    for reason in ["wrong_method", "unknown_path", "signature", "nothing_proven"] {
        assert_eq!(shown.get(&format!("refusals_total{{reason=\"{reason}\"}}")), 1.0, "{reason}");
    }
    assert_eq!(shown.get("jobs_ended_total{route=\"x\",state=\"succeeded\"}"), 1.0);
    assert_eq!(shown.get("run_duration_seconds_count{route=\"x\"}"), 1.0);
    assert_eq!(shown.get("run_duration_seconds_bucket{le=\"+Inf\",route=\"slow\"}"), 1.0);
    assert_eq!((shown.get("commands_running"), shown.get("jobs_waiting")), (0.0, 0.0));
    assert_eq!((shown.get("ready"), shown.get("audit_omitted_total")), (1.0, 0.0));
}

#[test]
fn a_body_that_breaks_its_framing_is_one_refusal_of_whoever_sent_it() {
    let site = site("");
    let gateway = site.serve();
    let node = site.node("node.example.com", &[]);
    let head = "POST /x HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    for broken in ["1;a=b\r\n{\r\n0\r\n\r\n", "2\r\n{}\r\n0\r\na: b\r\n\r\n"] {
        for (mut tls, status) in [(gateway.connect(), " 404 "), (gateway.connect_as(&node), " 400 ")] {
            tls.write((head.to_owned() + broken).as_bytes()).unwrap();
            let answer = tls.rest();
            assert!(answer.contains(status), "{answer}");
        }
    }
    wait_for(&site, "connections_open", 0.0);
    let shown = scrape(&site.path("admin.sock"));
    assert_eq!(shown.get("decisions_total{route=\"x\",outcome=\"body\"}"), 2.0);
    assert_eq!(shown.get("refusals_total{reason=\"nothing_proven\"}"), 2.0);
    assert_eq!(shown.get("refusals_total{reason=\"malformed\"}"), 0.0);
    assert_eq!(gateway.stop().code(), Some(0));
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let refused: Vec<_> = audit.lines().filter(|line| line.contains("\"refused\"")).collect();
    assert_eq!(refused.len(), 4, "{audit}");
    assert!(refused.iter().all(|line| line.contains("; its body broke: ")), "{audit}");
}

#[test]
fn what_runs_and_what_waits_is_shown_and_an_end_is_counted_once() {
    let site = site("running = 1");
    let gate = site.path("gate");
    let program = site.program("program", &format!("while [ ! -e {} ]; do sleep 0.02; done", gate.display()));
    site.route("slow", &ROUTE.replace("/x", "/slow").replace("/bin/echo", &program));
    let gateway = site.serve();
    let submit = || gateway.send(&gateway.post("/slow", &body(1, "main")).request()).location();
    let first = submit();
    wait_for(&site, "commands_running", 1.0);
    let waiting = [submit(), submit()];
    wait_for(&site, "jobs_waiting", 2.0);
    let cancelled = waiting[0].trim_start_matches("/-/jobs/");
    let socket = site.path("admin.sock");
    assert_eq!(ask_socket(&socket, "POST", &format!("/jobs/{cancelled}/cancel")).0, 200);
    std::fs::write(&gate, "").unwrap();
    gateway.ended(&first);
    gateway.ended(&waiting[1]);
    wait_for(&site, "jobs_ended_total{route=\"slow\",state=\"succeeded\"}", 2.0);
    wait_for(&site, "commands_running", 0.0);
    let shown = scrape(&socket);
    assert_eq!(shown.get("jobs_ended_total{route=\"slow\",state=\"cancelled\"}"), 1.0);
    assert_eq!(shown.get("jobs_waiting"), 0.0);
    assert_eq!(gateway.stop().code(), Some(0));
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let ends = audit.lines().filter(|line| line.contains("\"finished\"") && line.contains(cancelled));
    assert_eq!(ends.count(), 1, "{audit}");
}

#[test]
fn what_becomes_of_connections_is_counted_by_reason() {
    let site =
        site("connections = 8\nconnections_per_source = 3\nconnections_per_identity = 1\nhandshake = \"1m\"");
    let gateway = site.serve();
    let held = [gateway.connect(), gateway.connect(), gateway.connect()];
    wait_for(&site, "connections_open", 3.0);
    // It waits, and the next one finds nowhere to.
    let waiting = TcpStream::connect(gateway.address).unwrap();
    assert!(gateway.try_connect(None).is_err());
    wait_for(&site, "connections_turned_away_total{reason=\"source\"}", 1.0);
    assert_eq!(scrape(&site.path("admin.sock")).get("connections_total"), 3.0, "who waits is not let in yet");
    drop(waiting);
    wait_for(&site, "handshakes_failed_total{reason=\"gone\"}", 1.0);
    drop(held);
    wait_for(&site, "connections_open", 0.0);

    let node = site.node("node.example.com", &[]);
    let mut one = gateway.connect_as(&node);
    assert!(one.ask(&gateway.get("/nothing")).is_wall());
    let mut other = gateway.connect_as(&node);
    assert!(other.is_closed());
    wait_for(&site, "connections_turned_away_total{reason=\"identity\"}", 1.0);

    let elsewhere = Authority::new("Another CA", days(30)).unwrap();
    let stranger = elsewhere.issue_client("node.example.com", &BTreeMap::new(), days(30)).unwrap();
    let refused = gateway.try_connect(Some(&stranger)).and_then(|mut tls| {
        tls.write(gateway.get("/x").as_bytes())?;
        tls.read()
    });
    assert!(refused.is_err(), "{refused:?}");
    wait_for(&site, "handshakes_failed_total{reason=\"certificate\"}", 1.0);
    let mut plain = TcpStream::connect(gateway.address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    wait_for(&site, "handshakes_failed_total{reason=\"tls\"}", 1.0);
    drop(TcpStream::connect(gateway.address).unwrap());
    wait_for(&site, "handshakes_failed_total{reason=\"gone\"}", 2.0);
    assert_eq!(scrape(&site.path("admin.sock")).get("connections_total"), 8.0);
}

#[test]
fn a_handshake_that_takes_too_long_is_counted() {
    let site = site("handshake = \"100ms\"");
    let gateway = site.serve();
    let _silent = TcpStream::connect(gateway.address).unwrap();
    wait_for(&site, "handshakes_failed_total{reason=\"too_slow\"}", 1.0);
    assert_eq!(scrape(&site.path("admin.sock")).get("connections_total"), 1.0);
}

#[test]
fn a_gateway_that_is_full_says_how_often_it_was() {
    let site = site("connections = 2");
    let gateway = site.serve();
    let _held = [gateway.connect(), gateway.connect()];
    wait_for(&site, "connections_turned_away_total{reason=\"overall\"}", 1.0);
    assert_eq!(scrape(&site.path("admin.sock")).get("connections_open"), 2.0);
}

#[test]
fn i7_changed_limits_of_a_source_hold_for_those_who_wait_too() {
    let site = site("connections = 8\nconnections_per_source = 2\nhandshake = \"1m\"");
    let gateway = site.serve();
    let socket = site.path("admin.sock");
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
        let [from, to] = [from, to].map(|number| format!("connections_per_source = {number}"));
        site.write("gateway.toml", &text.replace(&from, &to), 0o644);
        assert_eq!(ask_socket(&socket, "POST", "/reload").0, 200);
    };
    let another_is_turned_away = |turned_away| {
        assert!(gateway.try_connect(None).is_err());
        wait_for(&site, "connections_turned_away_total{reason=\"source\"}", turned_away);
    };
    // Whether one waits is seen by the next one that is turned away.
    let waits = |turned_away| {
        let waiting = TcpStream::connect(gateway.address).unwrap();
        another_is_turned_away(turned_away);
        waiting
    };
    let greet = |waiting| Tls::greet(waiting, &[], &site.ca_pem, None).unwrap();
    let mut held = vec![gateway.connect(), gateway.connect()];
    let waiting = waits(1.0);
    change("2", "3");
    held.push(greet(waiting));
    let waiting = waits(2.0);
    change("3", "1");
    // Whoever accepts connections hears of changed limits before the next connection.
    another_is_turned_away(3.0);
    for open in [3.0, 2.0] {
        drop(held.pop());
        wait_for(&site, "connections_open", open);
    }
    assert_eq!(scrape(&socket).get("connections_total"), 3.0, "it waits as long as one is open");
    drop(held);
    let mut last = greet(waiting);
    assert!(last.ask(&gateway.get("/x")).is_wall());
    assert_eq!(scrape(&socket).get("connections_total"), 4.0);
}

#[test]
fn i7_no_stranger_makes_it_grow_or_puts_a_word_into_it() {
    let site = site("requests_per_source = \"100000/s\"\nrefusals_logged = \"1/s\"");
    let gateway = site.serve();
    let before = scrape(&site.path("admin.sock"));
    let mut tls = gateway.connect();
    for number in 0..1000 {
        let hostile = format!(
            "GET /hostile{number}\"}}_1?hostile={{a=b}} HTTP/1.1\r\nhost: {}\r\nx-hostile{number}: 1\r\n\
             signature-input: hostile{number}=()\r\nuser-agent: hostile\r\n\r\n",
            gateway.authority()
        );
        let response = tls.ask(&hostile);
        assert!(response.is_wall(), "{response:?}");
    }
    let method = gateway.get("/x").replacen("GET", "HOSTILE", 1);
    assert!(tls.ask(&method).is_wall());
    let after = scrape(&site.path("admin.sock"));
    assert_eq!(before.labelled(), after.labelled());
    assert!(!after.text.to_lowercase().contains("hostile"), "{}", after.text);
    let counted: f64 =
        after.samples.iter().filter(|(sample, _)| sample.contains("refusals_total")).map(|(_, n)| n).sum();
    assert_eq!(counted, 1001.0);
    assert!(after.get("audit_counted_together_total") > 900.0);
}

#[test]
fn i7_a_route_that_is_no_more_takes_its_numbers_with_it() {
    let site = site("");
    let gate = site.path("gate");
    let program = site.program("program", &format!("while [ ! -e {} ]; do sleep 0.02; done", gate.display()));
    let former = ROUTE.replace("/x", "/former").replace("/bin/echo", &program);
    site.route("former", &former);
    let gateway = site.serve();
    let socket = site.path("admin.sock");
    for path in ["/x", "/former"] {
        assert_eq!(gateway.send(&gateway.post(path, &body(1, "main")).request()).status, 202);
    }
    wait_for(&site, "jobs_ended_total{route=\"x\",state=\"succeeded\"}", 1.0);
    let with = scrape(&socket);
    let reload = || assert_eq!(ask_socket(&socket, "POST", "/reload").0, 200);

    std::fs::remove_file(site.path("routes/former.toml")).unwrap();
    reload();
    let without = scrape(&socket);
    assert!(!without.text.contains("former"), "{}", without.text);
    assert_eq!(without.get("jobs_ended_total{route=\"x\",state=\"succeeded\"}"), 1.0, "others go on");
    assert_eq!(without.get("policy_reloads_total{result=\"loaded\"}"), 1.0);
    // Its jobs are counted all the same.
    std::fs::write(&gate, "").unwrap();
    wait_for(&site, "jobs_ended_total{route=\"\",state=\"succeeded\"}", 1.0);

    site.route("former", &former);
    reload();
    let again = scrape(&socket);
    assert_eq!(with.labelled(), again.labelled());
    assert_eq!(again.get("decisions_total{route=\"former\",outcome=\"accepted\"}"), 0.0);
    site.route("former", "method = 1");
    assert_eq!(ask_socket(&socket, "POST", "/reload").0, 422);
    let refused = scrape(&socket);
    assert_eq!(refused.get("policy_reloads_total{result=\"refused\"}"), 1.0);
    assert_eq!(refused.get("alarm{kind=\"reload\"}"), 1.0);
    std::fs::remove_file(site.path("routes/former.toml")).unwrap();
    reload();
    assert_eq!(scrape(&socket).get("alarm{kind=\"reload\"}"), 0.0);
}

#[test]
fn certificates_lists_and_readiness_are_shown_as_they_are() {
    let site = site("");
    std::fs::create_dir(site.path("log")).unwrap();
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    site.write("gateway.toml", &text.replace("audit.jsonl", "log/audit.jsonl"), 0o644);
    let began = now().as_second() as f64;
    let _gateway = site.serve();
    let socket = site.path("admin.sock");
    let shown = scrape(&socket);
    assert_eq!(shown.get(&format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert!((began..began + 60.0).contains(&shown.get("start_time_seconds")));
    let month = began + 30.0 * 86_400.0;
    for sample in ["certificate_expiry_time_seconds", "crl_next_update_time_seconds"] {
        let value = shown.get(sample);
        assert!((month - 60.0..month + 60.0).contains(&value), "{sample} {value}");
    }
    assert!(shown.get("crl_this_update_time_seconds") <= began);
    let written = std::fs::metadata(site.path("crl.pem")).unwrap().modified().unwrap();
    let written = jiff::Timestamp::try_from(written).unwrap().as_second() as f64;
    assert_eq!(shown.get("crl_file_modified_time_seconds"), written);

    std::fs::rename(site.path("log"), site.path("away")).unwrap();
    assert_eq!(scrape(&socket).get("ready"), 0.0);
    std::fs::rename(site.path("away"), site.path("log")).unwrap();
    assert_eq!(scrape(&socket).get("ready"), 1.0);
}

#[test]
fn the_table_of_metrics_names_what_is_shown_and_nothing_else() {
    let site = site("");
    let _gateway = site.serve();
    let shown = scrape(&site.path("admin.sock"));
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/policy/README.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `bridgeward_"));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split('|').map(str::trim).collect()).collect();
    let table: BTreeMap<String, String> =
        rows.iter().map(|row| (row[1].trim_matches('`').to_owned(), row[2].to_owned())).collect();
    assert_eq!(table, shown.families());
    for row in rows {
        let (name, labels) = (row[1].trim_matches('`'), row[3]);
        let told: BTreeSet<&str> = labels.split('`').skip(1).step_by(2).collect();
        let samples = shown.samples.keys().filter(|sample| sample.starts_with(name));
        let found: BTreeSet<&str> = samples
            .filter_map(|sample| sample.split_once('{'))
            .flat_map(|(_, labels)| labels.split('"').step_by(2))
            .map(|label| label.trim_matches([',', '=', '}']))
            .filter(|label| !label.is_empty() && *label != "le")
            .collect();
        assert_eq!(told, found, "{name}");
        assert_eq!(row[4] == "seconds", name.ends_with("_seconds"), "{name}");
    }
}

#[test]
fn prometheus_own_parser_reads_it() {
    let site = site("");
    let gateway = site.serve();
    gateway.ended(&gateway.send(&gateway.post("/x", &body(1, "main")).request()).location());
    let shown = scrape(&site.path("admin.sock"));
    let program = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
                   print(sum(len(family.samples) for family in read(sys.stdin.read())))";
    let mut reader = Command::new("python3")
        .env("PYTHONPATH", crate::foreign::installed("python"))
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    reader.stdin.take().unwrap().write_all(shown.text.as_bytes()).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", shown.text);
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), shown.samples.len().to_string());
}
