//! What `/metrics` of an operators' socket shows: what the rooms count, and what is so at the moment that somebody asks.
//!
//! Counts nothing itself. Times are seconds since 1970-01-01T00:00:00Z, as Prometheus has them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::live::Live;
use crate::audit::Recorder;
use crate::clock::Clock;
use crate::listener::Counts;
use crate::queue::sqlite::Store;

/// What is shown of a process with these parts.
pub(super) fn registry(
    live: &Live,
    recorder: &Recorder,
    clock: &Clock,
    connections: Option<&Counts>,
    store: Option<&Store>,
) -> Registry {
    let mut registry = Registry::with_prefix("bridgeward");
    // A gauge, and not an info: not everything that reads the text form knows that type.
    let build = Family::<[(&str, &str); 1], Gauge>::default();
    build.get_or_create_owned(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
    registry.register("build_info", "The program that runs", build);
    let start = ConstGauge::new(clock.now().as_second());
    registry.register_with_unit("start_time", "When the process began", Unit::Seconds, start);
    recorder.register(&mut registry);
    if let Some(connections) = connections {
        connections.register(&mut registry);
    }
    registry.register_collector(Box::new(Present { live: live.clone(), store: store.cloned() }));
    registry
}

/// What is so now.
struct Present {
    live: Live,
    store: Option<Store>,
}

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Present").finish_non_exhaustive()
    }
}

impl Collector for Present {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut show = |name: &str, help: &str, unit: Option<&Unit>, value: i64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        if let Some(store) = &self.store {
            let waiting = i64::try_from(store.waiting()).unwrap_or(i64::MAX);
            show("jobs_waiting", "Jobs that wait for their turn", None, waiting)?;
        }
        let generation = self.live.generation();
        let seconds = Some(&Unit::Seconds);
        if let Some(listening) = &generation.listening {
            let help = "When the server's certificate expires";
            show("certificate_expiry_time", help, seconds, listening.server.not_after().as_second())?;
        }
        if let Some((from, until)) = generation.trust().and_then(|trust| trust.lists_in_force()) {
            let help = "When the oldest revocation list was made (thisUpdate)";
            show("crl_this_update_time", help, seconds, from.as_second())?;
            let help = "When the first revocation list expires (nextUpdate)";
            show("crl_next_update_time", help, seconds, until.as_second())?;
        }
        let listen = generation.policy.listen.as_ref();
        if let Some(crl) = listen.and_then(|listen| listen.clients.as_ref()?.crl.as_ref()) {
            let help = "When the file of revocation lists was written, from which crl_max_age counts";
            show("crl_file_modified_time", help, seconds, crl.modified.as_second())?;
        }
        Ok(())
    }
}
