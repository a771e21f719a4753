//! The command line: one file a subcommand, each from flags to an exit code.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage. Results go to standard output, everything else to standard error.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::executor::launcher::service;

mod arguments;
pub mod audit;
pub mod call;
pub mod certs;
pub mod check;
pub mod client;
pub mod demo;
pub mod explain;
mod findings;
pub mod jobs;
pub mod log;
pub mod promote;
pub mod reload;
pub mod request;
pub mod serve;
pub mod sign;
pub mod work;

/// A TLS-secured webhook gateway: a request that proves who it comes from, and that the policy allows, runs one
/// declared command. Everything else gets the same 404.
#[derive(Debug, Parser)]
#[command(name = "bridgeward", version, propagate_version = true, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
First steps:
  bridgeward demo                       see a signed POST, a mutual-TLS GET and the wall
  bridgeward certs --out certs          certificates to try things out with
  bridgeward check --policy policy      what is wrong with a policy, line by line
  bridgeward serve --policy policy      the gateway itself

Exit codes: 0 done, 1 refused or failed, 2 usage.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole idea with throwaway certificates, then serve until Ctrl-C
    Demo(demo::Args),
    /// Serve a policy: accept requests and run their commands
    Serve(serve::Args),
    /// Run the jobs that a gate in another process submits
    Work(work::Args),
    /// Check a policy: all errors and warnings at once
    Check(check::Args),
    /// Explain what each guard would say of a request, and what would run
    Explain(explain::Args),
    /// Send a request, signed or with a client certificate
    Call(call::Args),
    /// Print the headers that sign a request, for curl
    Sign(sign::Args),
    /// See, cancel and repeat the jobs of a running gateway
    Jobs(jobs::Args),
    /// Set values in a YAML file of a control repository, commit, and push
    Promote(promote::Args),
    /// Load the policy of a running gateway anew
    Reload(reload::Args),
    /// Verify the chain of an audit log
    Audit(audit::Args),
    /// Make a development CA, server and client certificates and a CRL
    Certs(certs::Args),
    /// Start commands for the gateway that started this
    #[command(hide = true)]
    Launcher,
}

/// Runs the command that the process's arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Work(args) => work::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Call(args) => call::run(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Jobs(args) => jobs::run(&args),
        Command::Promote(args) => promote::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Certs(args) => certs::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Launcher => service::serve().map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    outcome.unwrap_or_else(|error| {
        // Nothing is left to tell when standard error is gone.
        let _ = writeln!(std::io::stderr(), "error: {}", told(&error));
        ExitCode::FAILURE
    })
}

/// An error and its causes, each said once: some errors hold the words of their cause already.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        said if said.contains(&cause) => told,
        said => format!("{said}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once() {
        let error = anyhow::anyhow!("no room").context("cannot write: no room").context("the queue");
        assert_eq!(told(&error), "the queue: cannot write: no room");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
