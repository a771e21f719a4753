//! What `call` tells its user: the commands' output on one stream, all else on the other. Nothing that a sender or a
//! command chose acts upon a terminal; a pipe gets the output as it is.
//!
//! Decides nothing. The wall says nothing about its reason, so this file names what can have been one.

use std::fmt;
use std::io::{Result, Write};

use axum::http::{Method, StatusCode};
use jiff::Timestamp;

use super::super::arguments::arguments;
use super::super::client::Target;
use super::answer::{Answer, Receipt};
use crate::domain::job::{JobView, State};
use crate::domain::name::KeyName;
use crate::domain::printable::printable;

/// To the line's start, and all of it cleared.
const CLEAR: &str = "\r\x1b[K";

/// Where things are told.
pub(super) struct Report<O, E> {
    /// The commands' output, and nothing else.
    pub(super) out: O,
    /// Everything else.
    pub(super) err: E,
    /// Which of the two are terminals.
    terminals: Terminals,
    /// Whether a line of progress stands there now.
    has_progress: bool,
}

/// Whether a stream is a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminals {
    pub(super) out: bool,
    pub(super) err: bool,
}

/// How much of a job was shown: whole steps, and bytes of the next one's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) steps: usize,
    pub(super) bytes: usize,
}

/// What was asked, as far as it can be the reason for a wall.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) target: &'a Target,
    pub(super) key: Option<&'a KeyName>,
    pub(super) with_certificate: bool,
    pub(super) at: Timestamp,
}

impl<O: Write, E: Write> Report<O, E> {
    pub(super) fn new(out: O, err: E, terminals: Terminals) -> Self {
        Self { out, err, terminals, has_progress: false }
    }

    /// One line.
    pub(super) fn note(&mut self, text: fmt::Arguments<'_>) -> Result<()> {
        self.clear()?;
        writeln!(self.err, "{text}")
    }

    /// A line that the next one takes the place of; only a terminal shows it.
    pub(super) fn progress(&mut self, text: fmt::Arguments<'_>) -> Result<()> {
        if !self.terminals.err {
            return Ok(());
        }
        self.has_progress = true;
        write!(self.err, "{CLEAR}{text}")?;
        self.err.flush()
    }

    fn clear(&mut self) -> Result<()> {
        if std::mem::take(&mut self.has_progress) {
            write!(self.err, "{CLEAR}")?;
            self.err.flush()?;
        }
        Ok(())
    }

    /// What the gateway answered.
    pub(super) fn answer(&mut self, answer: &Answer) -> Result<()> {
        self.clear()?;
        match answer {
            Answer::Accepted(receipt) => {
                let Receipt { job, state, .. } = receipt;
                let note = match (receipt.duplicate, receipt.coalesced) {
                    (true, _) => " (the gateway already had this message; nothing runs again)",
                    (false, true) => " (joined an equal job that was waiting)",
                    (false, false) => "",
                };
                let state = if *state == State::Queued { String::new() } else { format!(", {state}") };
                writeln!(self.err, "accepted: job {job}{state}{note}")
            }
            Answer::Job { .. } => Ok(()),
            Answer::Ignored(reason) => writeln!(self.err, "200 ignored, nothing runs: {reason}"),
            Answer::Busy(status, why, retry_after) => {
                let why = if why.is_empty() { String::new() } else { format!(": {why}") };
                match retry_after {
                    Some(wait) => writeln!(
                        self.err,
                        "{status}{why}; the gateway asks us to try again after {} s (Retry-After)",
                        wait.as_secs()
                    ),
                    None => writeln!(self.err, "{status}{why}; the gateway does not say when to try again"),
                }
            }
            Answer::Wall => writeln!(self.err, "404 You shall not pass!"),
            Answer::Problem(status, detail) => writeln!(self.err, "{status}: {detail}"),
            Answer::Other(status, text) if status.is_success() || *status == StatusCode::NOT_FOUND => {
                writeln!(self.err, "{status}, but not as a bridgeward says it; is this its URL? {text}")
            }
            Answer::Other(status, text) => writeln!(self.err, "{status}: {text}"),
        }
    }

    /// What a wall can mean.
    pub(super) fn wall(&mut self, asked: &Asked<'_>) -> Result<()> {
        let Asked { method, target, at, .. } = asked;
        let path = target.path_and_query.split('?').next().unwrap_or_default();
        writeln!(
            self.err,
            "The gateway answers this to everything that it does not allow, and does not say which it was:\n\
             - no route has the method {method} and the path {path}"
        )?;
        if let Some(key) = asked.key {
            writeln!(
                self.err,
                "- no rule of that route allows the key `{key}` from this address\n\
                 - the signature: another secret, a key that the policy does not know, this machine's clock\n  \
                 ({at:.0}) outside the key's window, or a host (`{}`) that is none of `listen.authorities`",
                target.authority
            )?;
        }
        if asked.with_certificate {
            writeln!(
                self.err,
                "- no rule of that route allows this client certificate from this address, or it was revoked"
            )?;
        }
        if asked.key.is_none() && !asked.with_certificate {
            writeln!(
                self.err,
                "- the request showed neither a signature (--key) nor a certificate (--cert)"
            )?;
        }
        writeln!(
            self.err,
            "- the body is larger than the gateway's limit\n\
             The gateway knows the reason: look for {at:.0} in its log and its audit log."
        )
    }

    /// What is new after `shown`: the output of steps and how they ended, and what the step that runs has written.
    pub(super) fn steps(&mut self, view: &JobView, shown: &mut Shown) -> Result<()> {
        for (index, step) in view.steps.iter().enumerate().skip(shown.steps) {
            self.output(&step.output, shown)?;
            *shown = Shown { steps: index + 1, bytes: 0 };
            self.clear()?;
            let cut = match (step.discarded, step.truncated) {
                (true, _) => ", its output is no longer kept",
                (false, true) => ", its output was longer than what is kept",
                (false, false) => "",
            };
            writeln!(self.err, "step {}: {}: {}{cut}", index + 1, arguments(&step.argv), step.exit)?;
        }
        match &view.running {
            Some(running) if running.step == shown.steps + 1 => self.output(&running.output, shown),
            Some(_) | None => Ok(()),
        }
    }

    /// What of a step's output is new; it only grows.
    fn output(&mut self, output: &str, shown: &mut Shown) -> Result<()> {
        let new = output.get(shown.bytes..).unwrap_or_default();
        if !new.is_empty() {
            self.clear()?;
            if self.terminals.out {
                self.out.write_all(printable(new, true).as_bytes())?;
            } else {
                self.out.write_all(new.as_bytes())?;
            }
            self.out.flush()?;
            shown.bytes = output.len();
        }
        Ok(())
    }

    /// How the job stands, and where to look when the steps do not say why.
    pub(super) fn state(&mut self, view: &JobView) -> Result<()> {
        let JobView { job, state, steps, .. } = view;
        self.note(format_args!("job {job}: {state}"))?;
        if !state.is_final() || *state == State::Succeeded || steps.iter().any(|step| !step.exit.is_success())
        {
            return Ok(());
        }
        let which = if steps.is_empty() { "no step was run to its end" } else { "no step that ended failed" };
        self.note(format_args!("{which}: the gateway's log says why, look there for {job}"))
    }
}
