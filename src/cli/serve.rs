//! `bridgeward serve`: the gateway, until SIGTERM or SIGINT; and what its other half, `bridgeward work`, has in common.
//!
//! Only starts and stops; what is served is the policy's to say.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{findings, log};
use crate::app::generation::Generation;
use crate::app::live::Live;
use crate::app::{Gateway, StartError, process};
use crate::audit::Cause;
use crate::clock::Clock;
use crate::policy::Purpose;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "SIGTERM or Ctrl-C stops accepting, lets open requests and running commands finish, and leaves \
                        queued jobs queued. SIGHUP loads the policy anew, as `bridgeward reload` does.\n\nExample:\n  bridgeward serve --policy /etc/bridgeward"
)]
pub struct Args {
    /// The policy's directory: gateway.toml and routes/NAME.toml
    #[arg(long, value_name = "DIR")]
    pub policy: PathBuf,
    /// The gate alone: keep and run no jobs, but submit them to `bridgeward work` over `queue.socket`
    #[arg(long)]
    no_workers: bool,
    #[command(flatten)]
    log: log::LogArgs,
}

/// Serves until a signal ends it.
///
/// # Errors
/// When the gateway cannot be started. A policy that is not valid is printed, and is exit code 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    process::harden().context("cannot protect this process's memory")?;
    let _log = log::start(&args.log);
    let clock = Clock::system();
    let purpose = if args.no_workers { Purpose::Gate } else { Purpose::Whole };
    let generation = match Generation::prepare(&args.policy, purpose, &clock) {
        Ok((generation, warnings)) => {
            findings::show(&warnings)?;
            generation
        }
        Err(found) => {
            findings::show(&found)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    run_until_told(async {
        let gateway = match args.no_workers {
            false => Gateway::start(generation, clock).await?,
            true => Gateway::start_gate(generation, clock).await?,
        };
        for address in gateway.addresses() {
            tracing::info!(%address, "listening");
        }
        Ok(gateway)
    })
}

/// Starts what `start` starts, and runs it until a signal comes or a part of it has ended.
pub(super) fn run_until_told(
    start: impl Future<Output = Result<Gateway, StartError>>,
) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        // Before the first connection: a signal that comes early is not missed.
        let stop = stop_signal()?;
        let hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
        let mut gateway = start.await?;
        let hangups = tokio::spawn(reload_at(hangup, gateway.live().clone()));
        let ended = tokio::select! {
            name = stop => {
                tracing::info!(
                    signal = name,
                    "stopping: open requests and running commands finish, queued jobs stay queued"
                );
                Ok(ExitCode::SUCCESS)
            }
            part = gateway.failed() => Err(anyhow::anyhow!("the {part} ended by itself; the log says why")),
        };
        hangups.abort();
        gateway.stop().await;
        tracing::info!("stopped");
        ended
    });
    // A look at a file system that does not answer cannot be broken off otherwise.
    runtime.shutdown_background();
    ended
}

/// The runtime that the gateway runs on: one thread a core.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")
}

/// Loads the policy anew at each SIGHUP. The log tells how it went.
async fn reload_at(mut hangup: Signal, live: Live) {
    while hangup.recv().await.is_some() {
        drop(live.reload(Cause::Signal).await);
    }
}

/// Catches SIGTERM and SIGINT from now on; the future ends with the name of the first that comes.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
