//! Wires the rooms together: what is started, with what, and in which order it is stopped.
//!
//! Every other room takes what it needs as values; only here is it known who calls whom. Nothing is decided here about
//! a request or a job.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::audit::Recorder;
use crate::clock::Clock;
use crate::executor::intake::LocalIntake;
use crate::executor::worker::Worker;
use crate::queue::sqlite::{Recovered, Settings, Store};
use crate::{admin, audit, gate, listener, policy, queue};

pub mod generation;
pub mod process;

use generation::Generation;

/// How long running commands, and the requests that wait for them, may take to finish after the gateway was told to stop.
const COMMANDS_FINISH_WITHIN: Duration = Duration::from_secs(60);

/// A running gateway: listener, gate, queue and worker.
pub struct Gateway {
    addresses: Vec<SocketAddr>,
    stop: CancellationToken,
    listener: JoinHandle<()>,
    worker: JoinHandle<()>,
    admin: Option<(JoinHandle<()>, CancellationToken)>,
    store: Store,
    recorder: Recorder,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] listener::BindError),
    /// The operators' socket cannot be made.
    #[error(transparent)]
    Socket(#[from] admin::socket::SocketError),
    /// The audit log cannot be used.
    #[error(transparent)]
    Audit(#[from] audit::OpenError),
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] queue::sqlite::OpenError),
}

impl Gateway {
    /// Opens what the policy names, and starts to accept requests and to run jobs.
    ///
    /// # Errors
    /// When an address, the audit log or the queue cannot be used; nothing is left running then.
    pub async fn start(generation: Generation, clock: Clock) -> Result<Self, StartError> {
        let Generation { policy, tls, trust, authorities } = generation;
        let limits = &policy.limits;
        // Before anything is opened: a second gateway by mistake is told about its port first.
        let sockets = listener::bind(&policy.listen.addresses)?;
        let addresses = sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let socket = policy.admin.socket.as_deref().map(admin::socket::Socket::bind).transpose()?;
        let logged = (limits.refusals_logged.limit, limits.refusals_logged.period);
        let recorder = Recorder::open(&policy.audit.file, logged, clock.clone())?;
        let policy::Queue { keep, keep_bytes, .. } = policy.queue;
        let settings = Settings { keep, keep_bytes, jobs: limits.jobs };
        let (store, recovered) = Store::open(&policy.queue.file, settings, clock.clone())?;
        tell_recovered(&recovered);

        let stop = CancellationToken::new();
        let worker = Worker {
            store: store.clone(),
            policy: Arc::clone(&policy),
            recorder: recorder.clone(),
            clock: clock.clone(),
            drain: COMMANDS_FINISH_WITHIN,
        };
        let worker = tokio::spawn(worker.work(stop.clone()));
        let router = gate::router(gate::Parts {
            policy: Arc::clone(&policy),
            authorities,
            trust,
            intake: Arc::new(LocalIntake::new(store.clone(), Arc::clone(&policy))),
            recorder: recorder.clone(),
            clock: clock.clone(),
        });
        let admin = socket.map(|socket| {
            let desk = admin::Desk {
                store: store.clone(),
                repeat: LocalIntake::new(store.clone(), Arc::clone(&policy)),
                recorder: recorder.clone(),
                clock: clock.clone(),
                stopping: stop.clone(),
            };
            let end = CancellationToken::new();
            (tokio::spawn(socket.serve(desk, end.clone())), end)
        });
        let connections = process::connections(limits);
        if connections < limits.connections.get() {
            tracing::warn!(
                connections,
                "limits.connections is more than this process's descriptors allow; raise its limit (LimitNOFILE=)"
            );
        }
        let connections =
            listener::Limits { connections, drain: COMMANDS_FINISH_WITHIN, ..listener::Limits::from(limits) };
        let listener = tokio::spawn(listener::serve(sockets, tls, connections, clock, router, stop.clone()));
        Ok(Self { addresses, stop, listener, worker, admin, store, recorder })
    }

    /// Where the gateway listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns when a part has ended although nobody stopped it, with its name: a gateway that takes jobs in and runs
    /// none, or the other way round, is better restarted.
    pub async fn failed(&mut self) -> &'static str {
        let (part, ended) = tokio::select! {
            ended = &mut self.listener => ("listener", ended),
            ended = &mut self.worker => ("worker", ended),
        };
        if let Err(error) = ended {
            tracing::error!(%error, part, "a part of the gateway ended abnormally");
        }
        part
    }

    /// Stops accepting, lets open requests and running commands finish (up to a limit), and leaves queued jobs queued.
    pub async fn stop(self) {
        self.stop.cancel();
        // Both at once: a sender may be waiting for a command that still runs.
        let finish = async |part: JoinHandle<()>| {
            if !part.is_finished()
                && let Err(error) = part.await
            {
                tracing::error!(%error, "a part of the gateway ended abnormally");
            }
        };
        let commands = async {
            finish(self.worker).await;
            // Nothing ends any more: whoever waits for a job that is still queued is told so now.
            self.store.release_waiters();
        };
        tokio::join!(finish(self.listener), commands);
        // Operators may watch and cancel what runs until it has ended.
        if let Some((admin, end)) = self.admin {
            end.cancel();
            finish(admin).await;
        }
        // Nobody submits or records any more.
        self.store.close().await;
        self.recorder.close().await;
    }
}

/// Says what a crash left behind; that a job is over because of it goes on record as every end does.
fn tell_recovered(recovered: &Recovered) {
    for (job, route) in &recovered.requeued {
        tracing::info!(%job, %route, "queued again: the last worker ended before it was done");
    }
    for (job, route) in &recovered.interrupted {
        tracing::warn!(%job, %route, "interrupted: the last worker died while it ran");
    }
}
