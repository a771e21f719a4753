//! A job's way from waiting to its final state: claimed, started, its steps, its end; and who holds which lock.
//!
//! Order is kept within a lock, also by jobs that are held or wait for another attempt: see `line`. Among locks the job
//! that was accepted first is claimed first.

use std::path::Path;
use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};

use super::ledger::Ledger;
use super::sqlite::{Claim, End, StepRecord};
use super::{Unavailable, stored};
use crate::domain::body::Body;
use crate::domain::job::{JobId, State};

/// Most jobs that expire in one transaction; the rest follows in the next.
pub(super) const EXPIRED_AT_ONCE: usize = 256;

/// A job that has not ended.
struct Live {
    seq: i64,
    job: JobId,
    lock: String,
    standing: Standing,
}

enum Standing {
    Waiting,
    Claimed,
    Started,
}

const LIVE: &str = "SELECT seq, id, lock, claimed IS NOT NULL, started IS NOT NULL FROM jobs";

/// What a row of [`LIVE`] holds, before it is understood.
type LiveRow = (i64, String, String, bool, bool);

fn live_row(row: &Row<'_>) -> rusqlite::Result<LiveRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn live((seq, id, lock, claimed, started): LiveRow) -> Result<Live, Unavailable> {
    let standing = match (claimed, started) {
        (false, _) => Standing::Waiting,
        (true, false) => Standing::Claimed,
        (true, true) => Standing::Started,
    };
    Ok(Live { seq, job: stored::job_id(&id)?, lock, standing })
}

impl Ledger<'_> {
    /// Marks the job that is next as claimed; `None` when no lock has both room and a waiting job that nothing holds. With
    /// `free`, only jobs that wait for this file, which is gone, are looked at. What should have been started by now expires
    /// on the way.
    pub(super) fn claim(&mut self, free: Option<&Path>) -> Result<Option<Claim>, Unavailable> {
        for _ in 0..EXPIRED_AT_ONCE {
            let next = match free {
                None => self.next_ready()?,
                Some(file) => self.next_held_by(file)?,
            };
            let Some((seq, expires_at)) = next else { return Ok(None) };
            if expires_at.is_some_and(|at| at <= self.now) {
                let head = self.live("WHERE seq = ?1", seq)?.ok_or_else(|| vanished(&seq.to_string()))?;
                self.end(&head, State::Expired, None)?;
                continue;
            }
            if let Some(claim) = self.take(seq)? {
                return Ok(Some(claim));
            }
        }
        Ok(None)
    }

    /// Claims a job; `None` when what stands in it cannot be read, which ends it: else it would stand before all others
    /// for ever.
    fn take(&mut self, seq: i64) -> Result<Option<Claim>, Unavailable> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE jobs SET claimed = ?2 WHERE seq = ?1
             RETURNING id, route, parameters, identity, proofs, submitted, lock, attempt,
                 (SELECT bytes FROM bodies WHERE job = seq)",
        )?;
        let (id, route, parameters, identity, proofs, submitted, lock, attempt, body) =
            statement.query_row(params![seq, self.now], |row| {
                let text = |column| row.get::<_, String>(column);
                let body = row.get::<_, Option<Vec<u8>>>(8)?;
                Ok((
                    text(0)?,
                    text(1)?,
                    text(2)?,
                    text(3)?,
                    text(4)?,
                    row.get(5)?,
                    text(6)?,
                    row.get(7)?,
                    body,
                ))
            })?;
        self.move_line(&lock, -1, 1)?;
        let job = stored::job_id(&id)?;
        let read = || {
            Ok::<_, Unavailable>(Claim {
                job,
                route: stored::route(&route)?,
                parameters: stored::json(&parameters)?,
                body: body.map(Body::from),
                identity: stored::identity(&identity)?,
                proofs: stored::json(&proofs)?,
                submitted: stored::time(submitted)?,
                attempt,
            })
        };
        match read() {
            Ok(claim) => Ok(Some(claim)),
            Err(reason) => {
                tracing::error!(%job, %reason, "a job cannot be read, and is refused");
                let live = Live { seq, job, lock, standing: Standing::Claimed };
                self.end(&live, State::Refused, Some("what the queue holds of it cannot be read"))?;
                Ok(None)
            }
        }
    }

    /// Marks a claimed job as started; once more is no error.
    pub(super) fn start(&mut self, job: JobId) -> Result<(), Unavailable> {
        // Until now, the steps of the last attempt were shown.
        self.connection
            .prepare_cached(
                "DELETE FROM steps WHERE job = (SELECT seq FROM jobs WHERE id = ?1 AND attempt > 1
                     AND claimed IS NOT NULL AND started IS NULL AND finished IS NULL)",
            )?
            .execute([job.to_string()])?;
        let mut statement = self.connection.prepare_cached(
            "UPDATE jobs SET state = 'running', started = COALESCE(started, ?2)
             WHERE id = ?1 AND claimed IS NOT NULL AND finished IS NULL",
        )?;
        match statement.execute(params![job.to_string(), self.now])? {
            0 => Err(Unavailable(format!("job {job} is not claimed, so it cannot start"))),
            _ => Ok(()),
        }
    }

    /// Stores how a step of a running job ended; once more replaces it.
    pub(super) fn record_step(
        &mut self,
        job: JobId,
        number: usize,
        step: &StepRecord,
    ) -> Result<(), Unavailable> {
        let mut statement = self.connection.prepare_cached(
            "INSERT OR REPLACE INTO steps (job, number, argv, exit, output, dropped)
             SELECT seq, ?2, ?3, ?4, ?5, ?6 FROM jobs WHERE id = ?1 AND state = 'running'",
        )?;
        let stored = statement.execute(params![
            job.to_string(),
            i64::try_from(number).unwrap_or(i64::MAX),
            serde_json::to_string(&step.argv)?,
            serde_json::to_string(&step.exit)?,
            step.output,
            i64::try_from(step.dropped).unwrap_or(i64::MAX),
        ])?;
        match stored {
            0 => Err(Unavailable(format!("job {job} is not running, so it has no step to record"))),
            _ => Ok(()),
        }
    }

    /// Puts a job into a final state and frees its lock; a job that already ended stays as it is.
    pub(super) fn finish(&mut self, job: JobId, end: &End) -> Result<(), Unavailable> {
        let End { state, reason, closing } = end;
        if !state.is_final() {
            return Err(Unavailable(format!("{state} is not a final state of job {job}")));
        }
        let Some(live) = self.live("WHERE id = ?1 AND finished IS NULL", job.to_string())? else {
            return self.must_know(job);
        };
        if let Some((number, step)) = closing {
            self.record_step(job, *number, step)?;
            self.connection
                .prepare_cached("UPDATE jobs SET closing = ?2 WHERE seq = ?1")?
                .execute(params![live.seq, i64::try_from(*number).unwrap_or(i64::MAX)])?;
        }
        self.end(&live, *state, reason.as_deref())
    }

    /// Lets a job whose run failed wait for the next one, at its old place and for at least `delay`. It is half done, and
    /// no longer expires. A job that has ended, or is past this attempt, stays as it is.
    pub(super) fn retry(&mut self, job: JobId, attempt: u32, delay: Duration) -> Result<(), Unavailable> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE jobs SET state = 'queued', claimed = NULL, started = NULL, expires_at = NULL,
                 attempt = attempt + 1, not_before = ?3
             WHERE id = ?1 AND attempt = ?2 AND claimed IS NOT NULL AND finished IS NULL RETURNING lock",
        )?;
        let not_before = self.now.saturating_add(stored::micros(delay));
        let lock = statement
            .query_row(params![job.to_string(), attempt, not_before], |row| row.get::<_, String>(0))
            .optional()?;
        match lock {
            Some(lock) => self.move_line(&lock, 1, -1),
            None => self.must_know(job),
        }
    }

    fn must_know(&self, job: JobId) -> Result<(), Unavailable> {
        let mut statement = self.connection.prepare_cached("SELECT 1 FROM jobs WHERE id = ?1")?;
        if statement.exists([job.to_string()])? { Ok(()) } else { Err(vanished(&job.to_string())) }
    }

    /// Ends jobs that waited for too long, a bounded number of them; says how many.
    pub(super) fn expire(&mut self) -> Result<usize, Unavailable> {
        let mut statement = self.connection.prepare_cached(&format!(
            "{LIVE} INDEXED BY jobs_expiring WHERE state = 'queued' AND claimed IS NULL
                 AND expires_at IS NOT NULL AND expires_at <= ?1
             ORDER BY expires_at LIMIT {EXPIRED_AT_ONCE}"
        ))?;
        let due = statement.query_map([self.now], live_row)?.collect::<Result<Vec<_>, _>>()?;
        let count = due.len();
        for row in due {
            self.end(&live(row)?, State::Expired, None)?;
        }
        Ok(count)
    }

    /// When the next waiting job expires, in microseconds of wall time.
    pub(super) fn next_expiry(&self) -> Result<Option<i64>, Unavailable> {
        let mut statement = self.connection.prepare_cached(
            "SELECT expires_at FROM jobs INDEXED BY jobs_expiring
             WHERE state = 'queued' AND claimed IS NULL AND expires_at IS NOT NULL
             ORDER BY expires_at LIMIT 1",
        )?;
        Ok(statement.query_row([], |row| row.get(0)).optional()?)
    }

    fn live(
        &self,
        condition: &'static str,
        value: impl rusqlite::ToSql,
    ) -> Result<Option<Live>, Unavailable> {
        let mut statement = self.connection.prepare_cached(&format!("{LIVE} {condition}"))?;
        statement.query_row([value], live_row).optional()?.map(live).transpose()
    }

    fn end(&mut self, live: &Live, state: State, reason: Option<&str>) -> Result<(), Unavailable> {
        let kept: i64 = self
            .connection
            .prepare_cached(
                "UPDATE jobs SET state = ?2, finished = ?3, reason = ?4,
                     keeps = (SELECT COALESCE(SUM(LENGTH(output)), 0) FROM steps WHERE job = ?1)
                           + (SELECT COALESCE(SUM(LENGTH(bytes)), 0) FROM bodies WHERE job = ?1)
                 WHERE seq = ?1 RETURNING keeps",
            )?
            .query_row(params![live.seq, state.as_str(), self.now, reason], |row| row.get(0))?;
        self.tally.kept = self.tally.kept.saturating_add(kept);
        match live.standing {
            Standing::Waiting => self.move_line(&live.lock, -1, 0)?,
            Standing::Claimed | Standing::Started => self.move_line(&live.lock, 0, -1)?,
        }
        // Lock names may be made of parameters: an idle lock must leave nothing behind.
        self.connection
            .prepare_cached("DELETE FROM locks WHERE lock = ?1 AND active = 0 AND waiting = 0")?
            .execute([&live.lock])?;
        self.tally.ended.push(live.job);
        Ok(())
    }
}

fn vanished(job: &str) -> Unavailable {
    Unavailable(format!("there is no job {job}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::fixture::{Place, terms};
    use super::super::sqlite::{Recovered, Store};
    use super::*;
    use crate::domain::submission::Terms;

    async fn submit(place: &Place, store: &Store, terms: &Terms) -> JobId {
        store.submit(&place.submission("kick"), terms).await.unwrap().job
    }

    async fn claim(store: &Store) -> Option<JobId> {
        store.claim().await.unwrap().map(|claim| claim.job)
    }

    #[tokio::test]
    async fn a_lock_lets_in_order_and_other_locks_do_not_wait_for_it() {
        let place = Place::new();
        let (store, _) = place.open();
        let kick = [
            submit(&place, &store, &terms("kick", 1)).await,
            submit(&place, &store, &terms("kick", 1)).await,
        ];
        let other = submit(&place, &store, &terms("promote", 1)).await;
        assert_eq!(claim(&store).await, Some(kick[0]));
        assert_eq!(claim(&store).await, Some(other), "its own lock");
        assert_eq!(claim(&store).await, None);
        store.start(kick[0]).await.unwrap();
        assert_eq!(claim(&store).await, None, "started jobs hold the lock too");
        store.finish(kick[0], State::Succeeded).await.unwrap();
        assert_eq!(claim(&store).await, Some(kick[1]));
    }

    #[tokio::test]
    async fn a_job_that_cannot_be_read_holds_up_no_other() {
        let place = Place::new();
        let (store, _) = place.open();
        let unreadable = submit(&place, &store, &terms("kick", 1)).await;
        let next = submit(&place, &store, &terms("kick", 1)).await;
        store.close().await;
        let connection = rusqlite::Connection::open(place.file()).unwrap();
        let spoilt =
            connection.execute("UPDATE jobs SET proofs = '{}' WHERE id = ?1", [unreadable.to_string()]);
        assert_eq!(spoilt.unwrap(), 1);
        drop(connection);
        let (store, _) = place.open();
        assert_eq!(claim(&store).await, Some(next));
        let connection = rusqlite::Connection::open(place.file()).unwrap();
        let state =
            connection.query_row("SELECT state FROM jobs WHERE id = ?1", [unreadable.to_string()], |row| {
                row.get::<_, String>(0)
            });
        assert_eq!(state.unwrap(), "refused");
    }

    #[tokio::test]
    async fn the_latest_submission_says_how_many_at_once() {
        let place = Place::new();
        let (store, _) = place.open();
        for _ in 0..3 {
            submit(&place, &store, &terms("kick", 1)).await;
        }
        assert!(claim(&store).await.is_some());
        assert_eq!(claim(&store).await, None);
        submit(&place, &store, &terms("kick", 2)).await;
        assert!(claim(&store).await.is_some());
        assert_eq!(claim(&store).await, None);
    }

    #[tokio::test]
    async fn what_waited_too_long_expires_instead_of_starting() {
        let place = Place::new();
        let (store, _) = place.open();
        let short = Terms { expires: Duration::from_secs(60), ..terms("kick", 1) };
        let held = submit(&place, &store, &short).await;
        let expires = submit(&place, &store, &short).await;
        let stays = submit(&place, &store, &terms("kick", 1)).await;
        assert_eq!(claim(&store).await, Some(held));
        assert_eq!(store.next_expiry().await, Some(Duration::from_secs(60)));
        place.hands.advance(Duration::from_secs(60));
        store.start(held).await.unwrap();
        let found = store.await_end(expires, Duration::ZERO).await.unwrap().unwrap();
        assert_eq!(found.view.state, State::Expired);
        store.finish(held, State::Succeeded).await.unwrap();
        assert_eq!(claim(&store).await, Some(stays));
    }

    #[tokio::test]
    async fn an_idle_lock_leaves_nothing_behind() {
        let place = Place::new();
        let (store, _) = place.open();
        let ends =
            [submit(&place, &store, &terms("a", 1)).await, submit(&place, &store, &terms("b", 1)).await];
        assert_eq!(claim(&store).await, Some(ends[0]));
        for job in ends {
            store.finish(job, State::Cancelled).await.unwrap();
        }
        store.close().await;
        let connection = rusqlite::Connection::open(place.file()).unwrap();
        let locks: i64 = connection.query_row("SELECT COUNT(*) FROM locks", [], |row| row.get(0)).unwrap();
        assert_eq!(locks, 0);
    }

    #[derive(Clone, Debug)]
    enum Act {
        Submit {
            lock: u8,
            concurrency: u32,
            idempotent: bool,
        },
        Claim,
        /// Of the claimed jobs, the one at this place.
        Start(usize),
        /// Of all jobs that did not end, the one at this place.
        Finish(usize),
        Reopen,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..3_u8, 1..4_u32, any::<bool>())
                .prop_map(|(lock, concurrency, idempotent)| Act::Submit { lock, concurrency, idempotent }),
            4 => Just(Act::Claim),
            2 => any::<usize>().prop_map(Act::Start),
            3 => any::<usize>().prop_map(Act::Finish),
            1 => Just(Act::Reopen),
        ]
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Stage {
        Waiting,
        Claimed,
        Started,
    }

    #[derive(Clone, Debug)]
    struct Modelled {
        job: JobId,
        lock: u8,
        concurrency: u32,
        idempotent: bool,
        stage: Stage,
    }

    /// Jobs that did not end, in the order of acceptance, and what each lock in use was told last.
    #[derive(Default)]
    struct Model {
        jobs: Vec<Modelled>,
        concurrency: BTreeMap<u8, u32>,
    }

    impl Model {
        fn active(&self, lock: u8) -> usize {
            self.jobs.iter().filter(|one| one.lock == lock && one.stage != Stage::Waiting).count()
        }

        fn next(&self) -> Option<usize> {
            let has_room = |lock: u8| self.active(lock) < self.concurrency[&lock] as usize;
            self.jobs.iter().position(|one| one.stage == Stage::Waiting && has_room(one.lock))
        }

        fn reopen(&mut self) -> Recovered {
            let mut recovered = Recovered::default();
            let name = crate::domain::name::RouteName::parse("kick").unwrap();
            for one in &mut self.jobs {
                match (one.stage, one.idempotent) {
                    (Stage::Waiting, _) => continue,
                    (Stage::Started, false) => recovered.interrupted.push((one.job, name.clone())),
                    (Stage::Claimed, _) | (Stage::Started, true) => {
                        recovered.requeued.push((one.job, name.clone()));
                        one.stage = Stage::Waiting;
                    }
                }
            }
            self.jobs.retain(|one| one.stage == Stage::Waiting);
            self.concurrency = self.jobs.iter().map(|one| (one.lock, one.concurrency)).collect();
            recovered
        }
    }

    async fn compare(acts: Vec<Act>) -> Result<(), TestCaseError> {
        let place = Place::new();
        let (mut store, _) = place.open();
        let mut model = Model::default();
        for act in acts {
            match act {
                Act::Submit { lock, concurrency, idempotent } => {
                    let terms = Terms { idempotent, ..terms(&format!("lock-{lock}"), concurrency) };
                    let job = submit(&place, &store, &terms).await;
                    model.concurrency.insert(lock, concurrency);
                    model.jobs.push(Modelled { job, lock, concurrency, idempotent, stage: Stage::Waiting });
                }
                Act::Claim => {
                    let next = model.next();
                    prop_assert_eq!(claim(&store).await, next.map(|index| model.jobs[index].job));
                    if let Some(index) = next {
                        model.jobs[index].stage = Stage::Claimed;
                        let lock = model.jobs[index].lock;
                        prop_assert!(model.active(lock) <= model.concurrency[&lock] as usize);
                    }
                }
                Act::Start(pick) => {
                    let mut claimed: Vec<_> =
                        model.jobs.iter_mut().filter(|one| one.stage == Stage::Claimed).collect();
                    if !claimed.is_empty() {
                        let index = pick % claimed.len();
                        store.start(claimed[index].job).await.unwrap();
                        claimed[index].stage = Stage::Started;
                    }
                }
                Act::Finish(pick) => {
                    if !model.jobs.is_empty() {
                        let ended = model.jobs.remove(pick % model.jobs.len());
                        store.finish(ended.job, State::Cancelled).await.unwrap();
                    }
                }
                Act::Reopen => {
                    drop(store);
                    let (reopened, mut recovered) = place.open();
                    store = reopened;
                    recovered.requeued.sort();
                    recovered.interrupted.sort();
                    let mut expected = model.reopen();
                    expected.requeued.sort();
                    expected.interrupted.sort();
                    prop_assert_eq!(recovered, expected);
                }
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        #[test]
        fn locks_hold_through_any_interleaving(acts in proptest::collection::vec(act(), 1..80)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(compare(acts))?;
        }
    }
}
