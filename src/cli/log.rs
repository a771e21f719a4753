//! Where the log goes and what it looks like: standard error, as text or as JSON lines.
//!
//! The audit log is another thing: it has one form, and cannot be turned off.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;

// No doc comment here: clap would show it as the subcommand's own description.
#[derive(Clone, Debug, clap::Args)]
#[expect(
    missing_docs,
    reason = "clap would show the documentation of a flattened struct as the subcommand's"
)]
pub struct LogArgs {
    /// The log's form on standard error
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub log_format: Format,
    /// What is logged: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LevelFilter,
}

/// The log's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For machines: one object a line
    Json,
}

/// Starts to log. Later calls in the same process change nothing.
pub fn start(args: &LogArgs) {
    let log = tracing_subscriber::fmt()
        .with_max_level(args.log_level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match args.log_format {
        Format::Text => log.try_init(),
        Format::Json => log.json().flatten_event(true).try_init(),
    };
    // A log is already there.
    drop(started);
}
