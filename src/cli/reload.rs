//! `bridgeward reload`: has a running gateway load its policy anew, and says what is in force or what is wrong.
//!
//! Decides nothing: what is wrong is the gateway's to find, in its own files and with its own rights.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use axum::http::Method;

use super::jobs::DEFAULT_SOCKET;
use super::jobs::client::{Client, Refused};
use super::jobs::named;
use crate::admin::Reloaded;
use crate::domain::printable::printable;

/// Load the policy of a running gateway anew
///
/// Everything is compiled and proven before it replaces what is in force, at once and without a dropped request; a policy
/// that is not valid changes nothing. Exits with 1 then, and says what is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What only a restart can change (listen.address, admin.socket, queue.file, audit.file) is an error.
Certificates, keys, secrets and revocation lists are read again by themselves when they change.

Examples:
  bridgeward reload
  bridgeward reload --policy /etc/bridgeward")]
pub struct Args {
    /// The gateway's socket [default: that of --policy, or /run/bridgeward/admin.sock]
    #[arg(long, value_name = "FILE", conflicts_with = "policy")]
    socket: Option<PathBuf>,
    /// The policy's directory, for its `[admin] socket`
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,
}

/// Asks the gateway, and shows what it says.
///
/// # Errors
/// When there is no gateway, or it does not let this user ask.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all_done = true;
    for socket in sockets(args)? {
        all_done &= runtime.block_on(reload(socket))?;
    }
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who is asked: where gate and workers are two processes and one policy names both, both are.
fn sockets(args: &Args) -> anyhow::Result<Vec<PathBuf>> {
    let Some(directory) = &args.policy else {
        return Ok(vec![args.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into())]);
    };
    let admin = named::sockets(directory)?;
    let named: Vec<PathBuf> = [admin.socket, admin.work_socket].into_iter().flatten().collect();
    if named.is_empty() {
        let gateway = directory.join("gateway.toml");
        bail!("{} names no socket: name one with --socket, or send SIGHUP", gateway.display());
    }
    let listening: Vec<PathBuf> =
        named.iter().filter(|socket| UnixStream::connect(socket).is_ok()).cloned().collect();
    // Whoever listens nowhere is told so by the attempt.
    Ok(if listening.is_empty() { named.into_iter().take(1).collect() } else { listening })
}

/// Whether one process has loaded its policy.
async fn reload(socket: PathBuf) -> anyhow::Result<bool> {
    let answer = match Client::new(socket).ask(Method::POST, "/reload").await {
        Ok(answer) => answer,
        Err(Refused::Said(found)) => {
            writeln!(std::io::stderr(), "{found}\n\nnothing has changed: the former policy stays in force")?;
            return Ok(false);
        }
        Err(refused) => return Err(refused.into()),
    };
    let Reloaded { policy, routes, keys, warnings } = serde_json::from_slice(&answer)?;
    if let Some(warnings) = warnings {
        // Whoever listens on the socket may be of another user; an empty line sets apart what matters most.
        writeln!(std::io::stderr(), "{}\n", printable(&warnings, true))?;
    }
    writeln!(std::io::stdout(), "in force: policy {policy}; routes: {routes}, keys: {keys}")?;
    Ok(true)
}
