//! The public listener: TCP, TLS, HTTP/1.1 connections, with caps and time limits on everything that a stranger can
//! cost.
//!
//! [`serve`] accepts until it is told to stop and then lets open requests finish. It authorizes nothing: what a
//! handshake has shown is passed on with each request as an [`Arc`] of a
//! [`Peer`](crate::domain::identity::Peer).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
use room::Room;
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

/// Tells the settings in force, at each connection anew.
pub type InForce = Arc<dyn Fn() -> Arc<Settings> + Send + Sync>;

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
    let desk = Arc::new(Desk {
        shares: Arc::new(Shares::default()),
        stop: stop.clone(),
        warnings: Seldom::new(clock.clone(), COMPLAINT_PERIOD),
        complaints: Seldom::new(clock, COMPLAINT_PERIOD),
        reports,
    });
    let mut room = Room::default();
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    let _abort_when_dropped = abort.clone().drop_guard();

    let mut first = 0;
    loop {
        first = (first + 1) % sockets.len().max(1);
        room.resize(settings().limits.connections);
        let arrival = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            arrival = arrival(&sockets, first, &room.places, &desk.reports.counts, &troubles) => arrival,
        };
        let (permit, socket, address) = match arrival {
            Ok(arrival) => arrival,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                troubles.say(|left_out| tracing::error!(%error, left_out, "cannot accept connections"));
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        let settings = settings();
        // A balancer's connections are those of its clients; whose, is known once it has said so.
        let claim = if settings.trusts(address) {
            None
        } else if let Some(claim) = desk.claim(address, &settings.limits) {
            Some(claim)
        } else {
            turn_away(&socket);
            continue;
        };
        let place = (permit, desk.reports.counts.open());
        let attended = Arc::clone(&desk).attend(settings, socket, address, claim, service.clone());
        connections.spawn(unless(abort.clone(), attended, place));
    }

    drop(sockets);
    connections.close();
    if timeout(settings().limits.drain, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "ended while still busy: the time to finish is over");
        abort.cancel();
        connections.wait().await;
    }
}

/// The next connection from any of `sockets`, `first` being asked first, as soon as there is room for one.
async fn arrival(
    sockets: &[TcpListener],
    first: usize,
    room: &Arc<Semaphore>,
    counts: &Counts,
    troubles: &Seldom,
) -> io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    if room.available_permits() == 0 {
        counts.turned_away(Full::Overall);
        troubles.say(|left_out| tracing::warn!(left_out, "limits.connections is reached; new ones wait"));
    }
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (socket, address) = poll_fn(|cx| {
        let (early, late) = sockets.split_at(first.min(sockets.len()));
        for socket in late.iter().chain(early) {
            if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await?;
    Ok((permit, socket, address))
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
async fn unless(
    abort: CancellationToken,
    attended: impl Future<Output = ()>,
    place: (OwnedSemaphorePermit, Open),
) {
    tokio::select! {
        () = abort.cancelled() => {}
        () = attended => {}
    }
    drop(place);
}
