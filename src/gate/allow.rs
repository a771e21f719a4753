//! Authorization: may whoever proved this use the offered route?
//!
//! The last guard of the wall. Everything it refuses gets the same answer; whatever passes it has an identity that the
//! route allows, and may be told what is wrong from here on.

use std::sync::Arc;

use super::guard::Guard;
use super::rejection::{Rejection, Why};
use super::scheme::{Covered, Signed, Verdicts};
use super::stage::{Allowed, Offer, Verified};
use crate::domain::identity::{Identity, Proofs, Shown};
use crate::policy::parameter::From;
use crate::policy::route::{Authorized, Route};

/// Asks the offered route's rules.
pub(super) struct Allow;

impl Guard<Verified> for Allow {
    type Out = Allowed;

    fn check(&self, verified: Verified) -> Result<Allowed, Rejection> {
        let Verified { arrived, offer, signatures } = verified;
        let route = match offer {
            Offer::Route(route) => route,
            Offer::UnknownPath => return Err(Rejection::Wall(Why::UnknownPath)),
            Offer::WrongMethod => return Err(Rejection::Wall(Why::WrongMethod)),
            Offer::AbsoluteForm => return Err(Rejection::Wall(Why::AbsoluteForm)),
        };
        // A sender that signs in a way of the route's keys and fails is refused, whatever else it shows; in other ways, the
        // headers mean nothing.
        if let Some(why) = signatures.failure(route.keys()) {
            return Err(Rejection::Wall(Why::Signature(why.clone())));
        }
        let shown = Proofs {
            certificate: arrived.head.certificate().map(Arc::clone),
            key: None,
            source: arrived.head.peer.source(),
        };
        let Some((proofs, authorized, signed)) = first_rule(&route, &shown, &signatures) else {
            let signed = signatures.verified().next().is_some();
            return Err(Rejection::Wall(refusal(signed, &arrived.head.peer.shown, &route)));
        };
        if let Some(header) = signed.as_ref().and_then(|signed| {
            uncovered(&route, signed, |name| arrived.head.parts.headers.contains_key(name))
        }) {
            return Err(Rejection::Wall(Why::HeaderNotCovered(header.to_owned())));
        }
        Ok(Allowed { arrived, route, proofs, authorized, signed })
    }
}

/// The first rule that holds for the certificate and one of the signatures, and what it rests on.
///
/// Where it rests on the certificate alone, no key counts for anything: its message's id is not going to be stored, so it
/// could be used again.
fn first_rule(
    route: &Route,
    shown: &Proofs,
    signatures: &Verdicts,
) -> Option<(Proofs, Authorized, Option<Signed>)> {
    let with = |signed: Option<&Signed>| {
        let proofs = Proofs { key: signed.map(|signed| signed.key.clone()), ..shown.clone() };
        let authorized = route.authorize(&proofs)?;
        match authorized.identity {
            Identity::Key(_) => Some((proofs, authorized, signed.cloned())),
            Identity::Certname(_) => Some((shown.clone(), authorized, None)),
        }
    };
    let all = signatures.verified().map(Some).chain(std::iter::once(None));
    all.filter_map(with).min_by_key(|(_, authorized, _)| authorized.rule)
}

/// A header that the route reads, that is there, and that a signature over the whole request does not cover.
fn uncovered<'a>(route: &'a Route, signed: &Signed, is_there: impl Fn(&str) -> bool) -> Option<&'a str> {
    let covered = match &signed.covered {
        Covered::Request(headers) => headers,
        // Of no header then; `check` warns of it.
        Covered::Body => return None,
    };
    route.sources().find_map(|from| match from {
        From::Header(name) => (!covered.contains(name) && is_there(name)).then_some(name.as_str()),
        From::Body(_) | From::Form(_) | From::Query(_) | From::Certname | From::Key | From::Extension(_) => {
            None
        }
    })
}

fn refusal(signed: bool, shown: &Shown, route: &Route) -> Why {
    match (signed, shown) {
        (true, _) | (false, Shown::Verified(_)) => Why::NotAllowed(route.name.clone()),
        (false, Shown::Nothing) => Why::NothingProven("neither certificate nor signature"),
        (false, Shown::Unusable(_)) => {
            Why::NothingProven("no signature, and nobody can be named by the certificate")
        }
    }
}
