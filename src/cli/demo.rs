//! `bridgeward demo`: the whole idea in one command, with throwaway certificates.
//!
//! Starts what `serve` starts and sends what `call` sends, over real TLS, and shows the answers. Leaves nothing behind:
//! certificates, secrets, policy and queue live in a private temporary directory.

use std::io::Write;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::http::{HeaderMap, Method, StatusCode};
use hyper::body::Bytes;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{CaSource, Client, ClientCertificate, Outgoing, Target};
use super::log;
use super::request::{Prepared, Signer};
use super::serve::{runtime, stop_signal};
use crate::app::generation::Generation;
use crate::app::{Gateway, process};
use crate::clock::Clock;
use crate::domain::job::JobView;
use crate::domain::name::KeyName;
use crate::gate::WALL;
use crate::policy::Purpose;

mod site;

use site::Site;

/// For one request and its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at a job.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// What the demonstration promotes.
const PROMOTION: &str = r#"{"environment":"staging","role":"web","version":"1.2.3"}"#;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Everything it makes is in a private temporary directory, which goes when it ends.")]
pub struct Args {
    /// Exit after the three requests: 0 when all answers are right, 1 when one is not
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    log: log::LogArgs,
}

/// Shows the three requests, then serves until a signal ends it.
///
/// # Errors
/// When something cannot be started or sent, or an answer is not what it should be.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    process::harden().context("cannot protect this process's memory")?;
    let clock = Clock::system();
    runtime()?.block_on(async {
        // Before the first file is written: whatever ends this, nothing stays behind.
        let stop = stop_signal()?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
        let stop = async move {
            tokio::select! {
                _ = stop => {}
                _ = hangup.recv() => {}
            }
        };
        let site = Site::make(&clock).context("cannot prepare the demonstration")?;
        let (generation, _) = Generation::prepare(site.path(), Purpose::Whole, &clock)
            .map_err(|findings| anyhow::anyhow!("the demonstration's policy is not valid:\n{findings}"))?;
        let gateway = Gateway::start(generation, clock.clone()).await?;
        let outcome = present(args, &site, &gateway, clock, stop).await;
        gateway.stop().await;
        outcome.map(|()| ExitCode::SUCCESS)
    })
}

/// Shows the three requests, and then waits for `stop`, which may also come before.
async fn present(
    args: &Args,
    site: &Site,
    gateway: &Gateway,
    clock: Clock,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let address = gateway.addresses().first().context("the gateway listens nowhere")?;
    let show = Show { site, url: format!("https://localhost:{}", address.port()), clock };
    let mut stop = pin!(stop);
    tokio::select! {
        shown = show.all() => shown?,
        () = stop.as_mut() => return Ok(()),
    }
    if args.once {
        return say("This was `--once`: without it the gateway would serve on, for lines as these.");
    }
    say("It serves until Ctrl-C, and then removes all of this.\n")?;
    let _log = log::start(&args.log);
    stop.await;
    Ok(())
}

/// What is shown, and to whom it is sent.
struct Show<'a> {
    site: &'a Site,
    url: String,
    clock: Clock,
}

impl Show<'_> {
    async fn all(&self) -> anyhow::Result<()> {
        let directory = self.site.path().display();
        say(&format!(
            "A gateway listens on {}. Its policy, certificates and secrets are in\n{directory}, until this ends.\n",
            self.url
        ))?;
        self.promote().await?;
        self.kick().await?;
        self.wall().await?;
        self.paste()
    }

    /// Jenkins' way: a POST that is signed.
    async fn promote(&self) -> anyhow::Result<()> {
        say(&format!("1. A POST, signed with the key `jenkins` (RFC 9421):\n   POST /promote {PROMOTION}"))?;
        let client = Client::new(&self.ca(), None)?;
        let signer = Signer::read(&KeyName::parse("jenkins")?, &self.site.file("jenkins.secret"))?;
        let request = self.request(Method::POST, "/promote", Some(PROMOTION))?;
        let answer = self.send(&client, &request, Some(&signer)).await?;
        let location = accepted(&answer)?;
        let view = self.job(&client, &location, Some(&signer)).await?;
        show_job(&view, "promoting web to 1.2.3 in staging\n")
    }

    /// A node's way: a GET with the certificate that its CA gave it.
    async fn kick(&self) -> anyhow::Result<()> {
        say(
            "2. A GET with the client certificate of node1.example.com (mutual TLS):\n   GET /kick_haproxy_app_internal",
        )?;
        let certificate =
            ClientCertificate::read(&self.site.file("node1.pem"), &self.site.file("node1.key"))?;
        let client = Client::new(&self.ca(), Some(&certificate))?;
        let request = self.request(Method::GET, "/kick_haproxy_app_internal", None)?;
        let answer = self.send(&client, &request, None).await?;
        let location = accepted(&answer)?;
        let view = self.job(&client, &location, None).await?;
        show_job(&view, "mco puppet runonce -F role=haproxy_app_internal\n")
    }

    /// Everybody else's way.
    async fn wall(&self) -> anyhow::Result<()> {
        say("3. A GET of a path that the policy does not have, by nobody:\n   GET /anything")?;
        let client = Client::new(&self.ca(), None)?;
        let answer = self.send(&client, &self.request(Method::GET, "/anything", None)?, None).await?;
        show_answer(&answer)?;
        ensure!(answer.status == StatusCode::NOT_FOUND && answer.body == WALL, "that is not the wall");
        say("")
    }

    /// Lines for more of the same.
    fn paste(&self) -> anyhow::Result<()> {
        let program =
            std::env::current_exe().map_or_else(|_| "bridgeward".into(), |path| path.display().to_string());
        let file = |name| self.site.file(name).display().to_string();
        let (ca, secret, url) = (file("ca.pem"), file("jenkins.secret"), &self.url);
        let (certificate, key) = (file("node1.pem"), file("node1.key"));
        say(&format!(
            "Paste into another terminal:\n\n\
             {program} call --ca {ca} --key jenkins --secret {secret} \\\n  --wait --data '{PROMOTION}' {url}/promote\n\n\
             curl --cacert {ca} --cert {certificate} --key {key} \\\n  {url}/kick_haproxy_app_internal\n\n\
             curl --cacert {ca} {url}/anything\n"
        ))
    }

    fn ca(&self) -> CaSource {
        CaSource::File(self.site.file("ca.pem"))
    }

    fn request(&self, method: Method, path: &str, body: Option<&str>) -> anyhow::Result<Prepared> {
        let target = Target::parse(&format!("{}{path}", self.url))?;
        Ok(Prepared {
            target,
            method,
            headers: Vec::new(),
            body: body.map(|body| body.as_bytes().to_vec()),
            id: None,
        })
    }

    async fn send(
        &self,
        client: &Client,
        request: &Prepared,
        signer: Option<&Signer>,
    ) -> anyhow::Result<Answer> {
        let headers = request.sent_headers(signer, self.clock.now())?;
        let body = request.body.as_deref().unwrap_or_default();
        let outgoing = Outgoing { method: &request.method, target: &request.target, headers: &headers, body };
        let (head, body) = client.send(outgoing, ANSWER_LIMIT).await?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// The job at `location`, once it has ended.
    async fn job(&self, client: &Client, location: &str, signer: Option<&Signer>) -> anyhow::Result<JobView> {
        let request = self.request(Method::GET, location, None)?;
        let until = self.clock.monotonic() + ANSWER_LIMIT;
        loop {
            let answer = self.send(client, &request, signer).await?;
            ensure!(answer.status == StatusCode::OK, "the job cannot be asked for: {}", answer.status);
            let view: JobView = serde_json::from_slice(&answer.body)?;
            if view.state.is_final() {
                return Ok(view);
            }
            ensure!(self.clock.monotonic() < until, "the job is still {} after {ANSWER_LIMIT:?}", view.state);
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

fn accepted(answer: &Answer) -> anyhow::Result<String> {
    show_answer(answer)?;
    ensure!(answer.status == StatusCode::ACCEPTED, "this should have been accepted");
    let location = answer.headers.get("location").context("the answer names no job")?;
    Ok(location.to_str()?.to_owned())
}

fn show_answer(answer: &Answer) -> anyhow::Result<()> {
    say(&format!("   -> {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
}

fn show_job(view: &JobView, expected: &str) -> anyhow::Result<()> {
    for step in &view.steps {
        say(&format!("   ran {:?}: {}, and it wrote:\n     {}", step.argv, step.exit, step.output))?;
    }
    let output: String = view.steps.iter().map(|step| step.output.as_str()).collect();
    ensure!(output == expected, "the job ended as {}, and its output is not what it should be", view.state);
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}
