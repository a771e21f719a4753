//! Ends of jobs that are not yet on record elsewhere: the list that whoever keeps that record works off.
//!
//! A mark in the job's own row, so that no crash between an end and its record loses the record. Writes no record itself.

use rusqlite::params;

use super::ledger::Ledger;
use super::sqlite::Store;
use super::{Unavailable, stored};
use crate::domain::job::{Exit, JobId, State};
use crate::domain::name::RouteName;

/// Most ends that are named at once.
const AT_ONCE: usize = 64;

/// A job that has ended, and whose end is not on record elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecorded {
    /// The job.
    pub job: JobId,
    /// Its route.
    pub route: RouteName,
    /// Its final state.
    pub state: State,
    /// Why, where the state alone does not say it.
    pub reason: Option<String>,
    /// Its last step, where the end of that is not on record either.
    pub closing: Option<Closing>,
}

/// How the last step of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Which, counted from 1.
    pub step: usize,
    /// How it ended.
    pub exit: Exit,
    /// How many bytes of its output are not kept.
    pub dropped: u64,
}

impl Store {
    /// Returns when jobs have ended whose ends are not on record elsewhere, and never after the store was closed.
    pub async fn unrecorded(&self) {
        let mut outlook = self.outlook();
        if outlook.wait_for(|outlook| outlook.unrecorded).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Marks the ends of these jobs as on record elsewhere, and names jobs that have ended without that; none when there are
    /// no more. Should the loss of power undo a mark, the job is named once more.
    ///
    /// # Errors
    /// When the database cannot be written, and so nothing is marked; or the next cannot be read.
    pub async fn recorded(&self, jobs: Vec<JobId>) -> Result<Vec<Unrecorded>, Unavailable> {
        let mark = move |ledger: &mut Ledger<'_>| {
            ledger.mark_recorded(&jobs)?;
            // Marked they are, whether there is a next or not.
            Ok(ledger.next_unrecorded())
        };
        self.write_in_order(mark).await?
    }
}

impl Ledger<'_> {
    pub(super) fn has_unrecorded(&self) -> Result<bool, Unavailable> {
        let mut statement = self.connection.prepare_cached(
            "SELECT 1 FROM jobs INDEXED BY jobs_unrecorded WHERE finished IS NOT NULL AND recorded IS NULL",
        )?;
        Ok(statement.exists([])?)
    }

    pub(super) fn next_unrecorded(&mut self) -> Result<Vec<Unrecorded>, Unavailable> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT id, route, state, reason, number, exit, dropped FROM jobs INDEXED BY jobs_unrecorded
                 LEFT JOIN steps ON job = seq AND number = closing
             WHERE finished IS NOT NULL AND recorded IS NULL ORDER BY finished LIMIT {AT_ONCE}"
        ))?;
        let mut rows = statement.query([])?;
        let mut unrecorded = Vec::new();
        while let Some(row) = rows.next()? {
            let text = |column| row.get::<_, String>(column);
            let exit: Option<String> = row.get(5)?;
            let closing = match (row.get::<_, Option<i64>>(4)?, exit) {
                (Some(number), Some(exit)) => Some(Closing {
                    step: usize::try_from(number).unwrap_or(0),
                    exit: stored::json(&exit)?,
                    dropped: u64::try_from(row.get::<_, i64>(6)?).unwrap_or(0),
                }),
                (_, _) => None,
            };
            unrecorded.push(Unrecorded {
                job: stored::job_id(&text(0)?)?,
                route: stored::route(&text(1)?)?,
                state: stored::state(&text(2)?)?,
                reason: row.get(3)?,
                closing,
            });
        }
        Ok(unrecorded)
    }

    pub(super) fn mark_recorded(&mut self, jobs: &[JobId]) -> Result<(), Unavailable> {
        let mut statement = self
            .connection
            .prepare_cached("UPDATE jobs SET recorded = ?2 WHERE id = ?1 AND recorded IS NULL")?;
        for job in jobs {
            statement.execute(params![job.to_string(), self.now])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture::{Place, terms};
    use super::super::sqlite::{End, StepRecord};
    use super::*;
    use crate::domain::submission::Terms;

    #[tokio::test]
    async fn i10_every_end_is_named_until_it_is_marked_also_after_a_crash() {
        let place = Place::new();
        let (store, _) = place.open();
        let short = Terms { expires: Duration::from_secs(60), ..terms("kick", 1) };
        let submit = async || store.submit(&place.submission("kick"), &short).await.unwrap().job;
        let [done, started, expires] = [submit().await, submit().await, submit().await];
        store.claim().await.unwrap().unwrap();
        store.start(done).await.unwrap();
        let step =
            StepRecord { argv: vec!["/bin/false".into()], exit: Exit::Code(1), output: vec![], dropped: 7 };
        let (reason, closing) = (Some("step 1: exit code 1".into()), Some((1, step)));
        store.finish(done, End { state: State::Failed, reason, closing }).await.unwrap();
        store.unrecorded().await;
        let named = store.recorded(vec![]).await.unwrap();
        assert_eq!(named.len(), 1);
        assert_eq!((named[0].job, named[0].state), (done, State::Failed));
        assert_eq!(named[0].reason.as_deref(), Some("step 1: exit code 1"));
        assert_eq!(named[0].closing, Some(Closing { step: 1, exit: Exit::Code(1), dropped: 7 }));
        assert_eq!(store.recorded(vec![done]).await.unwrap(), []);

        store.claim().await.unwrap().unwrap();
        store.start(started).await.unwrap();
        place.hands.advance(Duration::from_secs(61));
        store.claim().await.unwrap();
        let crashed = place.crashed();
        let (store, _) = crashed.open();
        store.unrecorded().await;
        let mut ends: Vec<_> =
            store.recorded(vec![]).await.unwrap().into_iter().map(|end| (end.job, end.state)).collect();
        ends.sort_unstable_by_key(|(job, _)| *job != started);
        assert_eq!(ends, [(started, State::Interrupted), (expires, State::Expired)]);
    }
}
