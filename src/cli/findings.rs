//! How the findings of a policy are shown: on standard error, in colour where that is a terminal.
//!
//! Decides nothing about them.

use std::io::{IsTerminal as _, Write as _};

use crate::policy::diagnostic::Diagnostics;

/// Shows all findings, if there are any.
///
/// # Errors
/// When standard error cannot be written.
pub(super) fn show(findings: &Diagnostics) -> std::io::Result<()> {
    let mut stderr = std::io::stderr();
    match findings.errors() + findings.warnings() {
        0 => Ok(()),
        _ if stderr.is_terminal() => writeln!(stderr, "{}", findings.colored()),
        _ => writeln!(stderr, "{findings}"),
    }
}
