//! The line of waiting jobs before each lock, and its head: what may be claimed next, and what holds it.
//!
//! The head of every lock with room stands in one of three indexes: ready, held by a file, or delayed until a moment.
//! Claiming thus depends neither on how many wait nor on how many are held. A head that is held holds its lock: nobody
//! overtakes it. Whether a file is there is not asked here.

use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, Params, params};

use super::ledger::Ledger;
use super::{Unavailable, stored};

/// Most heads whose delay ends in one transaction; the rest follows in the next.
pub(super) const RIPE_AT_ONCE: usize = 256;

/// A job's seq, and when it expires.
type Next = (i64, Option<i64>);

impl Ledger<'_> {
    /// The job to claim next among those that nothing holds.
    pub(super) fn next_ready(&self) -> Result<Option<Next>, Unavailable> {
        self.next(
            "SELECT head, (SELECT expires_at FROM jobs WHERE seq = head) FROM locks INDEXED BY locks_ready
             WHERE head IS NOT NULL AND active < concurrency AND not_before IS NULL AND awaits IS NULL
             ORDER BY head LIMIT 1",
            [],
        )
    }

    /// The job to claim next among those that wait for this file alone.
    pub(super) fn next_held_by(&self, file: &Path) -> Result<Option<Next>, Unavailable> {
        self.next(
            "SELECT head, (SELECT expires_at FROM jobs WHERE seq = head) FROM locks INDEXED BY locks_held
             WHERE head IS NOT NULL AND active < concurrency AND not_before IS NULL AND awaits IS NOT NULL
                 AND awaits = ?1 ORDER BY head LIMIT 1",
            [stored::path_bytes(file)],
        )
    }

    fn next(&self, sql: &str, values: impl Params) -> Result<Option<Next>, Unavailable> {
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row(values, |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    /// The last accepted job among those that wait for a file alone.
    pub(super) fn last_held(&self) -> Result<Option<i64>, Unavailable> {
        let mut statement = self.connection.prepare_cached(
            "SELECT head FROM locks INDEXED BY locks_held
             WHERE head IS NOT NULL AND active < concurrency AND not_before IS NULL AND awaits IS NOT NULL
             ORDER BY head DESC LIMIT 1",
        )?;
        Ok(statement.query_row([], |row| row.get(0)).optional()?)
    }

    /// The files that jobs wait for, and for nothing else; as many as policies name.
    pub(super) fn held_by(&self) -> Result<Vec<PathBuf>, Unavailable> {
        let mut statement = self.connection.prepare_cached(
            "SELECT DISTINCT awaits FROM locks INDEXED BY locks_held
             WHERE head IS NOT NULL AND active < concurrency AND not_before IS NULL AND awaits IS NOT NULL",
        )?;
        let files = statement.query_map([], |row| row.get(0).map(stored::path))?;
        Ok(files.collect::<Result<_, _>>()?)
    }

    /// Ends the delay of heads that waited long enough, a bounded number of them; says how many.
    pub(super) fn ripen(&mut self) -> Result<usize, Unavailable> {
        let mut statement = self.connection.prepare_cached(&format!(
            "UPDATE locks SET not_before = NULL WHERE lock IN
                 (SELECT lock FROM locks INDEXED BY locks_delayed
                  WHERE not_before IS NOT NULL AND not_before <= ?1 ORDER BY not_before LIMIT {RIPE_AT_ONCE})"
        ))?;
        Ok(statement.execute([self.now])?)
    }

    /// When the next delay ends, in microseconds of wall time.
    pub(super) fn next_ripe(&self) -> Result<Option<i64>, Unavailable> {
        let mut statement = self.connection.prepare_cached(
            "SELECT not_before FROM locks INDEXED BY locks_delayed
             WHERE not_before IS NOT NULL ORDER BY not_before LIMIT 1",
        )?;
        Ok(statement.query_row([], |row| row.get(0)).optional()?)
    }

    /// After a job of this lock was marked: so many more wait, and so many more hold the lock. Whoever is first now is the
    /// head.
    pub(super) fn move_line(&mut self, lock: &str, waiting: isize, active: isize) -> Result<(), Unavailable> {
        self.connection
            .prepare_cached(
                "UPDATE locks SET waiting = waiting + ?2, active = active + ?3, (head, not_before, awaits) =
                     (SELECT seq, CASE WHEN not_before > ?4 THEN not_before END, awaits
                      FROM jobs INDEXED BY jobs_waiting
                      WHERE lock = ?1 AND state = 'queued' AND claimed IS NULL ORDER BY seq LIMIT 1)
                 WHERE lock = ?1",
            )?
            .execute(params![lock, waiting, active, self.now])?;
        self.tally.waiting = self.tally.waiting.saturating_add_signed(waiting);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture::{Place, terms};
    use super::super::sqlite::{StepRecord, Store};
    use super::*;
    use crate::domain::job::{Exit, JobId, State};
    use crate::domain::submission::Terms;

    const FILE: &str = "/run/puppet/agent_catalog_run.lock";

    fn held(lock: &str) -> Terms {
        Terms { awaits: Some(FILE.into()), ..terms(lock, 1) }
    }

    async fn submit(place: &Place, store: &Store, terms: &Terms) -> JobId {
        store.submit(&place.submission("kick"), terms).await.unwrap().job
    }

    async fn claim(store: &Store) -> Option<JobId> {
        store.claim().await.unwrap().map(|claim| claim.job)
    }

    async fn claim_freed(store: &Store, file: &str) -> Option<JobId> {
        store.claim_freed(file.into()).await.unwrap().map(|claim| claim.job)
    }

    async fn fail(store: &Store, job: JobId, exit: i32) {
        store.start(job).await.unwrap();
        let output = exit.to_string().into_bytes();
        let step = StepRecord { argv: vec![], exit: Exit::Code(exit), output, dropped: 0 };
        store.record_step(job, 1, step).await.unwrap();
    }

    #[tokio::test]
    async fn a_head_that_waits_for_its_file_holds_its_lock_and_no_other() {
        let place = Place::new();
        let (store, _) = place.open();
        let head = submit(&place, &store, &held("kick")).await;
        let behind = submit(&place, &store, &terms("kick", 1)).await;
        let other = submit(&place, &store, &terms("other", 1)).await;
        assert_eq!(claim(&store).await, Some(other));
        assert_eq!(claim(&store).await, None);
        assert_eq!(store.held_by().await.unwrap(), [PathBuf::from(FILE)]);
        assert_eq!(claim_freed(&store, "/another/file").await, None);
        assert_eq!(claim_freed(&store, FILE).await, Some(head));
        assert_eq!(claim_freed(&store, FILE).await, None);
        assert!(store.held_by().await.unwrap().is_empty());
        store.finish(head, State::Succeeded).await.unwrap();
        assert_eq!(claim(&store).await, Some(behind));
    }

    #[tokio::test]
    async fn what_is_held_is_heard_of_also_when_it_comes_to_the_front_or_a_process_starts() {
        let place = Place::new();
        let (store, _) = place.open();
        let first = submit(&place, &store, &terms("kick", 1)).await;
        claim(&store).await.unwrap();
        let second = submit(&place, &store, &held("kick")).await;
        assert!(store.held_by().await.unwrap().is_empty(), "its lock has no room");
        let watcher = store.clone();
        let heard = tokio::spawn(async move { watcher.held_unlike(None).await });
        store.finish(first, State::Succeeded).await.unwrap();
        let seen = heard.await.unwrap();
        assert_eq!(store.held_unlike(None).await, seen);
        submit(&place, &store, &held("other")).await;
        assert_ne!(store.held_unlike(Some(seen)).await, seen);

        drop(store);
        let (store, _) = place.open();
        assert_eq!(claim(&store).await, None);
        assert_eq!(claim_freed(&store, FILE).await, Some(second));
    }

    #[tokio::test]
    async fn what_waits_for_its_file_for_too_long_expires() {
        let place = Place::new();
        let (store, _) = place.open();
        let job = submit(&place, &store, &held("kick")).await;
        place.hands.advance(Duration::from_secs(3600));
        assert_eq!(claim_freed(&store, FILE).await, None);
        assert_eq!(store.find(job).await.unwrap().unwrap().view.state, State::Expired);
    }

    #[tokio::test]
    async fn another_attempt_waits_at_its_old_place_and_shows_the_last_one() {
        let place = Place::new();
        let (store, _) = place.open();
        let job = submit(&place, &store, &terms("kick", 1)).await;
        let behind = submit(&place, &store, &terms("kick", 1)).await;
        let claimed = store.claim().await.unwrap().unwrap();
        assert_eq!((claimed.job, claimed.attempt), (job, 1));
        fail(&store, job, 3).await;
        for _ in 0..2 {
            // Once more is no error, and no third attempt.
            store.retry(job, 1, Duration::from_secs(30)).await.unwrap();
        }
        let view = store.find(job).await.unwrap().unwrap().view;
        assert_eq!((view.state, view.started, view.steps.len()), (State::Queued, None, 1));
        assert_eq!(claim(&store).await, None, "the one behind it does not overtake");
        place.hands.advance(Duration::from_secs(29));
        assert_eq!(claim(&store).await, None);
        place.hands.advance(Duration::from_secs(1));
        let claimed = store.claim().await.unwrap().unwrap();
        assert_eq!((claimed.job, claimed.attempt), (job, 2));
        assert_eq!(store.find(job).await.unwrap().unwrap().view.steps[0].output, "3");
        store.start(job).await.unwrap();
        assert!(store.find(job).await.unwrap().unwrap().view.steps.is_empty());
        fail(&store, job, 4).await;
        store.finish(job, State::Failed).await.unwrap();
        let view = store.find(job).await.unwrap().unwrap().view;
        assert_eq!((view.steps.len(), view.steps[0].output.as_str()), (1, "4"));
        store.retry(job, 2, Duration::ZERO).await.unwrap();
        assert_eq!(store.find(job).await.unwrap().unwrap().view.state, State::Failed, "what has ended stays");
        assert_eq!(claim(&store).await, Some(behind));
        assert!(store.retry(JobId::new(place.clock.now()), 1, Duration::ZERO).await.is_err(), "unknown");
    }

    #[tokio::test]
    async fn a_delay_survives_a_crash_and_its_job_neither_expires_nor_is_joined() {
        let place = Place::new();
        let (store, _) = place.open();
        let joining = super::super::fixture::joining("kick", 1);
        let job = submit(&place, &store, &joining).await;
        claim(&store).await.unwrap();
        fail(&store, job, 1).await;
        store.retry(job, 1, Duration::from_secs(7200)).await.unwrap();
        assert_ne!(submit(&place, &store, &joining).await, job);

        let crashed = place.crashed();
        let (store, recovered) = crashed.open();
        assert_eq!(recovered.requeued, []);
        assert_eq!(claim(&store).await, None);
        assert_eq!(store.find(job).await.unwrap().unwrap().view.steps.len(), 1);
        crashed.hands.advance(Duration::from_secs(7200));
        assert_eq!(claim(&store).await, Some(job));

        // Claimed but not started: a crash does not take it for one that was under way.
        drop(store);
        let (store, recovered) = crashed.open();
        assert_eq!((recovered.requeued.len(), recovered.interrupted.len()), (1, 0));
        assert_eq!(store.find(job).await.unwrap().unwrap().view.steps.len(), 1);
        assert_eq!(claim(&store).await, Some(job));
    }

    #[tokio::test]
    async fn a_delay_that_ends_is_heard_of() {
        let place = Place::new();
        let clock = crate::clock::Clock::system();
        let (store, _) = Store::open(&place.file(), place.settings.clone(), clock.clone()).unwrap();
        let mut submission = place.submission("kick");
        submission.at = clock.now();
        let job = store.submit(&submission, &terms("kick", 1)).await.unwrap().job;
        claim(&store).await.unwrap();
        fail(&store, job, 1).await;
        store.retry(job, 1, Duration::from_millis(30)).await.unwrap();
        assert_eq!(claim(&store).await, None);
        tokio::time::timeout(Duration::from_secs(60), store.available()).await.unwrap();
        assert_eq!(claim(&store).await, Some(job));
    }

    #[tokio::test]
    async fn a_job_that_is_tried_again_waits_for_its_file_again() {
        let place = Place::new();
        let (store, _) = place.open();
        let job = submit(&place, &store, &held("kick")).await;
        assert_eq!(claim_freed(&store, FILE).await, Some(job));
        fail(&store, job, 1).await;
        store.retry(job, 1, Duration::from_secs(30)).await.unwrap();
        assert_eq!(claim_freed(&store, FILE).await, None, "its delay is not over");
        place.hands.advance(Duration::from_secs(30));
        assert_eq!(claim(&store).await, None);
        assert_eq!(claim_freed(&store, FILE).await, Some(job));
    }
}
