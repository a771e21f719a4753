//! `bridgeward check`: all errors and warnings of a policy, and of the certificates that it names.
//!
//! Starts nothing, and writes nothing but its findings.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::findings;
use crate::app::generation::Generation;
use crate::clock::Clock;
use crate::policy::diagnostic::Diagnostics;
use crate::policy::{Policy, Purpose};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Check as the user that the gateway runs as: who may read and write what is part of it.\n\n\
                        Example:\n  runuser -u bridgeward -- bridgeward check --policy /etc/bridgeward"
)]
pub struct Args {
    /// The policy's directory: gateway.toml and routes/NAME.toml
    #[arg(long, value_name = "DIR")]
    pub policy: PathBuf,
    /// Judge it as if it stood in this directory, which it is to replace: relative paths start from there
    #[arg(long = "as", value_name = "DIR")]
    pub place: Option<PathBuf>,
    /// Where gate and workers are two processes: only what this one uses
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Exit with 1 on a warning, too
    #[arg(long)]
    strict: bool,
}

/// One of the two processes that a gateway can be made of.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Part {
    /// `serve --no-workers`
    Gate,
    /// `work`
    Work,
}

/// Prints the findings to standard error; 1 when one is an error.
///
/// # Errors
/// When standard output or standard error cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let place = args.place.as_ref().unwrap_or(&args.policy);
    let checked = match args.part {
        None => prepared(args, place, Purpose::Whole),
        Some(Part::Gate) => prepared(args, place, Purpose::Gate),
        Some(Part::Work) => prepared(args, place, Purpose::Work),
    };
    match checked {
        Ok((policy, warnings)) => {
            findings::show(&warnings)?;
            let (routes, keys) = (policy.routes.len(), policy.keys.len());
            let directory = args.policy.display();
            let hash = &policy.hash;
            if args.strict && warnings.warnings() > 0 {
                return Ok(ExitCode::FAILURE);
            }
            writeln!(std::io::stdout(), "{directory}: valid; routes: {routes}, keys: {keys}; policy {hash}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(found) => {
            findings::show(&found)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn prepared(args: &Args, place: &Path, purpose: Purpose) -> Result<(Arc<Policy>, Diagnostics), Diagnostics> {
    let prepared = Generation::prepare_as(&args.policy, place, purpose, &Clock::system());
    prepared.map(|(generation, warnings)| (generation.policy, warnings))
}
