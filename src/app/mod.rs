//! Wires the rooms together: what is started, with what, and in which order it is stopped.
//!
//! Every other room takes what it needs as values; only here is it known who calls whom. Nothing is decided here about
//! a request or a job. A process is made of parts: `front` faces the network, `works` keeps jobs and runs them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::audit::Recorder;
use crate::clock::Clock;
use crate::policy::Policy;
use crate::{admin, audit, listener, queue};

mod front;
pub mod generation;
pub mod process;
mod works;

use front::Front;
use generation::Generation;
use works::Works;

/// How long running commands, and the requests that wait for them, may take to finish after the gateway was told to stop.
const COMMANDS_FINISH_WITHIN: Duration = Duration::from_secs(60);

/// A running gateway: what faces the network, and what keeps and runs jobs.
pub struct Gateway {
    front: Front,
    works: Works,
    admin: Option<Socket>,
    recorder: Recorder,
    stop: CancellationToken,
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
        let policy = Arc::clone(&generation.policy);
        // Before anything is opened: a second gateway by mistake is told about its port first.
        let sockets = listener::bind(&policy.listen.addresses)?;
        let socket = policy.admin.socket.as_deref().map(admin::socket::Socket::bind).transpose()?;
        let recorder = record(&policy, &clock)?;
        let stop = CancellationToken::new();
        let works = Works::start(&policy, &recorder, &clock, &stop)?;
        let front = Front::start(sockets, generation, works.intake(), &recorder, &clock, &stop);
        let desk = admin::Desk {
            store: works.store().clone(),
            repeat: works.intake(),
            recorder: recorder.clone(),
            clock,
            stopping: stop.clone(),
        };
        let admin = socket.map(|socket| Socket::open(|end| socket.serve(desk, end)));
        Ok(Self { front, works, admin, recorder, stop })
    }

    /// Where the gateway listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.front.addresses()
    }

    /// Returns when a part has ended although nobody stopped it, with its name: a gateway that takes jobs in and runs
    /// none, or the other way round, is better restarted.
    pub async fn failed(&mut self) -> &'static str {
        tokio::select! {
            () = self.front.ended() => "listener",
            () = self.works.ended() => "worker",
        }
    }

    /// Stops accepting, lets open requests and running commands finish (up to a limit), and leaves queued jobs queued.
    pub async fn stop(self) {
        self.stop.cancel();
        // Both at once: a sender may be waiting for a command that still runs.
        let ((), store) = tokio::join!(self.front.finish(), self.works.finish());
        // Operators may watch and cancel what runs until it has ended.
        if let Some(admin) = self.admin {
            admin.close().await;
        }
        // Nobody submits or records any more.
        store.close().await;
        self.recorder.close().await;
    }
}

/// A Unix socket that is served until it is closed.
struct Socket {
    task: JoinHandle<()>,
    end: CancellationToken,
}

impl Socket {
    fn open<F>(serve: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let end = CancellationToken::new();
        Self { task: tokio::spawn(serve(end.clone())), end }
    }

    async fn close(self) {
        self.end.cancel();
        finish(self.task).await;
    }
}

/// Opens the audit log.
fn record(policy: &Policy, clock: &Clock) -> Result<Recorder, audit::OpenError> {
    let logged = policy.limits.refusals_logged;
    Recorder::open(&policy.audit.file, (logged.limit, logged.period), clock.clone())
}

/// Waits for the end of a part.
async fn finish(part: JoinHandle<()>) {
    if !part.is_finished() {
        tell(part.await);
    }
}

/// Says when a part ended by a panic.
fn tell(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a part of the gateway ended abnormally");
    }
}
