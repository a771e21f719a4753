//! The gate: a request becomes a permit, a permit a receipt. **The order of the guards stands in `stack`.**
//!
//! The policy compiles to an axum `Router`: one stack for each path, and the same stack, offering nothing, for every
//! other path. All requests go the same way until a rule allows them, whether their path exists or not. This room runs
//! nothing and stores nothing itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use tower::{Service, ServiceBuilder};

use crate::audit::Recorder;
use crate::clock::Clock;
use crate::policy::Policy;
use crate::policy::route::Route;
use crate::queue::Intake;
use crate::trust::Trust;

mod admit;
mod allow;
mod answer;
mod body;
mod counters;
mod dispatch;
mod entrance;
pub mod explain;
mod extract;
mod form;
mod guard;
mod identify;
mod json;
mod limiter;
mod matching;
mod prefer;
mod quota;
mod rejection;
pub mod scheme;
mod stage;
mod status;
#[cfg(test)]
mod tests;

pub use answer::WALL;
pub use counters::Counters;

use dispatch::Dispatch;
use entrance::{Entrance, Threshold};
use guard::GuardLayer;
use matching::Match;
use rejection::Rejection;
use scheme::Verifier;
use stage::Arrived;
use status::Status;

/// What a gate is made of.
pub struct Parts<I> {
    /// Whose routes are offered.
    pub policy: Arc<Policy>,
    /// Hosts that signatures may name.
    pub authorities: Vec<String>,
    /// Whether a verified certificate still stands; `None` where none is asked for.
    pub trust: Option<Arc<Trust>>,
    /// Where jobs go.
    pub intake: Arc<I>,
    /// Where decisions are written down.
    pub recorder: Recorder,
    /// What was counted so far.
    pub counters: Counters,
    /// What time it is.
    pub clock: Clock,
}

/// Compiles a policy to the service that answers every request.
///
/// Each request must carry an `Arc<Peer>` in its extensions; without one it meets the wall.
pub fn router<I: Intake>(parts: Parts<I>) -> Router {
    let Parts { policy, authorities, trust, intake, recorder, counters, clock } = parts;
    let limits = &policy.limits;
    let threshold = Arc::new(Threshold {
        sources: Arc::clone(&counters.sources),
        certnames: Arc::clone(&counters.certnames),
        bodies: body::Bounds {
            each: limits.body,
            within: limits.request,
            together: Arc::clone(&counters.bodies.free),
        },
        recorder: recorder.clone(),
        clock,
        trust,
    });
    let guards = Guards {
        identify: GuardLayer::new(identify::Identify::new(Arc::new(Verifier::new(
            &policy.keys,
            &authorities,
        )))),
        pace: GuardLayer::new(quota::Pace(counters.clone())),
        admit: GuardLayer::new(admit::Admit { largest: limits.body, longest_wait: limits.wait }),
        dispatch: Dispatch::new(Arc::clone(&intake), recorder, counters.waits.free),
    };
    let enter = |offered| Entrance::new(Arc::clone(&threshold), guards.stack(offered));
    let status = ServiceBuilder::new()
        .layer(GuardLayer::new(Match::new(Vec::new())))
        .layer(guards.identify.clone())
        .service(Status::new(intake, Arc::new(policy.routes.clone())));

    let mut paths: BTreeMap<&str, Vec<Arc<Route>>> = BTreeMap::new();
    for route in policy.routes.values() {
        paths.entry(&route.path).or_default().push(Arc::clone(route));
    }
    // Paths are compared as they stand; axum's older syntax for parameters means nothing here.
    let router = paths.into_iter().fold(Router::new().without_v07_checks(), |router, (path, offered)| {
        router.route_service(path, enter(offered))
    });
    router
        .route_service(&format!("{}{{id}}", status::JOBS), Entrance::new(Arc::clone(&threshold), status))
        .fallback_service(enter(Vec::new()))
}

/// The guards that all paths share.
struct Guards<I> {
    identify: GuardLayer<identify::Identify>,
    pace: GuardLayer<quota::Pace>,
    admit: GuardLayer<admit::Admit>,
    dispatch: Dispatch<I>,
}

impl<I: Intake> Guards<I> {
    /// **The** ordered stack, cheapest and least trusting first.
    fn stack(
        &self,
        offered: Vec<Arc<Route>>,
    ) -> impl Service<Arrived, Response = answer::Receipt, Error = Rejection, Future: Send>
    + Clone
    + Send
    + Sync
    + use<I> {
        ServiceBuilder::new()
            // What stands at this path; refuses nobody, so that unknown paths are treated like known ones.
            .layer(GuardLayer::new(Match::new(offered)))
            // Who asks; the same work for every path.
            .layer(self.identify.clone())
            // Whether they may; the wall ends here.
            .layer(GuardLayer::new(allow::Allow))
            // How often; only those who are allowed use up a route's rate.
            .layer(self.pace.clone())
            // What they ask for: body, parameters, message.
            .layer(self.admit.clone())
            // On record and stored, then answered.
            .service(self.dispatch.clone())
    }
}
