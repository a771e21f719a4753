//! `GET /metrics`: what is counted, for Prometheus, in the text form of `OpenMetrics`.
//!
//! Whether the gateway is ready is found out as for `/readyz`. Everything else is counted elsewhere.

use std::time::Duration;

use axum::http::StatusCode;
use prometheus_client::encoding::text;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::timeout;

use super::Desk;
use super::answer::{Answer, Body};

/// Whatever takes longer to accept a job is not ready; who scrapes does not wait for more.
const READY_WITHIN: Duration = Duration::from_secs(3);

/// What is shown to whoever scrapes.
pub struct Metrics {
    registry: Registry,
    ready: Gauge,
}

impl Metrics {
    /// Shows what is registered, and whether the gateway is ready.
    #[must_use]
    pub fn new(mut registry: Registry) -> Self {
        let ready = Gauge::default();
        registry.register("ready", "Whether jobs can be accepted: 1, or else 0", ready.clone());
        Self { registry, ready }
    }
}

impl<R> Desk<R> {
    pub(super) async fn metrics(&self) -> Answer {
        let Metrics { registry, ready } = &self.metrics;
        let problems = timeout(READY_WITHIN, self.problems()).await;
        ready.set(problems.is_ok_and(|problems| problems.is_empty()).into());
        let mut shown = String::new();
        match text::encode(&mut shown, registry) {
            Ok(()) => Answer { status: StatusCode::OK, body: Body::Metrics(shown) },
            Err(error) => Answer::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }
}
