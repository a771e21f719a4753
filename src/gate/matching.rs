//! The first guard: does the policy offer anything at this path, for this method?
//!
//! It refuses nobody. An unknown path and a wrong method go on to be authenticated like everything else, so that
//! neither answer nor time tells them apart from a route (invariant I2).

use std::sync::Arc;

use super::guard::Guard;
use super::rejection::Rejection;
use super::stage::{Arrived, Matched, Offer};
use crate::policy::route::Route;

/// The routes at one path: one a method, or none at all.
pub(super) struct Match {
    offered: Vec<Arc<Route>>,
}

impl Match {
    pub(super) fn new(offered: Vec<Arc<Route>>) -> Self {
        Self { offered }
    }
}

impl Guard<Arrived> for Match {
    type Out = Matched;

    fn check(&self, arrived: Arrived) -> Result<Matched, Rejection> {
        let parts = &arrived.head.parts;
        let offer = if parts.uri.authority().is_some() {
            // Such a target names a host of its own, beside the Host header: no sender of webhooks needs that.
            Offer::AbsoluteForm
        } else if self.offered.is_empty() {
            Offer::UnknownPath
        } else {
            let route = self.offered.iter().find(|route| route.method == parts.method.as_str());
            route.map_or(Offer::WrongMethod, |route| Offer::Route(Arc::clone(route)))
        };
        Ok(Matched { arrived, offer })
    }
}
