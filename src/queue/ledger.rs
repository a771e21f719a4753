//! One open transaction of the writer thread, and what must be told once it is committed.
//!
//! A command runs between savepoints, so that one that fails takes nothing of the others with it; submissions, which are
//! refused before they change anything, share one. What commands do stands in `submit`, `claim` and `purge`.

use rusqlite::Connection;

use super::sqlite::Settings;
use super::{SubmitError, Unavailable};
use crate::domain::job::JobId;

/// A transaction that has begun.
pub(super) struct Ledger<'c> {
    pub(super) connection: &'c Connection,
    pub(super) settings: &'c Settings,
    /// Wall time of the whole batch, in microseconds.
    pub(super) now: i64,
    /// What this transaction changes outside the database.
    pub(super) tally: Tally,
    /// Whether the transaction can no longer be trusted and must not be committed.
    pub(super) lost: bool,
}

/// Facts that the writer keeps in memory, beside the database: they change with a commit, not before.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// How many jobs wait, in all locks.
    pub(super) waiting: usize,
    /// How many bytes of output finished jobs keep together.
    pub(super) kept: i64,
    /// Jobs that reached a final state in this transaction.
    pub(super) ended: Vec<JobId>,
}

impl Ledger<'_> {
    /// Runs one command so that it happens completely or not at all.
    pub(super) fn guarded<T, E>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E>
    where
        E: From<Unavailable>,
    {
        let (waiting, kept, ended) = (self.tally.waiting, self.tally.kept, self.tally.ended.len());
        self.run("SAVEPOINT command")?;
        match work(self) {
            Ok(done) => match self.run("RELEASE command") {
                Ok(()) => Ok(done),
                Err(error) => {
                    self.lost = true;
                    Err(error.into())
                }
            },
            Err(refused) => {
                self.tally.waiting = waiting;
                self.tally.kept = kept;
                self.tally.ended.truncate(ended);
                // SQLite ends the whole transaction itself upon some errors, such as a full disk.
                let undone = self.run("ROLLBACK TO command").and_then(|()| self.run("RELEASE command"));
                self.lost |= undone.is_err();
                Err(refused)
            }
        }
    }

    /// Takes in a submission, which is refused before anything is changed. Should it fail otherwise, the whole transaction is
    /// given up: a savepoint for each would copy every page that is about to change, which costs as much as changing it.
    pub(super) fn unguarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, SubmitError>,
    ) -> Result<T, SubmitError> {
        let before = self.connection.total_changes();
        work(self).inspect_err(|error| {
            self.lost |= match error {
                SubmitError::Conflict(_)
                | SubmitError::Forgotten
                | SubmitError::Full
                | SubmitError::Disagrees(_) => self.connection.total_changes() != before,
                // What it may have changed before it failed need not be counted.
                SubmitError::Unavailable(_) => true,
            };
        })
    }

    pub(super) fn run(&self, sql: &str) -> Result<(), Unavailable> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }
}

/// The text is for operators; senders are told only that the queue is unavailable.
impl From<rusqlite::Error> for Unavailable {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<serde_json::Error> for Unavailable {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}
