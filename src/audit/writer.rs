//! The thread that writes: it takes records, writes a batch of them, waits for the disk once, and answers.
//!
//! Loses nothing that was noted as long as there is room for it, also while the disk is full; what there is no room for
//! is counted. Never panics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Unwritable;
use super::file::Log;
use super::line::{self, Own};
use super::verify::Head;
use crate::clock::Clock;

/// Most records in one write.
const BATCH: usize = 256;

/// Most noted records that are held while the file cannot be written.
const HELD: usize = 1024;

/// How long a noted record waits for one that has to be written anyhow.
const COMPANY: Duration = Duration::from_millis(10);

/// Time before a write that failed is tried again without being asked.
const AGAIN: Duration = Duration::from_secs(1);

/// A record on its way to the file.
pub(super) struct Entry {
    pub(super) at: Timestamp,
    /// A line each, the fields as a JSON object; none only asks whether a line could be written.
    pub(super) lines: Vec<String>,
    /// Who waits for it; nobody for a note.
    pub(super) reply: Option<oneshot::Sender<Result<(), Unwritable>>>,
}

/// What is not written down one by one.
#[derive(Default)]
pub(super) struct Counts {
    refused: AtomicU64,
    omitted: AtomicU64,
    changed: Notify,
    /// As above, since the process began.
    all_refused: Counter,
    all_omitted: Counter,
}

impl Counts {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Refusals of strangers that the audit log counts together";
        registry.register("audit_counted_together", help, self.all_refused.clone());
        let help = "Records that the audit log lacks for want of room";
        registry.register("audit_omitted", help, self.all_omitted.clone());
    }

    pub(super) fn refused(&self) {
        self.all_refused.inc();
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(super) fn omitted(&self, count: u64) {
        self.all_omitted.inc_by(count);
        self.omitted.fetch_add(count, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn any(&self) -> bool {
        self.refused.load(Ordering::Relaxed) > 0 || self.omitted.load(Ordering::Relaxed) > 0
    }
}

/// The end of the chain, for those who show it.
#[derive(Clone)]
pub(super) struct HeadOnDisk(Arc<Mutex<Head>>);

impl HeadOnDisk {
    pub(super) fn new(head: Head) -> Self {
        Self(Arc::new(Mutex::new(head)))
    }

    pub(super) fn get(&self) -> Head {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, head: Head) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = head;
    }
}

/// What the writer does next.
enum Next {
    Entries,
    Write,
    Stop,
}

/// The writer's belongings.
pub(super) struct Writer {
    log: Log,
    clock: Clock,
    runtime: Runtime,
    counts: Arc<Counts>,
    head: HeadOnDisk,
    /// Counts are written at most once in this time.
    period: Duration,
    counts_due: Option<Duration>,
    held: Vec<Entry>,
    failing: bool,
}

impl Writer {
    pub(super) fn new(
        log: Log,
        clock: Clock,
        runtime: Runtime,
        counts: Arc<Counts>,
        period: Duration,
    ) -> Self {
        let head = HeadOnDisk::new(log.head());
        Self { log, clock, runtime, counts, head, period, counts_due: None, held: Vec::new(), failing: false }
    }

    pub(super) fn head(&self) -> HeadOnDisk {
        self.head.clone()
    }

    /// Works until `stop`, then writes what was already given and counted, and ends.
    pub(super) fn run(mut self, mut entries: mpsc::Receiver<Entry>, stop: &CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut notes_due = None;
        loop {
            let (pause, pending) = (self.pause(), self.counts_due.is_some() || !self.held.is_empty());
            let counts = &self.counts;
            let listening = self.counts_due.is_none();
            let room = BATCH - batch.len();
            let next = self.runtime.block_on(async {
                let notes_are_due = async {
                    match notes_due {
                        Some(due) => tokio::time::sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = stop.cancelled() => Next::Stop,
                    received = entries.recv_many(&mut batch, room) => {
                        if received > 0 { Next::Entries } else { Next::Stop }
                    }
                    () = counts.changed.notified(), if listening => Next::Write,
                    () = tokio::time::sleep(pause), if pending => Next::Write,
                    () = notes_are_due => Next::Write,
                }
            });
            match next {
                Next::Stop => break,
                Next::Entries if batch.len() < BATCH && batch.iter().all(|entry| entry.reply.is_none()) => {
                    notes_due.get_or_insert_with(|| tokio::time::Instant::now() + COMPANY);
                }
                Next::Entries | Next::Write => {
                    notes_due = None;
                    // On a busy machine, those who are about to ask do so first, and share this wait for the disk.
                    std::thread::yield_now();
                    while batch.len() < BATCH
                        && let Ok(entry) = entries.try_recv()
                    {
                        batch.push(entry);
                    }
                    self.turn(&mut batch, false);
                }
            }
        }
        entries.close();
        while let Some(entry) = entries.blocking_recv() {
            batch.push(entry);
            if batch.len() == BATCH {
                self.turn(&mut batch, false);
            }
        }
        self.turn(&mut batch, true);
        if !self.held.is_empty() {
            tracing::error!(count = self.held.len(), "audit records could not be written before the end");
        }
        let head = self.log.head();
        tracing::info!(seq = head.seq, hash = head.hex(), "the audit log is closed; this is its head");
    }

    fn pause(&self) -> Duration {
        if self.failing {
            return AGAIN;
        }
        let due = self.counts_due.unwrap_or_default().saturating_sub(self.clock.monotonic());
        due.max(Duration::from_millis(1))
    }

    /// One write: what is held, the batch, and the counts when it is their time.
    fn turn(&mut self, batch: &mut Vec<Entry>, last: bool) {
        let mut entries = std::mem::take(&mut self.held);
        entries.append(batch);
        let (refused, omitted) = self.take_counts(last);
        let own = |own: Own<'_>| line::fields(&own).unwrap_or_default();
        let mut counted = Vec::new();
        if refused > 0 {
            counted.push(own(Own::Refusals { count: refused }));
        }
        if omitted > 0 {
            counted.push(own(Own::Omitted { count: omitted }));
        }
        if entries.is_empty() && counted.is_empty() {
            return;
        }
        let now = self.clock.now();
        let lines = || {
            let all = entries.iter().flat_map(|entry| entry.lines.iter().map(|line| (entry.at, line)));
            all.map(|(at, line)| (at, line.as_str()))
        };
        if self.failing && counted.is_empty() && lines().next().is_none() {
            // Whether a line can be written is found out by writing one.
            counted.push(own(Own::Resumed));
        }
        match self.log.append(lines().chain(counted.iter().map(|fields| (now, fields.as_str())))) {
            Ok(()) => {
                self.head.set(self.log.head());
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the audit log can be written again");
                }
                if refused > 0 {
                    tracing::warn!(count = refused, "refusals that were not written down one by one");
                }
                if omitted > 0 {
                    tracing::error!(count = omitted, "audit records were lost for want of room");
                }
                for reply in entries.into_iter().filter_map(|entry| entry.reply) {
                    // Whoever asked may have gone; the record stays.
                    let _ = reply.send(Ok(()));
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the audit log cannot be written; nothing is accepted or started");
                }
                self.counts.refused.fetch_add(refused, Ordering::Relaxed);
                self.counts.omitted.fetch_add(omitted, Ordering::Relaxed);
                self.hold(entries, &error.to_string());
            }
        }
    }

    fn take_counts(&mut self, last: bool) -> (u64, u64) {
        let now = self.clock.monotonic();
        if !self.counts.any() {
            return (0, 0);
        }
        let due = *self.counts_due.get_or_insert(now.saturating_add(self.period));
        if now < due && !last {
            return (0, 0);
        }
        self.counts_due = None;
        (self.counts.refused.swap(0, Ordering::Relaxed), self.counts.omitted.swap(0, Ordering::Relaxed))
    }

    /// Tells those who wait that they wait in vain, and keeps the rest for the next write.
    fn hold(&mut self, entries: Vec<Entry>, reason: &str) {
        let mut lost = 0;
        for entry in entries {
            match entry.reply {
                Some(reply) => {
                    let _ = reply.send(Err(Unwritable(reason.to_owned())));
                }
                None if entry.lines.is_empty() => {}
                None if self.held.len() < HELD => self.held.push(Entry { reply: None, ..entry }),
                None => lost += 1,
            }
        }
        if lost > 0 {
            self.counts.omitted(lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_is_told_and_what_was_noted_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
        let log = Log::open(&path, clock.now()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let counts = Arc::new(Counts::default());
        let mut writer = Writer::new(log, clock, runtime, Arc::clone(&counts), Duration::from_secs(1));
        let entry =
            |fields: &str| Entry { at: Timestamp::UNIX_EPOCH, lines: vec![fields.into()], reply: None };
        let durable = |fields: &str| {
            let (reply, told) = oneshot::channel();
            (Entry { reply: Some(reply), ..entry(fields) }, told)
        };

        let whole = writer.log.fail();
        let (lost, mut told) = durable(r#"{"kind":"lost"}"#);
        writer.turn(&mut vec![entry(r#"{"kind":"noted"}"#), lost], false);
        assert!(matches!(told.try_recv(), Ok(Err(Unwritable(_)))));
        let mut many: Vec<Entry> = (0..HELD + 5).map(|_| entry(r#"{"kind":"more"}"#)).collect();
        writer.turn(&mut many, false);
        assert_eq!(writer.held.len(), HELD);
        assert_eq!(writer.pause(), AGAIN);

        writer.log.mend(whole);
        hands.advance(Duration::from_secs(1));
        let (kept, mut told) = durable(r#"{"kind":"kept"}"#);
        writer.turn(&mut vec![kept], true);
        assert_eq!(told.try_recv(), Ok(Ok(())));
        let text = std::fs::read_to_string(&path).unwrap();
        let head = super::super::verify::verify(text.lines()).unwrap();
        assert_eq!(head.seq, 1 + HELD as u64 + 1 + 1);
        assert!(text.contains("noted") && text.contains("kept") && !text.contains("lost"));
        assert!(text.lines().next_back().unwrap().ends_with(r#""kind":"omitted","count":6}"#), "{text}");
    }
}
