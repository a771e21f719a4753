//! How many refusals of strangers are written down one by one.
//!
//! Counts; what becomes of those beyond is the recorder's to say.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::Recorder;
use crate::clock::Clock;

/// So many in each period.
pub(super) struct Pace {
    rate: (NonZeroU32, Duration),
    counted: RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Nanos>>,
}

impl Pace {
    pub(super) fn new(rate: (NonZeroU32, Duration), clock: &Clock) -> Self {
        let (per, period) = rate;
        let quota = Quota::with_period(period / per.get()).unwrap_or(Quota::per_second(per)).allow_burst(per);
        Self { rate, counted: RateLimiter::direct_with_clock(quota, clock.clone()) }
    }

    /// Whether one more may be written down; it counts then.
    pub(super) fn allows_one(&self) -> bool {
        self.counted.check().is_ok()
    }
}

impl Recorder {
    /// From now on so many refusals of strangers are written down one by one in each period.
    pub fn pace(&self, refusals_logged: (NonZeroU32, Duration)) {
        if self.0.strangers.load().rate != refusals_logged {
            self.0.strangers.store(Arc::new(Pace::new(refusals_logged, &self.0.clock)));
        }
    }
}
