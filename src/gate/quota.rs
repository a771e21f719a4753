//! The route's own rate, for those whom it allows.
//!
//! The limiters' state belongs to no policy: an unchanged rate keeps counting whatever is loaded anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, RateLimiter};

use super::guard::Guard;
use super::limiter::quota;
use super::rejection::{Notice, Rejection};
use super::stage::{Allowed, Paced};
use crate::clock::Clock;
use crate::domain::identity::Identity;
use crate::domain::name::RouteName;
use crate::policy::route::{Per, Route, RouteRate};

/// After so many requests the states of identities that have long been quiet are dropped.
const FORGET_AFTER: u32 = 4096;

/// The limiters of all routes that have a rate.
pub(super) struct Quotas(HashMap<RouteName, Counter>);

enum Counter {
    Route(RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Nanos>>),
    Identity {
        limiter: RateLimiter<Identity, DashMapStateStore<Identity>, Clock, NoOpMiddleware<Nanos>>,
        requests: AtomicU32,
    },
}

impl Quotas {
    pub(super) fn new<'a>(routes: impl Iterator<Item = &'a Arc<Route>>, clock: &Clock) -> Self {
        let counter = |RouteRate { rate, per }| match per {
            Per::Route => Counter::Route(RateLimiter::direct_with_clock(quota(rate), clock.clone())),
            Per::Identity => Counter::Identity {
                limiter: RateLimiter::new(quota(rate), DashMapStateStore::default(), clock.clone()),
                requests: AtomicU32::new(0),
            },
        };
        Self(routes.filter_map(|route| Some((route.name.clone(), counter(route.rate?)))).collect())
    }
}

impl Counter {
    /// Counts one request, or says how long to wait.
    fn check(&self, identity: &Identity) -> Result<(), Duration> {
        match self {
            Self::Route(limiter) => limiter.check().map_err(|not_until| wait(&not_until, limiter.clock())),
            Self::Identity { limiter, requests } => {
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
pub(super) struct Pace(pub(super) Arc<Quotas>);

impl Guard<Allowed> for Pace {
    type Out = Paced;

    fn check(&self, allowed: Allowed) -> Result<Paced, Rejection> {
        match self.0.0.get(&allowed.route.name).map(|counter| counter.check(&allowed.authorized.identity)) {
            None | Some(Ok(())) => Ok(Paced(allowed)),
            Some(Err(retry_after)) => Err(allowed.refuse(Notice::TooOften { retry_after })),
        }
    }
}
