//! What coalescing promises, against random interleavings: after every accepted request a run starts later than it.
//!
//! Compiled for tests alone. Processes die and machines lose power in between. A model says of each step what the store
//! must answer; the promise and the order within a lock are checked on what happened, and know nothing of how joining works.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::fixture::{Place, terms};
use super::sqlite::Store;
use super::{How, SubmitError, Submitted};
use crate::domain::job::{JobId, State};
use crate::domain::submission::Terms;

const FILE: &str = "/run/held";
const EXPIRES: u64 = 60;
const DELAY: u64 = 7;
/// The queue's own bound, small enough to be met.
const JOBS: usize = 6;

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Act {
    /// A request of one of two locks; the second has room for two. Without a likeness its route does not coalesce.
    Submit {
        lock: u8,
        likeness: Option<u8>,
        idempotent: bool,
        held: bool,
    },
    /// The same message as an earlier request's.
    Repeat(usize),
    Claim,
    /// A claim after the file was seen to be gone.
    ClaimFreed,
    Start(usize),
    /// The end of a job that did not end, whatever it is doing.
    Finish(usize, State),
    Retry(usize),
    Advance(u64),
    /// The process dies.
    Crash,
    /// The machine does: of what was written since the last durable commit, only so many 255ths reached the disk.
    PowerLoss(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let likeness = prop_oneof![5 => Just(Some(1)), 2 => Just(Some(2)), 1 => Just(None)];
    prop_oneof![
        10 => (0..2_u8, likeness, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(lock, likeness, idempotent, held)| Act::Submit { lock, likeness, idempotent, held }),
        1 => any::<usize>().prop_map(Act::Repeat),
        5 => Just(Act::Claim),
        2 => Just(Act::ClaimFreed),
        5 => any::<usize>().prop_map(Act::Start),
        3 => any::<usize>().prop_map(|pick| Act::Finish(pick, State::Succeeded)),
        1 => any::<usize>().prop_map(|pick| Act::Finish(pick, State::Cancelled)),
        2 => any::<usize>().prop_map(Act::Retry),
        2 => (1..30_u64).prop_map(Act::Advance),
        1 => Just(Act::Crash),
        1 => any::<u8>().prop_map(Act::PowerLoss),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Waiting,
    Claimed,
    Started,
}

/// A job that did not end.
#[derive(Clone, Debug)]
struct Live {
    job: JobId,
    lock: u8,
    likeness: Option<u8>,
    idempotent: bool,
    held: bool,
    stage: Stage,
    attempt: u32,
    expires: Option<u64>,
    not_before: u64,
}

/// An accepted request, when it was accepted, and what it joined or became.
struct Accepted {
    at: usize,
    lock: u8,
    job: JobId,
    message: String,
}

#[derive(Default)]
struct Model {
    now: u64,
    /// In the order of acceptance.
    live: Vec<Live>,
    accepted: Vec<Accepted>,
    claims: Vec<(usize, JobId)>,
    starts: Vec<(usize, JobId)>,
    ends: BTreeMap<JobId, State>,
}

impl Model {
    fn room(&self, lock: u8) -> bool {
        let active = self.live.iter().filter(|one| one.lock == lock && one.stage != Stage::Waiting);
        active.count() < usize::from(lock) + 1
    }

    /// The first of the heads that nothing holds; or, with the file gone, of those that only the file holds.
    fn next(&self, freed: bool) -> Option<usize> {
        let heads = [0, 1]
            .map(|lock| self.live.iter().position(|one| one.lock == lock && one.stage == Stage::Waiting));
        let may = |index: &usize| {
            let one = &self.live[*index];
            self.room(one.lock) && one.not_before <= self.now && one.held == freed
        };
        heads.into_iter().flatten().filter(may).min()
    }

    /// The job that a request joins: the last waiting one of its lock that never started, when no different one is later.
    fn joins(&self, lock: u8, likeness: Option<u8>) -> Option<usize> {
        let likeness = likeness?;
        let last = self.live.iter().rposition(|one| one.lock == lock && one.stage == Stage::Waiting)?;
        let equal = |one: &Live| one.likeness == Some(likeness);
        let later = self.live[last..].iter().filter(|one| one.lock == lock);
        (later.into_iter().all(equal) && self.live[last].attempt == 1).then_some(last)
    }

    fn waiting(&self) -> usize {
        self.live.iter().filter(|one| one.stage == Stage::Waiting).count()
    }

    /// What the store does by itself before it does anything else.
    fn expire(&mut self) {
        let now = self.now;
        let due = |one: &Live| one.stage == Stage::Waiting && one.expires.is_some_and(|at| at <= now);
        let (expired, live) = std::mem::take(&mut self.live).into_iter().partition(due);
        self.live = live;
        let expired: Vec<Live> = expired;
        self.ends.extend(expired.into_iter().map(|one| (one.job, State::Expired)));
    }

    fn crash(&mut self) {
        for one in &mut self.live {
            match (one.stage, one.idempotent) {
                (Stage::Waiting, _) => continue,
                (Stage::Claimed, _) => {}
                (Stage::Started, true) => {
                    one.attempt += 1;
                    one.expires = None;
                }
                (Stage::Started, false) => {
                    self.ends.insert(one.job, State::Interrupted);
                    continue;
                }
            }
            one.stage = Stage::Waiting;
        }
        self.live.retain(|one| !self.ends.contains_key(&one.job));
    }

    /// The one at this place among those at this stage.
    fn pick(&self, pick: usize, stage: Option<Stage>) -> Option<usize> {
        let fits = |index: &usize| stage.is_none_or(|stage| self.live[*index].stage == stage);
        let fitting: Vec<usize> = (0..self.live.len()).filter(fits).collect();
        (!fitting.is_empty()).then(|| fitting[pick % fitting.len()])
    }

    /// The promise: cancelled and expired jobs aside, a run of the request's job starts after it was accepted.
    fn kept_its_promise(&self) -> Result<(), TestCaseError> {
        for request in &self.accepted {
            let given_up = matches!(self.ends.get(&request.job), Some(State::Cancelled | State::Expired));
            let served = self.starts.iter().any(|(at, job)| *job == request.job && *at > request.at);
            prop_assert!(served || given_up, "the request of step {} was never served", request.at);
        }
        Ok(())
    }

    /// Of two requests of a lock, the run that serves the first is not claimed after the one that serves the second.
    fn kept_its_order(&self) -> Result<(), TestCaseError> {
        let served = |request: &Accepted| {
            self.claims.iter().find(|(at, job)| *job == request.job && *at > request.at).map(|(at, _)| *at)
        };
        for (index, first) in self.accepted.iter().enumerate() {
            for second in self.accepted[index..].iter().filter(|second| second.lock == first.lock) {
                if let (Some(one), Some(two)) = (served(first), served(second)) {
                    prop_assert!(one <= two, "{} was overtaken by {}", first.at, second.at);
                }
            }
        }
        Ok(())
    }
}

/// The store under test beside its model.
struct Run {
    place: Place,
    store: Store,
    model: Model,
    step: usize,
}

impl Run {
    fn new() -> Self {
        let mut place = Place::new();
        place.settings.jobs = JOBS;
        let (store, _) = place.open();
        Self { place, store, model: Model::default(), step: 0 }
    }

    async fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        self.step += 1;
        self.model.expire();
        let Self { store, model, .. } = self;
        match act {
            Act::Submit { lock, likeness, idempotent, held } => {
                self.submit(lock, likeness, idempotent, held).await?;
            }
            Act::Repeat(pick) => {
                if !model.accepted.is_empty() {
                    let earlier = &model.accepted[pick % model.accepted.len()];
                    let message = self.place.signed("kick", &earlier.message);
                    let again = store.submit(&message, &terms("lock-0", 1)).await.unwrap();
                    prop_assert_eq!((again.job, again.how), (earlier.job, How::Duplicate));
                }
            }
            Act::Claim => self.claim(false).await?,
            Act::ClaimFreed => self.claim(true).await?,
            Act::Start(pick) => {
                if let Some(index) = model.pick(pick, Some(Stage::Claimed)) {
                    store.start(model.live[index].job).await.unwrap();
                    model.live[index].stage = Stage::Started;
                    model.starts.push((self.step, model.live[index].job));
                }
            }
            Act::Finish(pick, state) => {
                // Only an operator ends a job that has not begun.
                let stage = (state != State::Cancelled).then_some(Stage::Started);
                if let Some(index) = model.pick(pick, stage) {
                    let ended = model.live.remove(index);
                    store.finish(ended.job, state).await.unwrap();
                    model.ends.insert(ended.job, state);
                }
            }
            Act::Retry(pick) => {
                if let Some(index) = model.pick(pick, Some(Stage::Started)) {
                    let one = &mut model.live[index];
                    store.retry(one.job, one.attempt, Duration::from_secs(DELAY)).await.unwrap();
                    (one.stage, one.attempt, one.expires) = (Stage::Waiting, one.attempt + 1, None);
                    one.not_before = model.now + DELAY;
                }
            }
            Act::Advance(seconds) => {
                self.place.hands.advance(Duration::from_secs(seconds));
                model.now += seconds;
            }
            Act::Crash => self.reopen(self.place.crashed()),
            Act::PowerLoss(part) => {
                let synced = store.synced_log();
                let lost = self.place.log_length() - synced;
                self.reopen(self.place.without_power(synced + lost * u64::from(part) / 255));
            }
        }
        Ok(())
    }

    fn reopen(&mut self, place: Place) {
        self.store = place.open().0;
        self.place = place;
        self.model.crash();
    }

    async fn submit(
        &mut self,
        lock: u8,
        likeness: Option<u8>,
        idempotent: bool,
        held: bool,
    ) -> Result<(), TestCaseError> {
        let model = &mut self.model;
        let terms = Terms {
            idempotent,
            likeness: likeness.map(|likeness| [likeness; 32]),
            awaits: held.then(|| FILE.into()),
            expires: Duration::from_secs(EXPIRES),
            ..terms(&format!("lock-{lock}"), u32::from(lock) + 1)
        };
        let message = self.step.to_string();
        let mut submission = self.place.signed("kick", &message);
        super::fixture::message(&mut submission).created = None;
        super::fixture::message(&mut submission).keep_until =
            super::fixture::later(self.place.clock.now(), 86_400);
        let found = self.store.submit(&submission, &terms).await;
        let expires = Some(model.now + EXPIRES);
        let job = if let Some(index) = model.joins(lock, likeness) {
            let joined = &mut model.live[index];
            (joined.expires, joined.idempotent, joined.held) = (expires, idempotent, held);
            let job = joined.job;
            prop_assert_eq!(found, Ok(Submitted { job, state: State::Queued, how: How::Coalesced }));
            job
        } else if model.waiting() >= JOBS {
            prop_assert_eq!(found, Err(SubmitError::Full));
            return Ok(());
        } else {
            let job = found.as_ref().unwrap().job;
            prop_assert_eq!(found, Ok(Submitted { job, state: State::Queued, how: How::Fresh }));
            let stage = Stage::Waiting;
            let (attempt, not_before) = (1, 0);
            model.live.push(Live {
                job,
                lock,
                likeness,
                idempotent,
                held,
                stage,
                attempt,
                expires,
                not_before,
            });
            job
        };
        model.accepted.push(Accepted { at: self.step, lock, job, message });
        Ok(())
    }

    async fn claim(&mut self, freed: bool) -> Result<(), TestCaseError> {
        let Self { store, model, .. } = self;
        let claimed = if freed { store.claim_freed(FILE.into()).await } else { store.claim().await };
        let next = model.next(freed);
        let found = claimed.unwrap().map(|claim| (claim.job, claim.attempt));
        prop_assert_eq!(found, next.map(|index| (model.live[index].job, model.live[index].attempt)));
        if let Some(index) = next {
            model.live[index].stage = Stage::Claimed;
            model.claims.push((self.step, model.live[index].job));
        }
        Ok(())
    }

    /// Lets every job that is left come to its end.
    async fn drain(&mut self) -> Result<(), TestCaseError> {
        while !self.model.live.is_empty() {
            for act in [Act::Claim, Act::ClaimFreed, Act::Start(0), Act::Finish(0, State::Succeeded)] {
                self.act(act).await?;
            }
            // Nothing can be claimed before a delay ends.
            if self.model.live.iter().all(|one| one.stage == Stage::Waiting)
                && self.model.next(false).or(self.model.next(true)).is_none()
            {
                self.act(Act::Advance(DELAY)).await?;
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn after_every_accepted_request_a_run_starts_later_than_it(acts in prop::collection::vec(act(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new();
            for act in acts {
                run.act(act).await?;
            }
            run.drain().await?;
            run.model.kept_its_promise()?;
            run.model.kept_its_order()
        })?;
    }
}
