//! The route's own rate, for those whom it allows.
//!
//! What is counted outlives a policy: see [`counters`](super::counters).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, RateLimiter};

use super::counters::Counters;
use super::guard::Guard;
use super::limiter::quota;
use super::rejection::{Notice, Rejection};
use super::stage::{Allowed, Paced};
use crate::clock::Clock;
use crate::domain::identity::Identity;
use crate::policy::route::{Per, RouteRate};

/// After so many requests the states of identities that have long been quiet are dropped.
const FORGET_AFTER: u32 = 4096;

/// Counts the requests of one route.
pub(super) struct Counter(Kind);

enum Kind {
    Route(RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Nanos>>),
    Identity {
        limiter: RateLimiter<Identity, DashMapStateStore<Identity>, Clock, NoOpMiddleware<Nanos>>,
        requests: AtomicU32,
    },
}

impl Counter {
    pub(super) fn new(RouteRate { rate, per }: RouteRate, clock: &Clock) -> Self {
        Self(match per {
            Per::Route => Kind::Route(RateLimiter::direct_with_clock(quota(rate), clock.clone())),
            Per::Identity => Kind::Identity {
                limiter: RateLimiter::new(quota(rate), DashMapStateStore::default(), clock.clone()),
                requests: AtomicU32::new(0),
            },
        })
    }

    /// Counts one request, or says how long to wait.
    fn check(&self, identity: &Identity) -> Result<(), Duration> {
        match &self.0 {
            Kind::Route(limiter) => limiter.check().map_err(|not_until| wait(&not_until, limiter.clock())),
            Kind::Identity { limiter, requests } => {
                if requests.fetch_add(1, Ordering::Relaxed) % FORGET_AFTER == FORGET_AFTER - 1 {
                    limiter.retain_recent();
                }
                limiter.check_key(identity).map_err(|not_until| wait(&not_until, limiter.clock()))
            }
        }
    }
}

fn wait(not_until: &NotUntil<Nanos>, clock: &Clock) -> Duration {
    not_until.wait_time_from(Nanos::from(clock.monotonic()))
}

/// Counts allowed requests of each route that has a rate.
pub(super) struct Pace(pub(super) Counters);

impl Guard<Allowed> for Pace {
    type Out = Paced;

    fn check(&self, allowed: Allowed) -> Result<Paced, Rejection> {
        let counter = self.0.quotas.get(&allowed.route.name);
        match counter.map(|(_, counter)| counter.check(&allowed.authorized.identity)) {
            None | Some(Ok(())) => Ok(Paced(allowed)),
            Some(Err(retry_after)) => Err(allowed.refuse(Notice::TooOften { retry_after })),
        }
    }
}
