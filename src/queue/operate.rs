//! What operators see and do: pages of jobs, cancelling, repeating, and whether the store can be written.
//!
//! A waiting job is cancelled at once. One that a worker holds is the worker's to end: it is told through a token that it
//! registered, and puts the job into its final state itself. Decides nothing about who may ask.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::sqlite::{End, Store};
use super::standing::{COLUMNS, Standing, WITH_LOCKS, standing};
use super::{How, SubmitError, Submitted, Unavailable, schema, stored};
use crate::domain::identity::Identity;
use crate::domain::job::{JobId, JobPrefix, State};
use crate::domain::name::RouteName;
use crate::domain::submission::{Submission, Terms};

/// Why a job ended as `cancelled`; who asked for it stands in the audit log.
pub const CANCELLED: &str = "an operator cancelled it";
/// Most jobs on one page.
pub const LARGEST_PAGE: usize = 1000;

/// Which jobs are asked for; the newest come first.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// In this state only.
    pub state: Option<State>,
    /// Of this route only.
    pub route: Option<RouteName>,
    /// Only those that are older than this job.
    pub before: Option<JobId>,
    /// At most so many, and at most [`LARGEST_PAGE`].
    pub limit: usize,
}

/// Jobs, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<Summary>,
    /// Whether there are older ones.
    pub more: bool,
}

/// A job in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The job's id.
    pub job: JobId,
    /// Its route.
    pub route: RouteName,
    /// Where it stands.
    pub state: State,
    /// Who submitted it.
    pub identity: Identity,
    /// When it was accepted.
    pub submitted: Timestamp,
    /// When its first command started.
    pub started: Option<Timestamp>,
    /// When it reached its final state.
    pub finished: Option<Timestamp>,
    /// The job that an operator repeated by this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<JobId>,
    /// Why it stands there.
    #[serde(flatten)]
    pub standing: Standing,
}

/// What became of a wish to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited, and is cancelled.
    Now,
    /// A worker holds it, and was told to end it.
    Told,
    /// It had already ended.
    Over(State),
}

/// Makes a job once more, as the policy of whoever runs the jobs allows.
pub trait Repeat: Send + Sync + 'static {
    /// A new job that names the old one, with its identity, proofs and parameters, at terms of today.
    fn repeat(
        &self,
        job: JobId,
        at: Timestamp,
    ) -> impl Future<Output = Result<Submitted, RepeatError>> + Send;
}

/// Why a job was not repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepeatError {
    /// There is no such job.
    #[error("there is no job {0}")]
    Unknown(JobId),
    /// It is still to run, or runs.
    #[error("the job {0} is {1}: only one that has ended can be repeated")]
    NotEnded(JobId, State),
    /// It was not stored.
    #[error(transparent)]
    NotStored(#[from] SubmitError),
}

/// Runs that may be told to end, and jobs whose cancelling was asked for before their run said that it can be told.
#[derive(Clone, Default)]
pub(super) struct Cancels(Arc<Mutex<HashMap<JobId, Cancel>>>);

#[derive(Default)]
struct Cancel {
    asked: bool,
    run: Option<CancellationToken>,
}

/// A run that can be told to end, as long as this lives.
pub struct Cancellable {
    job: JobId,
    cancels: Cancels,
    released: bool,
}

impl Store {
    /// A page of jobs; `None` when there is no job [`Wanted::before`].
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list(&self, wanted: Wanted) -> Result<Option<Page>, Unavailable> {
        self.readers().read(move |connection| list(connection, &wanted)).await
    }

    /// The jobs whose ids begin so: two where there are more.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn beginning(&self, prefix: &JobPrefix) -> Result<Vec<JobId>, Unavailable> {
        let (first, last) = prefix.range();
        self.readers()
            .read(move |connection| {
                let mut statement =
                    connection.prepare_cached("SELECT id FROM jobs WHERE id BETWEEN ?1 AND ?2 LIMIT 2")?;
                let ids = statement.query_map([first, last], |row| row.get::<_, String>(0))?;
                ids.map(|id| stored::job_id(&id?)).collect()
            })
            .await
    }

    /// Cancels a job, or tells its worker to; `None` when there is no such job.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn cancel(&self, job: JobId) -> Result<Option<Cancelled>, Unavailable> {
        let cancels = self.cancels().clone();
        self.write(move |ledger| ledger.cancel(job, &cancels)).await
    }

    /// Whoever holds a claim registers what ends its run. A wish that came before that is heard now.
    #[must_use]
    pub fn cancellable(&self, job: JobId, run: CancellationToken) -> Cancellable {
        let cancels = self.cancels().clone();
        {
            let mut list = cancels.list();
            let entry = list.entry(job).or_default();
            if entry.asked {
                run.cancel();
            }
            entry.run = Some(run);
        }
        Cancellable { job, cancels, released: false }
    }

    /// Stores a new job that repeats `of`.
    ///
    /// # Errors
    /// As [`Store::submit`].
    pub async fn repeat(
        &self,
        of: JobId,
        submission: &Submission,
        terms: &Terms,
    ) -> Result<Submitted, SubmitError> {
        let (submission, terms) = (submission.clone(), terms.clone());
        self.write(move |ledger| ledger.repeat(of, &submission, &terms)).await
    }

    /// Writes something that changes nothing, durably.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn writable(&self) -> Result<(), Unavailable> {
        self.write(|ledger: &mut Ledger<'_>| ledger.touch()).await
    }
}

impl Cancellable {
    /// Whether an operator asked for the end of this job.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancels.list().get(&self.job).is_some_and(|cancel| cancel.asked)
    }

    /// Ends the registration, before another run of the same job can begin; whether an operator asked until now. Later
    /// calls do nothing.
    pub fn release(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.released, true);
        first && self.cancels.list().remove(&self.job).is_some_and(|cancel| cancel.asked)
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        self.release();
    }
}

impl Cancels {
    fn ask(&self, job: JobId) {
        let mut list = self.list();
        let entry = list.entry(job).or_default();
        entry.asked = true;
        if let Some(run) = &entry.run {
            run.cancel();
        }
    }

    fn list(&self) -> MutexGuard<'_, HashMap<JobId, Cancel>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger<'_> {
    fn cancel(&mut self, job: JobId, cancels: &Cancels) -> Result<Option<Cancelled>, Unavailable> {
        let mut statement =
            self.connection.prepare_cached("SELECT state, claimed IS NOT NULL FROM jobs WHERE id = ?1")?;
        let row = statement
            .query_row([job.to_string()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)));
        let Some((state, is_claimed)) = row.optional()? else { return Ok(None) };
        let state = stored::state(&state)?;
        if state.is_final() {
            return Ok(Some(Cancelled::Over(state)));
        }
        if !is_claimed {
            // A wish that an earlier run did not hear is fulfilled, too.
            cancels.list().remove(&job);
            let reason = Some(CANCELLED.to_owned());
            self.finish(job, &End { state: State::Cancelled, reason, closing: None })?;
            return Ok(Some(Cancelled::Now));
        }
        // Should the process die before the run is over, what is cancelled must not run again: the recovery makes it
        // `interrupted` when it had started, and it expires when it had not.
        self.connection
            .prepare_cached("UPDATE jobs SET idempotent = 0, expires_at = ?2 WHERE id = ?1")?
            .execute(params![job.to_string(), self.now])?;
        // Within the transaction: the worker cannot have finished the job, and removed its entry, before this.
        cancels.ask(job);
        Ok(Some(Cancelled::Told))
    }

    fn repeat(
        &mut self,
        of: JobId,
        submission: &Submission,
        terms: &Terms,
    ) -> Result<Submitted, SubmitError> {
        if self.tally.waiting >= self.settings.jobs {
            return Err(SubmitError::Full);
        }
        // It joins no other job: what was asked for is a job of its own.
        let job = self.insert(submission, terms)?;
        self.name_repeated(job, of)?;
        Ok(Submitted { job, state: State::Queued, how: How::Fresh })
    }

    fn name_repeated(&self, job: JobId, of: JobId) -> Result<(), Unavailable> {
        let mut statement = self.connection.prepare_cached("UPDATE jobs SET retry_of = ?2 WHERE id = ?1")?;
        statement.execute([job.to_string(), of.to_string()])?;
        Ok(())
    }

    /// Writes the number of the tables' form again, which is one page.
    fn touch(&mut self) -> Result<(), Unavailable> {
        Ok(self.connection.pragma_update(None, "user_version", schema::VERSION)?)
    }
}

fn list(connection: &mut Connection, wanted: &Wanted) -> Result<Option<Page>, Unavailable> {
    let moment = connection.transaction()?;
    let before = match wanted.before {
        None => i64::MAX,
        Some(job) => {
            let mut statement = moment.prepare_cached("SELECT seq FROM jobs WHERE id = ?1")?;
            match statement.query_row([job.to_string()], |row| row.get(0)).optional()? {
                Some(seq) => seq,
                None => return Ok(None),
            }
        }
    };
    // Only what is asked for stands in the query, so that an index leads to it. By state and route, it is one of the two.
    let of_state = if wanted.state.is_some() { "state = ?2" } else { "?2 IS NULL" };
    let of_route = if wanted.route.is_some() { "route = ?3" } else { "?3 IS NULL" };
    let limit = wanted.limit.clamp(1, LARGEST_PAGE);
    let mut statement = moment.prepare_cached(&format!(
        "SELECT id, route, state, identity, submitted, started, finished, retry_of, {COLUMNS}
         FROM jobs {WITH_LOCKS}
         WHERE seq < ?1 AND {of_state} AND {of_route}
         ORDER BY seq DESC LIMIT ?4"
    ))?;
    let state = wanted.state.map(State::as_str);
    let route = wanted.route.as_ref().map(RouteName::as_str);
    // One more, to know whether there is one.
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut rows = statement.query(params![before, state, route, most])?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        let text = |column| row.get::<_, String>(column);
        let time = |column| row.get::<_, Option<i64>>(column)?.map(stored::time).transpose();
        let retry_of: Option<String> = row.get(7)?;
        jobs.push(Summary {
            job: stored::job_id(&text(0)?)?,
            route: stored::route(&text(1)?)?,
            state: stored::state(&text(2)?)?,
            identity: stored::identity(&text(3)?)?,
            submitted: stored::time(row.get(4)?)?,
            started: time(5)?,
            finished: time(6)?,
            retry_of: retry_of.as_deref().map(stored::job_id).transpose()?,
            standing: standing(row, 8)?,
        });
    }
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    Ok(Some(Page { jobs, more }))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Place, terms};
    use super::*;

    async fn submit(place: &Place, store: &Store, lock: &str) -> JobId {
        store.submit(&place.submission(lock), &terms(lock, 1)).await.unwrap().job
    }

    async fn state(store: &Store, job: JobId) -> State {
        store.find(job).await.unwrap().unwrap().view.state
    }

    fn wanted() -> Wanted {
        Wanted { state: None, route: None, before: None, limit: 50 }
    }

    async fn ids(store: &Store, wanted: Wanted) -> (Vec<JobId>, bool) {
        let page = store.list(wanted).await.unwrap().unwrap();
        (page.jobs.iter().map(|summary| summary.job).collect(), page.more)
    }

    #[tokio::test]
    async fn jobs_are_listed_newest_first_page_by_page_and_filtered() {
        let place = Place::new();
        let (store, _) = place.open();
        assert_eq!(ids(&store, wanted()).await, (vec![], false));
        let mut all = Vec::new();
        for lock in ["a", "b", "a", "b", "a"] {
            all.insert(0, submit(&place, &store, lock).await);
        }
        let oldest = store.claim().await.unwrap().unwrap().job;
        store.start(oldest).await.unwrap();
        assert_eq!(ids(&store, wanted()).await, (all.clone(), false));
        assert_eq!(ids(&store, Wanted { limit: 2, ..wanted() }).await, (all[..2].to_vec(), true));
        let next = Wanted { limit: 3, before: Some(all[1]), ..wanted() };
        assert_eq!(ids(&store, next).await, (all[2..].to_vec(), false));
        let of_b = Wanted { route: RouteName::parse("b").ok(), ..wanted() };
        assert_eq!(ids(&store, of_b).await, (vec![all[1], all[3]], false));
        let running = Wanted { state: Some(State::Running), ..wanted() };
        assert_eq!(ids(&store, running).await, (vec![oldest], false));
        let queued = Wanted { state: Some(State::Queued), ..wanted() };
        assert_eq!(ids(&store, queued).await, (all[..4].to_vec(), false));
        let unknown = Wanted { before: Some(JobId::new(place.clock.now())), ..wanted() };
        assert_eq!(store.list(unknown).await, Ok(None));
        assert_eq!(ids(&store, Wanted { limit: 0, ..wanted() }).await.0.len(), 1);
    }

    #[tokio::test]
    async fn a_job_is_found_by_the_beginning_of_its_id_unless_several_begin_so() {
        let place = Place::new();
        let (store, _) = place.open();
        let job = submit(&place, &store, "a").await;
        let beginning = async |length: usize| {
            let prefix = JobPrefix::parse(&job.to_string()[..length]).unwrap();
            store.beginning(&prefix).await.unwrap()
        };
        assert_eq!(beginning(8).await, [job]);
        let other = JobPrefix::parse("00000000-0000").unwrap();
        assert_eq!(store.beginning(&other).await, Ok(vec![]));
        // All of the same moment.
        for _ in 0..2 {
            submit(&place, &store, "a").await;
        }
        assert_eq!(beginning(13).await.len(), 2);
        assert_eq!(beginning(36).await, [job]);
    }

    #[tokio::test]
    async fn a_waiting_job_is_cancelled_at_once_and_makes_room() {
        let place = Place::new();
        let (store, _) = place.open();
        let [first, second, third] = [
            submit(&place, &store, "a").await,
            submit(&place, &store, "a").await,
            submit(&place, &store, "a").await,
        ];
        assert_eq!(store.cancel(first).await, Ok(Some(Cancelled::Now)));
        assert_eq!(state(&store, first).await, State::Cancelled);
        assert_eq!(store.cancel(third).await, Ok(Some(Cancelled::Now)));
        assert_eq!(store.claim().await.unwrap().map(|claim| claim.job), Some(second));
        assert_eq!(store.claim().await.unwrap(), None);
        assert_eq!(store.cancel(first).await, Ok(Some(Cancelled::Over(State::Cancelled))));
        assert_eq!(store.cancel(JobId::new(place.clock.now())).await, Ok(None));
    }

    #[tokio::test]
    async fn the_worker_of_a_claimed_job_is_told_whenever_it_registers() {
        let place = Place::new();
        let (store, _) = place.open();
        for early in [true, false] {
            let job = submit(&place, &store, "a").await;
            store.claim().await.unwrap().unwrap();
            let run = CancellationToken::new();
            let early = early.then(|| store.cancellable(job, run.clone()));
            assert_eq!(store.cancel(job).await, Ok(Some(Cancelled::Told)));
            let cancellable = early.unwrap_or_else(|| store.cancellable(job, run.clone()));
            assert!(run.is_cancelled() && cancellable.is_cancelled());
            assert_eq!(store.cancel(job).await, Ok(Some(Cancelled::Told)), "once more is no error");
            store.finish(job, State::Cancelled).await.unwrap();
            drop(cancellable);
            assert_eq!(store.cancel(job).await, Ok(Some(Cancelled::Over(State::Cancelled))));
        }
        assert!(store.cancels().list().is_empty());

        // Between two runs of one job, a wish is kept for the second.
        let job = submit(&place, &store, "a").await;
        store.claim().await.unwrap().unwrap();
        let mut first = store.cancellable(job, CancellationToken::new());
        assert!(!first.release());
        assert_eq!(store.cancel(job).await, Ok(Some(Cancelled::Told)));
        let second = store.cancellable(job, CancellationToken::new());
        drop(first);
        assert!(second.is_cancelled());
        drop(second);
        assert!(store.cancels().list().is_empty());
        store.finish(job, State::Cancelled).await.unwrap();
        let (other, run) = (submit(&place, &store, "a").await, CancellationToken::new());
        assert!(!store.cancellable(other, run.clone()).is_cancelled() && !run.is_cancelled());
    }

    #[tokio::test]
    async fn i6_what_was_cancelled_does_not_run_again_after_a_crash() {
        let place = Place::new();
        let (store, _) = place.open();
        let idempotent = Terms { idempotent: true, ..terms("a", 2) };
        let started = store.submit(&place.submission("a"), &idempotent).await.unwrap().job;
        let claimed = store.submit(&place.submission("a"), &idempotent).await.unwrap().job;
        for _ in 0..2 {
            store.claim().await.unwrap().unwrap();
        }
        store.start(started).await.unwrap();
        for job in [started, claimed] {
            assert_eq!(store.cancel(job).await, Ok(Some(Cancelled::Told)));
        }
        let crashed = place.crashed();
        let (store, _) = crashed.open();
        assert_eq!(store.claim().await.unwrap(), None);
        assert_eq!(state(&store, started).await, State::Interrupted);
        assert_eq!(state(&store, claimed).await, State::Expired);
    }

    #[tokio::test]
    async fn a_repeated_job_names_the_old_one() {
        let place = Place::new();
        let (store, _) = place.open();
        let old = submit(&place, &store, "a").await;
        assert_eq!(store.cancel(old).await, Ok(Some(Cancelled::Now)));
        let new = store.repeat(old, &place.submission("a"), &terms("a", 1)).await.unwrap();
        assert_eq!(new.how, How::Fresh);
        assert_eq!(store.find(new.job).await.unwrap().unwrap().view.retry_of, Some(old));
        assert_eq!(store.find(old).await.unwrap().unwrap().view.retry_of, None);
        let page = store.list(wanted()).await.unwrap().unwrap();
        assert_eq!((page.jobs[0].job, page.jobs[0].retry_of), (new.job, Some(old)));
        assert_eq!(store.claim().await.unwrap().map(|claim| claim.job), Some(new.job));
    }

    #[tokio::test]
    async fn a_repeated_job_joins_no_other_and_counts_as_waiting() {
        let mut place = Place::new();
        place.settings.jobs = 2;
        let (store, _) = place.open();
        let coalescing = Terms { likeness: Some([7; 32]), ..terms("a", 1) };
        let old = store.submit(&place.submission("a"), &coalescing).await.unwrap().job;
        let new = store.repeat(old, &place.submission("a"), &coalescing).await.unwrap();
        assert!(new.job != old && new.how == How::Fresh);
        let full = store.repeat(old, &place.submission("a"), &coalescing).await;
        assert_eq!(full, Err(SubmitError::Full));
    }

    #[tokio::test]
    async fn whether_the_store_can_be_written_is_found_out_by_writing() {
        let place = Place::new();
        let (store, _) = place.open();
        let other = Connection::open(place.file()).unwrap();
        let version = || other.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0)).unwrap();
        let before = version();
        store.writable().await.unwrap();
        assert_ne!(version(), before);
        let after = version();
        assert_eq!(version(), after);
        store.clone().close().await;
        assert!(store.writable().await.is_err());
    }
}
