//! How long a signature is good for, and how long its message must be remembered.
//! Reads no clock, and stores nothing.

use jiff::{SignedDuration, Timestamp};

use super::Why;
use crate::policy::Key;

/// A key's window, and how long it wants messages remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    window: SignedDuration,
    pub(super) remember: SignedDuration,
}

impl Times {
    pub(super) fn of(key: &Key) -> Self {
        let signed = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        Self { window: signed(key.window), remember: signed(key.remember) }
    }

    /// Until when the message must be remembered, if its time is right: at least until its window closes.
    pub(super) fn judge(self, created: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Why> {
        let after = |at: Timestamp, duration| at.checked_add(duration).unwrap_or(Timestamp::MAX);
        let Some(created) = created else { return Ok(after(now, self.remember)) };
        let ahead = created.duration_since(now);
        if ahead.abs() > self.window {
            return Err(Why::OutsideWindow { seconds: ahead.as_secs() });
        }
        Ok(after(now, self.remember).max(after(created, self.window)))
    }
}
