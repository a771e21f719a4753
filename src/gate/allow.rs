//! Authorization: may whoever proved this use the offered route?
//!
//! The last guard of the wall. Everything it refuses gets the same answer; whatever passes it has an identity that the
//! route allows, and may be told what is wrong from here on.

use std::sync::Arc;

use super::guard::Guard;
use super::rejection::{Rejection, Why};
use super::scheme::{Signed, Verdict};
use super::stage::{Allowed, Offer, Verified};
use crate::domain::identity::{Identity, Proofs, Shown};
use crate::policy::parameter::From;
use crate::policy::route::Route;
use crate::policy::rule::Rule;

/// Asks the offered route's rules.
pub(super) struct Allow;

impl Guard<Verified> for Allow {
    type Out = Allowed;

    fn check(&self, verified: Verified) -> Result<Allowed, Rejection> {
        let Verified { arrived, offer, signature } = verified;
        let route = match offer {
            Offer::Route(route) => route,
            Offer::UnknownPath => return Err(Rejection::Wall(Why::UnknownPath)),
            Offer::WrongMethod => return Err(Rejection::Wall(Why::WrongMethod)),
            Offer::AbsoluteForm => return Err(Rejection::Wall(Why::AbsoluteForm)),
        };
        let signed = match signature {
            Verdict::Absent => None,
            Verdict::Verified(signed) => Some(signed),
            // A sender that signs for this route and fails is refused, whatever else it shows; where no rule asks for
            // a signature, the headers mean nothing.
            Verdict::Failed(why) if route.allow.iter().any(Rule::names_a_key) => {
                return Err(Rejection::Wall(Why::Signature(why)));
            }
            Verdict::Failed(_) => None,
        };
        let mut proofs = Proofs {
            certificate: arrived.head.certificate().map(Arc::clone),
            key: signed.as_ref().map(|signed| signed.key.clone()),
            source: arrived.head.peer.source(),
        };
        let Some(authorized) = route.authorize(&proofs) else {
            return Err(Rejection::Wall(refusal(&proofs, &arrived.head.peer.shown, &route)));
        };
        let signed = match authorized.identity {
            Identity::Key(_) => signed,
            Identity::Certname(_) => {
                // Its nonce is not going to be stored, so it must not count for anything: it could be used again.
                proofs.key = None;
                None
            }
        };
        if let Some(header) = signed.as_ref().and_then(|signed| {
            uncovered(&route, signed, |name| arrived.head.parts.headers.contains_key(name))
        }) {
            return Err(Rejection::Wall(Why::HeaderNotCovered(header.to_owned())));
        }
        Ok(Allowed { arrived, route, proofs, authorized, signed })
    }
}

/// A header that the route reads, that is there, and that the signature does not cover.
fn uncovered<'a>(route: &'a Route, signed: &Signed, is_there: impl Fn(&str) -> bool) -> Option<&'a str> {
    route.parameters.sources().find_map(|(_, from)| match from {
        From::Header(name) => (!signed.covered.contains(name) && is_there(name)).then_some(name.as_str()),
        From::Body(_) | From::Query(_) | From::Certname | From::Key | From::Extension(_) => None,
    })
}

fn refusal(proofs: &Proofs, shown: &Shown, route: &Route) -> Why {
    match (proofs.key.is_some(), shown) {
        (true, _) | (false, Shown::Verified(_)) => Why::NotAllowed(route.name.clone()),
        (false, Shown::Nothing) => Why::NothingProven("neither certificate nor signature"),
        (false, Shown::Unusable(_)) => {
            Why::NothingProven("no signature, and nobody can be named by the certificate")
        }
    }
}
