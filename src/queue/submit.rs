//! Taking in a submission: message, limit, job and lock in one transaction (invariants I5 and I6).
//!
//! Decides nothing about identities: a message's scope and digest come ready from the gate.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::ledger::Ledger;
use super::sqlite::Store;
use super::stored;
use super::writer::Promise;
use super::{How, OnRecord, SubmitError, Submitted, Unavailable};
use crate::domain::job::{JobId, State};
use crate::domain::submission::{Message, MessageId, Submission, Terms};

impl Store {
    /// Stores a job durably, or recognises its message.
    ///
    /// # Errors
    /// When the message's id was used for something else or is no longer remembered, too many jobs wait, or the
    /// database cannot be written. Then nothing was stored.
    pub async fn submit(&self, submission: &Submission, terms: &Terms) -> Result<Submitted, SubmitError> {
        self.submit_after(submission.clone(), terms.clone(), Box::pin(std::future::ready(Ok(())))).await
    }

    /// The same, once `decision` is on record.
    ///
    /// # Errors
    /// As [`Store::submit`], and when the decision, or another one of the same moment, does not get on record. Then nothing
    /// was stored.
    pub async fn submit_after(
        &self,
        submission: Submission,
        terms: Terms,
        decision: OnRecord,
    ) -> Result<Submitted, SubmitError> {
        self.command(Promise::Durable, Some(decision), move |ledger| {
            ledger.unguarded(|ledger| ledger.submit(&submission, &terms))
        })
        .await
    }
}

impl Ledger<'_> {
    /// Stores the job, recognises its message, or joins an equal job that waits; the last two even when the queue is full.
    pub(super) fn submit(
        &mut self,
        submission: &Submission,
        terms: &Terms,
    ) -> Result<Submitted, SubmitError> {
        if let Message::Identified(message) = &submission.message
            && let Some(earlier) = self.recognise(message)?
        {
            return Ok(earlier);
        }
        let (job, how) = match self.join(submission, terms)? {
            Some(job) => (job, How::Coalesced),
            None if self.tally.waiting >= self.settings.jobs => return Err(SubmitError::Full),
            None => (self.insert(submission, terms)?, How::Fresh),
        };
        if let Message::Identified(message) = &submission.message {
            self.remember(message, job)?;
        }
        Ok(Submitted { job, state: State::Queued, how })
    }

    fn recognise(&self, message: &MessageId) -> Result<Option<Submitted>, SubmitError> {
        if let Some((digest, job, state)) = self.remembered(message)? {
            if digest != message.digest {
                return Err(SubmitError::Conflict(job));
            }
            self.remember_longer(message)?;
            return Ok(Some(Submitted { job, state, how: How::Duplicate }));
        }
        match (message.created, self.floor(&message.scope)?) {
            (Some(created), Some(floor)) if created.as_microsecond() <= floor => Err(SubmitError::Forgotten),
            (Some(_) | None, Some(_) | None) => Ok(None),
        }
    }

    fn remembered(&self, message: &MessageId) -> Result<Option<(Vec<u8>, JobId, State)>, Unavailable> {
        let mut statement = self.connection.prepare_cached(
            "SELECT digest, job, COALESCE(ended, (SELECT state FROM jobs WHERE jobs.id = messages.job))
             FROM messages WHERE scope = ?1 AND id = ?2",
        )?;
        let row = statement.query_row(params![message.scope, message.id], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        });
        match row.optional()? {
            Some((digest, job, state)) => Ok(Some((digest, stored::job_id(&job)?, stored::state(&state)?))),
            None => Ok(None),
        }
    }

    /// A repetition may be signed anew, and be good for longer than the first one was: the id stays as long as any of them.
    fn remember_longer(&self, message: &MessageId) -> Result<(), Unavailable> {
        self.connection
            .prepare_cached(
                "UPDATE messages SET created = MAX(created, ?3), keep_until = ?4
                 WHERE scope = ?1 AND id = ?2 AND keep_until < ?4",
            )?
            .execute(params![
                message.scope,
                message.id,
                message.created.map(Timestamp::as_microsecond),
                message.keep_until.as_microsecond(),
            ])?;
        Ok(())
    }

    fn floor(&self, scope: &str) -> Result<Option<i64>, Unavailable> {
        let mut statement = self.connection.prepare_cached("SELECT created FROM floors WHERE scope = ?1")?;
        Ok(statement.query_row([scope], |row| row.get(0)).optional()?)
    }

    pub(super) fn insert(&mut self, submission: &Submission, terms: &Terms) -> Result<JobId, Unavailable> {
        let job = JobId::new(submission.at);
        let submitted = submission.at.as_microsecond();
        let concurrency = terms.concurrency.get();
        let awaits = terms.awaits.as_deref().map(stored::path_bytes);
        self.connection
            .prepare_cached(
                "INSERT INTO jobs (id, route, parameters, identity, proofs, lock, concurrency, state,
                                   idempotent, likeness, awaits, submitted, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'queued', ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                job.to_string(),
                submission.route.as_str(),
                serde_json::to_string(&submission.parameters)?,
                submission.identity.to_string(),
                serde_json::to_string(&submission.proofs)?,
                terms.lock,
                concurrency,
                terms.idempotent,
                terms.likeness,
                awaits,
                submitted,
                submitted.saturating_add(stored::micros(terms.expires)),
            ])?;
        let seq = self.connection.last_insert_rowid();
        if let Some(body) = &submission.body {
            self.connection
                .prepare_cached("INSERT INTO bodies (job, bytes) VALUES (?1, ?2)")?
                .execute(params![seq, body.bytes()])?;
        }
        self.connection
            .prepare_cached(
                "INSERT INTO locks (lock, concurrency, active, waiting, head, awaits) VALUES (?1, ?2, 0, 1, ?3, ?4)
                 ON CONFLICT (lock) DO UPDATE SET concurrency = excluded.concurrency, waiting = waiting + 1,
                     awaits = CASE WHEN head IS NULL THEN excluded.awaits ELSE awaits END,
                     head = COALESCE(head, excluded.head)",
            )?
            .execute(params![terms.lock, concurrency, seq, awaits])?;
        self.tally.waiting += 1;
        Ok(job)
    }

    fn remember(&self, message: &MessageId, job: JobId) -> Result<(), Unavailable> {
        self.connection
            .prepare_cached(
                "INSERT INTO messages (scope, id, digest, job, created, keep_until)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                message.scope,
                message.id,
                message.digest,
                job.to_string(),
                message.created.map(Timestamp::as_microsecond),
                message.keep_until.as_microsecond(),
            ])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture::{Place, later, message, terms};
    use super::*;

    #[tokio::test]
    async fn i6_one_message_at_most_one_job_also_after_it_ran_and_after_a_restart() {
        let place = Place::new();
        let (store, _) = place.open();
        let submission = place.signed("kick", "n1");
        let first = store.submit(&submission, &terms("kick", 1)).await.unwrap();
        assert_eq!((first.how, first.state), (How::Fresh, State::Queued));
        let again = store.submit(&submission, &terms("kick", 1)).await.unwrap();
        assert_eq!(again, Submitted { how: How::Duplicate, ..first });

        store.claim().await.unwrap().unwrap();
        store.start(first.job).await.unwrap();
        store.finish(first.job, State::Failed).await.unwrap();
        drop(store);
        let (store, _) = place.open();
        let again = store.submit(&submission, &terms("kick", 1)).await.unwrap();
        assert_eq!(again, Submitted { job: first.job, state: State::Failed, how: How::Duplicate });
        assert_eq!(store.claim().await.unwrap(), None);
    }

    #[tokio::test]
    async fn i6_one_message_at_most_one_job_when_it_comes_many_times_at_once() {
        let place = Place::new();
        let (store, _) = place.open();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let (store, submission) = (store.clone(), place.signed("kick", "n1"));
            tasks.spawn(async move { store.submit(&submission, &terms("kick", 64)).await.unwrap() });
        }
        let all = tasks.join_all().await;
        assert_eq!(all.iter().filter(|submitted| submitted.how == How::Fresh).count(), 1);
        assert!(all.iter().all(|submitted| submitted.job == all[0].job));
        assert!(store.claim().await.unwrap().is_some());
        assert_eq!(store.claim().await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_same_id_for_something_else_is_a_conflict_and_in_another_scope_it_is_another_message() {
        let place = Place::new();
        let (store, _) = place.open();
        let first = store.submit(&place.signed("kick", "n1"), &terms("kick", 1)).await.unwrap();
        let mut other = place.signed("kick", "n1");
        message(&mut other).digest = [8; 32];
        assert_eq!(store.submit(&other, &terms("kick", 1)).await, Err(SubmitError::Conflict(first.job)));
        message(&mut other).scope = "gitea".into();
        assert_eq!(store.submit(&other, &terms("kick", 1)).await.unwrap().how, How::Fresh);
        let anonymous = place.submission("kick");
        for _ in 0..2 {
            assert_eq!(store.submit(&anonymous, &terms("kick", 1)).await.unwrap().how, How::Fresh);
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_new_jobs_but_knows_old_messages() {
        let mut place = Place::new();
        place.settings.jobs = 2;
        let (store, _) = place.open();
        let first = store.submit(&place.signed("kick", "n1"), &terms("kick", 1)).await.unwrap();
        store.submit(&place.signed("kick", "n2"), &terms("kick", 1)).await.unwrap();
        assert_eq!(store.submit(&place.signed("kick", "n3"), &terms("a", 1)).await, Err(SubmitError::Full));
        assert_eq!(store.submit(&place.submission("kick"), &terms("b", 1)).await, Err(SubmitError::Full));
        let again = store.submit(&place.signed("kick", "n1"), &terms("kick", 1)).await.unwrap();
        assert_eq!((again.job, again.how), (first.job, How::Duplicate));

        drop(store);
        let (store, _) = place.open();
        assert_eq!(store.submit(&place.signed("kick", "n3"), &terms("a", 1)).await, Err(SubmitError::Full));
        store.claim().await.unwrap().unwrap();
        // What was refused was not remembered either.
        let fresh = store.submit(&place.signed("kick", "n3"), &terms("a", 1)).await.unwrap();
        assert_eq!(fresh.how, How::Fresh);
    }

    #[tokio::test]
    async fn i6_a_repetition_that_is_signed_anew_is_remembered_as_long_as_it_is_good() {
        let place = Place::new();
        let (store, _) = place.open();
        let first = store.submit(&place.signed("kick", "n1"), &terms("kick", 1)).await.unwrap();
        place.hands.advance(Duration::from_secs(500));
        let anew = place.signed("kick", "n1");
        assert_eq!(store.submit(&anew, &terms("kick", 1)).await.unwrap().how, How::Duplicate);
        // The first one would be forgotten by now, the second one is not.
        place.hands.advance(Duration::from_secs(500));
        store.claim().await.unwrap();
        let again = store.submit(&anew, &terms("kick", 1)).await.unwrap();
        assert_eq!((again.job, again.how), (first.job, How::Duplicate));
        // Once both are, both stay refused.
        place.hands.advance(Duration::from_secs(101));
        store.claim().await.unwrap();
        assert_eq!(store.submit(&anew, &terms("kick", 1)).await, Err(SubmitError::Forgotten));
    }

    #[tokio::test]
    async fn i6_a_forgotten_message_stays_refused_when_the_clock_is_set_back() {
        let place = Place::new();
        let (store, _) = place.open();
        let replay = place.signed("kick", "n1");
        store.submit(&replay, &terms("kick", 1)).await.unwrap();
        let mut younger = place.signed("kick", "n2");
        message(&mut younger).created = Some(later(place.clock.now(), 1));

        place.hands.step_seconds(601);
        place.hands.advance(Duration::from_secs(10));
        store.claim().await.unwrap();
        place.hands.step_seconds(-601);
        assert_eq!(store.submit(&replay, &terms("kick", 1)).await, Err(SubmitError::Forgotten));
        let mut older = place.signed("kick", "n3");
        message(&mut older).created = Some(replay.at);
        assert_eq!(store.submit(&older, &terms("kick", 1)).await, Err(SubmitError::Forgotten));
        assert_eq!(store.submit(&younger, &terms("kick", 1)).await.unwrap().how, How::Fresh);
        let mut elsewhere = replay.clone();
        message(&mut elsewhere).scope = "gitea".into();
        assert_eq!(store.submit(&elsewhere, &terms("kick", 1)).await.unwrap().how, How::Fresh);

        drop(store);
        let (store, _) = place.open();
        assert_eq!(store.submit(&replay, &terms("kick", 1)).await, Err(SubmitError::Forgotten));
    }

    #[tokio::test]
    async fn what_fails_halfway_is_given_up_whole_and_the_next_one_is_stored() {
        let place = Place::new();
        let (store, _) = place.open();
        let execute = |sql: &'static str| {
            store.write(move |ledger| Ok::<_, Unavailable>(ledger.connection.execute(sql, [])?))
        };
        let count = || {
            store.write(|ledger| {
                let count = "SELECT (SELECT COUNT(*) FROM jobs) + (SELECT COUNT(*) FROM messages)";
                Ok::<i64, Unavailable>(ledger.connection.query_row(count, [], |row| row.get(0))?)
            })
        };
        // The job is written before its message.
        execute("CREATE TRIGGER no BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'no'); END")
            .await
            .unwrap();
        let failed = store.submit(&place.signed("kick", "n1"), &terms("kick", 1)).await;
        assert!(matches!(failed, Err(SubmitError::Unavailable(_))), "{failed:?}");
        execute("DROP TRIGGER no").await.unwrap();
        assert_eq!(count().await.unwrap(), 0);
        let stored = store.submit(&place.signed("kick", "n1"), &terms("kick", 1)).await.unwrap();
        assert_eq!((stored.how, count().await.unwrap()), (How::Fresh, 2));
    }
}
