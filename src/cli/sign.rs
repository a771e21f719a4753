//! `bridgeward sign`: the header lines that sign a request, for curl and other senders.
//!
//! Prints them and sends nothing.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;

use super::request::{RequestArgs, Signer, fresh_nonce};
use crate::clock::Clock;
use crate::domain::name::KeyName;

/// Print the headers that sign a request, for curl and other senders
///
/// The signature (HTTP Message Signatures, RFC 9421, hmac-sha256) covers the method, host, path, query, body, and every
/// header given with -H. It is good for one message and as long as the key's time window, five minutes by default.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example, signing and sending the same bytes (--data-binary, because curl's --data drops line feeds):
  bridgeward sign --key jenkins --secret jenkins.secret --data @body.json \\
      https://gateway.example.com:8443/promote > headers
  curl -H @headers -H 'Content-Type: application/json' --data-binary @body.json \\
      https://gateway.example.com:8443/promote")]
pub struct Args {
    /// The key's name in the gateway's policy
    #[arg(long, value_name = "ID", value_parser = KeyName::parse)]
    pub key: KeyName,

    /// The file that holds the secret; one line feed at its end does not count
    #[arg(long, value_name = "FILE")]
    pub secret: PathBuf,

    #[expect(
        missing_docs,
        reason = "clap would show the documentation of a flattened field as the subcommand's"
    )]
    #[command(flatten)]
    pub request: RequestArgs,
}

/// Prints the headers.
///
/// # Errors
/// When an argument cannot be used, or standard output is closed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let signer = Signer::read(&args.key, &args.secret)?;
    let nonce = args.request.message_id.clone().map_or_else(fresh_nonce, Ok)?;
    print(args, &signer, Clock::system().now(), &nonce, &mut std::io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

fn print(
    args: &Args,
    signer: &Signer,
    created: Timestamp,
    nonce: &str,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let prepared = args.request.prepare(std::io::stdin())?;
    for (name, value) in prepared.sign(signer, created, nonce)? {
        writeln!(out, "{name}: {value}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::Request;
    use clap::{Args as _, FromArgMatches as _};

    use super::*;
    use crate::gate::scheme::{Covered, Verifier};
    use crate::policy::secret::Secret;
    use crate::policy::{Key, Scheme};

    fn command() -> clap::Command {
        Args::augment_args(clap::Command::new("sign"))
    }

    fn args(given: &[&str]) -> Result<Args, clap::Error> {
        command()
            .try_get_matches_from([&["sign"], given].concat())
            .and_then(|matches| Args::from_arg_matches(&matches))
    }

    #[test]
    fn the_help_teaches() {
        command().debug_assert();
        let help = command().render_long_help().to_string();
        assert!(help.starts_with("Print the headers that sign a request"), "{help}");
        assert!(help.contains("curl -H @headers"), "{help}");
    }

    #[test]
    fn key_secret_and_url_are_necessary() {
        let all = ["--key", "jenkins", "--secret", "f", "https://gw/"];
        assert!(args(&all).is_ok());
        assert!(args(&all[..4]).is_err());
        assert!(args(&all[2..]).is_err());
        assert!(args(&["--key", "no name", "--secret", "f", "https://gw/"]).is_err());
    }

    #[test]
    fn what_is_printed_is_verified() {
        let key = KeyName::parse("jenkins").unwrap();
        let secret = Secret::new(b"a secret that nobody else knows.".to_vec());
        let keys = [(
            key.clone(),
            Key {
                name: key.clone(),
                scheme: Scheme::Rfc9421,
                secrets: vec![secret.clone()],
                window: Duration::from_secs(300),
                remember: Duration::from_secs(600),
                id: None,
            },
        )];
        let verifier = Verifier::new(&keys.into(), &["gw.example.com".into()]);
        let given = ["--key", "jenkins", "--secret", "f", "-H", "X-Event:  push ", "-d", "{}"];
        let args = args(&[&given[..], &["https://GW.example.com:8443/a?b"]].concat()).unwrap();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let mut printed = Vec::new();
        print(&args, &Signer { key, secret }, now, "nonce-1", &mut printed).unwrap();

        let printed = String::from_utf8(printed).unwrap();
        let lines: Vec<(&str, &str)> = printed.lines().map(|line| line.split_once(": ").unwrap()).collect();
        let names: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["Content-Digest", "Signature-Input", "Signature"]);
        let request = Request::post("/a?b").header("host", "GW.example.com:8443").header("x-event", "push");
        let request = lines.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let head = request.body(()).unwrap().into_parts().0;
        let verdicts = verifier.verify(&head, Some(b"{}"), now);
        let covered: Vec<_> = verdicts.verified().map(|signed| signed.covered.clone()).collect();
        let headers = ["content-digest", "x-event"].map(str::to_owned);
        assert_eq!(covered, [Covered::Request(headers.into())]);
        assert_eq!(verifier.verify(&head, Some(b"[]"), now).verified().count(), 0);
    }
}
