//! What each guard would say of a request, in the order of the stack, for `bridgeward explain`.
//!
//! Walks the same guard values as requests do. Counts nothing, stores nothing and runs nothing: at the end stand rendered
//! argv arrays, never a permit.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::request::Parts;
use jiff::Timestamp;

use super::admit::Admit;
use super::allow::Allow;
use super::answer;
use super::guard::Guard;
use super::identify::Identify;
use super::matching::Match;
use super::rejection::Rejection;
use super::scheme::{Covered, Id, Signed, Verifier};
use super::stage::{Arrived, Body, Head, Offer, Paced, Permit, Verified, Whole};
use crate::domain::argv::Argv;
use crate::domain::identity::{Certificate, Peer, Presented, Proofs, Shown};
use crate::domain::name::KeyName;
use crate::domain::parameters::{RawParameters, Value};
use crate::domain::submission::Message;
use crate::policy::Policy;
use crate::policy::parameter::Invalid;
use crate::policy::route::{Per, Route};
use crate::policy::rule::Rule;

/// A request that is asked about.
#[derive(Debug)]
pub struct Question {
    /// Everything of it but its body.
    pub parts: Parts,
    /// Its body.
    pub body: Vec<u8>,
    /// Where it comes from.
    pub source: IpAddr,
    /// A certificate that is taken as verified.
    pub certificate: Option<Certificate>,
    /// A key that is taken as having signed it; without one, its own signatures are verified.
    pub key: Option<KeyName>,
    /// When it arrives.
    pub at: Timestamp,
}

/// What the guards say.
#[derive(Debug)]
pub struct Explanation {
    /// One a guard, up to the one that refuses.
    pub steps: Vec<Step>,
    /// How it ends.
    pub end: End,
}

/// What one guard says.
#[derive(Debug)]
pub struct Step {
    /// Its name in the stack.
    pub guard: &'static str,
    /// Whether the request passes it.
    pub passes: bool,
    /// Why, a line each. Holds values of the request.
    pub says: Vec<String>,
}

/// How a request would end.
#[derive(Debug)]
pub enum End {
    /// Accepted; these would run, in order.
    Runs(Vec<Argv>),
    /// Answered with this status; nothing runs.
    Refused {
        /// The status.
        status: u16,
    },
}

/// A key that the policy does not have.
#[derive(Debug, thiserror::Error)]
#[error("there is no `[keys.{0}]` in gateway.toml")]
pub struct NoSuchKey(pub KeyName);

/// Asks each guard in turn; `authorities` are the hosts that signatures may name.
///
/// # Errors
/// When the key that is taken as having signed is not in the policy.
pub fn explain(
    policy: &Policy,
    authorities: &[String],
    question: Question,
) -> Result<Explanation, NoSuchKey> {
    let mut steps = Vec::new();
    let end = walk(policy, authorities, question, &mut steps)?;
    let end = end.unwrap_or_else(|rejection| {
        if let Some(step) = steps.last_mut() {
            step.passes = false;
            step.says.insert(0, rejection.reason());
        }
        End::Refused { status: answer::rejection(&rejection).status().as_u16() }
    });
    Ok(Explanation { steps, end })
}

fn walk(
    policy: &Policy,
    authorities: &[String],
    question: Question,
    steps: &mut Vec<Step>,
) -> Result<Result<End, Rejection>, NoSuchKey> {
    let key = question.key.clone();
    let limits = &policy.limits;
    steps.push(Step::of(
        "entrance",
        vec![format!(
            "body: {} bytes, of at most {} (`limits.body`); how many requests came before is not known here",
            question.body.len(),
            limits.body
        )],
    ));
    let arrived = arrive(question, limits.body);

    let path = arrived.head.parts.uri.path();
    let offered: Vec<_> = policy.routes.values().filter(|route| route.path == path).cloned().collect();
    let methods: Vec<_> = offered.iter().map(|route| route.method.clone()).collect();
    let matched = match Match::new(offered).check(arrived) {
        Ok(matched) => matched,
        Err(rejection) => return Ok(Err(rejection)),
    };
    steps.push(Step::of(
        "match",
        vec![match &matched.offer {
            Offer::Route(route) => format!("the route `{}`", route.name),
            Offer::UnknownPath => {
                "no route has this path; what follows is the same for every path".to_owned()
            }
            Offer::WrongMethod => format!("routes of this path have the method {}", methods.join(", ")),
            Offer::AbsoluteForm => "the target is not a path".to_owned(),
        }],
    ));

    let verifier = Verifier::new(&policy.keys, authorities);
    let verified = match key {
        None => match Identify::new(Arc::new(verifier)).check(matched) {
            Ok(verified) => verified,
            Err(rejection) => return Ok(Err(rejection)),
        },
        Some(key) => {
            let (headers, body) = (&matched.arrived.head.parts.headers, matched.arrived.body.whole());
            let at = matched.arrived.head.at;
            let assumed = verifier.assume(&key, headers, body.unwrap_or_default(), at);
            let signatures = assumed.ok_or(NoSuchKey(key))?;
            Verified { arrived: matched.arrived, offer: matched.offer, signatures }
        }
    };
    steps.push(Step::of("identify", identities(&verified)));

    let rules = rules(&verified);
    steps.push(Step::of("allow", Vec::new()));
    let allowed = match Allow.check(verified) {
        Ok(allowed) => allowed,
        Err(rejection) => {
            add(steps, rules);
            return Ok(Err(rejection));
        }
    };
    let chosen = allowed.route.allow.get(allowed.authorized.rule - 1).map(Rule::place);
    add(
        steps,
        chosen.map(|place| {
            format!("rule {} holds ({place}): {}", allowed.authorized.rule, allowed.authorized.identity)
        }),
    );

    steps.push(Step::of("quota", vec![rate(&allowed.route)]));
    steps.push(Step::of("admit", Vec::new()));
    let admit = Admit { largest: limits.body, longest_wait: limits.wait };
    let permit = match admit.check(Paced(allowed)) {
        Ok(permit) => permit,
        Err(rejection) => return Ok(Err(rejection)),
    };
    Ok(render(&permit, steps).map_err(|invalid| permit.allowed().refuse(invalid.into())))
}

fn add(steps: &mut [Step], lines: impl IntoIterator<Item = String>) {
    if let Some(step) = steps.last_mut() {
        step.says.extend(lines);
    }
}

impl Step {
    fn of(guard: &'static str, says: Vec<String>) -> Self {
        Self { guard, passes: true, says }
    }
}

fn arrive(question: Question, largest: usize) -> Arrived {
    let Question { parts, body, source, certificate, key: _, at } = question;
    let shown = certificate.map_or(Shown::Nothing, |certificate| {
        Shown::Verified(Arc::new(Presented {
            certificate: Arc::new(certificate),
            issuer: Vec::new(),
            serial: Vec::new(),
            not_before: at,
            not_after: at,
            epoch: 0,
        }))
    });
    let peer = Arc::new(Peer { address: SocketAddr::new(source, 0), shown });
    let body =
        if body.len() > largest { Body::TooLarge } else { Body::Whole(Whole { bytes: body, _share: None }) };
    Arrived { head: Head { peer, at, parts }, body }
}

/// Who the request has shown to be.
fn identities(verified: &Verified) -> Vec<String> {
    let mut says = Vec::new();
    if let Some(certificate) = verified.arrived.head.certificate() {
        let extensions = certificate.extensions.iter().map(|(oid, value)| format!(", {oid} = {value:?}"));
        says.push(format!("certificate `{}`{}", certificate.certname, extensions.collect::<String>()));
    }
    says.extend(verified.signatures.verified().map(|signed| {
        let over = match &signed.covered {
            Covered::Request(headers) if headers.is_empty() => "the request, no header".to_owned(),
            Covered::Request(headers) => {
                let names: Vec<_> = headers.iter().map(String::as_str).collect();
                format!("the request with {}", names.join(", "))
            }
            Covered::Body => "the body alone".to_owned(),
        };
        format!("signed by the key `{}`: {over}", signed.key)
    }));
    says.extend(verified.signatures.failures().map(|why| format!("a signature proves nothing: {why}")));
    if says.is_empty() {
        says.push("neither certificate nor signature".to_owned());
    }
    says
}

/// What each rule of the route lacks.
fn rules(verified: &Verified) -> Vec<String> {
    let Offer::Route(route) = &verified.offer else { return Vec::new() };
    let certificate = verified.arrived.head.certificate().map(Arc::clone);
    let proofs = |signed: Option<&Signed>| Proofs {
        certificate: certificate.clone(),
        key: signed.map(|signed| signed.key.clone()),
        source: verified.arrived.head.peer.source(),
    };
    let shown: Vec<_> = verified.signatures.verified().map(Some).chain([None]).map(proofs).collect();
    let judged = route.allow.iter().enumerate().filter_map(|(index, rule)| {
        let unmet = shown.iter().find_map(|proofs| rule.judge(proofs).err())?;
        Some(format!("rule {} ({}): {unmet}", index + 1, rule.place()))
    });
    judged.collect()
}

fn rate(route: &Route) -> String {
    route.rate.map_or("the route has no rate".to_owned(), |rate| {
        let per = match rate.per {
            Per::Identity => "for each identity",
            Per::Route => "for all together",
        };
        let rate = rate.rate;
        let (limit, seconds, burst) = (rate.limit, rate.period.as_secs(), rate.burst);
        format!("{limit} every {seconds} s {per}, {burst} at once; how many came before is not known here")
    })
}

fn json(value: &Value) -> String {
    // A text or a list of texts can always be written.
    serde_json::to_string(value).unwrap_or_default()
}

/// What would run, with all that it is made from.
fn render(permit: &Permit, steps: &mut Vec<Step>) -> Result<End, Invalid> {
    let submission = permit.submission();
    let route = &permit.allowed().route;
    let derived = route.parameters.accept(&submission.parameters)?;
    let argv = route.run.render(&derived)?;
    add(
        steps,
        route.when.iter().map(|condition| format!("`{}` is what the condition asks for", condition.from())),
    );
    let RawParameters(raw) = &submission.parameters;
    add(
        steps,
        derived.0.iter().map(|(name, value)| match raw.get(name) {
            Some(given) if given == value => format!("{name} = {}", json(value)),
            Some(given) => format!("{name} = {}, of {}", json(value), json(given)),
            None => format!("{name} = {}, by default", json(value)),
        }),
    );
    let message = match (&submission.message, permit.allowed().signed.as_ref().map(|signed| &signed.id)) {
        (Message::Anonymous, _) => "a message of its own: sent twice, it counts twice".to_owned(),
        (Message::Identified(id), Some(Id::Nonce(_))) => format!("one message for each nonce ({})", id.scope),
        (Message::Identified(id), Some(Id::Own(_))) => {
            format!("one message for each id of the sender ({})", id.scope)
        }
        (Message::Identified(id), Some(Id::InBody(_) | Id::Body) | None) => {
            format!("the message {:?} ({})", id.id, id.scope)
        }
    };
    let joins = if route.run.coalesce { "; joins an equal job that waits" } else { "" };
    let lock = format!("lock: {:?}, {} at once{joins}", route.run.lock(&derived), route.run.concurrency);
    steps.push(Step::of("dispatch", vec![message, lock]));
    Ok(End::Runs(argv))
}
