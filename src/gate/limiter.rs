//! Request limits for callers who have not proven that they are allowed anything, in a fixed amount of memory.
//!
//! A fixed array of limiter states is indexed by a keyed hash, so that no number of sources makes it grow. Two sources
//! may share a state; nobody outside can tell which, because the hash's key is random.

use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use crate::clock::Clock;
use crate::policy::Rate;

/// How many states a limiter has: 8 bytes each.
const STATES: usize = 1 << 16;

/// Counts requests per `K`.
pub(super) struct Limiter<K: Hash + Clone + Eq> {
    rate: Rate,
    counted: RateLimiter<K, FixedStore<K>, Clock, NoOpMiddleware<Nanos>>,
}

impl<K: Hash + Clone + Eq> Limiter<K> {
    pub(super) fn new(rate: Rate, clock: Clock) -> Self {
        Self { rate, counted: RateLimiter::new(quota(rate), FixedStore::new(), clock) }
    }

    /// `former`, if its rate is the same, or else a new one.
    pub(super) fn following(former: Option<&Arc<Self>>, rate: Rate, clock: &Clock) -> Arc<Self> {
        match former.filter(|former| former.rate == rate) {
            Some(same) => Arc::clone(same),
            None => Arc::new(Self::new(rate, clock.clone())),
        }
    }

    /// Counts one request.
    ///
    /// # Errors
    /// When it is over the limit: how long until the next one is not.
    pub(super) fn check(&self, key: &K) -> Result<(), Duration> {
        let now = || Nanos::from(self.counted.clock().monotonic());
        self.counted.check_key(key).map_err(|not_until| not_until.wait_time_from(now()))
    }
}

/// A policy's rate in the limiter's terms.
pub(super) fn quota(rate: Rate) -> Quota {
    let interval = (rate.period / rate.limit.get()).max(Duration::from_nanos(1));
    Quota::with_period(interval).unwrap_or(Quota::per_second(rate.limit)).allow_burst(rate.burst)
}

struct FixedStore<K> {
    hasher: RandomState,
    states: Box<[InMemoryState]>,
    key: PhantomData<fn(K)>,
}

impl<K> FixedStore<K> {
    fn new() -> Self {
        let states = std::iter::repeat_with(InMemoryState::default).take(STATES).collect();
        Self { hasher: RandomState::new(), states, key: PhantomData }
    }
}

impl<K: Hash + Clone + Eq> StateStore for FixedStore<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let hash = usize::try_from(self.hasher.hash_one(key) & (STATES as u64 - 1)).unwrap_or(0);
        self.states[hash].measure_and_replace(&NotKeyed::NonKey, measure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::source::Source;
    use jiff::Timestamp;
    use std::num::NonZeroU32;

    fn rate(limit: u32, burst: u32) -> Rate {
        let [limit, burst] = [limit, burst].map(|number| NonZeroU32::new(number).unwrap());
        Rate { limit, period: Duration::from_secs(1), burst }
    }

    #[test]
    fn i7_a_source_over_its_rate_waits_and_others_do_not() {
        let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
        let limiter = Limiter::new(rate(2, 3), clock);
        let [one, other] = ["192.0.2.1", "2001:db8::1"].map(|address| Source::of(address.parse().unwrap()));
        for _ in 0..3 {
            assert_eq!(limiter.check(&one), Ok(()));
        }
        assert_eq!(limiter.check(&one), Err(Duration::from_millis(500)));
        assert_eq!(limiter.check(&other), Ok(()));
        hands.advance(Duration::from_millis(500));
        assert_eq!(limiter.check(&one), Ok(()));
        assert!(limiter.check(&one).is_err());
    }
}
