//! `call` as a whole, against a server that answers as a gateway does, or does not.
//! Not part of the program.

use std::io::Write as _;

use axum::http::Response;

use super::super::client::Target;
use super::super::client::fixture::{Ca, HANG_UP, Seen, Server};
use super::super::request::{Data, Headers};
use super::*;
use crate::policy::secret::Secret;

const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn busy(status: u16, retry_after: &str) -> Response<String> {
    Response::builder().status(status).header("retry-after", retry_after).body(String::new()).unwrap()
}

fn hang_up() -> Response<String> {
    Response::builder().status(HANG_UP).body(String::new()).unwrap()
}

/// A call of a server on `port`; what it had to say on both streams.
struct Caller(Call<Vec<u8>, Vec<u8>>);

impl Caller {
    fn new(ca: &Ca, port: u16, wait: bool) -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(ca.pem.as_bytes()).unwrap();
        let request = RequestArgs {
            url: Target::parse(&format!("https://localhost:{port}/promote")).unwrap(),
            data: Some(Data::Text("{}".into())),
            method: None,
            message_id: None,
            headers: Headers::default(),
        };
        let signer = Signer { key: KeyName::parse("jenkins").unwrap(), secret: Secret::new(b"x".to_vec()) };
        Self(Call {
            client: Client::new(&CaSource::File(file.path().into()), None).unwrap(),
            prepared: request.prepare(std::io::empty()).unwrap(),
            signer: Some(signer),
            with_certificate: false,
            wait,
            clock: Clock::manual(jiff::Timestamp::UNIX_EPOCH).0,
            first_pause: Duration::ZERO,
            first_look: Duration::ZERO,
            report: Report::new(Vec::new(), Vec::new(), Terminals { out: false, err: false }),
        })
    }

    fn said(self) -> (String, String) {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(self.0.report.out), text(self.0.report.err))
    }
}

async fn called(
    wait: bool,
    answer: fn(usize, &Seen) -> Response<String>,
) -> (bool, String, String, Vec<Seen>) {
    let ca = Ca::new("ours");
    let server = Server::start(ca.server("localhost", false, None), answer).await;
    let mut caller = Caller::new(&ca, server.address.port(), wait);
    let accepted = caller.0.perform().await.unwrap();
    let (out, err) = caller.said();
    (accepted, out, err, server.seen())
}

fn assert_all_the_same(seen: &[Seen]) {
    for again in &seen[1..] {
        assert_eq!(again.head.headers, seen[0].head.headers);
        assert_eq!(again.body, seen[0].body);
    }
}

fn accepted() -> Response<String> {
    let body = format!(r#"{{"job":"{JOB}","state":"queued"}}"#);
    let response = Response::builder().status(202).header("location", format!("/-/jobs/{JOB}"));
    response.body(body).unwrap()
}

fn job(status: u16, state: &str, outputs: &[&str]) -> Response<String> {
    let step = |output: &&str| serde_json::json!({"argv": ["/bin/x", "y"], "exit": {"code": 0}, "output": output, "truncated": false});
    let view = serde_json::json!({
        "job": JOB, "route": "promote", "state": state, "identity": "key:jenkins", "parameters": {},
        "submitted": "2025-11-22T12:00:00Z", "started": null, "finished": null,
        "steps": outputs.iter().map(step).collect::<Vec<_>>()
    });
    Response::builder().status(status).body(view.to_string()).unwrap()
}

/// A job whose next step has written this.
fn running(outputs: &[&str], written: &str) -> Response<String> {
    let mut view: serde_json::Value = serde_json::from_str(job(200, "running", outputs).body()).unwrap();
    view["running"] =
        serde_json::json!({"step": outputs.len() + 1, "argv": ["/bin/x", "y"], "output": written});
    Response::builder().status(200).body(view.to_string()).unwrap()
}

#[tokio::test]
async fn accepted_is_enough_without_wait() {
    let (accepted, out, err, seen) = called(false, |_, _| accepted()).await;
    assert!(accepted && out.is_empty() && err.contains(JOB), "{err}");
    assert_eq!(seen.len(), 1);
    assert!(seen[0].head.headers.contains_key("signature") && !seen[0].head.headers.contains_key("prefer"));
    assert_eq!(seen[0].head.headers["content-type"], "application/json");
}

#[tokio::test]
async fn i6_a_busy_gateway_gets_the_very_same_message_again() {
    let (accepted, _, err, seen) = called(false, |before, _| match before {
        0 => busy(503, "0"),
        1 => busy(429, "0"),
        _ => accepted(),
    })
    .await;
    assert!(accepted && err.contains("429") && err.contains("again in 0 s (try 3 of 5)"), "{err}");
    assert_eq!(seen.len(), 3);
    assert_all_the_same(&seen);
}

#[tokio::test]
async fn a_gateway_that_stays_busy_is_given_up_and_says_when_it_will_not_be() {
    let (accepted, _, _, seen) = called(false, |_, _| busy(503, "0")).await;
    assert!(!accepted);
    assert_eq!(seen.len(), 5);
    let (accepted, _, err, seen) = called(false, |_, _| busy(429, "61")).await;
    assert!(!accepted && err.contains("429 Too Many Requests; ") && err.contains("after 61 s"), "{err}");
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn i6_a_broken_connection_gets_the_very_same_message_again() {
    let (accepted, _, err, seen) = called(false, |before, _| match before {
        0 | 1 => hang_up(),
        _ => accepted(),
    })
    .await;
    assert!(accepted && err.contains("without an answer") && err.contains("the very same message"), "{err}");
    assert!(!err.contains("may have been accepted"), "{err}");
    assert_eq!(seen.len(), 3);
    assert_all_the_same(&seen);
}

#[tokio::test]
async fn when_all_connections_break_the_user_learns_where_to_look() {
    let ca = Ca::new("ours");
    let server = Server::start(ca.server("localhost", false, None), |_, _| hang_up()).await;
    let mut caller = Caller::new(&ca, server.address.port(), false);
    let error = caller.0.perform().await.unwrap_err().to_string();
    for said in ["5 times", "may have been accepted", "1970-01-01T00:00:00Z", "audit log"] {
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(!error.contains("docs.rs"), "{error}");
    assert_eq!(server.seen().len(), 5);
    // Once it is not known what became of a try, a later refusal to answer does not settle it.
    let (_, _, err, _) =
        called(false, |before, _| if before == 0 { hang_up() } else { busy(503, "99") }).await;
    assert!(err.contains("may have been accepted") && err.contains("after 99 s"), "{err}");
}

#[tokio::test]
async fn i6_with_a_certificate_alone_an_idempotency_key_makes_the_message_the_same() {
    let ca = Ca::new("ours");
    let answer = |before, _: &Seen| if before == 0 { hang_up() } else { accepted() };
    let server = Server::start(ca.server("localhost", false, None), answer).await;
    let mut caller = Caller::new(&ca, server.address.port(), false);
    caller.0.signer = None;
    caller.0.with_certificate = true;
    assert!(caller.0.perform().await.unwrap());
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].head.headers.contains_key("idempotency-key"));
    assert_all_the_same(&seen);
    // A second call is a second message.
    assert!(caller.0.perform().await.unwrap());
    let key = |seen: &Seen| seen.head.headers["idempotency-key"].clone();
    assert_ne!(key(&server.seen()[2]), key(&seen[0]));
}

#[tokio::test]
async fn i6_what_would_not_be_recognised_is_sent_once() {
    let ca = Ca::new("ours");
    let server = Server::start(ca.server("localhost", false, None), |_, _| hang_up()).await;
    let mut caller = Caller::new(&ca, server.address.port(), false);
    caller.0.signer = None;
    let error = caller.0.perform().await.unwrap_err().to_string();
    assert!(!error.contains("may have been"), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_gateway_that_is_about_to_listen_is_waited_for() {
    let ca = Ca::new("ours");
    let reserved = tokio::net::TcpSocket::new_v4().unwrap();
    reserved.set_reuseaddr(true).unwrap();
    reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut caller = Caller::new(&ca, reserved.local_addr().unwrap().port(), false);
    let serve = async {
        // By now the first connection was refused: nobody listens on a port that is only bound.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let listener = reserved.listen(16).unwrap();
        Server::start_on(listener, ca.server("localhost", false, None), |_, _| accepted())
    };
    let (outcome, server) = tokio::join!(caller.0.perform(), serve);
    assert!(outcome.unwrap());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_gateway_that_does_not_listen_is_given_up() {
    let ca = Ca::new("ours");
    let reserved = tokio::net::TcpSocket::new_v4().unwrap();
    reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut caller = Caller::new(&ca, reserved.local_addr().unwrap().port(), false);
    let error = caller.0.perform().await.unwrap_err().to_string();
    assert!(error.contains("is the gateway running") && !error.contains("accepted"), "{error}");
}

#[tokio::test]
async fn waiting_follows_the_job_with_fresh_signatures_and_prints_each_step_once() {
    let (succeeded, out, err, seen) = called(true, |before, _| match before {
        0 => accepted(),
        1 => job(200, "running", &["one\n"]),
        _ => job(200, "succeeded", &["one\n", "two\n"]),
    })
    .await;
    assert!(succeeded, "{err}");
    assert_eq!(out, "one\ntwo\n");
    assert!(err.contains("step 2: /bin/x y: exit code 0") && err.contains("succeeded"), "{err}");
    let told: Vec<_> = err.lines().collect();
    assert_eq!(told[0], format!("accepted: job {JOB}"));
    assert_eq!(told[1], format!("job {JOB}: running"));
    assert_eq!(told[2], "step 1: /bin/x y: exit code 0");
    assert_eq!(seen[0].head.headers["prefer"], "wait=0", "anything else would hold the connection");
    assert_eq!((seen[1].head.method.as_str(), seen[1].head.uri.path()), ("GET", &*format!("/-/jobs/{JOB}")));
    let inputs: std::collections::BTreeSet<_> =
        seen.iter().map(|seen| seen.head.headers["signature-input"].as_bytes()).collect();
    assert_eq!(inputs.len(), 3);
}

#[tokio::test]
async fn waiting_prints_what_a_step_writes_while_it_runs_and_nothing_twice() {
    let (succeeded, out, err, _) = called(true, |before, _| match before {
        0 => accepted(),
        1 => running(&[], "on"),
        2 => running(&[], "one\nmo"),
        3 => running(&["one\nmore\n"], "\u{e9}"),
        _ => job(200, "succeeded", &["one\nmore\n", "\u{e9}t\u{e9}\n"]),
    })
    .await;
    assert!(succeeded, "{err}");
    assert_eq!(out, "one\nmore\n\u{e9}t\u{e9}\n");
    assert_eq!(err.matches("exit code 0").count(), 2, "{err}");
}

#[tokio::test]
async fn nothing_that_a_sender_or_a_command_chose_acts_upon_a_terminal() {
    let hostile = |before, _: &Seen| {
        if before == 0 {
            return accepted();
        }
        let text = job(200, "succeeded", &["\u{1b}[2Jone\r\n"]).into_body();
        let mut view: serde_json::Value = serde_json::from_str(&text).unwrap();
        view["steps"][0]["argv"][1] = "a b\nstep 9: /bin/forged: exit code 0\u{1b}[2J".into();
        Response::builder().status(200).body(view.to_string()).unwrap()
    };
    for (out_is_terminal, shown) in [(true, "\\u{1b}[2Jone\\r\n"), (false, "\u{1b}[2Jone\r\n")] {
        let ca = Ca::new("ours");
        let server = Server::start(ca.server("localhost", false, None), hostile).await;
        let mut caller = Caller::new(&ca, server.address.port(), true);
        let terminals = Terminals { out: out_is_terminal, err: false };
        caller.0.report = Report::new(Vec::new(), Vec::new(), terminals);
        assert!(caller.0.perform().await.unwrap());
        let (out, err) = caller.said();
        assert_eq!(out, shown);
        let told: Vec<_> = err.lines().collect();
        assert_eq!(
            told[1],
            r#"step 1: /bin/x "a b\nstep 9: /bin/forged: exit code 0\u{1b}[2J": exit code 0"#
        );
        assert_eq!(told.len(), 3, "{err}");
    }
}

#[tokio::test]
async fn a_failed_job_fails_the_call() {
    let (succeeded, out, err, _) = called(true, |_, _| job(500, "failed", &["oops\n"])).await;
    assert!(!succeeded && out == "oops\n" && err.contains("failed"), "{err}");
    let (succeeded, _, err, _) = called(true, |before, _| match before {
        0 => accepted(),
        _ => job(200, "refused", &[]),
    })
    .await;
    assert!(!succeeded && err.contains("refused") && err.contains("the gateway's log says why"), "{err}");
}

fn wall() -> Response<String> {
    Response::builder().status(404).body("You shall not pass!".into()).unwrap()
}

#[tokio::test]
async fn a_job_that_is_not_shown_for_a_while_is_waited_for_nevertheless() {
    let (succeeded, out, err, seen) = called(true, |before, _| match before {
        0 => accepted(),
        1..=4 | 6..=9 => wall(),
        5 => job(200, "running", &[]),
        _ => job(200, "succeeded", &["one\n"]),
    })
    .await;
    assert!(succeeded && out == "one\n" && err.contains("looking again"), "{err}");
    assert_eq!(seen.len(), 11);
}

#[tokio::test]
async fn a_job_that_is_never_shown_is_given_up() {
    let ca = Ca::new("ours");
    let answer = |before, _: &Seen| if before == 0 { accepted() } else { wall() };
    let server = Server::start(ca.server("localhost", false, None), answer).await;
    let mut caller = Caller::new(&ca, server.address.port(), true);
    let error = caller.0.perform().await.unwrap_err().to_string();
    assert!(error.contains("no longer shows us the job") && error.contains(JOB), "{error}");
    assert_eq!(server.seen().len(), 6);
}

#[tokio::test]
async fn refusals_are_explained() {
    let (accepted, _, err, _) = called(false, |_, _| wall()).await;
    assert!(!accepted);
    for said in ["POST", "/promote", "`jenkins`", "localhost:", "1970-01-01T00:00:00Z", "audit log"] {
        assert!(err.contains(said), "{said}: {err}");
    }
    let (accepted, _, err, _) = called(false, |_, _| {
        let response = Response::builder().status(400).header("content-type", "application/problem+json");
        response.body(r#"{"title":"t","detail":"the parameter `role` is missing"}"#.into()).unwrap()
    })
    .await;
    assert!(!accepted && err.contains("the parameter `role` is missing"), "{err}");
}
