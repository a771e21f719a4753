//! Wires the rooms together: what is started, with what, and in which order it is stopped.
//!
//! Every other room takes what it needs as values; only here is it known who calls whom. Nothing is decided here about
//! a request or a job. A process is made of parts: `front` faces the network, `works` keeps jobs and runs them; where
//! they are two processes, workers have a door for the gate.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::audit::{Cause, Recorder};
use crate::clock::Clock;
use crate::domain::name::RouteName;
use crate::executor::door::{self, Door};
use crate::executor::intake::LocalIntake;
use crate::executor::launcher::LaunchError;
use crate::policy::Policy;
use crate::queue::socket::SocketIntake;
use crate::{admin, audit, listener, queue};

mod front;
pub mod generation;
pub mod live;
mod metrics;
pub mod process;
mod socket;
mod succession;
mod watch;
mod works;

pub use socket::SocketError;

use front::Front;
use generation::Generation;
use live::Live;
use socket::{Bound, Served};
use works::Works;

/// How long running commands, and the requests that wait for them, may take to finish after the gateway was told to stop.
const COMMANDS_FINISH_WITHIN: Duration = Duration::from_secs(60);

/// A running gateway, or one of the two processes that it can be made of.
pub struct Gateway {
    live: Live,
    front: Option<Front>,
    works: Option<Works>,
    door: Option<Served>,
    admin: Option<Served>,
    recorder: Recorder,
    stop: CancellationToken,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] listener::BindError),
    /// A Unix socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Gate and workers are to be two processes, and nothing says how they speak.
    #[error("`queue.socket` is missing: gate and workers that are two processes submit over it")]
    NoQueueSocket,
    /// The audit log cannot be used.
    #[error(transparent)]
    Audit(#[from] audit::OpenError),
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] queue::sqlite::OpenError),
    /// Commands of a route could not be started.
    #[error("route `{0}`: this process cannot become its `user` `{1}`; start it as root, and make that user")]
    User(RouteName, String),
    /// Commands cannot be started.
    #[error(transparent)]
    Launcher(#[from] LaunchError),
}

impl Gateway {
    /// Opens what the policy names, and starts to accept requests and to run jobs.
    ///
    /// # Errors
    /// When an address, a socket, the audit log or the queue cannot be used; nothing is left running then.
    pub async fn start(generation: Generation, clock: Clock) -> Result<Self, StartError> {
        let policy = Arc::clone(&generation.policy);
        // Before anything is opened: a second gateway by mistake is told about its port first.
        let sockets = listener::bind(generation.addresses())?;
        let socket = policy.admin.socket.as_deref().map(Bound::own).transpose()?;
        // Before the audit log: whoever finds the queue in use leaves nothing on record.
        let queue = works::open(&policy, &clock)?;
        let recorder = record(&policy.audit.file, &policy, &clock)?;
        let stop = CancellationToken::new();
        let live = Live::new(generation, &recorder, &clock);
        let works = Works::start(queue, &live, &recorder, &clock, &stop)?;
        let store = works.store().clone();
        let intake = move |policy| LocalIntake::new(store.clone(), policy);
        let front = Front::start(sockets, &live, intake, &recorder, &clock, &stop);
        let counts = front.as_ref().map(Front::counts);
        let metrics = metrics::registry(&live, &recorder, &clock, counts, Some(works.store()));
        let admin =
            socket.map(|socket| administer(socket, works.kept(), metrics, &live, &recorder, &clock, &stop));
        tokio::spawn(watch::files(live.clone(), stop.clone()));
        Ok(Self { live, front, works: Some(works), door: None, admin, recorder, stop })
    }

    /// Starts to accept requests, and submits them to workers in another process.
    ///
    /// # Errors
    /// When an address, a socket or the audit log cannot be used, or the policy names no `queue.socket`; nothing is left
    /// running then.
    pub async fn start_gate(generation: Generation, clock: Clock) -> Result<Self, StartError> {
        let policy = Arc::clone(&generation.policy);
        let workers = policy.queue.socket.clone().ok_or(StartError::NoQueueSocket)?;
        let sockets = listener::bind(generation.addresses())?;
        let socket = policy.admin.socket.as_deref().map(Bound::own).transpose()?;
        let recorder = record(&policy.audit.file, &policy, &clock)?;
        let stop = CancellationToken::new();
        let live = Live::new(generation, &recorder, &clock);
        let head = recorder.clone();
        let intake = SocketIntake::new(workers, policy.limits.body, Box::new(move || head.head().into()));
        let jobs = admin::Jobs::Elsewhere(intake.clone());
        let front = Front::start(sockets, &live, move |_| intake.clone(), &recorder, &clock, &stop);
        let metrics = metrics::registry(&live, &recorder, &clock, front.as_ref().map(Front::counts), None);
        let admin = socket.map(|socket| administer(socket, jobs, metrics, &live, &recorder, &clock, &stop));
        tokio::spawn(watch::files(live.clone(), stop.clone()));
        Ok(Self { live, front, works: None, door: None, admin, recorder, stop })
    }

    /// Starts to run jobs, and lets a gate in another process submit them.
    ///
    /// # Errors
    /// When a socket, the audit log or the queue cannot be used, or the policy names no `queue.socket`; nothing is left
    /// running then.
    pub async fn start_workers(generation: Generation, clock: Clock) -> Result<Self, StartError> {
        let policy = Arc::clone(&generation.policy);
        let path = policy.queue.socket.as_deref().ok_or(StartError::NoQueueSocket)?;
        let gate = policy.queue.gate_user.as_ref();
        let entrance = Bound::shared(path, gate)?;
        let socket = policy.admin.work_socket.as_deref().map(Bound::own).transpose()?;
        let queue = works::open(&policy, &clock)?;
        let recorder = record(&policy.audit.work_file(), &policy, &clock)?;
        let stop = CancellationToken::new();
        let live = Live::new(generation, &recorder, &clock);
        let works = Works::start(queue, &live, &recorder, &clock, &stop)?;
        let door = Arc::new(Door::new(door::Parts {
            intake: works.intake(),
            recorder: recorder.clone(),
            clock: clock.clone(),
            gate: gate.map(|user| user.uid),
            limits: policy.limits.clone(),
        }));
        let door = entrance.serve(door.connections(), move |stream| Arc::clone(&door).attend(stream));
        let metrics = metrics::registry(&live, &recorder, &clock, None, Some(works.store()));
        let admin =
            socket.map(|socket| administer(socket, works.kept(), metrics, &live, &recorder, &clock, &stop));
        Ok(Self { live, front: None, works: Some(works), door: Some(door), admin, recorder, stop })
    }

    /// What is in force, for exchanging it.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Where the gateway listens; nowhere, when it is workers alone.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.front.as_ref().map_or(&[], Front::addresses)
    }

    /// Returns when a part has ended although nobody stopped it, with its name: a gateway that takes jobs in and runs
    /// none, or the other way round, is better restarted.
    pub async fn failed(&mut self) -> &'static str {
        tokio::select! {
            () = end_of(self.front.as_mut().map(Front::ended)) => "listener",
            () = end_of(self.works.as_mut().map(Works::ended)) => "worker",
            () = end_of(self.door.as_mut().map(Served::ended)) => "socket for submissions",
        }
    }

    /// Stops accepting, lets open requests and running commands finish (up to a limit), and leaves queued jobs queued.
    pub async fn stop(self) {
        self.stop.cancel();
        // Both at once: a sender may be waiting for a command that still runs.
        let front = async {
            if let Some(front) = self.front {
                front.finish().await;
            }
        };
        let works = async { Some(self.works?.finish().await) };
        let ((), store) = tokio::join!(front, works);
        // What a gate in another process submits until here is stored, and waits for the next workers; operators may
        // watch and cancel what runs until it has ended.
        for socket in [self.door, self.admin].into_iter().flatten() {
            socket.close().await;
        }
        // Nobody submits or records any more.
        if let Some(store) = store {
            store.close().await;
        }
        self.recorder.close().await;
    }
}

/// Lets operators in.
fn administer(
    socket: Bound,
    jobs: admin::Jobs<LocalIntake>,
    metrics: Registry,
    live: &Live,
    recorder: &Recorder,
    clock: &Clock,
    stop: &CancellationToken,
) -> Served {
    let (recorder, clock, stopping) = (recorder.clone(), clock.clone(), stop.clone());
    let live = live.clone();
    let reload = admin::Reload::new(move |uid| reload(live.clone(), uid));
    let metrics = admin::Metrics::new(metrics);
    let desk = Arc::new(admin::Desk { jobs, recorder, clock, stopping, reload, metrics });
    socket.serve(admin::socket::CONNECTIONS, move |stream| admin::socket::attend(stream, Arc::clone(&desk)))
}

/// Reloads the policy for an operator.
async fn reload(live: Live, uid: u32) -> Result<admin::Reloaded, String> {
    let loaded = live.reload(Cause::Operator(uid)).await.map_err(|found| found.to_string())?;
    let live::Loaded { policy, routes, keys, warnings } = loaded;
    let warnings = (warnings.warnings() > 0).then(|| warnings.to_string());
    Ok(admin::Reloaded { policy, routes, keys, warnings })
}

/// Opens the audit log.
fn record(file: &Path, policy: &Policy, clock: &Clock) -> Result<Recorder, audit::OpenError> {
    let logged = policy.limits.refusals_logged;
    Recorder::open(file, (logged.limit, logged.period), clock.clone())
}

/// The end of a part; never that of one that is not there.
async fn end_of(part: Option<impl Future<Output = ()>>) {
    match part {
        Some(end) => end.await,
        None => std::future::pending().await,
    }
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
