//! What opening a queue does about the jobs that a former process left behind.
//!
//! The marks decide (invariant I6): claimed but never started is queued again at its old place; started is over, as
//! `interrupted`, unless its route says that it may run again. Runs before the writer takes commands.

use rusqlite::{Connection, Row, TransactionBehavior};

use super::ledger::Tally;
use super::sqlite::Recovered;
use super::{Unavailable, stored};
use crate::domain::job::JobId;
use crate::domain::name::RouteName;

/// Puts every left-behind job where it belongs and counts the locks anew; also says how many jobs wait, and how
/// much output is kept.
pub(super) fn recover(connection: &mut Connection, now: i64) -> Result<(Recovered, Tally), Unavailable> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let interrupted = collect(
        &transaction,
        "UPDATE jobs SET state = 'interrupted', finished = ?1,
             reason = 'its worker ended before step '
                 || (SELECT COALESCE(MAX(number), 0) + 1 FROM steps WHERE job = jobs.seq) || ' did',
             keeps = (SELECT COALESCE(SUM(LENGTH(output)), 0) FROM steps WHERE job = jobs.seq)
                   + (SELECT COALESCE(SUM(LENGTH(bytes)), 0) FROM bodies WHERE job = jobs.seq)
         WHERE seq IN (SELECT seq FROM jobs INDEXED BY jobs_active WHERE claimed IS NOT NULL AND finished IS NULL)
             AND started IS NOT NULL AND NOT idempotent
         RETURNING id, route",
        &[now],
    )?;
    // A run that begins anew does so from step one, and may no longer be given up: it is half done.
    transaction.execute_batch(
        "DELETE FROM steps WHERE job IN
             (SELECT seq FROM jobs INDEXED BY jobs_active WHERE claimed IS NOT NULL AND finished IS NULL
              AND started IS NOT NULL);
         UPDATE jobs SET state = 'queued', attempt = attempt + 1, started = NULL, expires_at = NULL
         WHERE seq IN (SELECT seq FROM jobs INDEXED BY jobs_active WHERE claimed IS NOT NULL AND finished IS NULL)
             AND started IS NOT NULL;",
    )?;
    let requeued = collect(
        &transaction,
        "UPDATE jobs SET claimed = NULL
         WHERE seq IN (SELECT seq FROM jobs INDEXED BY jobs_active WHERE claimed IS NOT NULL AND finished IS NULL)
         RETURNING id, route",
        &[],
    )?;
    transaction.execute_batch(
        "DELETE FROM locks;
         INSERT INTO locks (lock, concurrency, active, waiting, head)
             SELECT lock, 1, 0, COUNT(*), MIN(seq) FROM jobs INDEXED BY jobs_waiting
             WHERE state = 'queued' AND claimed IS NULL GROUP BY lock;
         UPDATE locks SET concurrency =
             (SELECT concurrency FROM jobs INDEXED BY jobs_waiting
              WHERE jobs.lock = locks.lock AND state = 'queued' AND claimed IS NULL ORDER BY seq DESC LIMIT 1),
             (not_before, awaits) = (SELECT not_before, awaits FROM jobs WHERE seq = head);",
    )?;
    let waiting: i64 =
        transaction.query_row("SELECT COALESCE(SUM(waiting), 0) FROM locks", [], |row| row.get(0))?;
    let kept: i64 = transaction.query_row(
        "SELECT COALESCE(SUM(keeps), 0) FROM jobs INDEXED BY jobs_keeping WHERE keeps > 0",
        [],
        |row| row.get(0),
    )?;
    transaction.commit()?;
    let tally = Tally { waiting: usize::try_from(waiting).unwrap_or(0), kept, ended: Vec::new() };
    Ok((Recovered { requeued, interrupted }, tally))
}

fn collect(
    connection: &Connection,
    sql: &str,
    values: &[i64],
) -> Result<Vec<(JobId, RouteName)>, Unavailable> {
    let text = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), text)?;
    let mut jobs = Vec::new();
    for row in rows {
        let (id, route) = row?;
        jobs.push((stored::job_id(&id)?, stored::route(&route)?));
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture::{Place, terms};
    use super::super::sqlite::{StepRecord, Store};
    use super::*;
    use crate::domain::job::{Exit, State};
    use crate::domain::submission::Terms;

    async fn submit(place: &Place, store: &Store, terms: &Terms) -> JobId {
        store.submit(&place.submission("kick"), terms).await.unwrap().job
    }

    async fn state(store: &Store, job: JobId) -> State {
        store.find(job).await.unwrap().unwrap().view.state
    }

    fn step() -> StepRecord {
        StepRecord { argv: vec!["/bin/true".into()], exit: Exit::Code(0), output: vec![], dropped: 0 }
    }

    #[tokio::test]
    async fn i6_after_a_crash_only_what_never_started_or_is_idempotent_runs_again() {
        let place = Place::new();
        let (store, _) = place.open();
        let idempotent = Terms { idempotent: true, ..terms("kick", 3) };
        let started = submit(&place, &store, &terms("kick", 3)).await;
        let repeatable = submit(&place, &store, &idempotent).await;
        let claimed = submit(&place, &store, &terms("kick", 3)).await;
        let waiting = submit(&place, &store, &terms("kick", 1)).await;
        for job in [started, repeatable, claimed] {
            // The last submission made the lock's concurrency 1: only the first can be claimed before it is raised.
            if job == repeatable {
                let finished = submit(&place, &store, &terms("kick", 3)).await;
                store.finish(finished, State::Cancelled).await.unwrap();
            }
            assert_eq!(store.claim().await.unwrap().map(|claim| claim.job), Some(job));
        }
        for job in [started, repeatable] {
            store.start(job).await.unwrap();
            store.record_step(job, 1, step()).await.unwrap();
        }

        place.hands.advance(Duration::from_secs(2));
        let crashed = place.crashed();
        let (store, recovered) = crashed.open();
        let ids = |jobs: &[(JobId, RouteName)]| jobs.iter().map(|(job, _)| *job).collect::<Vec<_>>();
        assert_eq!(ids(&recovered.interrupted), [started]);
        assert_eq!(ids(&recovered.requeued), [repeatable, claimed]);
        assert_eq!(state(&store, started).await, State::Interrupted);
        let view = store.find(started).await.unwrap().unwrap().view;
        assert_eq!((view.steps.len(), view.finished), (1, Some(crashed.clock.now())));
        let view = store.find(repeatable).await.unwrap().unwrap().view;
        assert_eq!((view.state, view.steps.len(), view.started), (State::Queued, 0, None));

        for job in [repeatable, claimed, waiting] {
            assert_eq!(store.claim().await.unwrap().map(|claim| claim.job), Some(job), "at its old place");
            assert_eq!(store.claim().await.unwrap(), None, "one at once, as the last submission said");
            store.start(job).await.unwrap();
            store.finish(job, State::Succeeded).await.unwrap();
        }
        drop(store);
        assert_eq!(crashed.open().1, Recovered::default());
    }

    #[tokio::test]
    async fn a_half_done_run_does_not_expire_but_one_that_never_started_does() {
        let place = Place::new();
        let (store, _) = place.open();
        let repeatable = submit(&place, &store, &Terms { idempotent: true, ..terms("kick", 2) }).await;
        let claimed = submit(&place, &store, &terms("kick", 2)).await;
        store.claim().await.unwrap().unwrap();
        store.claim().await.unwrap().unwrap();
        store.start(repeatable).await.unwrap();
        drop(store);
        place.hands.advance(Duration::from_secs(7200));
        let (store, _) = place.open();
        assert_eq!(store.claim().await.unwrap().map(|claim| claim.job), Some(repeatable));
        assert_eq!(store.claim().await.unwrap(), None);
        assert_eq!(state(&store, claimed).await, State::Expired);
    }
}
