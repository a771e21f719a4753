//! The alarms that stand: what is wrong now, and is not over.
//!
//! One is raised once, however often it is said, and is on record when it is raised and when it is over. Whoever scrapes
//! is shown each kind, whether one of it stands or not.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Record, Recorder};
use crate::domain::alarm::Alarm;

/// Each alarm with why it was raised.
pub(super) struct Alarms {
    standing: Mutex<BTreeMap<Alarm, String>>,
    /// By kind, 1 while one of it stands.
    kinds: Kinds,
}

type Kinds = Family<[(&'static str, &'static str); 1], Gauge>;

fn show(kinds: &Kinds, kind: &'static str, standing: &BTreeMap<Alarm, String>) {
    let stands = standing.keys().any(|alarm| alarm.kind() == kind);
    kinds.get_or_create_owned(&[("kind", kind)]).set(stands.into());
}

impl Default for Alarms {
    fn default() -> Self {
        let kinds = Family::default();
        for kind in Alarm::KINDS {
            show(&kinds, kind, &BTreeMap::new());
        }
        Self { standing: Mutex::default(), kinds }
    }
}

impl Alarms {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("alarm", "Whether an alarm of this kind stands: 1, or else 0", self.kinds.clone());
    }
}

impl Recorder {
    /// Raises an alarm, unless it stands for the same reason already.
    pub fn raise(&self, alarm: Alarm, reason: String) {
        let (name, kind) = (alarm.to_string(), alarm.kind());
        let alarms = self.standing();
        let mut standing = alarms.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let former = standing.insert(alarm, reason.clone());
        show(&alarms.kinds, kind, &standing);
        drop(standing);
        if former.as_ref() != Some(&reason) {
            self.note(Record::Alarm { alarm: name, reason });
        }
    }

    /// Ends an alarm, if it stands.
    pub fn clear(&self, alarm: &Alarm) {
        let alarms = self.standing();
        let mut standing = alarms.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let was_there = standing.remove(alarm).is_some();
        show(&alarms.kinds, alarm.kind(), &standing);
        drop(standing);
        if was_there {
            self.note(Record::AlarmOver { alarm: alarm.to_string() });
        }
    }

    /// The alarms that stand, each with why.
    #[must_use]
    pub fn alarms(&self) -> BTreeMap<Alarm, String> {
        self.standing().standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::domain::name::{KeyName, RouteName};

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
            vec![Alarm::Disagreement(RouteName::parse("kick").unwrap())],
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
                assert_eq!(recorder.alarms()[alarm], "broken otherwise");
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
        assert_eq!((count("alarm"), count("alarm_over")), (14, 7), "{text}");
    }
}
