//! `bridgeward explain`: guard by guard, what would happen to a request, which rule decides, and the argv that would run.
//!
//! Sends nothing, stores nothing and runs nothing. Signatures are verified where a request carries some, and taken as
//! made where `--key` says so.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use axum::http::Request;
use axum::http::header::HOST;
use axum::http::request::Parts;
use jiff::Timestamp;

use super::findings;
use super::request::{Data, Headers};
use crate::app::generation::Generation;
use crate::clock::Clock;
use crate::domain::extension::Oid;
use crate::domain::identity::Certificate;
use crate::domain::name::KeyName;
use crate::domain::printable::printable;
use crate::gate::explain::{End, Explanation, Question, explain};
use crate::policy::Purpose;

mod capture;

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bridgeward explain --policy policy --key jenkins --from 10.20.0.7 \\
    --data '{\"environment\":\"staging\",\"role\":\"web\",\"version\":\"1.2.3\"}' POST /promote
  bridgeward explain --policy policy --certname app-1.example.com \\
    --extension pp_auth_role=app_internal GET /kick_haproxy_app_internal
  bridgeward explain --policy policy --request captured.http --at 2026-11-26T10:00:00Z

Exit codes: 0 it would be accepted, 1 it would not, 2 usage.")]
pub struct Args {
    /// The policy's directory: gateway.toml and routes/NAME.toml
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// A verified certificate's common name
    #[arg(long, value_name = "NAME")]
    certname: Option<String>,
    /// An extension of that certificate, by name or OID; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = extension, requires = "certname")]
    extension: Vec<(Oid, String)>,
    /// A key of the policy that is taken as having signed
    #[arg(long, value_name = "KEY", value_parser = |text: &str| KeyName::parse(text), conflicts_with = "request")]
    key: Option<KeyName>,
    /// The address that the request comes from
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    from: IpAddr,
    /// The body: text, @FILE, or @- for standard input
    #[arg(short, long, value_name = "DATA", value_parser = Data::parse, conflicts_with = "request", allow_hyphen_values = true)]
    data: Option<Data>,
    #[command(flatten)]
    headers: Headers,
    /// A captured request instead: its head and body as they were sent over HTTP/1.1. Its signatures are verified
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "target"])]
    request: Option<PathBuf>,
    /// When it arrives, as 2026-11-26T10:00:00Z or in seconds since 1970; now by default
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<Timestamp>,
    /// The request's method
    #[arg(value_name = "METHOD", required_unless_present = "request")]
    method: Option<String>,
    /// The request's path, with the query if there is one
    #[arg(value_name = "PATH", required_unless_present = "request")]
    target: Option<String>,
}

fn extension(text: &str) -> Result<(Oid, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let oid = Oid::parse(name).map_err(|error| format!("this is {error}"))?;
    Ok((oid, value.to_owned()))
}

fn time(text: &str) -> Result<Timestamp, String> {
    let seconds = text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds.map_or_else(|| text.parse().map_err(|error: jiff::Error| error.to_string()), Ok)
}

/// Prints what each guard says to standard output; 1 when the request would not be accepted.
///
/// # Errors
/// When a file cannot be read, the captured request is none, or standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    // What is asked is the gate's; where that is a process of its own, the rest may be none of its business.
    let whole = Generation::prepare(&args.policy, Purpose::Whole, &clock);
    let prepared =
        whole.or_else(|found| Generation::prepare(&args.policy, Purpose::Gate, &clock).map_err(|_| found));
    let generation = match prepared {
        Ok((generation, _)) => generation,
        Err(found) => {
            findings::show(&found)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let authorities = generation.listening.as_ref().map_or(&[][..], |listening| &listening.authorities);
    let (parts, body) = request(args, authorities)?;
    let title = format!("{} {} from {}", parts.method, parts.uri, args.from);
    let question = Question {
        parts,
        body,
        source: args.from,
        certificate: args.certname.clone().map(|certname| Certificate {
            certname,
            extensions: args.extension.iter().cloned().collect::<BTreeMap<_, _>>(),
        }),
        key: args.key.clone(),
        at: args.at.unwrap_or_else(|| clock.now()),
    };
    let explanation = explain(&generation.policy, authorities, question)?;
    std::io::stdout().write_all(text(&title, &explanation).as_bytes())?;
    Ok(match explanation.end {
        End::Runs(_) => ExitCode::SUCCESS,
        End::Refused { .. } => ExitCode::FAILURE,
    })
}

fn request(args: &Args, authorities: &[String]) -> anyhow::Result<(Parts, Vec<u8>)> {
    if let Some(file) = &args.request {
        let bytes = Data::File(file.clone()).read(std::io::empty())?;
        return capture::read(bytes).with_context(|| format!("{} holds no request", file.display()));
    }
    let (Some(method), Some(target)) = (&args.method, &args.target) else { bail!("give METHOD and PATH") };
    let mut request = Request::builder().method(&**method).uri(&**target);
    if let Some(host) = authorities.first() {
        request = request.header(HOST, host);
    }
    for (name, value) in args.headers.as_slice() {
        request = request.header(name, value);
    }
    let (parts, ()) = request.body(()).context("METHOD and PATH make no request")?.into_parts();
    let body = args.data.as_ref().map_or(Ok(Vec::new()), |data| data.read(std::io::stdin()))?;
    Ok((parts, body))
}

/// A line a finding, each guard's name once; what comes from the request cannot forge a line.
fn text(title: &str, explanation: &Explanation) -> String {
    let mut lines = vec![title.to_owned(), String::new()];
    for step in &explanation.steps {
        let verdict = if step.passes { "passes" } else { "REFUSES" };
        let mut left = format!("{:<9} {verdict:<8}", step.guard);
        for says in &step.says {
            let shown = printable(says, false);
            lines.push(format!("{left} {shown}"));
            left = " ".repeat(18);
        }
        if step.says.is_empty() {
            lines.push(left.trim_end().to_owned());
        }
    }
    lines.push(String::new());
    match &explanation.end {
        End::Runs(argv) => {
            lines.push("It would be accepted. What would run, in order:".to_owned());
            lines.extend(argv.iter().map(|argv| format!("  {:?}", argv.to_list())));
        }
        End::Refused { status: 200 } => {
            lines.push("It would be ignored: answered 200, and nothing runs.".to_owned());
        }
        End::Refused { status } => lines.push(format!("It would be answered {status}, and nothing runs.")),
    }
    lines.join("\n") + "\n"
}
