//! The alarms that stand: what is wrong now, and is not over.
//!
//! One is raised once, however often it is said, and is on record when it is raised and when it is over. Whoever scrapes
//! is shown each kind, whether one of it stands or not.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Record, Recorder};
use crate::domain::alarm::Alarm;

/// How long nothing may be said of an alarm that requests raise until it is over.
const QUIET: Duration = Duration::from_secs(300);

/// The alarms that stand.
pub(super) struct Alarms {
    standing: Mutex<Standing>,
    /// By kind, 1 while one of it stands.
    kinds: Kinds,
}

type Standing = BTreeMap<Alarm, Said>;
type Kinds = Family<[(&'static str, &'static str); 1], Gauge>;

/// Why one stands.
struct Said {
    reason: String,
    /// When it was said last, by monotonic time.
    last: Duration,
}

fn show(kinds: &Kinds, kind: &'static str, standing: &Standing) {
    let stands = standing.keys().any(|alarm| alarm.kind() == kind);
    kinds.get_or_create_owned(&[("kind", kind)]).set(stands.into());
}

impl Default for Alarms {
    fn default() -> Self {
        let kinds = Family::default();
        for kind in Alarm::KINDS {
            show(&kinds, kind, &Standing::new());
        }
        Self { standing: Mutex::default(), kinds }
    }
}

impl Alarms {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("alarm", "Whether an alarm of this kind stands: 1, or else 0", self.kinds.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder {
    /// Raises an alarm, unless it stands for the same reason already. One that requests raise keeps its first reason: what
    /// a request says of itself makes no second record.
    pub fn raise(&self, alarm: Alarm, reason: String) {
        let last = self.clock().monotonic();
        let mut standing = self.standing().lock();
        match standing.get_mut(&alarm) {
            Some(said) if said.reason == reason || alarm.is_of_requests() => said.last = last,
            Some(_) | None => {
                let record = Record::Alarm { alarm: alarm.to_string(), reason: reason.clone() };
                let kind = alarm.kind();
                standing.insert(alarm, Said { reason, last });
                show(&self.standing().kinds, kind, &standing);
                // Not after letting go: raised and over must be on record in the order in which they came to be.
                self.note(record);
            }
        }
    }

    /// Ends an alarm, if it stands.
    pub fn clear(&self, alarm: &Alarm) {
        self.end(&mut self.standing().lock(), alarm);
    }

    /// Ends those alarms that requests raise and of which none has said anything for a while: that others go well does
    /// not tell that these do.
    pub fn end_quiet(&self) {
        let now = self.clock().monotonic();
        let mut standing = self.standing().lock();
        let is_quiet = |(alarm, said): &(&Alarm, &Said)| {
            alarm.is_of_requests() && now.saturating_sub(said.last) >= QUIET
        };
        let quiet: Vec<Alarm> = standing.iter().filter(is_quiet).map(|(alarm, _)| alarm.clone()).collect();
        for alarm in &quiet {
            self.end(&mut standing, alarm);
        }
    }

    fn end(&self, standing: &mut Standing, alarm: &Alarm) {
        if standing.remove(alarm).is_some() {
            show(&self.standing().kinds, alarm.kind(), standing);
            self.note(Record::AlarmOver { alarm: alarm.to_string() });
        }
    }

    /// The alarms that stand, each with why.
    #[must_use]
    pub fn alarms(&self) -> BTreeMap<Alarm, String> {
        let standing = self.standing().lock();
        standing.iter().map(|(alarm, said)| (alarm.clone(), said.reason.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Clock, Hands};
    use crate::domain::name::{KeyName, RouteName};

    struct Place {
        directory: tempfile::TempDir,
        recorder: Recorder,
        hands: Arc<Hands>,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (clock, hands) = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
            let rate = (NonZeroU32::MIN, Duration::from_secs(1));
            let recorder = Recorder::open(&directory.path().join("audit.jsonl"), rate, clock).unwrap();
            Self { directory, recorder, hands }
        }

        /// The kinds of all records, in order.
        fn kinds(self) -> Vec<String> {
            drop(self.recorder);
            let text = std::fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            lines.map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
        }
    }

    fn disagreement() -> Alarm {
        Alarm::Disagreement(RouteName::parse("kick").unwrap())
    }

    #[test]
    fn what_requests_raise_keeps_its_first_reason_and_is_over_after_a_quiet_while() {
        let place = Place::new();
        let recorder = &place.recorder;
        recorder.raise(Alarm::Reload, "not valid".into());
        for node in 0..500 {
            recorder.raise(disagreement(), format!("node{node} is not allowed"));
            recorder.end_quiet();
            place.hands.advance(Duration::from_secs(1));
        }
        assert_eq!(recorder.alarms()[&disagreement()], "node0 is not allowed");
        // The last was said a second ago. The wall clock does not count.
        place.hands.step_seconds(86_400);
        place.hands.advance(QUIET - Duration::from_secs(2));
        recorder.end_quiet();
        assert_eq!(recorder.alarms().len(), 2);
        place.hands.advance(Duration::from_secs(1));
        recorder.end_quiet();
        recorder.end_quiet();
        assert_eq!(recorder.alarms().into_keys().collect::<Vec<_>>(), [Alarm::Reload]);
        recorder.raise(disagreement(), "again".into());
        let kinds = place.kinds();
        assert_eq!(
            kinds.iter().filter(|kind| kind.starts_with("alarm")).collect::<Vec<_>>(),
            ["alarm", "alarm", "alarm_over", "alarm"]
        );
    }

    #[test]
    fn raised_and_over_are_on_record_by_turns_whoever_says_so() {
        // As often as it takes to come between the two nearly always.
        for _ in 0..40 {
            let place = Place::new();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..100 {
                            place.recorder.raise(Alarm::Reload, "not valid".into());
                            place.recorder.clear(&Alarm::Reload);
                        }
                    });
                }
            });
            let kinds = place.kinds();
            let alarms: Vec<_> = kinds.iter().filter(|kind| kind.starts_with("alarm")).collect();
            assert!(alarms.len() >= 8, "{kinds:?}");
            assert!(alarms.chunks(2).all(|turn| turn == ["alarm", "alarm_over"]), "{alarms:?}");
        }
    }

    #[test]
    fn every_kind_is_shown_while_one_of_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let (clock, _hands) = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let file = directory.path().join("audit.jsonl");
        let recorder = Recorder::open(&file, (NonZeroU32::MIN, Duration::from_secs(1)), clock).unwrap();
        let mut registry = Registry::default();
        recorder.register(&mut registry);
        let shown = |kind: &str| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let sample = format!("alarm{{kind=\"{kind}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&sample).map(str::to_owned)).unwrap()
        };
        let key = |name: &str| Alarm::Secret(KeyName::parse(name).unwrap());
        let all = [
            vec![Alarm::Reload],
            vec![Alarm::Certificate],
            vec![Alarm::Trust],
            vec![key("one"), key("two")],
            vec![disagreement()],
            vec![Alarm::Watch],
        ];
        let kinds = all.each_ref().map(|alarms| alarms[0].kind());
        assert_eq!(kinds, Alarm::KINDS);
        for alarms in all {
            let kind = alarms[0].kind();
            assert_eq!(shown(kind), "0");
            for alarm in &alarms {
                recorder.raise(alarm.clone(), "broken".into());
                recorder.raise(alarm.clone(), "broken otherwise".into());
                let reason = if alarm.is_of_requests() { "broken" } else { "broken otherwise" };
                assert_eq!(recorder.alarms()[alarm], reason);
            }
            for alarm in &alarms {
                assert_eq!(shown(kind), "1", "{alarm}");
                recorder.clear(alarm);
                recorder.clear(alarm);
            }
            assert_eq!(shown(kind), "0");
        }
        drop(registry);
        drop(recorder);
        let text = std::fs::read_to_string(&file).unwrap();
        let count = |kind: &str| text.matches(&format!("\"kind\":\"{kind}\"")).count();
        assert_eq!((count("alarm"), count("alarm_over")), (13, 7), "{text}");
    }
}
