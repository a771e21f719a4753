//! What faces the network: the listener, and the gate that answers behind it.
//!
//! Knows jobs only as something that an `Intake` takes; whose that is, and where they are kept, is not its business.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::generation::{Generation, Listening};
use super::live::{Face, Live};
use super::{COMMANDS_FINISH_WITHIN, process};
use crate::audit::outcome::Stranger;
use crate::audit::{Record, Recorder};
use crate::clock::Clock;
use crate::gate::Counters;
use crate::policy::InForce;
use crate::queue::Intake;
use crate::{gate, listener};

/// A listener and its gate.
pub(super) struct Front {
    addresses: Vec<SocketAddr>,
    counts: listener::Counts,
    listener: JoinHandle<()>,
}

impl Front {
    /// Starts to accept requests, if the generation in force is for a process that listens. `intake` makes the way in for those that a policy has let through.
    pub(super) fn start<I: Intake>(
        sockets: Vec<TcpListener>,
        live: &Live,
        intake: impl Fn(InForce) -> I + Send + Sync + 'static,
        recorder: &Recorder,
        clock: &Clock,
        stop: &CancellationToken,
    ) -> Option<Self> {
        let addresses = sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let of_listener = recorder.clone();
        let malformed = move |source, why: listener::Malformed| {
            let record = || Record::Malformed { source, reason: why.to_string() };
            of_listener.note_stranger(Stranger::Malformed, record);
        };
        let (recorder, time) = (recorder.clone(), clock.clone());
        let settings = live.show(move |generation, former| {
            let Generation { policy, listening, .. } = generation;
            let Listening { tls, trust, authorities, .. } = listening.as_ref()?;
            let counters = Counters::of(policy, former.map(|former| &former.counters), &time);
            let router = gate::router(gate::Parts {
                policy: Arc::clone(policy),
                authorities: authorities.clone(),
                trust: trust.clone(),
                intake: Arc::new(intake(InForce::always(Arc::clone(policy)))),
                recorder: recorder.clone(),
                counters: counters.clone(),
                clock: time.clone(),
            });
            let listen = policy.listen.as_ref();
            let trusted_proxies = listen.map(|listen| listen.trusted_proxies.clone()).unwrap_or_default();
            let epoch = trust.as_ref().map_or(0, |trust| trust.epoch());
            let settings = listener::Settings {
                tls: Arc::clone(tls),
                epoch,
                limits: limits(generation),
                trusted_proxies,
            };
            Some(Face { router, counters, settings: Arc::new(settings) })
        });
        let settings = settings?;
        let answers = live.clone();
        let service = tower::service_fn(move |request| answers.clone().answer(request));
        let counts = listener::Counts::default();
        let reports = listener::Reports { counts: counts.clone(), malformed: Box::new(malformed) };
        let serving = listener::serve(sockets, settings, clock.clone(), service, stop.clone(), reports);
        Some(Self { addresses, counts, listener: tokio::spawn(serving) })
    }

    /// What becomes of connections.
    pub(super) fn counts(&self) -> &listener::Counts {
        &self.counts
    }

    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns when it has ended by itself.
    pub(super) async fn ended(&mut self) {
        super::tell((&mut self.listener).await);
    }

    /// Lets open requests finish, once it was told to stop.
    pub(super) async fn finish(self) {
        super::finish(self.listener).await;
    }
}

/// What connections are held to, within what this process may open.
fn limits(generation: &Generation) -> listener::Limits {
    let limits = &generation.policy.limits;
    let connections = process::connections(limits);
    if connections < limits.connections.get() {
        tracing::warn!(
            connections,
            "limits.connections is more than this process's descriptors allow; raise its limit (LimitNOFILE=)"
        );
    }
    listener::Limits { connections, drain: COMMANDS_FINISH_WITHIN, ..listener::Limits::from(limits) }
}
