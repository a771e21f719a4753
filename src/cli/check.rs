//! `bridgeward check`: all errors and warnings of a policy, and of the certificates that it names.
//!
//! Starts nothing, and writes nothing but its findings.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::findings;
use crate::app::generation::Generation;
use crate::clock::Clock;

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
}

/// Prints the findings to standard error; 1 when one is an error.
///
/// # Errors
/// When standard output or standard error cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let place = args.place.as_ref().unwrap_or(&args.policy);
    match Generation::prepare_as(&args.policy, place, &Clock::system()) {
        Ok((generation, warnings)) => {
            findings::show(&warnings)?;
            let (routes, keys) = (generation.policy.routes.len(), generation.policy.keys.len());
            let directory = args.policy.display();
            writeln!(std::io::stdout(), "{directory}: valid; routes: {routes}, keys: {keys}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(found) => {
            findings::show(&found)?;
            Ok(ExitCode::FAILURE)
        }
    }
}
