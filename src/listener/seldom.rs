//! Log lines that strangers can cause, at most one in a while.
//!
//! Decides whether a line may be written now, and counts those that were not; writes none itself.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// Lets one line through per period.
pub(super) struct Seldom {
    clock: Clock,
    period: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    not_before: Duration,
    left_out: u64,
}

impl Seldom {
    pub(super) fn new(clock: Clock, period: Duration) -> Self {
        Self { clock, period, state: Mutex::default() }
    }

    /// Calls `write` with the number of lines left out before, unless one was written less than a period ago.
    pub(super) fn say(&self, write: impl FnOnce(u64)) {
        let now = self.clock.monotonic();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now < state.not_before {
            state.left_out = state.left_out.saturating_add(1);
            return;
        }
        let left_out = std::mem::take(&mut state.left_out);
        state.not_before = now.saturating_add(self.period);
        drop(state);
        write(left_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_period_and_the_rest_counted() {
        let (clock, hands) = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let seldom = Seldom::new(clock, Duration::from_secs(1));
        let mut said = Vec::new();
        for _ in 0..3 {
            seldom.say(|left_out| said.push(left_out));
        }
        hands.advance(Duration::from_secs(1));
        seldom.say(|left_out| said.push(left_out));
        assert_eq!(said, [0, 2]);
    }
}
