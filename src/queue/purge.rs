//! Forgetting: message ids whose time is over, finished jobs that were kept long enough, and outputs and bodies that are too
//! much.
//!
//! A bounded number at a time. What is forgotten raises its scope's floor first, so that a message which is older than
//! anything still remembered stays refused, whatever the clock does later (invariant I6).

use std::collections::BTreeMap;

use rusqlite::params;

use super::ledger::Ledger;
use super::{Unavailable, stored};

/// Most message ids that one pass forgets.
const MESSAGES_AT_ONCE: usize = 1000;

/// Most jobs that one pass removes: their outputs may be large.
const JOBS_AT_ONCE: usize = 200;

impl Ledger<'_> {
    /// Forgets what is due; says whether more may be.
    pub(super) fn purge(&mut self) -> Result<bool, Unavailable> {
        let messages = self.purge_messages()?;
        let jobs = self.purge_jobs()?;
        let outputs = self.purge_outputs()?;
        Ok(messages == MESSAGES_AT_ONCE || jobs == JOBS_AT_ONCE || outputs == JOBS_AT_ONCE)
    }

    fn purge_messages(&mut self) -> Result<usize, Unavailable> {
        let mut statement = self.connection.prepare_cached(&format!(
            "DELETE FROM messages WHERE number IN
                 (SELECT number FROM messages INDEXED BY messages_keep
                  WHERE keep_until < ?1 ORDER BY keep_until LIMIT {MESSAGES_AT_ONCE})
             RETURNING scope, created"
        ))?;
        let mut floors: BTreeMap<String, i64> = BTreeMap::new();
        let mut purged = 0;
        let mut rows = statement.query([self.now])?;
        while let Some(row) = rows.next()? {
            purged += 1;
            let (scope, created): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
            if let Some(created) = created {
                let floor = floors.entry(scope).or_insert(created);
                *floor = created.max(*floor);
            }
        }
        let mut raise = self.connection.prepare_cached(
            "INSERT INTO floors (scope, created) VALUES (?1, ?2)
             ON CONFLICT (scope) DO UPDATE SET created = MAX(created, excluded.created)",
        )?;
        for (scope, created) in floors {
            raise.execute(params![scope, created])?;
        }
        Ok(purged)
    }

    fn purge_jobs(&mut self) -> Result<usize, Unavailable> {
        let over = self.now.saturating_sub(stored::micros(self.settings.keep));
        let mut statement = self.connection.prepare_cached(&format!(
            "DELETE FROM jobs WHERE seq IN
                 (SELECT seq FROM jobs INDEXED BY jobs_finished
                  WHERE finished IS NOT NULL AND finished < ?1 ORDER BY finished LIMIT {JOBS_AT_ONCE})
             RETURNING seq, id, state, keeps"
        ))?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        let purged: Vec<(i64, String, String, i64)> =
            statement.query_map([over], read)?.collect::<Result<_, _>>()?;
        // A message may outlive its job: the answer to its repetition still names how the job ended.
        let mut outlive = self.connection.prepare_cached("UPDATE messages SET ended = ?2 WHERE job = ?1")?;
        let mut steps = self.connection.prepare_cached("DELETE FROM steps WHERE job = ?1")?;
        let mut submitters = self.connection.prepare_cached("DELETE FROM submitters WHERE job = ?1")?;
        let mut bodies = self.connection.prepare_cached("DELETE FROM bodies WHERE job = ?1")?;
        for (seq, id, state, keeps) in &purged {
            self.tally.kept -= keeps.max(&0);
            outlive.execute([id, state])?;
            steps.execute([seq])?;
            submitters.execute([seq])?;
            bodies.execute([seq])?;
        }
        Ok(purged.len())
    }

    /// Discards the oldest outputs and bodies of finished jobs until what is kept is within its bound; says of how many jobs.
    fn purge_outputs(&mut self) -> Result<usize, Unavailable> {
        let bound = i64::try_from(self.settings.keep_bytes).unwrap_or(i64::MAX);
        if self.tally.kept <= bound {
            return Ok(0);
        }
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT seq, keeps FROM jobs INDEXED BY jobs_keeping
             WHERE keeps > 0 ORDER BY finished LIMIT {JOBS_AT_ONCE}"
        ))?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let oldest: Vec<(i64, i64)> = statement.query_map([], read)?.collect::<Result<_, _>>()?;
        let mut steps = self.connection.prepare_cached(
            "UPDATE steps SET dropped = dropped + LENGTH(output), output = x'' WHERE job = ?1",
        )?;
        let mut bodies = self.connection.prepare_cached("DELETE FROM bodies WHERE job = ?1")?;
        let mut jobs = self.connection.prepare_cached("UPDATE jobs SET keeps = -1 WHERE seq = ?1")?;
        let mut purged = 0;
        for (seq, keeps) in oldest {
            if self.tally.kept <= bound {
                break;
            }
            steps.execute([seq])?;
            bodies.execute([seq])?;
            jobs.execute([seq])?;
            self.tally.kept -= keeps;
            purged += 1;
        }
        Ok(purged)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::How;
    use super::super::fixture::{DAY, Place, later, message, terms};
    use super::super::sqlite::{StepRecord, Store};
    use crate::domain::job::{Exit, JobId, State};
    use crate::domain::submission::Submission;

    /// Lets the writer do what is due; there is nothing to claim.
    async fn pass(place: &Place, store: &Store, time: Duration) {
        place.hands.advance(time);
        store.claim().await.unwrap();
    }

    async fn run_one(store: &Store) -> JobId {
        let job = store.claim().await.unwrap().unwrap().job;
        store.start(job).await.unwrap();
        store.finish(job, State::Succeeded).await.unwrap();
        job
    }

    #[tokio::test]
    async fn a_finished_job_goes_when_it_was_kept_long_enough_and_a_waiting_one_does_not() {
        let place = Place::new();
        let (store, _) = place.open();
        let finished = store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap().job;
        run_one(&store).await;
        let mut patient = terms("kick", 1);
        patient.expires = 90 * DAY;
        let blocker = store.submit(&place.submission("kick"), &patient).await.unwrap().job;
        let waiting = store.submit(&place.submission("kick"), &patient).await.unwrap().job;
        assert_eq!(store.claim().await.unwrap().map(|claim| claim.job), Some(blocker));
        pass(&place, &store, 30 * DAY).await;
        assert!(store.find(finished).await.unwrap().is_some());
        pass(&place, &store, DAY).await;
        assert!(store.find(finished).await.unwrap().is_none());
        assert!(store.find(waiting).await.unwrap().is_some());
        assert!(store.find(blocker).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn the_oldest_outputs_go_first_and_their_jobs_stay() {
        let mut place = Place::new();
        place.settings.keep_bytes = 250;
        let (store, _) = place.open();
        let mut jobs = Vec::new();
        for bytes in [0, 100, 100, 100, 1000] {
            let job = store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap().job;
            store.claim().await.unwrap().unwrap();
            store.start(job).await.unwrap();
            for (number, output) in [(1, vec![b'x'; bytes]), (2, Vec::new())] {
                let step = StepRecord { argv: vec![], exit: Exit::Code(0), output, dropped: 0 };
                store.record_step(job, number, step).await.unwrap();
            }
            // The last one still runs: its output counts when it has ended.
            if bytes < 1000 {
                store.finish(job, State::Succeeded).await.unwrap();
            }
            place.hands.advance(Duration::from_secs(1));
            jobs.push(job);
        }
        let kept = async |store: &Store| {
            let mut kept = Vec::new();
            for job in &jobs {
                let view = store.find(*job).await.unwrap().unwrap().view;
                let [one, two] = &view.steps[..] else { panic!("{view:?}") };
                assert!(!two.discarded, "there was nothing to discard");
                assert!(!one.discarded || one.truncated);
                kept.push((one.output.len(), one.discarded));
            }
            kept
        };
        pass(&place, &store, Duration::from_secs(10)).await;
        let expected = [(0, false), (0, true), (100, false), (100, false), (1000, false)];
        assert_eq!(kept(&store).await, expected);

        // What is kept is counted anew after a restart, and what was interrupted counts, too.
        drop(store);
        let (store, _) = place.open();
        pass(&place, &store, Duration::from_secs(10)).await;
        let expected = [(0, false), (0, true), (0, true), (0, true), (0, true)];
        assert_eq!(kept(&store).await, expected);
        pass(&place, &store, 31 * DAY).await;
        for job in jobs {
            assert!(store.find(job).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn bodies_count_with_outputs_and_go_with_them() {
        let mut place = Place::new();
        place.settings.keep_bytes = 150;
        let (store, _) = place.open();
        let mut jobs = Vec::new();
        for byte in [b'a', b'b'] {
            let body = Some(vec![byte; 100].into());
            let submission = Submission { body: body.clone(), ..place.submission("kick") };
            let job = store.submit(&submission, &terms("kick", 1)).await.unwrap().job;
            assert_eq!(store.claim().await.unwrap().unwrap().body, body);
            store.start(job).await.unwrap();
            assert_eq!(store.body(job).await.unwrap(), body);
            store.finish(job, State::Succeeded).await.unwrap();
            pass(&place, &store, Duration::from_secs(10)).await;
            jobs.push((job, body));
        }
        assert_eq!(store.body(jobs[0].0).await.unwrap(), None, "the oldest one's is discarded");
        assert_eq!(store.body(jobs[1].0).await.unwrap(), jobs[1].1);
        assert!(store.find(jobs[0].0).await.unwrap().is_some());
        pass(&place, &store, 31 * DAY).await;
        assert_eq!(store.body(jobs[1].0).await.unwrap(), None, "it went with its job");
    }

    #[tokio::test]
    async fn i6_a_message_that_outlives_its_job_still_names_it_and_its_end() {
        let mut place = Place::new();
        place.settings.keep = Duration::from_secs(60);
        let (store, _) = place.open();
        let mut submission = place.signed("kick", "n1");
        message(&mut submission).keep_until = later(place.clock.now(), 86_400);
        store.submit(&submission, &terms("kick", 1)).await.unwrap();
        let job = run_one(&store).await;
        pass(&place, &store, Duration::from_secs(120)).await;
        assert!(store.find(job).await.unwrap().is_none());
        let again = store.submit(&submission, &terms("kick", 1)).await.unwrap();
        assert_eq!((again.job, again.state, again.how), (job, State::Succeeded, How::Duplicate));
    }

    #[tokio::test]
    async fn more_than_one_pass_forgets_all_that_is_due() {
        let mut place = Place::new();
        place.settings.jobs = 10_000;
        place.settings.keep = Duration::from_secs(60);
        let (store, _) = place.open();
        let count = super::MESSAGES_AT_ONCE + 500;
        let mut all = tokio::task::JoinSet::new();
        for number in 0..count {
            let (store, mut submission) = (store.clone(), place.signed("kick", &number.to_string()));
            message(&mut submission).created = None;
            all.spawn(async move { store.submit(&submission, &terms("kick", 1)).await.unwrap().job });
        }
        let jobs = all.join_all().await;
        // Expired after an hour, then kept for a minute.
        for _ in 0..count.div_ceil(super::super::claim::EXPIRED_AT_ONCE) {
            pass(&place, &store, Duration::from_secs(3601)).await;
        }
        for _ in 0..count.div_ceil(super::JOBS_AT_ONCE) {
            pass(&place, &store, Duration::from_secs(61)).await;
        }
        for job in jobs {
            assert!(store.find(job).await.unwrap().is_none());
        }
        let mut again = place.signed("kick", "0");
        message(&mut again).created = None;
        assert_eq!(store.submit(&again, &terms("kick", 1)).await.unwrap().how, How::Fresh);
    }
}
