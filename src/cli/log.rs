//! Where the log goes and what it looks like: standard error, as text or as JSON lines.
//!
//! The audit log is another thing: it has one form, and cannot be turned off.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};

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

/// Writes what is logged until it is dropped.
#[must_use = "dropping it ends the log"]
pub struct Log {
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

/// Lines that may wait for standard error. Beyond, they are dropped and counted: whoever reads the log slowly, or not at
/// all, must not hold up a request.
const ROOM: usize = 8192;

/// Starts to log. Later calls in the same process change nothing.
pub fn start(args: &LogArgs) -> Log {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(ROOM)
        .thread_name("log-writer")
        // What waits is written at once, and flushed before the thread waits for more.
        .finish(std::io::BufWriter::new(std::io::stderr()));
    let dropped = writer.error_counter();
    let log = tracing_subscriber::fmt()
        .with_max_level(args.log_level)
        .with_writer(writer)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match args.log_format {
        Format::Text => log.try_init(),
        // No span is within another one: `span` says all that `spans` would say again.
        Format::Json => log.json().flatten_event(true).with_span_list(false).try_init(),
    };
    // A log is already there.
    drop(started);
    Log { dropped, _writer: guard }
}

impl Drop for Log {
    fn drop(&mut self) {
        let lines = self.dropped.dropped_lines();
        if lines > 0 {
            tracing::warn!(lines, "log lines were dropped, because standard error was not read fast enough");
        }
    }
}
