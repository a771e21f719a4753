//! A gate and its workers in two processes: what holds across their socket, and what a broken-into gate can do with it.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::metrics::scrape;
use crate::support::*;

const NOBODY: u32 = 65534;

/// Two policies: the gate's is that of the site, the workers' has a directory of its own.
pub struct Pair {
    pub site: Site,
    gate_user: &'static str,
}

/// Workers that run; they are killed when dropped.
pub struct Workers {
    child: Child,
    pub log: Arc<Log>,
}

impl Pair {
    /// `gate_user` may submit; where it is empty, root and the own user may.
    pub fn new(gate_user: &'static str) -> Self {
        let site = Site::new();
        let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
        let text = text
            .replace("file = \"queue.db\"", "file = \"/nowhere/queue.db\"\nsocket = \"run/queue.sock\"")
            .replace("\"audit.jsonl\"", "\"gate/audit.jsonl\"");
        site.write("gateway.toml", &format!("{text}[admin]\nsocket = \"gate/admin.sock\"\n"), 0o644);
        for directory in ["run", "gate", "work", "work/routes"] {
            std::fs::create_dir(site.path(directory)).unwrap();
            std::fs::set_permissions(site.path(directory), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let gate =
            if gate_user.is_empty() { String::new() } else { format!("gate_user = \"{gate_user}\"\n") };
        site.write(
            "work/gateway.toml",
            &format!(
                "[queue]\nfile = \"queue.db\"\nsocket = \"../run/queue.sock\"\n{gate}\
                 [audit]\nfile = \"audit.jsonl\"\n[admin]\nwork_socket = \"admin.sock\"\n"
            ),
            0o644,
        );
        Self { site, gate_user }
    }

    /// Writes a route into both policies.
    pub fn route(&self, name: &str, text: &str) {
        self.site.route(name, text);
        self.site.write(&format!("work/routes/{name}.toml"), text, 0o644);
    }

    fn socket(&self) -> PathBuf {
        self.site.path("run/queue.sock")
    }

    pub fn work(&self) -> Workers {
        let mut command = Command::new(BINARY);
        command.args(["work", "--log-format", "json", "--policy"]).arg(self.site.path("work"));
        let started = launch(command, "waiting for submissions");
        let (child, log, _) = started.unwrap_or_else(|log| panic!("no workers:\n{log}"));
        Workers { child, log }
    }

    /// The gate; as the user `nobody` where that is the gate's user.
    pub fn gate(&self) -> Running {
        let mut command = Command::new(BINARY);
        if self.gate_user == "nobody" {
            let own = self.site.path("bridgeward");
            if !own.exists() {
                // Where the tests are built, others may not be able to look.
                std::fs::copy(BINARY, &own).unwrap();
                for name in ["gate", "server.key", "jenkins.secret", "jenkins.next"] {
                    std::os::unix::fs::chown(self.site.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
                }
                std::fs::set_permissions(self.site.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
            }
            command = as_nobody(&own);
        }
        command.args(["serve", "--no-workers", "--log-format", "json", "--policy"]).arg(self.site.dir.path());
        self.site.try_start(command).unwrap_or_else(|log| panic!("no gate:\n{log}"))
    }

    /// Sends bytes to the workers' socket as they are, and reads what comes back.
    fn say(&self, bytes: &[u8]) -> Option<Value> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // They may hang up before all of it is written.
        let _ = stream.write_all(bytes);
        answer(&mut stream)
    }

    fn ask(&self, question: &Value) -> Value {
        self.say(&frame(question.to_string().as_bytes())).unwrap()
    }

    pub fn audit(&self, file: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.site.path(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Workers {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the end.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().unwrap().success(), "{}", self.log.text());
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn frame(json: &[u8]) -> Vec<u8> {
    [&u32::try_from(json.len()).unwrap().to_be_bytes(), json].concat()
}

/// The answer, when there is one.
fn answer(stream: &mut UnixStream) -> Option<Value> {
    let mut bytes = Vec::new();
    // Whoever was turned away before all was read sees the connection reset.
    let _ = stream.read_to_end(&mut bytes);
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().unwrap());
    assert_eq!(bytes.len(), 4 + usize::try_from(length).unwrap());
    Some(serde_json::from_slice(&bytes[4..]).unwrap())
}

/// A route that takes the parameter `id` and appends it to `ran`.
pub fn route(pair: &Pair, more: &str) -> String {
    let program =
        pair.site.program("program", &format!("echo \"$1\" >> {}", pair.site.path("ran").display()));
    format!(
        "method = \"POST\"\npath = \"/job\"\n[[allow]]\nkey = [\"jenkins\"]\n\
         [parameters]\nid = {{ from = \"body:/id\", integer = {{ min = 0, max = 9999 }} }}\n\
         [run]\nsteps = [[\"{program}\", \"{{id}}\"]]\n{more}\n"
    )
}

/// What an honest gate would submit for `id`.
fn request(id: &str) -> Value {
    let (now, nonce) = (now(), fresh_nonce());
    let later = now + std::time::Duration::from_secs(600);
    json!({
        "route": "job",
        "parameters": { "id": id },
        "identity": "key:jenkins",
        "proofs": { "certificate": null, "key": "jenkins", "source": "127.0.0.1" },
        "message": {
            "scope": "key:jenkins", "id": nonce, "digest": "ab".repeat(32),
            "created": now.to_string(), "keep_until": later.to_string()
        },
        "at": now.to_string(),
        "head": { "seq": 7, "sha256": "cd".repeat(32) }
    })
}

fn submit(request: &Value) -> Value {
    json!({ "submit": request })
}

pub fn body(id: u32) -> String {
    format!("{{\"id\":{id}}}")
}

#[test]
fn i4_a_body_crosses_the_socket_for_routes_that_take_one_and_no_others() {
    let pair = Pair::new("");
    let takes = "method = \"POST\"\npath = \"/cat\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n\
                 [run]\nsteps = [[\"/usr/bin/cat\"]]\nrespond = \"result\"\nstdin = \"body\"\n";
    pair.route("cat", takes);
    pair.route("job", &route(&pair, ""));
    let _workers = pair.work();
    let gate = pair.gate();
    let answer = gate.send(&gate.post("/cat", "as \u{1} it \"is\"\n").request()).json();
    assert_eq!(answer["steps"][0]["output"], "as \u{1} it \"is\"\n", "{answer}");

    let mut not_taken = request("1");
    not_taken["body"] = json!("aGk=");
    let answer = pair.ask(&submit(&not_taken));
    assert!(answer.to_string().contains("read no body"), "{answer}");
    let mut missing = request("1");
    (missing["route"], missing["parameters"]) = (json!("cat"), json!({}));
    let answer = pair.ask(&submit(&missing));
    assert!(answer.to_string().contains("read the request's body"), "{answer}");
    missing["body"] = json!("no base64");
    assert!(pair.ask(&submit(&missing)).to_string().contains("not a frame"));
}

#[test]
fn a_gate_without_rights_submits_and_workers_run_and_tell() {
    let pair = Pair::new(if is_root() { "nobody" } else { "" });
    pair.route("job", &route(&pair, ""));
    pair.route("wait", &route(&pair, "respond = \"result\"").replace("/job", "/wait"));
    let workers = pair.work();
    let gate = pair.gate();
    let signing = gate.post("/job", &body(1));
    let accepted = gate.send(&signing.request());
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let view = gate.ended(&accepted.location());
    assert_eq!((&view["state"], &view["identity"]), (&json!("succeeded"), &json!("key:jenkins")));
    assert_eq!(view["steps"][0]["argv"][1], "1");
    let again = gate.send(&signing.request()).json();
    assert_eq!((&again["job"], &again["duplicate"]), (&accepted.json()["job"], &json!(true)));
    let mut other = gate.post("/job", &body(2));
    other.nonce = signing.nonce;
    assert_eq!(gate.send(&other.request()).status, 409);
    let waited = gate.send(&gate.post("/wait", &body(3)).request());
    assert_eq!((waited.status, &waited.json()["state"]), (200, &json!("succeeded")), "{waited:?}");
    let preferred = gate.post("/job", &body(4)).header("prefer", "wait=20", false);
    assert_eq!(gate.send(&preferred.request()).status, 200);
    assert!(gate.send(&Signing::new("GET", &gate.authority(), "/-/jobs/x", "").request()).is_wall());
    assert_eq!(wait_for_lines(&pair.site.path("ran"), 3), ["1", "3", "4"]);

    let policy = pair.site.dir.path().to_str().unwrap().to_owned();
    let list = bridgeward(&["jobs", "list", "--policy", &format!("{policy}/work")]);
    assert_eq!(String::from_utf8_lossy(&list.stdout).matches("succeeded").count(), 3, "{list:?}");
    let elsewhere = bridgeward(&["jobs", "list", "--policy", &policy]);
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("admin.work_socket"), "{elsewhere:?}");
    if is_root() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gate.child.id())).unwrap();
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
        assert_eq!(
            std::fs::metadata(pair.site.path("work/queue.db")).unwrap().permissions().mode() & 0o077,
            0
        );
    }
    assert_eq!(gate.stop().code(), Some(0));
    workers.stop();
    assert!(!pair.socket().exists(), "removed at the end");
}

#[test]
fn i10_neither_log_can_be_cut_without_the_other_showing_it() {
    let pair = Pair::new("");
    pair.route("job", &route(&pair, ""));
    let (workers, gate) = (pair.work(), pair.gate());
    for id in 0..3 {
        let accepted = gate.send(&gate.post("/job", &body(id)).request());
        gate.ended(&accepted.location());
    }
    assert_eq!(gate.stop().code(), Some(0));
    workers.stop();
    let (ours, theirs) = ("gate/audit.jsonl", "work/audit.work.jsonl");
    let submitted = pair.audit(theirs).into_iter().filter(|line| line["kind"] == "submitted");
    assert_eq!(submitted.filter(|line| line["gate"]["seq"].is_u64()).count(), 3);
    let verify = |file: &str, beside: &str| {
        let path = |name| pair.site.path(name).to_str().unwrap().to_owned();
        bridgeward(&["audit", "verify", &path(file), "--heads-in", &path(beside)])
    };
    for (file, beside) in [(ours, theirs), (theirs, ours)] {
        let whole = verify(file, beside);
        assert!(whole.status.success(), "{whole:?}");
        assert!(
            String::from_utf8_lossy(&whole.stdout).contains("heads that others recorded: 3"),
            "{whole:?}"
        );
        let text = std::fs::read_to_string(pair.site.path(file)).unwrap();
        let last = pair
            .audit(beside)
            .iter()
            .rev()
            .find_map(|line| line["gate"]["seq"].as_u64().or(line["worker"]["seq"].as_u64()));
        let lines: Vec<&str> = text.lines().collect();
        let kept = usize::try_from(last.unwrap()).unwrap() - 1;
        std::fs::write(pair.site.path(file), lines[..kept].join("\n") + "\n").unwrap();
        let cut = verify(file, beside);
        assert_eq!(cut.status.code(), Some(1), "{cut:?}");
        assert!(String::from_utf8_lossy(&cut.stderr).contains("its end was cut off"), "{cut:?}");
        std::fs::write(pair.site.path(file), text).unwrap();
    }
}

#[test]
fn each_of_the_two_shows_what_it_counts_itself() {
    let pair = Pair::new("");
    let text = route(&pair, "");
    pair.site.route("job", &text);
    pair.site.write("work/routes/job.toml", &text.replace("max = 9999", "max = 1"), 0o644);
    let (_workers, gate) = (pair.work(), pair.gate());
    let [own, theirs] = ["gate/admin.sock", "work/admin.sock"].map(|socket| pair.site.path(socket));
    let alarm = || scrape(&own).get("alarm{kind=\"disagreement\"}");
    let send = |id: u32| gate.send(&gate.post("/job", &body(id)).request()).status;
    assert_eq!((send(1), alarm()), (202, 0.0));
    assert_eq!((send(2), alarm()), (503, 1.0));
    // That others are offered what they ask for does not help who asks for 2.
    assert_eq!((send(1), alarm()), (202, 1.0));
    let [gate, work] = [scrape(&own), scrape(&theirs)];
    for shown in [&gate, &work] {
        assert_eq!(shown.get("decisions_total{route=\"job\",outcome=\"accepted\"}"), 2.0);
        assert_eq!(shown.get("ready"), 1.0);
    }
    assert_eq!(gate.get("decisions_total{route=\"job\",outcome=\"not_stored\"}"), 1.0);
    assert_eq!(work.get("submissions_turned_away_total"), 1.0);
    let [gate, work] = [gate.families(), work.families()];
    assert!(
        gate.contains_key("bridgeward_connections_open") && !gate.contains_key("bridgeward_jobs_waiting")
    );
    assert!(
        !work.contains_key("bridgeward_connections_open") && work.contains_key("bridgeward_jobs_waiting")
    );
}

#[test]
fn i5_while_the_workers_are_away_nothing_is_accepted_and_then_it_is_by_itself() {
    let pair = Pair::new("");
    pair.route("job", &route(&pair, ""));
    let gate = pair.gate();
    let ready = || http(&pair.site.path("gate/admin.sock"), "/readyz");
    let refused = |signing: &Signing| {
        let response = gate.send(&signing.request());
        assert_eq!((response.status, response.header("retry-after")), (503, Some("5")), "{response:?}");
    };
    let first = gate.post("/job", &body(0));
    refused(&first);
    let (status, text) = ready();
    assert_eq!(status, 503);
    assert!(text.contains("no workers listen on"), "{text}");
    assert!(gate.send(&gate.get("/job")).is_wall());

    let mut accepted = Vec::new();
    for id in 1..=2 {
        let workers = pair.work();
        assert_eq!(ready().0, 200);
        // What was refused is not remembered anywhere.
        if id == 1 {
            assert_eq!(gate.send(&first.request()).json().get("duplicate"), None);
        }
        let signing = gate.post("/job", &body(id));
        let response = gate.send(&signing.request());
        assert_eq!(response.status, 202, "{response:?}");
        accepted.push((signing, response.json()["job"].clone()));
        if id == 1 {
            workers.kill();
        } else {
            workers.stop();
        }
        refused(&gate.post("/job", &body(9)));
        assert_eq!(ready().0, 503);
    }
    let _workers = pair.work();
    for (signing, job) in accepted {
        let replay = gate.send(&signing.request()).json();
        assert_eq!((&replay["job"], &replay["duplicate"]), (&job, &json!(true)));
        let view = gate.ended(&format!("/-/jobs/{}", job.as_str().unwrap()));
        assert!(matches!(view["state"].as_str(), Some("succeeded" | "interrupted")), "{view}");
    }
    assert!(gate.log.wait_for(|line| line.contains("can be reached again")).is_some());
}

#[test]
fn i6_a_submission_whose_answer_was_lost_is_one_job() {
    let pair = Pair::new("");
    pair.route("job", &route(&pair, ""));
    // Stands in for workers that die after they have read.
    let dying = UnixListener::bind(pair.socket()).unwrap();
    let gate = pair.gate();
    let signing = gate.post("/job", &body(7));
    let read = std::thread::spawn(move || {
        let (mut stream, _) = dying.accept().unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    });
    let lost = gate.send(&signing.request());
    assert_eq!((lost.status, lost.header("retry-after")), (503, Some("5")), "{lost:?}");
    let question = read.join().unwrap();
    let said: Value = serde_json::from_slice(&question).unwrap();
    assert_eq!(said["submit"]["parameters"], json!({ "id": "7" }));
    let _workers = pair.work();
    let stored = pair.say(&frame(&question)).unwrap();
    assert_eq!(stored["submitted"]["how"], "fresh", "{stored}");
    // Replayed frames, too, are one message.
    assert_eq!(pair.say(&frame(&question)).unwrap()["submitted"]["how"], "duplicate");
    let again = gate.send(&signing.request());
    assert_eq!((again.status, &again.json()["duplicate"]), (202, &json!(true)), "{again:?}");
    assert_eq!(again.json()["job"], stored["submitted"]["job"]);
    gate.ended(&again.location());
    assert_eq!(wait_for_lines(&pair.site.path("ran"), 1), ["7"]);
}

#[test]
fn requests_join_over_the_socket_and_each_sees_the_end() {
    let pair = Pair::new("");
    let (ran, go) = (pair.site.path("ran"), pair.site.path("go"));
    let text = route(&pair, "coalesce = true");
    pair.site.program(
        "program",
        &format!("echo \"$1\" >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done", ran.display(), go.display()),
    );
    pair.route("job", &text);
    let (_workers, gate) = (pair.work(), pair.gate());
    let runs = gate.send(&gate.post("/job", &body(1)).request());
    wait_for_lines(&ran, 1);
    let waits = gate.send(&gate.post("/job", &body(1)).request());
    let joins = gate.send(&gate.post("/job", &body(1)).request());
    assert_ne!(runs.json()["job"], waits.json()["job"]);
    assert_eq!((&joins.json()["job"], &joins.json()["coalesced"]), (&waits.json()["job"], &json!(true)));
    std::fs::write(&go, "").unwrap();
    assert_eq!(gate.ended(&joins.location())["state"], "succeeded");
    assert_eq!(wait_for_lines(&ran, 2), ["1", "1"]);
}

#[test]
fn i4_a_gate_cannot_get_what_the_workers_policy_does_not_offer() {
    let pair = Pair::new("");
    pair.route("job", &route(&pair, ""));
    pair.site.route("other", &route(&pair, "").replace("/job", "/other"));
    let stricter = route(&pair, "").replace("9999", "99");
    pair.site.write("work/routes/job.toml", &stricter, 0o644);
    let (workers, gate) = (pair.work(), pair.gate());
    for (path, id) in [("/other", 1), ("/job", 100)] {
        let refused = gate.send(&gate.post(path, &body(id)).request());
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")), "{refused:?}");
        assert!(!refused.text().contains("policy"), "{refused:?}");
    }
    assert!(gate.log.wait_for(|line| line.contains("policy does not offer")).is_some());
    assert_eq!(gate.send(&gate.post("/job", &body(99)).request()).status, 202);
    assert_eq!(wait_for_lines(&pair.site.path("ran"), 1), ["99"]);

    // The same without a gate in between.
    let change = |change: &dyn Fn(&mut Value)| {
        let mut request = request("5");
        change(&mut request);
        pair.ask(&submit(&request))
    };
    for (index, hostile) in [
        change(&|request| request["route"] = json!("other")),
        change(&|request| request["parameters"] = json!({})),
        change(&|request| request["parameters"] = json!({ "id": "100" })),
        change(&|request| request["parameters"] = json!({ "id": "1;id" })),
        change(&|request| request["parameters"] = json!({ "id": "1", "argv": "/bin/sh" })),
        change(&|request| request["identity"] = json!("key:other")),
        change(&|request| request["identity"] = json!("certname:node.example.com")),
        change(&|request| request["proofs"]["key"] = json!("other")),
        change(&|request| request["proofs"]["key"] = Value::Null),
        change(&|request| request["identity"] = json!(format!("certname:{}", "x".repeat(100_000)))),
    ]
    .into_iter()
    .enumerate()
    {
        let told = &hostile;
        assert!(told.get("disagrees").or(told.get("unavailable")).is_some(), "{index}: {told}");
    }
    assert_eq!(gate.stop().code(), Some(0));
    workers.stop();
    assert_eq!(wait_for_lines(&pair.site.path("ran"), 1), ["99"]);
    let turned_away = |line: &&Value| line["kind"] == "turned_away" || line["kind"] == "refusals";
    let log = pair.audit("work/audit.work.jsonl");
    assert!(log.iter().filter(turned_away).count() >= 3, "{log:#?}");
    assert!(log.iter().all(|line| line.to_string().len() < 4096), "what is refused is not kept at length");
    assert_eq!(log.iter().filter(|line| line["kind"] == "submitted").count(), 1);
    assert!(pair.audit("gate/audit.jsonl").iter().any(|line| line["kind"] == "not_stored"));
}

#[test]
fn i7_what_is_no_question_is_refused_and_harms_nobody() {
    let pair = Pair::new("");
    pair.route("job", &route(&pair, ""));
    let workers = pair.work();
    let good = submit(&request("5")).to_string();
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{from} is not in {good}");
        good.replacen(from, to, 1).into_bytes()
    };
    for hostile in [
        b"".to_vec(),
        b"{}".to_vec(),
        b"null".to_vec(),
        b"\"submit\"".to_vec(),
        b"[]".to_vec(),
        b"\xff\xfe".to_vec(),
        b"[".repeat(100_000),
        b"{\"run\":{\"argv\":[\"/bin/sh\"]}}".to_vec(),
        b"{\"look_up\":{\"job\":\"1\"}}".to_vec(),
        b"{\"look_up\":{\"job\":\"01890a5d-ac96-774b-bcce-b302099a8057\",\"by\":[],\"more\":1}}".to_vec(),
        b"{\"await_end\":{\"job\":\"01890a5d-ac96-774b-bcce-b302099a8057\",\"milliseconds\":-1}}".to_vec(),
        format!("{good} {good}").into_bytes(),
        good.as_bytes()[..good.len() - 1].to_vec(),
        replaced("{\"submit\":", "{\"submit\":{},\"submit\":"),
        replaced("\"route\":\"job\"", "\"route\":\"job\",\"route\":\"job\""),
        replaced("\"id\":\"5\"", "\"id\":\"6\",\"id\":\"5\""),
        replaced("\"route\":\"job\"", "\"route\":\"job\",\"argv\":[\"/bin/sh\"]"),
        replaced("\"route\":\"job\"", "\"route\":\"../job\""),
        replaced("\"route\":", &format!("\"{}\":1,\"route\":", "x".repeat(10_000))),
        replaced("\"id\":\"5\"", "\"id\":5"),
        replaced("\"id\":\"5\"", "\"ID\":\"5\""),
        replaced("\"key\":\"jenkins\"", "\"key\":\"jenkins\",\"uid\":0"),
        replaced("key:jenkins", "root:jenkins"),
        replaced("\"seq\":7", "\"seq\":-7"),
        replaced(&"cd".repeat(32), &"CD".repeat(32)),
        replaced("\"message\":{", "\"message\":{\"job\":1,"),
        replaced("\"scope\":\"key:jenkins\"", "\"scope\":\"key:other\""),
        replaced(
            "\"scope\":\"key:jenkins\"",
            &format!("\"scope\":\"key:jenkins route:{}\"", "x".repeat(100)),
        ),
    ] {
        let told = pair.say(&frame(&hostile)).unwrap();
        assert!(told["unavailable"]["reason"].is_string(), "{}: {told}", String::from_utf8_lossy(&hostile));
    }
    // Longer than they may be, and shorter than they say.
    let told = pair.say(&u32::MAX.to_be_bytes()).unwrap();
    assert!(told["unavailable"]["reason"].as_str().unwrap().contains("are the most"), "{told}");
    let mut cut = UnixStream::connect(pair.socket()).unwrap();
    cut.write_all(&frame(good.as_bytes())[..50]).unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(answer(&mut cut).unwrap()["unavailable"].is_object());
    // Silent ones, slow ones, and waits for what does not end: more than there are places for questions.
    let silent: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(pair.socket()).unwrap()).collect();
    let mut slow = UnixStream::connect(pair.socket()).unwrap();
    slow.write_all(&[0, 0]).unwrap();
    let gate = pair.gate();
    let accepted = gate.send(&gate.post("/job", &body(5)).request());
    assert_eq!(accepted.status, 202, "{accepted:?}");
    gate.ended(&accepted.location());
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(answer(&mut slow).unwrap()["unavailable"]["reason"].as_str().unwrap().contains("in time"));
    drop(silent);
    assert_eq!(wait_for_lines(&pair.site.path("ran"), 1), ["5"]);
    assert_eq!(gate.stop().code(), Some(0));
    workers.stop();
    let lines = pair.audit("work/audit.work.jsonl");
    assert!(lines.len() < 100, "as many lines a second as strangers get, not one each: {}", lines.len());
}

#[test]
fn a_gate_that_lies_about_times_leaves_nothing_behind() {
    let pair = Pair::new("");
    pair.route("job", &route(&pair, ""));
    let (_workers, gate) = (pair.work(), pair.gate());
    let far = "2099-01-01T00:00:00Z";
    let mut lie = request("1");
    lie["at"] = json!(far);
    lie["message"]["created"] = json!("2030-01-01T00:00:00Z");
    lie["message"]["keep_until"] = json!("1970-01-01T00:00:00Z");
    let told = pair.ask(&submit(&lie));
    let job = told["submitted"]["job"].as_str().unwrap_or_else(|| panic!("{told}")).to_owned();
    let view = gate.ended(&format!("/-/jobs/{job}"));
    let submitted: jiff::Timestamp = view["submitted"].as_str().unwrap().parse().unwrap();
    assert!(submitted <= now(), "{view}");
    lie["message"]["id"] = json!("another");
    lie["message"]["created"] = json!(far);
    assert!(pair.ask(&submit(&lie))["unavailable"].is_object());
    // Whatever was forgotten of it, honest messages are not.
    for id in 2..5 {
        assert_eq!(gate.send(&gate.post("/job", &body(id)).request()).status, 202);
    }
}

#[test]
fn workers_that_are_told_to_stop_finish_what_runs_and_keep_what_comes() {
    let pair = Pair::new("");
    let (ran, go) = (pair.site.path("ran"), pair.site.path("go"));
    let text = route(&pair, "");
    let script =
        format!("echo \"$1\" >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done", ran.display(), go.display());
    pair.site.program("program", &script);
    pair.route("job", &text);
    let (mut workers, gate) = (pair.work(), pair.gate());
    let runs = gate.send(&gate.post("/job", &body(1)).request());
    wait_for_lines(&ran, 1);
    workers.signal(Signal::TERM);
    workers.log.wait_for(|line| line.contains("stopping")).unwrap();
    let waits = gate.send(&gate.post("/job", &body(2)).request());
    assert_eq!(waits.status, 202, "{waits:?}");
    std::fs::write(&go, "").unwrap();
    assert!(workers.child.wait().unwrap().success());
    assert_eq!(wait_for_lines(&ran, 1), ["1"]);
    let _workers = pair.work();
    assert_eq!(gate.ended(&waits.location())["state"], "succeeded");
    assert_eq!(gate.ended(&runs.location())["state"], "succeeded");
    assert_eq!(wait_for_lines(&ran, 2), ["1", "2"]);
}

#[test]
fn only_the_gates_user_is_listened_to() {
    if !is_root() {
        // Only root can become somebody else.
        return;
    }
    // Where a user is named, not even root is taken for it.
    let pair = Pair::new("nobody");
    pair.route("job", &route(&pair, ""));
    let workers = pair.work();
    assert_eq!(std::fs::metadata(pair.socket()).unwrap().permissions().mode() & 0o777, 0o660);
    for question in [submit(&request("5")), json!("ready")] {
        let told = pair.ask(&question);
        assert!(told["unavailable"]["reason"].as_str().unwrap().contains("only the gate's user"), "{told}");
    }
    workers.stop();

    let pair = Pair::new("");
    pair.route("job", &route(&pair, ""));
    let workers = pair.work();
    std::fs::set_permissions(pair.site.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let intrude = || {
        let mut curl = as_nobody(Path::new("curl"));
        curl.args(["--silent", "--unix-socket"]).arg(pair.socket());
        curl.arg("http://x/").output()
    };
    assert_eq!(intrude().unwrap().status.code(), Some(7), "the file's mode");
    std::fs::set_permissions(pair.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    intrude().unwrap();
    let turned_away = |line: &str| line.contains("turned away") && line.contains("\"uid\":65534");
    assert!(workers.log.wait_for(turned_away).is_some());
    workers.stop();
    assert!(!pair.site.path("ran").exists());
}

#[test]
fn each_process_needs_what_it_uses_and_nothing_else() {
    let pair = Pair::new("");
    pair.route("job", &route(&pair, ""));
    let text = std::fs::read_to_string(pair.site.path("work/gateway.toml")).unwrap();
    let none = text.replace("socket = \"../run", "# \"");
    pair.site.write("work/gateway.toml", &none, 0o644);
    let failed = bridgeward(&["work", "--policy", pair.site.path("work").to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&failed.stderr).contains("`socket` is missing in `[queue]`"),
        "{failed:?}"
    );
    pair.site.write("work/gateway.toml", &text, 0o644);
    // What the gate holds is no matter of the workers, and what they hold none of the gate.
    for secret in ["server.key", "jenkins.secret"] {
        std::fs::remove_file(pair.site.path(secret)).unwrap();
    }
    let foreign = "\n[listen]\nprivate_key = \"/nowhere\"\n[keys.jenkins]\nsecrets = [\"/nowhere\"]\n";
    pair.site.write("work/gateway.toml", &format!("{text}{foreign}"), 0o644);
    let workers = pair.work();
    let second = bridgeward(&["work", "--policy", pair.site.path("work").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process listens on"), "{second:?}");
    workers.stop();
}

/// Status and body of a request to a socket for operators.
fn http(socket: &Path, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text)
}
