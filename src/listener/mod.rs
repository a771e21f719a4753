//! The public listener: TCP, TLS, HTTP/1.1 connections, with caps and time limits on everything that a stranger can
//! cost.
//!
//! [`serve`] accepts until it is told to stop and then lets open requests finish. It authorizes nothing: what a
//! handshake has shown is passed on with each request as an [`Arc`] of a
//! [`Peer`](crate::domain::identity::Peer).

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::clock::Clock;
use crate::policy;

mod bind;
mod connection;
mod counts;
#[cfg(test)]
mod fixture;
mod framing;
mod malformed;
mod phase;
pub mod proxy;
mod room;
mod seldom;
mod shares;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

pub use bind::{BindError, bind};
use connection::Desk;
pub use connection::converse;
pub use counts::Counts;
use counts::{Full, Open};
pub use framing::Framed;
pub use malformed::{Malformed, Verdict};
use room::{Place, Room};
use seldom::Seldom;
use shares::Shares;
pub use tls::tls_config;

/// How long open requests may take to finish after the listener was told to stop.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long to wait after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Least time between two lines about the same trouble of ours.
const TROUBLE_PERIOD: Duration = Duration::from_secs(10);
/// Least time between two lines about what strangers do.
const COMPLAINT_PERIOD: Duration = Duration::from_millis(100);

/// The limits that concern connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; beyond, new ones wait in the kernel.
    pub connections: usize,
    /// Connections at once from one source without a verified certificate; beyond, new ones wait for a place, or are
    /// dropped where too many wait.
    pub connections_per_source: usize,
    /// Connections at once with one verified certname; beyond, new ones are closed after the handshake.
    pub connections_per_identity: usize,
    /// From accept, or from the end of the wait for a place of its source, to the end of the TLS handshake; and for that
    /// wait.
    pub handshake: Duration,
    /// From a request's first byte to the end of its head.
    pub headers: Duration,
    /// Doing nothing, or taking nothing of what is written.
    pub idle: Duration,
    /// For open requests after the listener was told to stop.
    pub drain: Duration,
}

impl Limits {
    /// Connections that may wait for a place of their source at once, all sources together. The other places are for
    /// sources within their limits, whoever waits.
    const fn waiting(&self) -> usize {
        self.connections / 4
    }

    /// Those of them that may be of one source, so that others can wait beside it.
    const fn waiting_per_source(&self) -> usize {
        self.waiting().div_ceil(2)
    }
}

impl From<&policy::Limits> for Limits {
    fn from(limits: &policy::Limits) -> Self {
        Self {
            connections: limits.connections.get(),
            connections_per_source: limits.connections_per_source.get(),
            connections_per_identity: limits.connections_per_identity.get(),
            handshake: limits.handshake,
            headers: limits.headers,
            idle: limits.idle,
            drain: DRAIN,
        }
    }
}

/// What new connections are held to.
pub struct Settings {
    /// What the server shows, and how it verifies what clients show.
    pub tls: Arc<ServerConfig>,
    /// Which CAs that is; see [`Presented`](crate::domain::identity::Presented).
    pub epoch: u64,
    /// Caps and time limits.
    pub limits: Limits,
    /// Networks of load balancers, who say for whom they speak before TLS begins.
    pub trusted_proxies: Vec<IpNet>,
}

impl Settings {
    fn trusts(&self, address: SocketAddr) -> bool {
        let address = address.ip().to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// The settings in force, and the news when they change. What is asked of a connection is what was in force when it came;
/// how many there may be is what is in force now.
pub type InForce = watch::Receiver<Arc<Settings>>;

/// What is told of connections.
pub struct Reports {
    /// What becomes of them.
    pub counts: Counts,
    /// Is told whose connection was refused as malformed, and why.
    pub malformed: Box<dyn Fn(IpAddr, Malformed) + Send + Sync>,
}

/// Serves until `stop` is cancelled, then lets open requests finish within `limits.drain`, ends what is left, and
/// returns. Dropping the future ends all connections at once.
pub async fn serve<S>(
    sockets: Vec<TcpListener>,
    settings: InForce,
    clock: Clock,
    service: S,
    stop: CancellationToken,
    reports: Reports,
) where
    S: Service<Request<Incoming>, Response = Response<axum::body::Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let troubles = Seldom::new(clock.clone(), TROUBLE_PERIOD);
    let limits = settings.borrow().limits;
    let desk = Arc::new(Desk {
        shares: Shares::new(limits),
        stop: stop.clone(),
        warnings: Seldom::new(clock.clone(), COMPLAINT_PERIOD),
        complaints: Seldom::new(clock, COMPLAINT_PERIOD),
        reports,
    });
    let room = Arc::new(Room::default());
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    let _abort_when_dropped = abort.clone().drop_guard();
    let attend = |place: Place, socket: TcpStream, address: SocketAddr| {
        let settings = Arc::clone(&settings.borrow());
        // A balancer's connections are those of its clients; whose, is known once it has said so.
        let claim = if settings.trusts(address) {
            None
        } else if let Some(claim) = desk.claim(address, &socket) {
            Some(claim)
        } else {
            return;
        };
        let place = (place, desk.reports.counts.open());
        let attended = Arc::clone(&desk).attend(settings, socket, address, claim, service.clone());
        connections.spawn(unless(abort.clone(), attended, place));
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = follow(settings.clone(), &room, &desk.shares) => {}
        () = accept(&sockets, &room, &desk.reports.counts, &troubles, attend) => {}
    }

    drop(sockets);
    connections.close();
    let drain = settings.borrow().limits.drain;
    if timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "ended while still busy: the time to finish is over");
        abort.cancel();
        connections.wait().await;
    }
}

/// Holds all connections together to the settings in force, for ever.
async fn follow(mut settings: InForce, room: &Room, shares: &Arc<Shares>) {
    loop {
        let limits = settings.borrow_and_update().limits;
        room.resize(limits.connections);
        shares.hold_to(limits);
        if settings.changed().await.is_err() {
            return pending().await;
        }
    }
}

/// Accepts connections as long as there is room for them, for ever.
async fn accept(
    sockets: &[TcpListener],
    room: &Arc<Room>,
    counts: &Counts,
    troubles: &Seldom,
    attend: impl Fn(Place, TcpStream, SocketAddr),
) {
    let mut first = 0;
    loop {
        first = (first + 1) % sockets.len().max(1);
        match arrival(sockets, first, room, counts, troubles).await {
            Ok((socket, address)) => attend(room.enter(), socket, address),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                troubles.say(|left_out| tracing::error!(%error, left_out, "cannot accept connections"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The next connection from any of `sockets`, `first` being asked first, as soon as there is room for one.
async fn arrival(
    sockets: &[TcpListener],
    first: usize,
    room: &Room,
    counts: &Counts,
    troubles: &Seldom,
) -> io::Result<(TcpStream, SocketAddr)> {
    let (early, late) = sockets.split_at(first.min(sockets.len()));
    let mut is_told = false;
    poll_fn(|cx| {
        if room.poll_free(cx).is_pending() {
            if !std::mem::replace(&mut is_told, true) {
                counts.turned_away(Full::Overall);
                troubles
                    .say(|left_out| tracing::warn!(left_out, "limits.connections is reached; new ones wait"));
            }
            return Poll::Pending;
        }
        for socket in late.iter().chain(early) {
            if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

/// Lets the end of a connection be a reset, which leaves nothing behind in the kernel, where an orderly close would for a
/// minute.
fn turn_away(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}

/// Whether an error of `accept` concerns a client that went away, not us.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Sees a connection through unless `abort` is cancelled; its place is taken until then.
async fn unless(abort: CancellationToken, attended: impl Future<Output = ()>, place: (Place, Open)) {
    tokio::select! {
        () = abort.cancelled() => {}
        () = attended => {}
    }
    drop(place);
}
