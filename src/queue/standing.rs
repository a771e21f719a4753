//! Why a job stands where it does: what it waits for, which run of it this is, and why it ended. For operators alone.
//!
//! Says what the tables hold, and changes nothing. Senders are told the state and no more: none of this is in a `JobView`.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::sqlite::Store;
use super::{Found, Unavailable, read, stored};
use crate::domain::job::JobId;

/// Why a job stands where it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Why it ended as it did, where the state alone does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which run this is, or which one it waits for, from 1; of a job that has ended, the last.
    pub attempt: u32,
    /// The lock that it takes.
    pub lock: String,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
}

/// What a job waits for: the first thing that holds it, and perhaps not the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Waits {
    /// Its lock.
    Lock {
        /// How many jobs hold it.
        active: u32,
        /// How many may.
        concurrency: u32,
        /// How many jobs of the lock wait before it, where one job is looked at and not a list.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
    },
    /// The next attempt, after one that failed.
    Retry {
        /// It does not start before this.
        not_before: Timestamp,
    },
    /// The end of a file.
    File {
        /// Which, with replacement characters where its name is no UTF-8.
        awaits: String,
    },
    /// A place among the commands that run at once.
    Turn,
    /// Its start: a worker has taken it.
    Start,
}

/// What [`standing`] reads, from tables that [`WITH_LOCKS`] has joined.
pub(super) const COLUMNS: &str = "jobs.reason, jobs.attempt, jobs.lock, jobs.state = 'queued', \
     jobs.claimed IS NOT NULL, COALESCE(jobs.seq = locks.head, 0), COALESCE(locks.active, 0), \
     COALESCE(locks.concurrency, jobs.concurrency), locks.not_before, locks.awaits";
/// Stands behind `FROM jobs`.
pub(super) const WITH_LOCKS: &str = "LEFT JOIN locks ON locks.lock = jobs.lock";

impl Store {
    /// As [`Store::find`], with why it stands where it does.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn inspect(&self, job: JobId) -> Result<Option<(Found, Standing)>, Unavailable> {
        let inspected = self.readers().read(move |connection| {
            let moment = connection.transaction()?;
            let found = read::find(&moment, job)?;
            Ok(found.zip(of(&moment, job)?))
        });
        Ok(inspected.await?.map(|(found, standing)| (self.shown(found), standing)))
    }
}

fn of(moment: &Connection, job: JobId) -> Result<Option<Standing>, Unavailable> {
    let mut statement =
        moment.prepare_cached(&format!("SELECT {COLUMNS}, seq FROM jobs {WITH_LOCKS} WHERE id = ?1"))?;
    let row = statement.query_row([job.to_string()], |row| Ok((standing(row, 0), row.get::<_, i64>(10)?)));
    let Some((standing, seq)) = row.optional()? else { return Ok(None) };
    let mut standing = standing?;
    if let Some(Waits::Lock { before, .. }) = &mut standing.waits {
        let mut statement = moment.prepare_cached(
            "SELECT COUNT(*) FROM jobs INDEXED BY jobs_waiting
             WHERE lock = ?1 AND state = 'queued' AND claimed IS NULL AND seq < ?2",
        )?;
        let count: i64 = statement.query_row(params![standing.lock, seq], |row| row.get(0))?;
        *before = u64::try_from(count).ok();
    }
    Ok(Some(standing))
}

/// From a row that holds [`COLUMNS`] from column `first` on.
pub(super) fn standing(row: &Row<'_>, first: usize) -> Result<Standing, Unavailable> {
    let (is_queued, is_claimed): (bool, bool) = (row.get(first + 3)?, row.get(first + 4)?);
    let is_head: bool = row.get(first + 5)?;
    let (active, concurrency): (u32, u32) = (row.get(first + 6)?, row.get(first + 7)?);
    let (not_before, awaits): (Option<i64>, Option<Vec<u8>>) = (row.get(first + 8)?, row.get(first + 9)?);
    let waits = match (is_queued, is_claimed) {
        (false, _) => None,
        (true, true) => Some(Waits::Start),
        (true, false) if !is_head || active >= concurrency => {
            Some(Waits::Lock { active, concurrency, before: None })
        }
        (true, false) => Some(match (not_before, awaits) {
            (Some(at), _) => Waits::Retry { not_before: stored::time(at)? },
            (None, Some(file)) => Waits::File { awaits: stored::path(file).to_string_lossy().into_owned() },
            (None, None) => Waits::Turn,
        }),
    };
    Ok(Standing { reason: row.get(first)?, attempt: row.get(first + 1)?, lock: row.get(first + 2)?, waits })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture::{Place, later, terms};
    use super::super::operate::Wanted;
    use super::super::sqlite::{End, StepRecord};
    use super::*;
    use crate::domain::job::{Exit, State};
    use crate::domain::submission::Terms;

    async fn standing(store: &Store, job: JobId) -> Standing {
        let (found, standing) = store.inspect(job).await.unwrap().unwrap();
        assert_eq!(found.view.job, job);
        let listed = Wanted { state: None, route: None, before: None, limit: 50 };
        let page = store.list(listed).await.unwrap().unwrap();
        let mut listed = page.jobs.into_iter().find(|summary| summary.job == job).unwrap().standing;
        if let (Some(Waits::Lock { before, .. }), Some(Waits::Lock { before: counted, .. })) =
            (&mut listed.waits, &standing.waits)
        {
            assert!(before.is_none());
            *before = *counted;
        }
        assert_eq!(listed, standing, "a list says the same");
        standing
    }

    fn lock(active: u32, before: u64) -> Option<Waits> {
        Some(Waits::Lock { active, concurrency: 1, before: Some(before) })
    }

    #[tokio::test]
    async fn what_a_job_waits_for_is_told_at_each_step_of_its_way() {
        let place = Place::new();
        let (store, _) = place.open();
        let held = Terms { awaits: Some("/run/held".into()), ..terms("held", 1) };
        let submit = async |terms: &Terms| store.submit(&place.submission("a"), terms).await.unwrap().job;
        let [first, second, third] =
            [submit(&terms("a", 1)).await, submit(&terms("a", 1)).await, submit(&terms("a", 1)).await];
        let held = submit(&held).await;
        let waits = async |job| standing(&store, job).await.waits;
        assert_eq!(waits(first).await, Some(Waits::Turn));
        assert_eq!(waits(third).await, lock(0, 2));
        assert_eq!(waits(held).await, Some(Waits::File { awaits: "/run/held".into() }));

        store.claim().await.unwrap().unwrap();
        assert_eq!(waits(first).await, Some(Waits::Start));
        assert_eq!((waits(second).await, waits(third).await), (lock(1, 0), lock(1, 1)));
        store.start(first).await.unwrap();
        assert_eq!(waits(first).await, None);

        store.retry(first, 1, Duration::from_secs(60)).await.unwrap();
        let Standing { reason, attempt, lock: name, waits: now } = standing(&store, first).await;
        assert_eq!((reason, attempt, name.as_str()), (None, 2, "a"));
        assert_eq!(now, Some(Waits::Retry { not_before: later(place.clock.now(), 60) }));
        assert_eq!(waits(second).await, lock(0, 1), "it keeps its place");
        assert!(store.inspect(JobId::new(place.clock.now())).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn why_a_job_ended_is_told_and_which_step_had_not() {
        let place = Place::new();
        let (store, _) = place.open();
        let submit = async |lock| store.submit(&place.submission(lock), &terms(lock, 1)).await.unwrap().job;
        let [failed, cancelled, crashed] = [submit("a").await, submit("b").await, submit("c").await];
        store.cancel(cancelled).await.unwrap();
        for job in [failed, crashed] {
            assert_eq!(store.claim().await.unwrap().unwrap().job, job);
            store.start(job).await.unwrap();
        }
        let end = End { state: State::Failed, reason: Some("step 1: exit code 7".into()), closing: None };
        store.finish(failed, end).await.unwrap();
        let step = StepRecord { argv: vec![], exit: Exit::Code(0), output: vec![], dropped: 0 };
        store.record_step(crashed, 1, step).await.unwrap();
        let place = place.crashed();
        let (store, _) = place.open();
        let reason = async |job| standing(&store, job).await.reason.unwrap();
        assert_eq!(reason(failed).await, "step 1: exit code 7");
        assert_eq!(reason(cancelled).await, "an operator cancelled it");
        assert_eq!(reason(crashed).await, "its worker ended before step 2 did");
    }
}
