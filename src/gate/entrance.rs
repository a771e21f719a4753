//! What stands around every stack: limits before anything is read, the body, and the one answer and record at the end.
//!
//! Decides nothing that depends on a path. tower's error is a [`Rejection`]; here, and only here, it becomes a response
//! and a record.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body as HttpBody;
use axum::http::{Request, Response};
use tower::Service;
use tracing::Instrument as _;

use super::answer::{self, Receipt};
use super::body::{self, Bounds};
use super::limiter::Limiter;
use super::rejection::{Flood, Rejection, Why};
use super::stage::{Arrived, Body, Head};
use crate::audit::outcome::Refusal;
use crate::audit::{Record, Recorder};
use crate::clock::Clock;
use crate::domain::identity::{Peer, Shown};
use crate::domain::source::Source;
use crate::trust::Trust;

/// Longest part of a path that is written down, in bytes.
const LONGEST_RECORDED_PATH: usize = 256;

/// What all entrances of a gate share.
pub(super) struct Threshold {
    pub(super) clock: Clock,
    pub(super) recorder: Recorder,
    pub(super) sources: Arc<Limiter<Source>>,
    pub(super) certnames: Arc<Limiter<String>>,
    pub(super) bodies: Bounds,
    pub(super) trust: Option<Arc<Trust>>,
}

/// A stack behind its entrance.
pub(super) struct Entrance<S> {
    threshold: Arc<Threshold>,
    stack: S,
}

impl<S> Entrance<S> {
    pub(super) fn new(threshold: Arc<Threshold>, stack: S) -> Self {
        Self { threshold, stack }
    }
}

impl<S: Clone> Clone for Entrance<S> {
    fn clone(&self) -> Self {
        Self { threshold: Arc::clone(&self.threshold), stack: self.stack.clone() }
    }
}

impl<S> Service<Request<HttpBody>> for Entrance<S>
where
    S: Service<Arrived, Response = Receipt, Error = Rejection> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<HttpBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<HttpBody>) -> Self::Future {
        let threshold = Arc::clone(&self.threshold);
        let stack = self.stack.clone();
        let (mut parts, body) = request.into_parts();
        let Some(peer) = parts.extensions.remove::<Arc<Peer>>() else {
            let wall = answer::rejection(&Rejection::Wall(Why::NoPeer));
            return Box::pin(std::future::ready(Ok(answer::and_close(wall))));
        };
        let span = tracing::info_span!("request", source = %peer.source());
        let head = Head { peer, at: threshold.clock.now(), parts };
        let answered = async move { Ok(threshold.answer(head, body, stack).await) };
        Box::pin(answered.instrument(span))
    }
}

impl Threshold {
    async fn answer<S>(&self, head: Head, body: HttpBody, stack: S) -> Response<HttpBody>
    where
        S: Service<Arrived, Response = Receipt, Error = Rejection>,
    {
        let mut asked = Asked::of(&head);
        let (outcome, closes) = match self.admit(&head) {
            Err(rejection) => {
                let closes = match rejection {
                    // A certificate that no longer stands is not asked again.
                    Rejection::Wall(_) => true,
                    // A new connection would cost more than the next request on this one.
                    Rejection::Flood(_) | Rejection::Told(_) => false,
                };
                (Err(rejection), closes)
            }
            Ok(()) => match body::read(body, &self.bodies).await {
                Err(body::Exhausted) => (Err(Rejection::Flood(Flood::Bodies)), true),
                Ok(body) => {
                    if let Body::Broken(how) = &body {
                        asked.broken = Some(how.clone());
                    }
                    // A target in absolute form names a host of its own: nothing more is taken from such a sender.
                    let closes = body.whole().is_none() || head.parts.uri.authority().is_some();
                    (enter(stack, Arrived { head, body }).await, closes)
                }
            },
        };
        let response = match outcome {
            Ok(receipt) => answer::receipt(&receipt),
            Err(rejection) => {
                let response = answer::rejection(&rejection);
                let status = response.status().as_u16();
                match rejection.kind() {
                    Refusal::Stranger(why) => {
                        self.recorder.note_stranger(why, || asked.refused(&rejection, status));
                    }
                    Refusal::Told(_) => self.recorder.note(asked.refused(&rejection, status)),
                }
                response
            }
        };
        if closes { answer::and_close(response) } else { response }
    }

    /// What is asked of every request before a byte of its body is read.
    fn admit(&self, head: &Head) -> Result<(), Rejection> {
        let paced = match &head.peer.shown {
            Shown::Verified(presented) => {
                let trust = self.trust.as_ref().ok_or(Rejection::Wall(Why::NoPeer))?;
                trust
                    .stands(presented, head.at)
                    .map_err(|gone| Rejection::Wall(Why::NotStanding(gone.to_string())))?;
                self.certnames.check(&presented.certificate.certname)
            }
            Shown::Nothing | Shown::Unusable(_) => self.sources.check(&Source::of(head.peer.address.ip())),
        };
        paced.map_err(|retry_after| Rejection::Flood(Flood::Requests { retry_after }))
    }
}

async fn enter<S>(mut stack: S, arrived: Arrived) -> Result<Receipt, Rejection>
where
    S: Service<Arrived, Response = Receipt, Error = Rejection>,
{
    std::future::poll_fn(|context| stack.poll_ready(context)).await?;
    stack.call(arrived).await
}

/// What a record says of a request, kept beside it on its way.
struct Asked {
    source: std::net::IpAddr,
    method: String,
    path: String,
    /// How the body broke.
    broken: Option<String>,
}

impl Asked {
    fn of(head: &Head) -> Self {
        let path = head.parts.uri.path();
        let end = path.floor_char_boundary(LONGEST_RECORDED_PATH);
        Self {
            source: head.peer.source(),
            method: head.parts.method.as_str().chars().take(16).collect(),
            path: path[..end].to_owned(),
            broken: None,
        }
    }

    fn refused(self, rejection: &Rejection, status: u16) -> Record {
        let (route, identity) = match rejection {
            Rejection::Wall(_) | Rejection::Flood(_) => (None, None),
            Rejection::Told(told) => (Some(told.route().clone()), Some(told.identity().clone())),
        };
        let Self { source, method, path, broken } = self;
        let (mut reason, refusal) = (rejection.reason(), rejection.kind());
        if let Some(how) = broken {
            reason = format!("{reason}; its body broke: {how}");
        }
        Record::Refused { source, method, path, status, reason, refusal, route, identity }
    }
}
