//! One connection: handshake, whose it is, HTTP/1.1, end.
//!
//! Hands every request to the service together with the [`Peer`]. Knows no routes and answers nothing itself, but for
//! hyper's fixed answers to what is not HTTP, or not framed as it should be.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::counts::{Failure, Full};
use super::framing::Framed;
use super::malformed::Verdict;
use super::phase::{Answer, Phase};
use super::proxy::{self, Told};
use super::seldom::Seldom;
use super::shares::{Claim, Share, Shares};
use super::stream::{Patience, TimedStream};
use super::{Reports, Settings, turn_away};
use crate::domain::identity::{Peer, Presented, Shown};
use crate::domain::source::Source;
use crate::trust::certificate;

/// Most header fields of a request; beyond, hyper answers 431.
const MOST_HEADERS: usize = 64;
/// Largest head of a request, and what is buffered of an answer, in bytes; beyond, hyper answers 431.
const LARGEST_HEAD: usize = 16 * 1024;

/// When the kernel first asks a silent peer whether it is still there, and how often and how many times more.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// What all connections share.
pub(super) struct Desk {
    pub(super) shares: Arc<Shares>,
    pub(super) stop: CancellationToken,
    /// About what an operator should see.
    pub(super) warnings: Seldom,
    /// About what only a developer wants to see.
    pub(super) complaints: Seldom,
    pub(super) reports: Reports,
}

impl Desk {
    /// One more connection for the source of `address`. `None` when it has as many as it may, and too many wait; the
    /// connection has been turned away then.
    pub(super) fn claim(&self, address: SocketAddr, socket: &TcpStream) -> Option<Claim> {
        let claim = self.shares.claim(Source::of(address.ip()));
        if claim.is_none() {
            self.too_many(address, socket);
        }
        claim
    }

    fn too_many(&self, address: SocketAddr, socket: &TcpStream) {
        turn_away(socket);
        self.reports.counts.turned_away(Full::Source);
        self.warn(address, &"too many connections from this source");
    }

    /// Sees a connection through, from the handshake to its end. Without a claim it is a load balancer's, and begins with
    /// whom it speaks for.
    pub(super) async fn attend<S>(
        self: Arc<Self>,
        settings: Arc<Settings>,
        socket: TcpStream,
        address: SocketAddr,
        claim: Option<Claim>,
        service: S,
    ) where
        S: Service<Request<Incoming>, Response = Response<axum::body::Body>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let phase = Phase::default();
        let close = self.stop.child_token();
        let handshake = phase.begin();
        let Settings { limits, epoch, .. } = &*settings;
        let patience = Patience { headers: limits.headers, idle: limits.idle };
        let stream = TimedStream::new(socket, patience, phase.clone(), close.clone());
        let greeted = tokio::select! {
            greeted = self.greet(&settings, stream, address, claim) => greeted,
            () = self.stop.cancelled() => return,
        };
        let Some((stream, address, share)) = greeted else { return };
        drop(handshake);
        hurry(stream.get_ref().0.socket());
        let shown = shown(&stream, *epoch);
        let Some(_share) = self.reassign(share, &shown) else {
            self.reports.counts.turned_away(Full::Identity);
            return self.warn(address, &"too many connections with this certificate");
        };
        let peer = Arc::new(Peer { address, shown });
        let requests = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&peer));
            let busy = phase.begin();
            let answer = service.clone().oneshot(request);
            async move {
                let response = answer.await?;
                Ok::<_, Infallible>(response.map(|body| Answer { body, _busy: busy }))
            }
        });
        let verdict = Verdict::default();
        let mut connection = pin!(converse(stream, requests, verdict.clone()));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = close.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Some(why) = verdict.unanswered(&ended) {
            (self.reports.malformed)(address.ip().to_canonical(), why);
        } else if let Err(error) = ended {
            self.complain(address, &error);
        }
    }

    /// The beginning of a connection: whom it is from, a place of that source, and the handshake. `None` when it does not
    /// come to an end in time, or not to a good one; that has been said then.
    async fn greet(
        &self,
        settings: &Settings,
        mut stream: TimedStream,
        address: SocketAddr,
        claim: Option<Claim>,
    ) -> Option<(TlsStream<TimedStream>, SocketAddr, Share)> {
        let Settings { tls, limits, .. } = settings;
        let mut until = Instant::now() + limits.handshake;
        let (address, claim) = match claim {
            Some(claim) => (address, claim),
            None => match timeout_at(until, proxy::read(&mut stream)).await {
                Ok(Ok(Told::Client(client))) => (client, self.claim(client, stream.socket())?),
                Ok(Ok(Told::Balancer)) => (address, self.claim(address, stream.socket())?),
                Ok(Err(error)) => {
                    self.reports.counts.failed(Failure::ProxyHeader);
                    self.warn(address, &error);
                    return None;
                }
                Err(elapsed) => {
                    self.reports.counts.failed(Failure::TooSlow);
                    self.complain(address, &elapsed);
                    return None;
                }
            },
        };
        let share = match claim {
            Claim::Now(share) => share,
            Claim::Later(waiting) => {
                let share = tokio::select! {
                    share = timeout_at(until, waiting.place()) => share,
                    () = gone(stream.socket()) => {
                        turn_away(stream.socket());
                        self.reports.counts.failed(Failure::Gone);
                        self.complain(address, &"gone before there was a place");
                        return None;
                    }
                };
                let Ok(Some(share)) = share else {
                    self.too_many(address, stream.socket());
                    return None;
                };
                until = Instant::now() + limits.handshake;
                share
            }
        };
        self.reports.counts.let_in();
        match timeout_at(until, TlsAcceptor::from(Arc::clone(tls)).accept(stream)).await {
            Ok(Ok(stream)) => Some((stream, address, share)),
            Ok(Err(error)) => {
                self.refused(address, &error);
                None
            }
            Err(elapsed) => {
                self.reports.counts.failed(Failure::TooSlow);
                self.complain(address, &elapsed);
                None
            }
        }
    }

    /// From now on a connection counts for the holder of its certificate; without one it goes on counting for its
    /// source. `None` when the holder has as many as it may.
    fn reassign(&self, share: Share, shown: &Shown) -> Option<Share> {
        match shown {
            Shown::Verified(presented) => self.shares.take(&presented.certificate.certname),
            Shown::Nothing | Shown::Unusable(_) => Some(share),
        }
    }

    /// A handshake that failed. That a client's certificate did not stand is for the operator to see; that somebody did
    /// not speak TLS is not.
    fn refused(&self, address: SocketAddr, error: &std::io::Error) {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        let is_certificate = matches!(
            cause,
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidCertRevocationList(_))
        );
        if is_certificate {
            self.reports.counts.failed(Failure::Certificate);
            self.warn(address, error);
        } else {
            self.reports.counts.failed(if cause.is_some() { Failure::Tls } else { Failure::Gone });
            self.complain(address, error);
        }
    }

    pub(super) fn warn(&self, address: SocketAddr, why: &dyn std::fmt::Display) {
        self.warnings
            .say(|left_out| tracing::warn!(source = %address, left_out, "connection refused: {why}"));
    }

    fn complain(&self, address: SocketAddr, why: &dyn std::fmt::Display) {
        self.complaints
            .say(|left_out| tracing::debug!(source = %address, left_out, "connection ended: {why}"));
    }
}

/// HTTP/1.1 over any stream, as every connection speaks it; times nothing. `verdict` is told what its framing is refused
/// for.
pub fn converse<T, S, B>(stream: T, service: S, verdict: Verdict) -> http1::Connection<TokioIo<Framed<T>>, S>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    http1::Builder::new()
        .max_headers(MOST_HEADERS)
        .max_header_size(LARGEST_HEAD)
        .max_buf_size(LARGEST_HEAD)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(Framed::new(stream, LARGEST_HEAD, verdict)), service)
}

/// Makes small answers leave at once, and acknowledges the end of the handshake at once: without session tickets
/// nothing of ours follows it that could carry the acknowledgement, and a client with Nagle's algorithm on would hold
/// back its request until the delayed one arrives, 40 ms later.
fn hurry(socket: &TcpStream) {
    // A socket that refuses any of these still works, only slower.
    let _ = socket.set_nodelay(true);
    let _ = sockopt::set_tcp_quickack(socket, true);
    // While a sender waits for a result no timer of ours runs: the kernel finds out whether it is still there.
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE_AFTER);
    let _ = sockopt::set_tcp_keepintvl(socket, KEEPALIVE_EVERY);
    let _ = sockopt::set_tcp_keepcnt(socket, KEEPALIVE_TRIES);
}

/// Returns when the client has gone, or sends nothing any more: whatever it sent before is still unread. The kernel says so
/// beside, and not by, that there is something to read; urgent data, of which the interest speaks, is not subscribed to.
async fn gone(socket: &TcpStream) {
    // A socket that cannot be watched is given up, too.
    let _ = socket.ready(Interest::PRIORITY | Interest::ERROR).await;
}

fn shown(stream: &TlsStream<TimedStream>, epoch: u64) -> Shown {
    let (_, session) = stream.get_ref();
    match session.peer_certificates().and_then(<[_]>::first) {
        None => Shown::Nothing,
        Some(der) => match certificate::read(der) {
            Ok(presented) => Shown::Verified(Arc::new(Presented { epoch, ..presented })),
            Err(unusable) => Shown::Unusable(unusable.to_string()),
        },
    }
}
