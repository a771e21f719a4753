//! `bridgeward work`: the workers alone, for a gate in another process, until SIGTERM or SIGINT.
//!
//! Only starts and stops; what may be run is the policy's to say. Reads no certificate, key or secret.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::{findings, log, serve};
use crate::app::generation::Generation;
use crate::app::{Gateway, process};
use crate::clock::Clock;
use crate::policy::Purpose;

/// Arguments of `work`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The gate is `bridgeward serve --no-workers`, as another user and with a policy of its own; it submits \
                  over `queue.socket`. What it asks for must be offered by this policy, too. `[listen]` and `[keys]` are \
                  not looked at.\n\nSIGTERM or Ctrl-C lets running commands finish, and leaves queued jobs queued. SIGHUP loads \
                  the policy anew.\n\n\
                  Example:\n  bridgeward work --policy /etc/bridgeward-work"
)]
pub struct Args {
    /// The policy's directory: gateway.toml and routes/NAME.toml
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    #[command(flatten)]
    log: log::LogArgs,
}

/// Works until a signal ends it.
///
/// # Errors
/// When the workers cannot be started. A policy that is not valid is printed, and is exit code 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    process::harden().context("cannot protect this process's memory")?;
    let _log = log::start(&args.log);
    let clock = Clock::system();
    let (generation, warnings) = match Generation::prepare(&args.policy, Purpose::Work, &clock) {
        Ok(prepared) => prepared,
        Err(found) => {
            findings::show(&found)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    findings::show(&warnings)?;
    serve::run_until_told(async {
        let policy = Arc::clone(&generation.policy);
        let workers = Gateway::start_workers(generation, clock).await?;
        if let Some(socket) = &policy.queue.socket {
            tracing::info!(socket = %socket.display(), "waiting for submissions");
        }
        Ok(workers)
    })
}
