//! What has been counted and taken so far, and belongs to no policy: an unchanged limit goes on counting under the next
//! policy, and only one that was changed begins anew.
//!
//! Decides nothing; the guards do.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::limiter::Limiter;
use super::quota::Counter;
use crate::clock::Clock;
use crate::domain::name::RouteName;
use crate::domain::source::Source;
use crate::policy::Policy;
use crate::policy::route::RouteRate;

/// The counters of one gate; clones count together.
#[derive(Clone)]
pub struct Counters {
    /// `limits.requests_per_source`
    pub(super) sources: Arc<Limiter<Source>>,
    /// `limits.requests_per_identity`
    pub(super) certnames: Arc<Limiter<String>>,
    /// `limits.bodies`, a permit a byte
    pub(super) bodies: Places,
    /// `limits.waiting`, a permit a wait
    pub(super) waits: Places,
    /// The rate of each route that has one.
    pub(super) quotas: Arc<BTreeMap<RouteName, (RouteRate, Arc<Counter>)>>,
}

/// So many places, some of them taken.
#[derive(Clone)]
pub(super) struct Places {
    size: usize,
    pub(super) free: Arc<Semaphore>,
}

impl Counters {
    /// The counters of `policy`, which follows the one of `former`.
    #[must_use]
    pub fn of(policy: &Policy, former: Option<&Self>, clock: &Clock) -> Self {
        let limits = &policy.limits;
        let quota = |name: &RouteName, rate: RouteRate| {
            let same = former.and_then(|former| former.quotas.get(name)).filter(|(old, _)| *old == rate);
            let counter =
                same.map_or_else(|| Arc::new(Counter::new(rate, clock)), |(_, same)| Arc::clone(same));
            (rate, counter)
        };
        let rated = policy.routes.iter().filter_map(|(name, route)| Some((name, route.rate?)));
        Self {
            sources: Limiter::following(
                former.map(|former| &former.sources),
                limits.requests_per_source,
                clock,
            ),
            certnames: Limiter::following(
                former.map(|former| &former.certnames),
                limits.requests_per_identity,
                clock,
            ),
            bodies: Places::following(former.map(|former| &former.bodies), limits.bodies),
            waits: Places::following(former.map(|former| &former.waits), limits.waiting),
            quotas: Arc::new(rated.map(|(name, rate)| (name.clone(), quota(name, rate))).collect()),
        }
    }
}

impl Places {
    fn following(former: Option<&Self>, size: usize) -> Self {
        match former.filter(|former| former.size == size) {
            Some(same) => same.clone(),
            None => Self { size, free: Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS))) },
        }
    }
}
