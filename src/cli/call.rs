//! `bridgeward call`: signs a request or shows a certificate, sends it, and can wait until the job has ended.
//!
//! Sends one message: whatever it sends again carries the same nonce or `Idempotency-Key`, so nothing runs twice.

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};

use super::client::{CaSource, Client, ClientCertificate};
use super::request::{Prepared, RequestArgs, Signer};
use crate::clock::Clock;
use crate::domain::name::KeyName;

mod answer;
mod follow;
mod report;
#[cfg(test)]
mod scenarios;
mod send;

use answer::Answer;
use report::{Asked, Report, Shown, Terminals};
use send::Purpose;

/// Call a gateway: sign a request, show a certificate, or both
///
/// Exits with 0 when the gateway accepted the request (with --wait: when the job succeeded), and with 1 when it was
/// refused or failed. The commands' output goes to standard output, everything else to standard error. While a gateway
/// is busy, or when the connection breaks, the very same message is sent again, a few times: a signature's nonce, or
/// the Idempotency-Key that a request with a certificate always has, lets the gateway see that it is the same.
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

    /// Wait until the job has ended, and print its output as it comes
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
    let (out, err) = (std::io::stdout(), std::io::stderr());
    let terminals = Terminals { out: out.is_terminal(), err: err.is_terminal() };
    let mut call = Call {
        client,
        prepared,
        signer,
        with_certificate,
        wait: args.wait,
        clock: Clock::system(),
        first_pause: send::FIRST_PAUSE,
        first_look: follow::SHORTEST_LOOK,
        report: Report::new(out, err, terminals),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let accepted = runtime.block_on(call.perform())?;
    Ok(if accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// See RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");

struct Call<O, E> {
    client: Client,
    prepared: Prepared,
    signer: Option<Signer>,
    with_certificate: bool,
    wait: bool,
    clock: Clock,
    first_pause: Duration,
    first_look: Duration,
    report: Report<O, E>,
}

impl<O: Write, E: Write> Call<O, E> {
    /// Whether the exit code is 0.
    async fn perform(&mut self) -> anyhow::Result<bool> {
        let at = self.clock.now();
        let mut request = self.prepared.clone();
        if self.with_certificate {
            // Also when it is signed: where a rule lets the certificate in, the nonce does not count.
            request = request.recognisable()?;
        }
        let mut headers = request.sent_headers(self.signer.as_ref(), at)?;
        if self.wait {
            // Whatever the route prefers: steps are shown as they end, and no request is held open for them.
            headers.entry(PREFER).or_insert(HeaderValue::from_static("wait=0"));
        }
        // Who shows nothing gets no job, and has no id by which a second message would be recognised.
        let is_recognised = self.signer.is_some() || self.with_certificate;
        let purpose = if is_recognised { Purpose::Job { at } } else { Purpose::Question };
        let answer = self.send_patiently(&request, &headers, purpose).await?;
        self.report.answer(&answer)?;
        match &answer {
            Answer::Accepted(receipt) if self.wait => return self.follow(receipt).await,
            Answer::Wall => self.explain_wall()?,
            Answer::Job { view, .. } => {
                self.report.steps(view, &mut Shown::default())?;
                self.report.state(view)?;
            }
            Answer::Accepted(_)
            | Answer::Ignored(_)
            | Answer::Busy(..)
            | Answer::Problem(..)
            | Answer::Other(..) => {}
        }
        Ok(answer.is_success(self.wait))
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

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

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
}
