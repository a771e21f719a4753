//! Joining: a request for what a waiting job is about to do becomes one more submitter of that job.
//!
//! Only a job that never started is joined, and joining runs in the same transactions as claiming: the run that serves a
//! joiner begins after the joiner was accepted. Order is kept: nobody joins past a different job of the same lock.

use rusqlite::{OptionalExtension, params};

use super::ledger::Ledger;
use super::{Unavailable, stored};
use crate::domain::job::JobId;
use crate::domain::submission::{Submission, Terms};

impl Ledger<'_> {
    /// Adds the submitter to the equal job that waits, and lets that job wait as long as from now; `None` when there is
    /// no such job, or a different one of its lock came after it.
    pub(super) fn join(
        &mut self,
        submission: &Submission,
        terms: &Terms,
    ) -> Result<Option<JobId>, Unavailable> {
        let Some(likeness) = &terms.likeness else { return Ok(None) };
        let Some((seq, job)) = self.joinable(&terms.lock, likeness)? else { return Ok(None) };
        self.add_submitter(seq, submission)?;
        let concurrency = terms.concurrency.get();
        self.connection
            .prepare_cached(
                "UPDATE jobs SET expires_at = ?2, concurrency = ?3, idempotent = ?4, awaits = ?5 WHERE seq = ?1",
            )?
            .execute(params![
                seq,
                self.now.saturating_add(stored::micros(terms.expires)),
                concurrency,
                terms.idempotent,
                terms.awaits.as_deref().map(stored::path_bytes),
            ])?;
        self.connection
            .prepare_cached("UPDATE locks SET concurrency = ?2 WHERE lock = ?1")?
            .execute(params![terms.lock, concurrency])?;
        self.move_line(&terms.lock, 0, 0)?;
        Ok(Some(job))
    }

    /// Writes down who asked for a job that is there; whoever asks again is still one.
    fn add_submitter(&self, seq: i64, submission: &Submission) -> Result<(), Unavailable> {
        self.connection
            .prepare_cached(
                "INSERT INTO submitters (job, identity, proofs, joined, parameters) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (job, identity) DO UPDATE SET proofs = excluded.proofs,
                     joined = excluded.joined, parameters = excluded.parameters",
            )?
            .execute(params![
                seq,
                submission.identity.to_string(),
                serde_json::to_string(&submission.proofs)?,
                submission.at.as_microsecond(),
                serde_json::to_string(&submission.parameters)?,
            ])?;
        Ok(())
    }

    /// The last job that waits for the lock, if it is equal and never started. No job that came later is under way, then:
    /// jobs are claimed in their order, and only an opening of the queue, which leaves none under way, puts one back as if
    /// it had never been claimed.
    fn joinable(&self, lock: &str, likeness: &[u8; 32]) -> Result<Option<(i64, JobId)>, Unavailable> {
        let mut last = self.connection.prepare_cached(
            "SELECT seq, id, attempt = 1 AND likeness IS ?2 FROM jobs INDEXED BY jobs_waiting
             WHERE lock = ?1 AND state = 'queued' AND claimed IS NULL ORDER BY seq DESC LIMIT 1",
        )?;
        let row = last.query_row(params![lock, likeness], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, bool>(2)?))
        });
        match row.optional()? {
            Some((seq, id, true)) => Ok(Some((seq, stored::job_id(&id)?))),
            Some((_, _, false)) | None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture::{Place, joining, terms};
    use super::super::{How, SubmitError, Submitted};
    use crate::domain::identity::Identity;
    use crate::domain::job::State;
    use crate::domain::name::{KeyName, ParameterName};
    use crate::domain::submission::Terms;

    #[tokio::test]
    async fn i5_a_joiner_its_proofs_and_its_message_survive_a_crash_at_that_moment() {
        let place = Place::new();
        let (store, _) = place.open();
        let first = store.submit(&place.signed("kick", "n1"), &joining("kick", 1)).await.unwrap();
        let mut joiner = place.submission_by("gitea", "kick");
        joiner.message = place.signed("kick", "n2").message;
        joiner.parameters.0.insert(ParameterName::parse("role").unwrap(), "refs/heads/haproxy".into());
        let joined = store.submit(&joiner, &joining("kick", 1)).await.unwrap();
        assert_eq!(joined, Submitted { how: How::Coalesced, ..first });

        let crashed = place.crashed();
        let (store, _) = crashed.open();
        let found = store.find(first.job).await.unwrap().unwrap();
        assert_eq!(found.submitters.len(), 2);
        assert_eq!(found.submitters[1].proofs, joiner.proofs);
        let view = found.clone().seen_by(&joiner.identity).unwrap();
        assert_eq!((view.identity, view.parameters), (joiner.identity.clone(), joiner.parameters.clone()));
        let view = found.clone().seen_by(&found.view.identity).unwrap();
        assert_eq!(view, found.view, "the first one sees itself");
        let stranger = KeyName::parse("stranger").map(Identity::Key).unwrap();
        assert_eq!(
            store.find_of(first.job, vec![stranger.clone()]).await.unwrap().map(|found| found.view),
            None
        );
        let among = store.find_of(first.job, vec![stranger.clone(), joiner.identity.clone()]).await.unwrap();
        assert_eq!(among.map(|found| found.view), Some(found.view.clone()));
        assert_eq!(found.seen_by(&stranger), None);
        let again = store.submit(&joiner, &joining("kick", 1)).await.unwrap();
        assert_eq!(again, Submitted { how: How::Duplicate, ..first });
    }

    #[tokio::test]
    async fn whoever_asks_again_is_still_one_submitter() {
        let place = Place::new();
        let (store, _) = place.open();
        let first = store.submit(&place.submission("kick"), &joining("kick", 1)).await.unwrap();
        let mut last = place.submission("kick");
        for host in 1..=20 {
            last.proofs.source = [192, 0, 2, host].into();
            let again = store.submit(&last, &joining("kick", 1)).await.unwrap();
            assert_eq!((again.job, again.how), (first.job, How::Coalesced));
        }
        let found = store.find(first.job).await.unwrap().unwrap();
        assert_eq!(found.submitters.len(), 1);
        assert_eq!(found.submitters[0].proofs, last.proofs, "what it showed the last time");
        let identity = found.view.identity.clone();
        assert!(store.find_of(first.job, vec![identity]).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn only_an_equal_job_that_was_not_claimed_is_joined() {
        let place = Place::new();
        let (store, _) = place.open();
        let submit = |terms: Terms| {
            let (store, submission) = (store.clone(), place.submission("kick"));
            async move { store.submit(&submission, &terms).await.unwrap() }
        };
        let claimed = submit(joining("kick", 1)).await;
        store.claim().await.unwrap().unwrap();
        let waiting = submit(joining("kick", 1)).await;
        assert_eq!(waiting.how, How::Fresh, "a claimed job is not joined");
        store.start(claimed.job).await.unwrap();
        assert_eq!(submit(joining("kick", 1)).await.job, waiting.job);
        assert_eq!(submit(terms("kick", 1)).await.how, How::Fresh, "a route that does not coalesce");
        let last = submit(joining("kick", 1)).await;
        assert_eq!(last.how, How::Fresh, "a different job came after it");
        assert_eq!(submit(joining("kick", 1)).await.job, last.job);
        assert_eq!(submit(joining("kick", 2)).await.how, How::Fresh, "other values");
        assert_eq!(submit(joining("other", 1)).await.how, How::Fresh, "another lock");
    }

    #[tokio::test]
    async fn nobody_joins_past_a_different_job_after_a_crash_either() {
        let place = Place::new();
        let (store, _) = place.open();
        let two = |likeness| Terms { concurrency: 2.try_into().unwrap(), ..joining("kick", likeness) };
        let first = store.submit(&place.submission("kick"), &two(1)).await.unwrap().job;
        let second = store.submit(&place.submission("kick"), &two(2)).await.unwrap().job;
        store.claim().await.unwrap().unwrap();
        store.claim().await.unwrap().unwrap();
        store.start(second).await.unwrap();
        drop(store);
        let (store, recovered) = place.open();
        assert_eq!((recovered.requeued.len(), recovered.interrupted.len()), (1, 1));
        // The different one is over: this is again the last of the lock.
        assert_eq!(store.submit(&place.submission("kick"), &two(1)).await.unwrap().job, first);
        let third = store.submit(&place.submission("kick"), &two(2)).await.unwrap().job;
        for _ in 0..2 {
            store.claim().await.unwrap().unwrap();
        }
        drop(store);
        let (store, _) = place.open();
        assert_eq!(store.claim().await.unwrap().unwrap().job, first);
        assert_eq!(store.submit(&place.submission("kick"), &two(2)).await.unwrap().job, third);
        assert_eq!(store.submit(&place.submission("kick"), &two(1)).await.unwrap().how, How::Fresh);
    }

    #[tokio::test]
    async fn a_full_queue_is_still_joined() {
        let mut place = Place::new();
        place.settings.jobs = 1;
        let (store, _) = place.open();
        let first = store.submit(&place.submission("kick"), &joining("kick", 1)).await.unwrap();
        let other = store.submit(&place.submission("kick"), &joining("kick", 2)).await;
        assert_eq!(other, Err(SubmitError::Full));
        let joined = store.submit(&place.submission("kick"), &joining("kick", 1)).await.unwrap();
        assert_eq!((joined.job, joined.how), (first.job, How::Coalesced));
    }

    #[tokio::test]
    async fn the_time_to_expire_counts_from_the_last_join() {
        let place = Place::new();
        let (store, _) = place.open();
        let blocker = store.submit(&place.submission("kick"), &terms("kick", 1)).await.unwrap().job;
        store.claim().await.unwrap().unwrap();
        let short = Terms { expires: Duration::from_secs(60), ..joining("kick", 1) };
        let job = store.submit(&place.submission("kick"), &short).await.unwrap().job;
        place.hands.advance(Duration::from_secs(40));
        assert_eq!(store.submit(&place.submission("kick"), &short).await.unwrap().job, job);
        place.hands.advance(Duration::from_secs(40));
        assert_eq!(store.claim().await.unwrap(), None);
        assert_eq!(store.find(job).await.unwrap().unwrap().view.state, State::Queued);
        place.hands.advance(Duration::from_secs(20));
        assert_eq!(store.claim().await.unwrap(), None);
        assert_eq!(store.find(job).await.unwrap().unwrap().view.state, State::Expired);
        store.finish(blocker, State::Succeeded).await.unwrap();
        let fresh = store.submit(&place.submission("kick"), &short).await.unwrap();
        assert_eq!(fresh.how, How::Fresh, "what has expired is not joined");
    }
}
