//! What becomes of connections, counted for whoever scrapes it.
//!
//! By closed sets of reasons, and never by who is connected. Limits nothing.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type ByReason = Family<[(&'static str, &'static str); 1], Counter>;

/// The counts of one listener; clones count together.
#[derive(Clone)]
pub struct Counts {
    open: Gauge,
    let_in: Counter,
    failed: ByReason,
    turned_away: ByReason,
}

/// Why a connection ended before a request could be sent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// `limits.handshake` was over.
    TooSlow,
    /// The client's certificate does not stand.
    Certificate,
    /// What the client sent is no TLS, or none that is spoken here; or it did not like what it was shown.
    Tls,
    /// The client went away.
    Gone,
    /// A trusted proxy did not say for whom it speaks.
    ProxyHeader,
}

/// Why a connection got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// `limits.connections`: a time that no other could have been accepted. Who comes then is not turned away, but waits in
    /// the kernel, where nobody counts.
    Overall,
    /// `limits.connections_per_source`
    Source,
    /// `limits.connections_per_identity`
    Identity,
}

impl Failure {
    const ALL: [Self; 5] = [Self::TooSlow, Self::Certificate, Self::Tls, Self::Gone, Self::ProxyHeader];

    const fn as_str(self) -> &'static str {
        match self {
            Self::TooSlow => "too_slow",
            Self::Certificate => "certificate",
            Self::Tls => "tls",
            Self::Gone => "gone",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

impl Full {
    const ALL: [Self; 3] = [Self::Overall, Self::Source, Self::Identity];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Overall => "overall",
            Self::Source => "source",
            Self::Identity => "identity",
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        let counts = Self {
            open: Gauge::default(),
            let_in: Counter::default(),
            failed: Family::default(),
            turned_away: Family::default(),
        };
        for failure in Failure::ALL {
            counts.failed.get_or_create_owned(&[("reason", failure.as_str())]);
        }
        for full in Full::ALL {
            counts.turned_away.get_or_create_owned(&[("reason", full.as_str())]);
        }
        counts
    }
}

/// One open connection; it is counted until this is dropped.
#[must_use]
pub(super) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Counts {
    /// Shows them to whoever scrapes `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("connections_open", "Connections that are open", self.open.clone());
        registry.register("connections", "Connections that were let in to a handshake", self.let_in.clone());
        let help = "Connections that ended before a request could be sent, by why";
        registry.register("handshakes_failed", help, self.failed.clone());
        let help =
            "Connections for which there was no place, by which limit; overall: times that all were open";
        registry.register("connections_turned_away", help, self.turned_away.clone());
    }

    pub(super) fn let_in(&self) {
        self.let_in.inc();
    }

    pub(super) fn open(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }

    pub(super) fn failed(&self, failure: Failure) {
        self.failed.get_or_create_owned(&[("reason", failure.as_str())]).inc();
    }

    /// How many failed for this reason.
    #[cfg(test)]
    pub(super) fn failures(&self, reason: &'static str) -> u64 {
        self.failed.get_or_create_owned(&[("reason", reason)]).get()
    }

    pub(super) fn turned_away(&self, full: Full) {
        self.turned_away.get_or_create_owned(&[("reason", full.as_str())]).inc();
    }
}
