//! `GET /-/jobs/<id>`: a job, for whoever submitted or joined it, as long as its route still allows that identity.
//!
//! Everybody else meets the wall, whether there is such a job or not. Asking stores nothing.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::Method;
use tower::Service;

use super::answer::Receipt;
use super::rejection::{Rejection, Why};
use super::scheme::{Covered, Signed};
use super::stage::{Offer, Verified};
use crate::domain::identity::{Identity, Proofs};
use crate::domain::job::JobId;
use crate::domain::name::RouteName;
use crate::policy::route::Route;
use crate::queue::Intake;

/// Below which path jobs are asked for.
pub(super) const JOBS: &str = "/-/jobs/";

/// The innermost service of the stack at [`JOBS`].
pub(super) struct Status<I> {
    intake: Arc<I>,
    routes: Arc<BTreeMap<RouteName, Arc<Route>>>,
}

impl<I> Status<I> {
    pub(super) fn new(intake: Arc<I>, routes: Arc<BTreeMap<RouteName, Arc<Route>>>) -> Self {
        Self { intake, routes }
    }
}

impl<I> Clone for Status<I> {
    fn clone(&self) -> Self {
        Self { intake: Arc::clone(&self.intake), routes: Arc::clone(&self.routes) }
    }
}

impl<I: Intake> Service<Verified> for Status<I> {
    type Response = Receipt;
    type Error = Rejection;
    type Future = Pin<Box<dyn Future<Output = Result<Receipt, Rejection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, verified: Verified) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.show(&verified).await.map_err(Rejection::Wall) })
    }
}

impl<I: Intake> Status<I> {
    async fn show(&self, verified: &Verified) -> Result<Receipt, Why> {
        let head = &verified.arrived.head;
        if head.parts.method != Method::GET {
            return Err(Why::WrongMethod);
        }
        match verified.offer {
            Offer::AbsoluteForm => return Err(Why::AbsoluteForm),
            Offer::Route(_) | Offer::UnknownPath | Offer::WrongMethod => {}
        }
        // A signature over a body alone says nothing of which job is asked for.
        let whole = |signed: &&Signed| matches!(signed.covered, Covered::Request(_));
        let key = verified.signatures.verified().find(whole).map(|signed| signed.key.clone());
        let certificate = head.certificate().map(Arc::clone);
        // Nobody who has proven nothing makes the gateway look anything up.
        if key.is_none() && certificate.is_none() {
            let nothing = Why::NothingProven("neither certificate nor signature");
            return Err(verified.signatures.failures().next().cloned().map_or(nothing, Why::Signature));
        }
        let proofs = Proofs { certificate, key, source: head.peer.source() };
        let id = head.parts.uri.path().strip_prefix(JOBS).and_then(|id| JobId::parse(id).ok());
        let id = id.ok_or(Why::NoSuchJob)?;
        // Of a job of somebody else nothing is read but whose it is: it would tell that it is there, and how large it is.
        let by = proofs.key.iter().cloned().map(Identity::Key);
        let by = by.chain(proofs.certificate.iter().map(|shown| Identity::Certname(shown.certname.clone())));
        let found = self
            .intake
            .look_up(id, by.collect())
            .await
            .map_err(|error| Why::Unanswered(error.to_string()))?;
        let found = found.ok_or(Why::NoSuchJob)?;
        let route = self.routes.get(&found.view.route).ok_or(Why::NoSuchJob)?;
        // As on the route itself: one of its keys' signatures that fails is refused, whatever else is shown.
        if let Some(why) = verified.signatures.failure(route.keys()) {
            return Err(Why::Signature(why.clone()));
        }
        let authorized = route.authorize(&proofs).ok_or_else(|| Why::NotAllowed(found.view.route.clone()))?;
        found.seen_by(&authorized.identity).map(Receipt::Status).ok_or(Why::NoSuchJob)
    }
}
