//! One concrete recorder for decisions and runs.
//!
//! A record is one JSON line of a file that is only ever added to, chained to the line before by SHA-256: what a chain
//! is, and what a line that a crash cut short becomes, stands in [`verify`]. Records that must not be lost are durable
//! when [`Recorder::durable`] returns, or what [`Recorder::begin`] returned has resolved; refusals of strangers are bounded
//! in number and may be counted together. Every record is also a `tracing` event, in the same escaped form. Refuses a file
//! that another process writes. A file that is renamed, as log rotation does, is continued by a new one in the same chain.

use std::future::Future;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

mod alarms;
mod event;
mod file;
mod line;
pub mod outcome;
mod pace;
mod predecessor;
mod record;
mod tally;
pub mod verify;
mod writer;

use alarms::Alarms;
pub use event::JOB_SPAN;
use file::Log;
pub use file::OpenError;
use outcome::{Refusal, Stranger};
use pace::Pace;
pub use record::{Act, Cause, Enforced, Keeper, Landlock, Record};
use tally::Tally;
use verify::Head;
use writer::{Counts, Entry, HeadOnDisk, Writer};

/// Records that may wait for the disk. Refusals of strangers get half of it.
const ROOM: usize = 1024;

/// The audit log cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written: {0}")]
pub struct Unwritable(pub String);

/// Writes the audit log of this process; clones write the same one. When the last clone is dropped, what was noted is
/// written and the file is free; [`Recorder::close`] does the same without blocking the thread.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    entries: mpsc::Sender<Entry>,
    stop: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
    strangers: ArcSwap<Pace>,
    alarms: Alarms,
    tally: Tally,
    counts: Arc<Counts>,
    head: HeadOnDisk,
    clock: Clock,
}

impl Recorder {
    /// Opens the log, making it when it is not there, and continues its chain.
    ///
    /// `refusals_logged`: how many refusals of strangers are written down one by one in each period.
    ///
    /// # Errors
    /// When the file cannot be used, belongs to another process, or does not end in a chain.
    pub fn open(
        file: &Path,
        refusals_logged: (NonZeroU32, Duration),
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let log = Log::open(file, clock.now())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let (sender, received) = mpsc::channel(ROOM);
        let counts = Arc::new(Counts::default());
        let stop = CancellationToken::new();
        let runtime = runtime.map_err(OpenError::Thread)?;
        let writer = Writer::new(log, clock.clone(), runtime, Arc::clone(&counts), refusals_logged.1);
        let head = writer.head();
        let now = head.get();
        tracing::info!(file = %file.display(), seq = now.seq, hash = now.hex(), "the audit log is open; this is its head");
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("audit-writer".into())
            .spawn(move || writer.run(received, &stopped))
            .map_err(OpenError::Thread)?;
        let strangers = ArcSwap::from_pointee(Pace::new(refusals_logged, &clock));
        let (thread, alarms, tally) = (Mutex::new(Some(thread)), Alarms::default(), Tally::default());
        let inner = Inner { entries: sender, stop, thread, strangers, alarms, tally, counts, head, clock };
        Ok(Self(Arc::new(inner)))
    }

    /// Shows what is counted, and which alarms stand, to whoever scrapes `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let Inner { alarms, tally, counts, .. } = &*self.0;
        tally.register(registry);
        alarms.register(registry);
        counts.register(registry);
    }

    fn standing(&self) -> &Alarms {
        &self.0.alarms
    }

    fn tally(&self) -> &Tally {
        &self.0.tally
    }

    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Puts a record on the disk: it is durable when this returns.
    ///
    /// # Errors
    /// When it could not be written; then nothing may happen that relies on it.
    pub async fn durable(&self, record: Record) -> Result<(), Unwritable> {
        self.all_durable(&[record]).await
    }

    /// Gives a record to the writer; it is durable when the future has resolved, which tells [`Lost`], too, when it is not.
    ///
    /// # Errors
    /// When it could not be given, or could not be written; then nothing may happen that relies on it.
    pub async fn begin(
        &self,
        record: Record,
    ) -> Result<(impl Future<Output = Result<(), Unwritable>> + Send + use<>, Lost), Unwritable> {
        let (reply, written) = oneshot::channel();
        let entry = self.entry(std::slice::from_ref(&record), Some(reply))?;
        self.0.entries.send(entry).await.map_err(|_| closed())?;
        let (this, lost) = (self.clone(), Lost::default());
        let told = lost.clone();
        let written = async move {
            let written = written.await.unwrap_or_else(|_| Err(closed()));
            match &written {
                Ok(()) => this.tally().count(&record),
                Err(_) => told.0.store(true, Ordering::Relaxed),
            }
            written
        };
        Ok((written, lost))
    }

    /// Puts records on the disk, one after the other and all of them or none: they are durable when this returns.
    ///
    /// # Errors
    /// When they could not be written; then nothing may happen that relies on them.
    pub async fn all_durable(&self, records: &[Record]) -> Result<(), Unwritable> {
        let (reply, written) = oneshot::channel();
        let entry = self.entry(records, Some(reply))?;
        self.send(entry, written).await?;
        records.iter().for_each(|record| self.tally().count(record));
        Ok(())
    }

    /// Whether a record could be put on the disk now. Writes nothing as long as the last write succeeded.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn writable(&self) -> Result<(), Unwritable> {
        let (reply, written) = oneshot::channel();
        let entry = Entry { at: self.0.clock.now(), lines: Vec::new(), reply: Some(reply) };
        self.send(entry, written).await
    }

    /// The end of the chain on the disk, for keeping elsewhere.
    #[must_use]
    pub fn head(&self) -> Head {
        self.0.head.get()
    }

    async fn send(
        &self,
        entry: Entry,
        written: oneshot::Receiver<Result<(), Unwritable>>,
    ) -> Result<(), Unwritable> {
        self.0.entries.send(entry).await.map_err(|_| closed())?;
        written.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Notes a record without waiting for the disk: it is written together with the next durable one, or soon. Refusals
    /// of strangers, and who was turned away, beyond the rate, or beyond the room, are counted and become one `refusals`
    /// line; any other record for which there is no room is counted as `omitted`.
    pub fn note(&self, record: Record) {
        if let Record::Refused { refusal: Refusal::Stranger(why), .. } = record {
            return self.note_stranger(why, || record);
        }
        if matches!(record, Record::Malformed { .. }) {
            return self.note_stranger(Stranger::Malformed, || record);
        }
        self.tally().count(&record);
        if matches!(record, Record::TurnedAway { .. }) {
            self.note_seldom(|| record);
        } else {
            self.note_now(record);
        }
    }

    /// The same for the refusal of a stranger. It is counted, and put into words only if it is written down: how long that
    /// takes must not tell strangers one refusal from another, as long as they ask often.
    pub fn note_stranger(&self, why: Stranger, record: impl FnOnce() -> Record) {
        self.tally().refused(why);
        self.note_seldom(record);
    }

    fn note_seldom(&self, record: impl FnOnce() -> Record) {
        if self.0.strangers.load().allows_one() && self.0.entries.capacity() > ROOM / 2 {
            self.note_now(record());
        } else {
            self.0.counts.refused();
        }
    }

    fn note_now(&self, record: Record) {
        let sent = self.entry(&[record], None).is_ok_and(|entry| self.0.entries.try_send(entry).is_ok());
        if !sent {
            self.0.counts.omitted(1);
        }
    }

    /// Writes what was noted and counted, and frees the file. Later records through other clones are refused.
    pub async fn close(self) {
        self.0.stop.cancel();
        let thread = self.0.thread();
        // It can only fail if the thread panicked, and then there is nothing left to wait for.
        let _ = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join)).await;
    }

    fn entry(
        &self,
        records: &[Record],
        reply: Option<oneshot::Sender<Result<(), Unwritable>>>,
    ) -> Result<Entry, Unwritable> {
        let lines = records.iter().map(line::fields).collect::<Result<_, _>>();
        let lines = lines.map_err(|error| Unwritable(error.to_string()))?;
        records.iter().for_each(event::tell);
        Ok(Entry { at: self.0.clock.now(), lines, reply })
    }
}

/// Whether a record that was begun did not get on the disk.
#[derive(Clone, Debug, Default)]
pub struct Lost(Arc<AtomicBool>);

impl Lost {
    /// Whether that is known by now.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn closed() -> Unwritable {
    Unwritable("it was closed".into())
}

impl Inner {
    fn thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread() {
            // What was noted must be on the disk, and the file free, when the recorder is gone.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::clock::Hands;
    use crate::domain::identity::Identity;
    use crate::domain::job::{JobId, State};
    use crate::domain::name::KeyName;
    use crate::domain::name::RouteName;
    use crate::domain::parameters::RawParameters;
    use crate::domain::submission::How;

    struct Place {
        directory: tempfile::TempDir,
        clock: Clock,
        hands: Arc<Hands>,
    }

    impl Place {
        fn new() -> Self {
            let (clock, hands) = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
            Self { directory: tempfile::tempdir().unwrap(), clock, hands }
        }

        fn file(&self) -> PathBuf {
            self.directory.path().join("audit.jsonl")
        }

        fn open(&self, per: u32) -> Recorder {
            let rate = (NonZeroU32::new(per).unwrap(), Duration::from_secs(1));
            Recorder::open(&self.file(), rate, self.clock.clone()).unwrap()
        }

        fn lines(&self) -> Vec<serde_json::Value> {
            let file = std::fs::File::open(self.file()).unwrap();
            let lines: Vec<Vec<u8>> =
                std::io::BufReader::new(file).split(b'\n').map(Result::unwrap).collect();
            verify::verify(&lines).unwrap();
            lines.iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
        }

        fn kinds(&self) -> Vec<String> {
            self.lines().iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
        }
    }

    fn refused(path: &str, identity: Option<Identity>) -> Record {
        Record::Refused {
            source: [192, 0, 2, 7].into(),
            method: "GET".into(),
            path: path.into(),
            status: 404,
            reason: "unknown path".into(),
            refusal: match &identity {
                None => Refusal::Stranger(Stranger::UnknownPath),
                Some(_) => Refusal::Told(outcome::Outcome::Body),
            },
            route: None,
            identity,
        }
    }

    fn jenkins() -> Identity {
        Identity::Key(KeyName::parse("jenkins").unwrap())
    }

    fn started() -> Record {
        Record::Started {
            job: JobId::new(jiff::Timestamp::UNIX_EPOCH),
            route: RouteName::parse("kick").unwrap(),
            identity: Identity::Certname("node1.example.com".into()),
            rule: 1,
            step: 1,
            argv: vec!["/usr/bin/mco".into(), "puppet".into()],
            tree: Keeper::Subreaper,
            landlock: None,
        }
    }

    #[tokio::test]
    async fn i10_whoever_begins_a_record_hears_whether_it_got_on_the_disk() {
        let place = Place::new();
        let recorder = place.open(100);
        let (written, lost) = recorder.begin(started()).await.unwrap();
        assert_eq!(written.await, Ok(()));
        assert!(!lost.is_known());
        assert_eq!(place.kinds(), ["opened", "started"]);
        let whole = std::fs::read(place.file()).unwrap();
        std::fs::OpenOptions::new().write(true).open(place.file()).unwrap().set_len(0).unwrap();
        let (written, lost) = recorder.begin(started()).await.unwrap();
        assert!(written.await.is_err());
        assert!(lost.is_known());
        std::fs::write(place.file(), whole).unwrap();
        recorder.close().await;
        assert_eq!(place.kinds(), ["opened", "started"]);
    }

    #[tokio::test]
    async fn i10_a_durable_record_stands_in_the_file_when_its_writer_is_told() {
        let place = Place::new();
        let recorder = place.open(10);
        recorder.durable(started()).await.unwrap();
        let lines = place.lines();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["kind"], &lines[0]["seq"]), (&"opened".into(), &1.into()));
        assert_eq!(lines[0]["prev"], "0".repeat(64));
        assert!(lines[0]["chain"].as_str().unwrap().contains("SHA-256"));
        assert_eq!(lines[1]["kind"], "started");
        assert_eq!(lines[1]["at"], "2026-01-01T00:00:00.000000Z");
        assert_eq!(lines[1]["argv"], serde_json::json!(["/usr/bin/mco", "puppet"]));
        let mode = std::fs::metadata(place.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_chain_goes_on_across_restarts_and_has_one_writer() {
        let place = Place::new();
        let recorder = place.open(10);
        recorder.note(started());
        let rate = (NonZeroU32::MIN, Duration::from_secs(1));
        let second = Recorder::open(&place.file(), rate, place.clock.clone());
        assert!(matches!(second, Err(OpenError::Held(_))));
        let clone = recorder.clone();
        recorder.close().await;
        assert!(clone.durable(started()).await.is_err(), "closed");
        drop(clone);
        drop(place.open(10));
        let recorder = place.open(10);
        recorder.durable(started()).await.unwrap();
        assert_eq!(place.kinds(), ["opened", "started", "opened", "opened", "started"]);
        assert_eq!(place.lines()[4]["seq"], 5);
        assert_eq!(place.lines()[2].get("chain"), None);
    }

    #[tokio::test]
    async fn i7_refusals_of_strangers_are_counted_together_beyond_the_rate() {
        let place = Place::new();
        let recorder = place.open(3);
        for _ in 0..100 {
            recorder.note(refused("/x", None));
        }
        for _ in 0..5 {
            recorder.note(refused("/kick", Some(jenkins())));
        }
        recorder.durable(started()).await.unwrap();
        let count = |kind: &str| place.kinds().iter().filter(|found| *found == kind).count();
        assert_eq!((count("refused"), count("refusals"), count("started")), (8, 0, 1));
        place.hands.advance(Duration::from_secs(1));
        recorder.durable(started()).await.unwrap();
        assert_eq!(count("refusals"), 1);
        let lines = place.lines();
        assert_eq!(lines.iter().find(|line| line["kind"] == "refusals").unwrap()["count"], 97);

        for _ in 0..7 {
            recorder.note(refused("/x", None));
        }
        recorder.close().await;
        assert_eq!(place.lines().last().unwrap()["count"], 4);
    }

    #[tokio::test]
    async fn i7_a_flood_takes_no_more_than_its_room() {
        let place = Place::new();
        let recorder = place.open(100_000);
        let total = 10_000;
        for _ in 0..total {
            recorder.note(refused("/x", None));
        }
        recorder.durable(started()).await.unwrap();
        recorder.close().await;
        let lines = place.lines();
        let single = lines.iter().filter(|line| line["kind"] == "refused").count();
        let counted: u64 = lines.iter().filter_map(|line| line["count"].as_u64()).sum();
        assert_eq!(single as u64 + counted, total);
        assert!(lines.iter().any(|line| line["kind"] == "started"));
        assert!(!lines.iter().any(|line| line["kind"] == "omitted"));
    }

    #[tokio::test]
    async fn whether_it_can_be_written_is_known_without_writing() {
        let place = Place::new();
        let recorder = place.open(10);
        recorder.writable().await.unwrap();
        assert_eq!(place.kinds(), ["opened"]);
        assert_eq!(recorder.head().seq, 1);
        let away = place.directory.path().with_extension("away");
        std::fs::rename(place.directory.path(), &away).unwrap();
        assert!(recorder.writable().await.is_err());
        assert!(recorder.durable(started()).await.is_err());
        assert_eq!(recorder.head().seq, 1);
        std::fs::rename(&away, place.directory.path()).unwrap();
        recorder.writable().await.unwrap();
        assert_eq!(place.kinds(), ["opened", "resumed"]);
        assert_eq!(recorder.head().seq, 2);
        recorder.close().await;
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn i10_no_text_in_any_field_forges_a_line(text in proptest::collection::vec(proptest::prop_oneof![
            proptest::prelude::any::<char>(),
            proptest::sample::select(vec!['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}', '\u{202e}', '"', '\\', '{', '}', '\0', '\u{1b}']),
        ], 0..40)) {
            let text: String = text.into_iter().collect();
            let identity = Identity::Certname(format!("x{text}"));
            let route = RouteName::parse("kick").unwrap();
            let job = JobId::new(jiff::Timestamp::UNIX_EPOCH);
            let name = crate::domain::name::ParameterName::parse("name").unwrap();
            let source = [192, 0, 2, 7].into();
            for record in [
                Record::Refused {
                    source, method: text.clone(), path: text.clone(), status: 404, reason: text.clone(),
                    refusal: Refusal::Stranger(Stranger::UnknownPath), route: None, identity: Some(identity.clone()),
                },
                Record::Accepted {
                    route: route.clone(), identity: identity.clone(), rule: 1, source,
                    parameters: RawParameters([(name, text.clone().into())].into()),
                },
                Record::Stored { route: route.clone(), identity: identity.clone(), job, how: How::Fresh, worker: None },
                Record::NotStored { route: route.clone(), identity: identity.clone(), reason: text.clone() },
                Record::Started { job, route: route.clone(), identity: identity.clone(), rule: 1, step: 1, argv: vec![text.clone(), text.clone()], tree: Keeper::Cgroup, landlock: None },
                Record::Finished { job, route: route.clone(), state: State::Failed, reason: Some(text.clone()) },
                Record::Repeated { uid: 0, job, retry_of: job, route: route.clone(), identity },
            ] {
                let fields = line::fields(&record).unwrap();
                let written = line::compose(1, jiff::Timestamp::UNIX_EPOCH, &verify::ROOT, &fields);
                let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}');
                proptest::prop_assert!(!written.contains(breaks), "{written:?}");
                proptest::prop_assert!(verify::verify([&written]).is_ok());
                let read: serde_json::Value = serde_json::from_str(&written).unwrap();
                proptest::prop_assert_eq!(&read["seq"], &serde_json::json!(1));
                let said = read.to_string();
                proptest::prop_assert!(said.contains(&serde_json::to_string(&text).unwrap()[1..]) || text.is_empty());
            }
        }
    }

    #[tokio::test]
    async fn nothing_a_stranger_sends_forges_a_line() {
        let place = Place::new();
        let recorder = place.open(3);
        let path = "/x\n{\"seq\":9}\u{2028}\u{85}\u{7f}";
        recorder.note(refused(path, None));
        recorder.close().await;
        let text = std::fs::read_to_string(place.file()).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains(['\u{2028}', '\u{85}', '\u{7f}']));
        assert_eq!(place.lines()[1]["path"], path);
    }

    #[test]
    fn every_record_is_also_an_event_in_the_same_escaped_form() {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let place = Place::new();
        let recorder = place.open(1);
        // Other tests, which listen to nothing, turn these events off for all threads, before and meanwhile, unless there
        // is more than one who could listen.
        let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        tracing::subscriber::with_default(subscriber, || {
            tracing::callsite::rebuild_interest_cache();
            recorder.note(refused("/a\nINFO forged\u{2028}", None));
            recorder.note(refused("/b", None));
            recorder.note(started());
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("WARN") && lines[0].contains("refused"), "{text}");
        assert!(lines[1].contains("INFO") && lines[1].contains("/usr/bin/mco"), "{text}");
        assert!(!text.contains('\u{2028}'));
    }
}
