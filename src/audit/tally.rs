//! Counts what is put on record, for whoever scrapes it: by route, and by what became of it.
//!
//! A label is of a closed set or the name of a route in force, never anything that was sent. Counting is an addition at a
//! known place, however long the labels are. A route that is no more takes its numbers with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::outcome::{Outcome, Refusal, Stranger};
use super::{Cause, Record, Recorder};
use crate::domain::job::State;
use crate::domain::name::RouteName;
use crate::domain::submission::How;

/// Upper bounds of the durations of runs, in seconds.
const DURATIONS: [f64; 10] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0];

type Labels = Vec<(&'static str, String)>;

/// What was counted since the process began.
pub(super) struct Tally {
    families: Families,
    routes: ArcSwap<BTreeMap<RouteName, Arc<OfRoute>>>,
    /// Of routes that are not in force any more, together.
    gone: Arc<OfRoute>,
    strangers: [Counter; Stranger::ALL.len()],
    loaded: Counter,
    not_loaded: Counter,
    running: Gauge,
    turned_away: Counter,
}

/// What is shown, by labels.
struct Families {
    decisions: Family<Labels, Counter>,
    refusals: Family<Labels, Counter>,
    ended: Family<Labels, Counter>,
    retried: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    reloads: Family<Labels, Counter>,
}

/// The numbers of one route.
struct OfRoute {
    decisions: [Counter; Outcome::ALL.len()],
    ended: [Counter; State::ALL.len()],
    retried: Counter,
    durations: Histogram,
}

/// A run; it is over when this is dropped.
#[must_use]
pub struct Run {
    recorder: Recorder,
    route: RouteName,
    began: Duration,
}

impl Default for Tally {
    fn default() -> Self {
        let families = Families {
            decisions: Family::default(),
            refusals: Family::default(),
            ended: Family::default(),
            retried: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            reloads: Family::default(),
        };
        let reloads =
            |result: &str| families.reloads.get_or_create_owned(&vec![("result", result.to_owned())]);
        Self {
            routes: ArcSwap::default(),
            gone: Arc::new(families.of_route("")),
            strangers: Stranger::ALL
                .map(|why| families.refusals.get_or_create_owned(&vec![("reason", why.as_str().to_owned())])),
            loaded: reloads("loaded"),
            not_loaded: reloads("refused"),
            running: Gauge::default(),
            turned_away: Counter::default(),
            families,
        }
    }
}

impl Families {
    fn of_route(&self, route: &str) -> OfRoute {
        OfRoute {
            decisions: Outcome::ALL
                .map(|outcome| self.decisions.get_or_create_owned(&of(route, "outcome", outcome.as_str()))),
            ended: State::ALL.map(|state| {
                if state.is_final() {
                    self.ended.get_or_create_owned(&of(route, "state", state.as_str()))
                } else {
                    Counter::default()
                }
            }),
            retried: self.retried.get_or_create_owned(&vec![("route", route.to_owned())]),
            durations: self.durations.get_or_create_owned(&vec![("route", route.to_owned())]),
        }
    }

    fn forget(&self, route: &str) {
        for outcome in Outcome::ALL {
            self.decisions.remove(&of(route, "outcome", outcome.as_str()));
        }
        for state in State::ALL {
            self.ended.remove(&of(route, "state", state.as_str()));
        }
        self.retried.remove(&vec![("route", route.to_owned())]);
        self.durations.remove(&vec![("route", route.to_owned())]);
    }
}

fn of(route: &str, name: &'static str, value: &str) -> Labels {
    vec![("route", route.to_owned()), (name, value.to_owned())]
}

impl Tally {
    /// Counts a record; that of a stranger's refusal was counted before it was made.
    pub(super) fn count(&self, record: &Record) {
        match record {
            Record::Refused { refusal: Refusal::Told(outcome), route: Some(route), .. } => {
                self.decided(route, *outcome);
            }
            Record::Stored { route, how, .. } => self.decided(
                route,
                match how {
                    How::Fresh => Outcome::Accepted,
                    How::Duplicate => Outcome::Duplicate,
                    How::Coalesced => Outcome::Coalesced,
                },
            ),
            Record::Finished { route, state, .. } => {
                self.of_route(route).ended[*state as usize].inc();
            }
            Record::Retried { route, .. } => {
                self.of_route(route).retried.inc();
            }
            Record::TurnedAway { .. } => {
                self.turned_away.inc();
            }
            Record::Loaded { cause: Cause::Signal | Cause::Operator(_), .. } => {
                self.loaded.inc();
            }
            Record::NotLoaded { .. } => {
                self.not_loaded.inc();
            }
            Record::Refused { .. }
            | Record::Malformed { .. }
            | Record::Accepted { .. }
            | Record::Submitted { .. }
            | Record::NotStored { .. }
            | Record::Started { .. }
            | Record::Ended { .. }
            | Record::Operated { .. }
            | Record::Repeated { .. }
            | Record::Loaded { cause: Cause::Start, .. }
            | Record::Renewed { .. }
            | Record::Alarm { .. }
            | Record::AlarmOver { .. } => {}
        }
    }

    /// Counts a stranger's refusal.
    pub(super) fn refused(&self, why: Stranger) {
        self.strangers[why as usize].inc();
    }

    fn decided(&self, route: &RouteName, outcome: Outcome) {
        self.of_route(route).decisions[outcome as usize].inc();
    }

    fn of_route(&self, route: &RouteName) -> Arc<OfRoute> {
        Arc::clone(self.routes.load().get(route).unwrap_or(&self.gone))
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Families { decisions, refusals, ended, retried, durations, reloads } = &self.families;
        registry.register(
            "decisions",
            "Requests of those who are allowed, by what became of them",
            decisions.clone(),
        );
        registry.register("refusals", "Requests of those who are allowed nothing, by why", refusals.clone());
        registry.register("jobs_ended", "Jobs that reached a final state", ended.clone());
        registry.register("runs_retried", "Runs that failed and are tried again", retried.clone());
        let help = "How long runs took, from their claim to the end of their last command";
        registry.register_with_unit("run_duration", help, Unit::Seconds, durations.clone());
        let help = "Runs that are under way, each of one command at a time";
        registry.register("commands_running", help, self.running.clone());
        registry.register(
            "policy_reloads",
            "Policies that were to be loaded after the start",
            reloads.clone(),
        );
        let help = "Submissions that a separate `work` did not take from whoever is at its socket";
        registry.register("submissions_turned_away", help, self.turned_away.clone());
    }
}

impl Recorder {
    /// From now on these are the routes in force; what was counted for others is no more.
    pub fn offer<'a>(&self, routes: impl Iterator<Item = &'a RouteName>) {
        let tally = self.tally();
        let former = tally.routes.load();
        let counted = |name: &RouteName| match former.get(name) {
            Some(same) => Arc::clone(same),
            None => Arc::new(tally.families.of_route(name.as_str())),
        };
        let now: BTreeMap<_, _> = routes.map(|name| (name.clone(), counted(name))).collect();
        for gone in former.keys().filter(|name| !now.contains_key(*name)) {
            tally.families.forget(gone.as_str());
        }
        tally.routes.store(Arc::new(now));
    }

    /// A run begins.
    pub fn run(&self, route: &RouteName) -> Run {
        self.tally().running.inc();
        Run { recorder: self.clone(), route: route.clone(), began: self.clock().monotonic() }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let (tally, now) = (self.recorder.tally(), self.recorder.clock().monotonic());
        tally.running.dec();
        let took = now.saturating_sub(self.began).as_secs_f64();
        tally.of_route(&self.route).durations.observe(took);
    }
}
