//! The one thread that writes: it takes commands, runs a batch of them in one transaction, and answers after COMMIT.
//!
//! A commit waits until the decisions on the submissions in it are on record (`on_record`): an audit log whose disk hangs
//! holds up everything here. Also the queue's own timer: it expires, ends delays and forgets between commands. Never panics:
//! whatever fails is the answer to the commands of that batch, and the next batch starts afresh.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rusqlite::Connection;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::claim::EXPIRED_AT_ONCE;
use super::ledger::{Ledger, Tally};
use super::line::RIPE_AT_ONCE;
use super::open::Lock;
use super::sqlite::Settings;
use super::waiters::Waiters;
use super::{OnRecord, Unavailable};
use crate::clock::Clock;

/// Commands that may wait for the writer; whoever has one more waits with it.
pub(super) const LINE: usize = 1024;

/// Most commands in one transaction.
const BATCH: usize = 256;

/// Longest time between two looks at the clock, which an operator may set.
const LOOK: Duration = Duration::from_secs(10);

/// Time between two purges that left nothing due.
const PURGE_EVERY: Duration = Duration::from_secs(5);

/// Time between two purges while more is due.
const PURGE_AGAIN: Duration = Duration::from_millis(50);

/// Time before the writer by itself tries again what failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Something to be done in a transaction.
pub(super) struct Command {
    pub(super) promise: Promise,
    /// What its commit has to wait for.
    pub(super) after: Option<OnRecord>,
    pub(super) work: Work,
}

/// Given the open transaction it runs and returns its answer, to be told whether the commit succeeded. Given an error
/// instead, it did not run.
pub(super) type Work = Box<dyn FnOnce(Result<&mut Ledger<'_>, Unavailable>) -> Answer + Send>;

/// What a commit promises to whoever gave the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// It survives the loss of power.
    Durable,
    /// It survives the end of this process; and the loss of power as soon as anything durable was committed after it,
    /// because the write-ahead log is one sequence. Whatever is done so must be as good as not done if it is lost.
    Ordered,
}

/// Tells whoever gave the command what became of it.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// What others may know without asking the database.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outlook {
    /// Whether a lock has both room and a waiting job.
    pub(super) ready: bool,
    /// When the next waiting job expires, in microseconds of wall time.
    pub(super) next_expiry: Option<i64>,
    /// When the next delay ends, likewise.
    pub(super) next_ripe: Option<i64>,
    /// The last accepted job among those that only a file holds.
    pub(super) held: Option<i64>,
    /// Whether a job has ended whose end is not on record elsewhere.
    pub(super) unrecorded: bool,
    /// How many jobs wait.
    pub(super) waiting: usize,
}

/// The writer's belongings.
pub(super) struct Writer {
    /// Dropped before the lock below.
    pub(super) connection: Connection,
    pub(super) lock: Lock,
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) clock: Clock,
    pub(super) runtime: Runtime,
    pub(super) waiting: usize,
    pub(super) kept: i64,
    pub(super) outlook: Arc<watch::Sender<Outlook>>,
    pub(super) waiters: Waiters,
    /// What commits promise at present.
    pub(super) promise: Promise,
    #[cfg(test)]
    pub(super) synced: super::fixture::Synced,
}

/// What the writer does by itself, and when.
struct Upkeep {
    purge_due: Duration,
    /// Whether more jobs expire, or more delays end, than one transaction takes.
    more_due: bool,
    /// Whether the last transaction failed.
    failing: bool,
    /// Whether the last try to expire or forget failed.
    stuck: bool,
}

impl Writer {
    /// Works until `stop`, then does what was already asked for and ends.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: &CancellationToken) {
        let mut upkeep =
            Upkeep { purge_due: self.clock.monotonic(), more_due: false, failing: false, stuck: false };
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.turn(&mut batch, &mut upkeep);
            let pause = self.pause(&upkeep);
            let open = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => false,
                    received = commands.recv_many(&mut batch, BATCH) => received > 0,
                    () = tokio::time::sleep(pause) => true,
                }
            });
            if !open {
                break;
            }
            if !batch.is_empty() {
                give_way(&mut commands, &mut batch);
            }
        }
        commands.close();
        while let Some(command) = commands.blocking_recv() {
            batch.push(command);
            if batch.len() == BATCH {
                self.turn(&mut batch, &mut upkeep);
            }
        }
        self.turn(&mut batch, &mut upkeep);
        self.waiters.wake_all();
        drop(self.connection);
        drop(self.lock);
    }

    /// How long nothing is due.
    fn pause(&self, upkeep: &Upkeep) -> Duration {
        if upkeep.failing || upkeep.stuck {
            return AFTER_FAILURE;
        }
        if upkeep.more_due {
            return Duration::ZERO;
        }
        let purge = upkeep.purge_due.saturating_sub(self.clock.monotonic());
        let due = self.outlook.borrow().until_due(&self.clock).unwrap_or(LOOK);
        purge.min(due).clamp(Duration::from_millis(1), LOOK)
    }

    /// One transaction: what is due, then the batch.
    fn turn(&mut self, batch: &mut Vec<Command>, upkeep: &mut Upkeep) {
        let mut answers = Vec::with_capacity(batch.len());
        let (mut submissions, mut others) = batch.drain(..).partition(|command| command.after.is_some());
        let ended = self.transact(&mut others, &mut submissions, upkeep, &mut answers);
        let outcome = match ended {
            Ok((tally, outlook)) => {
                self.waiting = tally.waiting;
                self.kept = tally.kept;
                // Before the answers: a worker that was told "nothing to claim" must not find the old outlook.
                self.outlook.send_replace(outlook);
                for job in tally.ended {
                    self.waiters.wake(job);
                }
                if std::mem::take(&mut upkeep.failing) {
                    tracing::info!("the queue can be written again");
                }
                Ok(())
            }
            Err(reason) => {
                if !self.connection.is_autocommit() {
                    // Should even this fail, the next BEGIN fails too, and this is tried again after it.
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                if !std::mem::replace(&mut upkeep.failing, true) {
                    tracing::error!(%reason, "the queue cannot be written; nothing is accepted or started until it can");
                }
                Err(reason)
            }
        };
        // Those that did not get their turn.
        for command in others.into_iter().chain(submissions) {
            let reason = outcome.clone().err().unwrap_or_else(|| Unavailable("not reached".into()));
            answers.push(((command.work)(Err(reason)), Ok(())));
        }
        for (answer, verdict) in answers {
            answer(outcome.clone().and(verdict));
        }
    }

    fn transact(
        &mut self,
        others: &mut Vec<Command>,
        submissions: &mut Vec<Command>,
        upkeep: &mut Upkeep,
        answers: &mut Vec<(Answer, Result<(), Unavailable>)>,
    ) -> Result<(Tally, Outlook), Unavailable> {
        let now = self.clock.now().as_microsecond();
        self.promise(self.owed(others.iter().chain(submissions.iter()), now))?;
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let settings = self.settings.load();
        let mut ledger = Ledger {
            connection: &self.connection,
            settings: &settings,
            now,
            tally: Tally { waiting: self.waiting, kept: self.kept, ended: Vec::new() },
            lost: false,
        };
        self.keep_up(&mut ledger, upkeep)?;
        let mut commands = std::mem::take(others).into_iter();
        while !ledger.is_lost()
            && let Some(command) = commands.next()
        {
            answers.push(((command.work)(Ok(&mut ledger)), Ok(())));
        }
        others.extend(commands);
        if !ledger.is_lost() {
            ledger.take_in(submissions, &self.runtime, answers)?;
        }
        if ledger.is_lost() {
            return Err(Unavailable("the transaction was given up, because a command in it failed".into()));
        }
        let outlook = Outlook {
            ready: ledger.next_ready()?.is_some(),
            next_expiry: ledger.next_expiry()?,
            next_ripe: ledger.next_ripe()?,
            held: ledger.last_held()?,
            unrecorded: ledger.has_unrecorded()?,
            waiting: ledger.tally.waiting,
        };
        let tally = ledger.tally;
        self.connection.execute_batch("COMMIT")?;
        #[cfg(test)]
        if self.promise == Promise::Durable {
            self.synced.note(&self.connection);
        }
        Ok((tally, outlook))
    }

    /// What the next transaction must promise: of jobs that expire, somebody may be told.
    fn owed<'c>(&self, mut commands: impl Iterator<Item = &'c Command>, now: i64) -> Promise {
        let expires = self.outlook.borrow().next_expiry.is_some_and(|at| at <= now);
        let durable = expires || commands.any(|command| command.promise == Promise::Durable);
        if durable { Promise::Durable } else { Promise::Ordered }
    }

    /// In WAL mode `full` syncs the log at each commit, and `normal` before each checkpoint alone.
    fn promise(&mut self, promise: Promise) -> Result<(), Unavailable> {
        if promise != self.promise {
            self.connection.pragma_update(
                None,
                "synchronous",
                match promise {
                    Promise::Durable => "full",
                    Promise::Ordered => "normal",
                },
            )?;
            self.promise = promise;
        }
        Ok(())
    }

    /// Expires and forgets what is due. That it cannot, for want of room, must not keep commands from trying.
    fn keep_up(&self, ledger: &mut Ledger<'_>, upkeep: &mut Upkeep) -> Result<(), Unavailable> {
        let expired = ledger.guarded(Ledger::expire);
        upkeep.more_due = matches!(expired, Ok(EXPIRED_AT_ONCE));
        let mut failed = expired.err();
        if !ledger.is_lost() {
            let ripened = ledger.guarded(Ledger::ripen);
            upkeep.more_due |= matches!(ripened, Ok(RIPE_AT_ONCE));
            failed = failed.or(ripened.err());
        }
        let monotonic = self.clock.monotonic();
        if monotonic >= upkeep.purge_due && !ledger.is_lost() {
            let more = ledger.guarded(Ledger::purge);
            upkeep.purge_due = monotonic + if matches!(more, Ok(true)) { PURGE_AGAIN } else { PURGE_EVERY };
            failed = failed.or(more.err());
        }
        match failed {
            Some(reason) if ledger.is_lost() => Err(reason),
            Some(reason) => {
                if !std::mem::replace(&mut upkeep.stuck, true) {
                    tracing::warn!(%reason, "the queue cannot expire or forget what is due; it tries again");
                }
                Ok(())
            }
            None => {
                upkeep.stuck = false;
                Ok(())
            }
        }
    }
}

impl Ledger<'_> {
    pub(super) fn is_lost(&self) -> bool {
        self.lost || self.connection.is_autocommit()
    }
}

impl Outlook {
    /// How long until a waiting job expires; `None` when none ever does.
    pub(super) fn until_expiry(&self, clock: &Clock) -> Option<Duration> {
        self.next_expiry.map(|at| until(at, clock))
    }

    /// How long until a job expires or a delay ends; `None` when neither ever does.
    fn until_due(&self, clock: &Clock) -> Option<Duration> {
        self.next_expiry.into_iter().chain(self.next_ripe).min().map(|at| until(at, clock))
    }
}

/// Lets whoever is about to give a command do so first: on a busy machine, larger batches save everybody's time.
fn give_way(commands: &mut mpsc::Receiver<Command>, batch: &mut Vec<Command>) {
    std::thread::yield_now();
    while batch.len() < BATCH
        && let Ok(command) = commands.try_recv()
    {
        batch.push(command);
    }
}

fn until(at: i64, clock: &Clock) -> Duration {
    let micros = at.saturating_sub(clock.now().as_microsecond());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
