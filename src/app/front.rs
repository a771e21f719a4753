//! What faces the network: the listener, and the gate that answers behind it.
//!
//! Knows jobs only as something that an `Intake` takes; whose that is, and where they are kept, is not its business.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::generation::Generation;
use super::{COMMANDS_FINISH_WITHIN, process};
use crate::audit::Recorder;
use crate::clock::Clock;
use crate::queue::Intake;
use crate::{gate, listener};

/// A listener and its gate.
pub(super) struct Front {
    addresses: Vec<SocketAddr>,
    listener: JoinHandle<()>,
}

impl Front {
    /// Starts to accept requests.
    pub(super) fn start<I: Intake>(
        sockets: Vec<TcpListener>,
        generation: Generation,
        intake: I,
        recorder: &Recorder,
        clock: &Clock,
        stop: &CancellationToken,
    ) -> Self {
        let Generation { policy, tls, trust, authorities, .. } = generation;
        let addresses = sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let router = gate::router(gate::Parts {
            policy: Arc::clone(&policy),
            authorities,
            trust,
            intake: Arc::new(intake),
            recorder: recorder.clone(),
            clock: clock.clone(),
        });
        let limits = &policy.limits;
        let connections = process::connections(limits);
        if connections < limits.connections.get() {
            tracing::warn!(
                connections,
                "limits.connections is more than this process's descriptors allow; raise its limit (LimitNOFILE=)"
            );
        }
        let connections =
            listener::Limits { connections, drain: COMMANDS_FINISH_WITHIN, ..listener::Limits::from(limits) };
        let listener =
            tokio::spawn(listener::serve(sockets, tls, connections, clock.clone(), router, stop.clone()));
        Self { addresses, listener }
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
