//! The alarms that stand: what is wrong now, and is not over.
//!
//! One is raised once, however often it is said, and is on record when it is raised and when it is over.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Record, Recorder};
use crate::domain::alarm::Alarm;

/// Each alarm with why it was raised.
#[derive(Default)]
pub(super) struct Alarms(Mutex<BTreeMap<Alarm, String>>);

impl Recorder {
    /// Raises an alarm, unless it stands for the same reason already.
    pub fn raise(&self, alarm: Alarm, reason: String) {
        let name = alarm.to_string();
        let mut alarms = self.standing().0.lock().unwrap_or_else(PoisonError::into_inner);
        let former = alarms.insert(alarm, reason.clone());
        drop(alarms);
        if former.as_ref() != Some(&reason) {
            self.note(Record::Alarm { alarm: name, reason });
        }
    }

    /// Ends an alarm, if it stands.
    pub fn clear(&self, alarm: &Alarm) {
        let alarms = self.standing();
        if alarms.0.lock().unwrap_or_else(PoisonError::into_inner).remove(alarm).is_some() {
            self.note(Record::AlarmOver { alarm: alarm.to_string() });
        }
    }

    /// The alarms that stand, each with why.
    #[must_use]
    pub fn alarms(&self) -> BTreeMap<Alarm, String> {
        self.standing().0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
