//! `bridgeward call`: signs a request or shows a certificate, sends it, and can wait until the job has ended.
//!
//! Sends one message: what it repeats because the gateway was busy carries the same nonce, so nothing runs twice.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Method, Response, StatusCode};
use hyper::body::Bytes;

use super::client::{CaSource, Client, ClientCertificate, Outgoing};
use super::request::{Prepared, RequestArgs, Signer};
use crate::clock::Clock;
use crate::domain::name::KeyName;

mod answer;
mod report;

use answer::{Answer, Receipt};
use report::{Asked, Report};

/// How often one message is sent when the gateway is busy.
const MOST_TRIES: u32 = 5;
/// Longest pause between two tries; who asks for more is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the gateway is asked to hold its answer with `--wait`, in seconds.
const HOLD: u32 = 60;
/// For one answer; longer than any answer is held by default.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// First pause between two looks at a job; each is twice the one before.
const SHORTEST_LOOK: Duration = Duration::from_millis(250);
/// Longest pause between two looks at a job.
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// How many looks in a row may fail before the wait is given up.
const MOST_BLIND_LOOKS: u32 = 5;

/// Call a gateway: sign a request, show a certificate, or both
///
/// Exits with 0 when the gateway accepted the request (with --wait: when the job succeeded), and with 1 when it was
/// refused or failed. The commands' output goes to standard output, everything else to standard error.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bridgeward call --key jenkins --secret jenkins.secret --ca ca.pem --wait \\
      --data '{\"environment\":\"production\",\"role\":\"web\",\"version\":\"1.2.3\"}' \\
      https://gateway.example.com:8443/promote
  bridgeward call --cert node.pem --cert-key node.key --ca ca.pem \\
      https://gateway.example.com:8443/kick_haproxy_app_internal")]
pub struct Args {
    /// Sign as this key of the gateway's policy
    #[arg(long, value_name = "ID", requires = "secret", value_parser = KeyName::parse)]
    pub key: Option<KeyName>,

    /// The file that holds the key's secret; one line feed at its end does not count
    #[arg(long, value_name = "FILE", requires = "key")]
    pub secret: Option<PathBuf>,

    /// Show this client certificate: a PEM chain, own certificate first
    #[arg(long, value_name = "FILE", requires = "cert_key")]
    pub cert: Option<PathBuf>,

    /// The private key of the client certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub cert_key: Option<PathBuf>,

    /// The CA that vouches for the gateway; by default those that this system trusts
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Wait until the job has ended, and print its output as its steps end
    #[arg(long)]
    pub wait: bool,

    #[expect(
        missing_docs,
        reason = "clap would show the documentation of a flattened field as the subcommand's"
    )]
    #[command(flatten)]
    pub request: RequestArgs,
}

/// Sends the request, and waits for the job where that is asked for.
///
/// # Errors
/// When an argument cannot be used, or there is no answer.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let prepared = args.request.prepare(std::io::stdin())?;
    let trust = args.ca.clone().map_or(CaSource::System, CaSource::File);
    let certificate = match (&args.cert, &args.cert_key) {
        (Some(chain), Some(key)) => Some(ClientCertificate::read(chain, key)?),
        (None | Some(_), _) => None,
    };
    let signer = match (&args.key, &args.secret) {
        (Some(key), Some(secret)) => Some(Signer::read(key, secret)?),
        (None | Some(_), _) => None,
    };
    let client = Client::new(&trust, certificate.as_ref())?;
    let with_certificate = certificate.is_some();
    let mut call = Call {
        client,
        prepared,
        signer,
        with_certificate,
        wait: args.wait,
        clock: Clock::system(),
        report: Report { out: std::io::stdout(), err: std::io::stderr() },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let accepted = runtime.block_on(call.perform())?;
    Ok(if accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Call<O, E> {
    client: Client,
    prepared: Prepared,
    signer: Option<Signer>,
    with_certificate: bool,
    wait: bool,
    clock: Clock,
    report: Report<O, E>,
}

impl<O: Write, E: Write> Call<O, E> {
    /// Whether the exit code is 0.
    async fn perform(&mut self) -> anyhow::Result<bool> {
        let mut headers = self.prepared.sent_headers(self.signer.as_ref(), self.clock.now())?;
        if self.wait {
            let prefer = HeaderValue::try_from(format!("wait={HOLD}"))?;
            headers.insert(HeaderName::from_static("prefer"), prefer);
        }
        let request = self.prepared.clone();
        let answer = answer::read(&self.send_patiently(&request, &headers).await?);
        self.report.answer(&answer)?;
        if answer == Answer::Wall {
            self.explain_wall()?;
        }
        match answer {
            Answer::Accepted(receipt) if self.wait => self.follow(&receipt).await,
            answer @ (Answer::Accepted(_)
            | Answer::Job { .. }
            | Answer::Ignored(_)
            | Answer::Wall
            | Answer::Problem(..)
            | Answer::Other(..)) => {
                if let Answer::Job { view, .. } = &answer {
                    self.report.steps(view, 0)?;
                    self.report.state(view)?;
                }
                Ok(answer.is_success(self.wait))
            }
        }
    }

    /// Sends a request, and the very same again while the gateway says that it is busy.
    async fn send_patiently(
        &mut self,
        request: &Prepared,
        headers: &HeaderMap,
    ) -> anyhow::Result<Response<Bytes>> {
        let outgoing = Outgoing {
            method: &request.method,
            target: &request.target,
            headers,
            body: request.body.as_deref().unwrap_or_default(),
        };
        let mut tries = 1;
        loop {
            let response = self.client.send(outgoing, ANSWER_LIMIT).await?;
            let Some(pause) = pause_before_next(&response, tries) else { return Ok(response) };
            let status = response.status();
            self.report
                .note(format_args!("{status}: the gateway is busy; trying again in {} s", pause.as_secs()))?;
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    /// Looks at the job until it has ended, and prints each step as it ends.
    async fn follow(&mut self, receipt: &Receipt) -> anyhow::Result<bool> {
        let target = self.prepared.target.at_path(&receipt.location);
        let target = target.context("the gateway's answer does not say where to look for the job")?;
        let look = Prepared { target, method: Method::GET, headers: Vec::new(), body: None };
        let (mut pause, mut shown, mut blind) = (SHORTEST_LOOK, 0, 0);
        loop {
            let headers = look.sent_headers(self.signer.as_ref(), self.clock.now())?;
            match self.send_patiently(&look, &headers).await.map(|response| answer::read(&response)) {
                Ok(Answer::Job { view, .. }) => {
                    blind = 0;
                    self.report.steps(&view, shown)?;
                    shown = shown.max(view.steps.len());
                    if view.state.is_final() {
                        self.report.state(&view)?;
                        return Ok(Answer::Job { ok: true, view }.is_success(true));
                    }
                }
                Ok(Answer::Wall) => bail!(
                    "the gateway no longer shows us the job {}; its operators can: bridgeward jobs show {0}",
                    receipt.job
                ),
                Ok(other) => {
                    self.report.answer(&other)?;
                    blind += 1;
                }
                Err(error) => {
                    self.report.note(format_args!("{error:#}"))?;
                    blind += 1;
                }
            }
            if blind >= MOST_BLIND_LOOKS {
                bail!("giving up waiting; the job {} goes on without us", receipt.job);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    fn explain_wall(&mut self) -> std::io::Result<()> {
        self.report.wall(&Asked {
            method: &self.prepared.method,
            target: &self.prepared.target,
            key: self.signer.as_ref().map(|signer| &signer.key),
            with_certificate: self.with_certificate,
            at: self.clock.now(),
        })
    }
}

/// How long to wait before the same message is sent again; `None` when it should not be.
fn pause_before_next<B>(response: &Response<B>, tries: u32) -> Option<Duration> {
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    if !busy.contains(&response.status()) || tries >= MOST_TRIES {
        return None;
    }
    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = asked.map_or_else(|| Duration::from_secs(1 << tries.min(6)), Duration::from_secs);
    (pause <= LONGEST_PAUSE).then_some(pause)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::{Args as _, FromArgMatches as _};

    use super::super::client::Target;
    use super::super::client::fixture::{Ca, Seen, Server};
    use super::super::request::{Data, Headers};
    use super::*;
    use crate::policy::secret::Secret;

    const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn command() -> clap::Command {
        Args::augment_args(clap::Command::new("call"))
    }

    fn args(given: &[&str]) -> Result<Args, clap::Error> {
        command()
            .try_get_matches_from([&["call"], given, &["https://gw/"]].concat())
            .and_then(|matches| Args::from_arg_matches(&matches))
    }

    #[test]
    fn the_help_teaches() {
        command().debug_assert();
        let help = command().render_long_help().to_string();
        assert!(help.starts_with("Call a gateway"), "{help}");
        assert!(help.contains("bridgeward call --key jenkins"), "{help}");
    }

    #[test]
    fn halves_of_a_proof_are_refused() {
        for whole in [
            &["--key", "k", "--secret", "f"][..],
            &["--cert", "f", "--cert-key", "f"],
            &["--key", "k", "--secret", "f", "--cert", "f", "--cert-key", "f", "--wait"],
            &[],
        ] {
            assert!(args(whole).is_ok(), "{whole:?}");
        }
        for half in [["--key", "k"], ["--secret", "f"], ["--cert", "f"], ["--cert-key", "f"]] {
            assert!(args(&half).is_err(), "{half:?}");
        }
    }

    fn busy(status: u16, retry_after: Option<&str>) -> Response<()> {
        let response = Response::builder().status(status);
        let response = retry_after.into_iter().fold(response, |r, value| r.header(RETRY_AFTER, value));
        response.body(()).unwrap()
    }

    #[test]
    fn the_pause_is_the_gateways_but_bounded() {
        let seconds =
            |response: &Response<()>, tries| pause_before_next(response, tries).map(|p| p.as_secs());
        for status in [429, 503] {
            assert_eq!(seconds(&busy(status, Some("7")), 1), Some(7));
            assert_eq!(seconds(&busy(status, Some("60")), 4), Some(60));
            assert_eq!(seconds(&busy(status, Some("61")), 1), None);
            assert_eq!(seconds(&busy(status, Some("7")), MOST_TRIES), None);
            assert_eq!(seconds(&busy(status, None), 1), Some(2));
            assert_eq!(seconds(&busy(status, Some("soon")), 4), Some(16));
        }
        for status in [200, 202, 400, 404, 409, 500, 504] {
            assert_eq!(seconds(&busy(status, Some("1")), 1), None, "{status}");
        }
    }

    async fn called(
        wait: bool,
        answer: fn(usize, &Seen) -> Response<String>,
    ) -> (bool, String, String, Vec<Seen>) {
        let ca = Ca::new("ours");
        let server = Server::start(ca.server("localhost", false, None), answer).await;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(ca.pem.as_bytes()).unwrap();
        let request = RequestArgs {
            url: Target::parse(&server.url("/promote")).unwrap(),
            data: Some(Data::Text("{}".into())),
            method: None,
            headers: Headers::default(),
        };
        let signer = Signer { key: KeyName::parse("jenkins").unwrap(), secret: Secret::new(b"x".to_vec()) };
        let mut call = Call {
            client: Client::new(&CaSource::File(file.path().into()), None).unwrap(),
            prepared: request.prepare(std::io::empty()).unwrap(),
            signer: Some(signer),
            with_certificate: false,
            wait,
            clock: Clock::manual(jiff::Timestamp::UNIX_EPOCH).0,
            report: Report { out: Vec::new(), err: Vec::new() },
        };
        let accepted = call.perform().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (accepted, text(call.report.out), text(call.report.err), server.seen())
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

    #[tokio::test]
    async fn accepted_is_enough_without_wait() {
        let (accepted, out, err, seen) = called(false, |_, _| accepted()).await;
        assert!(accepted && out.is_empty() && err.contains(JOB), "{err}");
        assert_eq!(seen.len(), 1);
        assert!(
            seen[0].head.headers.contains_key("signature") && !seen[0].head.headers.contains_key("prefer")
        );
        assert_eq!(seen[0].head.headers["content-type"], "application/json");
    }

    #[tokio::test]
    async fn a_busy_gateway_gets_the_very_same_message_again() {
        let (accepted, _, err, seen) = called(false, |before, _| match before {
            0 => busy(503, Some("0")).map(|()| String::new()),
            1 => busy(429, Some("0")).map(|()| String::new()),
            _ => accepted(),
        })
        .await;
        assert!(accepted && err.contains("busy"), "{err}");
        assert_eq!(seen.len(), 3);
        for again in &seen[1..] {
            assert_eq!(again.head.headers, seen[0].head.headers);
            assert_eq!(again.body, seen[0].body);
        }
    }

    #[tokio::test]
    async fn a_gateway_that_stays_busy_is_given_up() {
        let always = |_: usize, _: &Seen| busy(503, Some("0")).map(|()| String::new());
        let (accepted, _, _, seen) = called(false, always).await;
        assert!(!accepted);
        assert_eq!(seen.len(), usize::try_from(MOST_TRIES).unwrap());
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
        assert_eq!(seen[0].head.headers["prefer"], "wait=60");
        assert_eq!(
            (seen[1].head.method.as_str(), seen[1].head.uri.path()),
            ("GET", &*format!("/-/jobs/{JOB}"))
        );
        let inputs: std::collections::BTreeSet<_> =
            seen.iter().map(|seen| seen.head.headers["signature-input"].as_bytes()).collect();
        assert_eq!(inputs.len(), 3);
    }

    #[tokio::test]
    async fn a_failed_job_fails_the_call() {
        let (succeeded, out, err, _) = called(true, |_, _| job(500, "failed", &["oops\n"])).await;
        assert!(!succeeded && out == "oops\n" && err.contains("failed"), "{err}");
        let (succeeded, ..) = called(true, |before, _| match before {
            0 => accepted(),
            _ => job(200, "timed_out", &[]),
        })
        .await;
        assert!(!succeeded);
    }

    #[tokio::test]
    async fn refusals_are_explained() {
        let (accepted, _, err, _) =
            called(false, |_, _| Response::builder().status(404).body("You shall not pass!".into()).unwrap())
                .await;
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
}
