//! Wall and monotonic time, and a manual clock for tests.
//!
//! The one place that asks the system for the time. Wall time is what is written down and compared with what senders
//! claim; monotonic time is what limits are measured by, because an operator may set the wall clock. Sleeping is
//! tokio's, not this file's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::nanos::Nanos;
use jiff::Timestamp;

/// A source of wall and monotonic time; clones tell the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { origin: Instant },
    Manual(Arc<Hands>),
}

/// The hands of a manual clock: a test moves them, nothing else does.
#[derive(Debug)]
pub struct Hands {
    start: Timestamp,
    elapsed_nanos: AtomicU64,
    stepped_millis: std::sync::atomic::AtomicI64,
}

impl Clock {
    /// The machine's own time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system's time")]
    pub fn system() -> Self {
        Self(Source::System { origin: Instant::now() })
    }

    /// A clock that stands at `start` until its hands are moved.
    #[must_use]
    pub fn manual(start: Timestamp) -> (Self, Arc<Hands>) {
        let hands = Arc::new(Hands {
            start,
            elapsed_nanos: AtomicU64::new(0),
            stepped_millis: std::sync::atomic::AtomicI64::new(0),
        });
        (Self(Source::Manual(Arc::clone(&hands))), hands)
    }

    /// Wall time, in UTC. It may step in either direction.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system's time")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { .. } => Timestamp::now(),
            Source::Manual(hands) => hands.now(),
        }
    }

    /// Time since this clock was made. It never steps back.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { origin } => origin.elapsed(),
            Source::Manual(hands) => Duration::from_nanos(hands.elapsed_nanos.load(Ordering::SeqCst)),
        }
    }
}

impl Hands {
    /// Lets time pass: wall and monotonic time both go on by `by`.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets the wall clock forward or, with a negative number, back; monotonic time does not notice.
    pub fn step_seconds(&self, by: i64) {
        self.stepped_millis.fetch_add(by.saturating_mul(1000), Ordering::SeqCst);
    }

    fn now(&self) -> Timestamp {
        let elapsed = Duration::from_nanos(self.elapsed_nanos.load(Ordering::SeqCst));
        let stepped = jiff::SignedDuration::from_millis(self.stepped_millis.load(Ordering::SeqCst));
        let moved = self.start.checked_add(elapsed).and_then(|at| at.checked_add(stepped));
        moved.unwrap_or(Timestamp::MAX)
    }
}

/// Rate limits are measured by monotonic time.
impl governor::clock::Clock for Clock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.monotonic())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
        hands.advance(Duration::from_secs(5));
        assert_eq!(clock.now().as_second(), 5);
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
        hands.step_seconds(-60);
        assert_eq!(clock.now().as_second(), -55);
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }
}
