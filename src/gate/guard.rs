//! The plumbing of the stack: one trait for a check on the way in, and one tower layer for all of them.
//!
//! A guard turns one stage into the next or refuses; because `tower::Service` is generic over its request, a stack in
//! the wrong order does not compile. Guards are synchronous: only reading the body and dispatching wait for anything.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use tower::{Layer, Service};

use super::rejection::Rejection;

/// One check on the way in.
pub(super) trait Guard<In>: Send + Sync + 'static {
    /// The stage that a request is in once it has passed.
    type Out;

    /// Lets the request through as its next stage, or refuses it.
    fn check(&self, input: In) -> Result<Self::Out, Rejection>;
}

/// The tower layer of any guard.
pub(super) struct GuardLayer<G>(Arc<G>);

impl<G> GuardLayer<G> {
    pub(super) fn new(guard: G) -> Self {
        Self(Arc::new(guard))
    }
}

impl<G> Clone for GuardLayer<G> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<G, S> Layer<S> for GuardLayer<G> {
    type Service = Guarded<G, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { guard: Arc::clone(&self.0), inner }
    }
}

/// A service behind a guard.
pub(super) struct Guarded<G, S> {
    guard: Arc<G>,
    inner: S,
}

impl<G, S: Clone> Clone for Guarded<G, S> {
    fn clone(&self) -> Self {
        Self { guard: Arc::clone(&self.guard), inner: self.inner.clone() }
    }
}

impl<G, S, In> Service<In> for Guarded<G, S>
where
    G: Guard<In>,
    S: Service<G::Out, Error = Rejection>,
{
    type Response = S::Response;
    type Error = Rejection;
    type Future = Either<S::Future, Ready<Result<S::Response, Rejection>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, input: In) -> Self::Future {
        match self.guard.check(input) {
            Ok(next) => Either::Left(self.inner.call(next)),
            Err(rejection) => Either::Right(ready(Err(rejection))),
        }
    }
}
