//! What the tests of this room share: a database in a directory of its own, and submissions to put into it.
//!
//! Compiled for tests alone.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Unavailable;
use super::ledger::Ledger;
use super::sqlite::{Recovered, Settings, Store};
use crate::clock::{Clock, Hands};
use crate::domain::identity::{Identity, Proofs};
use crate::domain::name::{KeyName, ParameterName, RouteName};
use crate::domain::parameters::RawParameters;
use crate::domain::submission::{Message, MessageId, Submission, Terms};

/// Keeps the writer inside a transaction, so that what is asked of it meanwhile falls into the next one.
pub(super) struct Hold {
    store: Store,
    release: mpsc::Sender<()>,
    held: JoinHandle<Result<(), Unavailable>>,
}

impl Hold {
    pub(super) async fn on(store: &Store) -> Self {
        let (begin, begun) = oneshot::channel();
        let (release, released) = mpsc::channel();
        let holder = store.clone();
        let held = tokio::spawn(async move {
            let wait = move |_: &mut Ledger<'_>| -> Result<(), Unavailable> {
                begin.send(()).unwrap();
                released.recv().unwrap();
                Ok(())
            };
            holder.write(wait).await
        });
        begun.await.unwrap();
        Self { store: store.clone(), release, held }
    }

    /// Lets go as soon as so many commands wait.
    pub(super) async fn until(self, commands: usize) {
        while self.store.in_line() < commands {
            tokio::task::yield_now().await;
        }
        self.release.send(()).unwrap();
        self.held.await.unwrap().unwrap();
    }
}

pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// How long the write-ahead log was at the last commit that waited for the disk.
#[derive(Clone, Default)]
pub(super) struct Synced(Arc<AtomicU64>);

impl Synced {
    pub(super) fn note(&self, connection: &Connection) {
        let log = format!("{}-wal", connection.path().unwrap());
        // There is none before the first commit.
        let length = std::fs::metadata(log).map_or(0, |metadata| metadata.len());
        self.0.store(length, Ordering::Relaxed);
    }

    pub(super) fn length(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A directory with a database, and a clock that stands still.
pub(super) struct Place {
    directory: TempDir,
    pub(super) clock: Clock,
    pub(super) hands: Arc<Hands>,
    pub(super) settings: Settings,
}

impl Place {
    pub(super) fn new() -> Self {
        let (clock, hands) = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
        let settings = Settings { keep: 30 * DAY, keep_bytes: 1 << 30, jobs: 1000 };
        Self { directory: tempfile::tempdir().unwrap(), clock, hands, settings }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.directory.path().join("queue.db")
    }

    pub(super) fn open(&self) -> (Store, Recovered) {
        Store::open(&self.file(), self.settings.clone(), self.clock.clone()).unwrap()
    }

    /// Another place, with the files as they are when the process dies at this moment.
    pub(super) fn crashed(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["queue.db", "queue.db-wal"] {
            std::fs::copy(self.directory.path().join(name), directory.path().join(name)).unwrap();
        }
        let (clock, hands) = Clock::manual(self.clock.now());
        Self { directory, clock, hands, settings: self.settings.clone() }
    }

    /// How long the write-ahead log is. It only grows, as long as these tests stay too small for a checkpoint.
    pub(super) fn log_length(&self) -> u64 {
        std::fs::metadata(self.directory.path().join("queue.db-wal")).unwrap().len()
    }

    /// As [`Place::crashed`], with the log cut at `length`: what came later had not reached the disk.
    pub(super) fn without_power(&self, length: u64) -> Self {
        let place = self.crashed();
        let log = std::fs::OpenOptions::new().write(true).open(place.directory.path().join("queue.db-wal"));
        log.unwrap().set_len(length).unwrap();
        place
    }

    /// The same by the key `name`.
    pub(super) fn submission_by(&self, name: &str, route: &str) -> Submission {
        let key = KeyName::parse(name).unwrap();
        let identity = Identity::Key(key.clone());
        let submission = self.submission(route);
        Submission { identity, proofs: Proofs { key: Some(key), ..submission.proofs.clone() }, ..submission }
    }

    /// A submission by the key `jenkins`, without a message id, that arrives now.
    pub(super) fn submission(&self, route: &str) -> Submission {
        let key = KeyName::parse("jenkins").unwrap();
        let mut parameters = RawParameters::default();
        parameters.0.insert(ParameterName::parse("role").unwrap(), "haproxy".into());
        Submission {
            route: RouteName::parse(route).unwrap(),
            parameters,
            body: None,
            identity: Identity::Key(key.clone()),
            proofs: Proofs { certificate: None, key: Some(key), source: [192, 0, 2, 7].into() },
            message: Message::Anonymous,
            at: self.clock.now(),
        }
    }

    /// The same with a message id that is remembered for ten minutes.
    pub(super) fn signed(&self, route: &str, id: &str) -> Submission {
        let at = self.clock.now();
        let message = Message::Identified(MessageId {
            scope: "jenkins".into(),
            id: id.into(),
            digest: [7; 32],
            created: Some(at),
            keep_until: at.checked_add(Duration::from_secs(600)).unwrap(),
        });
        Submission { message, ..self.submission(route) }
    }
}

/// Terms of a route with this lock: an hour to wait, not idempotent.
pub(super) fn terms(lock: &str, concurrency: u32) -> Terms {
    Terms {
        lock: lock.into(),
        concurrency: NonZeroU32::new(concurrency).unwrap(),
        expires: Duration::from_secs(3600),
        idempotent: false,
        likeness: None,
        awaits: None,
    }
}

/// The same for a route whose jobs join: those with the same `likeness` are equal.
pub(super) fn joining(lock: &str, likeness: u8) -> Terms {
    Terms { likeness: Some([likeness; 32]), ..terms(lock, 1) }
}

/// The id of a submission that has one.
pub(super) fn message(submission: &mut Submission) -> &mut MessageId {
    match &mut submission.message {
        Message::Identified(message) => message,
        Message::Anonymous => panic!("the submission has no message id"),
    }
}

/// A moment of the fixture's day.
pub(super) fn later(from: Timestamp, seconds: u64) -> Timestamp {
    from.checked_add(Duration::from_secs(seconds)).unwrap()
}
