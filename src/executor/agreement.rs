//! What this process's own policy says of a job: the question that intake and worker both ask (invariant I4).
//!
//! A job names a route and raw parameters. Values, argv and lock are derived here, from the policy alone; whatever the
//! policy does not offer to these proofs is a disagreement, never a smaller job.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::domain::argv::Argv;
use crate::domain::body::Body;
use crate::domain::identity::{Identity, Proofs};
use crate::domain::name::RouteName;
use crate::domain::parameters::{DerivedParameters, RawParameters, Value};
use crate::domain::submission::Terms;
use crate::policy::Policy;
use crate::policy::parameter::Invalid;
use crate::policy::route::{Authorized, Route, Stdin};

/// What a job asks for, and who asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) route: &'a RouteName,
    pub(super) identity: &'a Identity,
    pub(super) proofs: &'a Proofs,
    pub(super) parameters: &'a RawParameters,
    pub(super) body: Option<&'a Body>,
}

/// What the policy offers for it.
#[derive(Debug)]
pub(super) struct Agreed {
    /// The route as this policy has it.
    pub(super) route: Arc<Route>,
    /// Which entry of `allow` holds, from 1.
    pub(super) rule: usize,
    /// What runs, in order.
    pub(super) steps: Vec<Argv>,
    /// What the queue needs to know.
    pub(super) terms: Terms,
}

/// The policy does not offer what a job asks for. Never holds a parameter's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Disagreement {
    #[error("it has no route `{0}`")]
    NoRoute(RouteName),
    #[error("no rule of the route `{route}` allows `{identity}` with what the request showed")]
    NotAllowed { route: RouteName, identity: Identity },
    #[error("the rules of the route `{route}` say `{here}`, the job says `{there}`")]
    OtherIdentity { route: RouteName, here: Identity, there: Identity },
    #[error("commands of the route `{0}` read no body, and the job has one")]
    BodyNotTaken(RouteName),
    /// A job that is to be repeated may have had one that is no longer kept.
    #[error("commands of the route `{0}` read the request's body, and the job has none, or no longer")]
    BodyMissing(RouteName),
    #[error("the route `{route}` takes bodies of up to {limit} bytes, and the job's is larger")]
    BodyTooLarge { route: RouteName, limit: usize },
    #[error(transparent)]
    Parameter(#[from] Invalid),
    /// What was rendered of it, such as an argument that would look like an option.
    #[error("{0}")]
    Argument(String),
}

/// Asks `policy` for what a job asks for.
///
/// # Errors
/// The first thing that it does not offer.
pub(super) fn agree(policy: &Policy, asked: Asked<'_>) -> Result<Agreed, Disagreement> {
    let name = asked.route;
    let route = policy.routes.get(name).ok_or_else(|| Disagreement::NoRoute(name.clone()))?;
    let there = asked.identity.clone();
    let rule = match route.authorize(asked.proofs) {
        Some(Authorized { identity, rule }) if identity == there => rule,
        Some(Authorized { identity: here, .. }) => {
            return Err(Disagreement::OtherIdentity { route: name.clone(), here, there });
        }
        None => return Err(Disagreement::NotAllowed { route: name.clone(), identity: there }),
    };
    match (route.run.stdin, asked.body) {
        (Stdin::None, None) => {}
        (Stdin::None, Some(_)) => return Err(Disagreement::BodyNotTaken(name.clone())),
        (Stdin::Body, None) => return Err(Disagreement::BodyMissing(name.clone())),
        (Stdin::Body, Some(body)) if body.bytes().len() > route.body => {
            return Err(Disagreement::BodyTooLarge { route: name.clone(), limit: route.body });
        }
        (Stdin::Body, Some(_)) => {}
    }
    let derived = route.parameters.accept(asked.parameters)?;
    let steps = route.run.render(&derived).map_err(|error| Disagreement::Argument(error.to_string()))?;
    let terms = Terms {
        lock: route.run.lock(&derived),
        concurrency: route.run.concurrency,
        expires: route.run.expires,
        idempotent: route.run.idempotent,
        likeness: route.run.coalesce.then(|| likeness(name, asked.body, &derived)),
        awaits: route.run.wait_while_exists.clone(),
    };
    Ok(Agreed { route: Arc::clone(route), rule, steps, terms })
}

/// The same for the same route, body and derived values, and for nothing else: lengths keep the parts apart, and a list
/// says how many it has.
fn likeness(route: &RouteName, body: Option<&Body>, derived: &DerivedParameters) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(route.as_str().as_bytes());
    match body {
        None => add(b"none"),
        Some(body) => {
            add(b"body");
            add(body.bytes());
        }
    }
    for (name, value) in &derived.0 {
        add(name.as_str().as_bytes());
        match value {
            Value::Text(text) => {
                add(b"text");
                add(text.as_bytes());
            }
            Value::List(items) => {
                add(b"list");
                add(items.len().to_string().as_bytes());
                items.iter().for_each(|item| add(item.as_bytes()));
            }
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::domain::name::{KeyName, ParameterName};
    use crate::policy;

    /// A policy with the key `jenkins` and one route, `greet`, that runs `run` and takes a parameter `name`.
    pub(in crate::executor) fn greeting(directory: &Path, run: &str) -> Policy {
        let route = format!(
            "method = \"POST\"\npath = \"/greet\"\n\n\
             [[allow]]\nkey = [\"jenkins\"]\nnetworks = [\"192.0.2.0/24\"]\n\n\
             [parameters]\nname = {{ from = \"query:name\", pattern = \"[a-z-]+\" }}\n\n[run]\n{run}\n"
        );
        let gateway = "[listen]\ncertificate = \"server.crt\"\nprivate_key = \"server.secret\"\n\n\
                       [queue]\nfile = \"queue.db\"\n\n[audit]\nfile = \"audit.jsonl\"\n\n[limits]\nrunning = 2\n\n\
                       [keys.jenkins]\nscheme = \"rfc9421\"\nsecrets = [\"jenkins.secret\"]\n";
        std::fs::create_dir(directory.join("routes")).unwrap();
        for (name, text) in [
            ("gateway.toml", gateway),
            ("routes/greet.toml", &route),
            ("server.crt", "not looked at here\n"),
            ("server.secret", "not looked at here\n"),
            ("jenkins.secret", "0123456789abcdef0123456789abcdef\n"),
        ] {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        policy::load(directory, policy::Purpose::Whole).unwrap_or_else(|errors| panic!("{errors}")).policy
    }

    pub(in crate::executor) fn jenkins() -> Identity {
        KeyName::parse("jenkins").map(Identity::Key).unwrap()
    }

    /// What `jenkins` shows from the documentation's network.
    pub(in crate::executor) fn proofs() -> Proofs {
        let key = KeyName::parse("jenkins").ok();
        Proofs { certificate: None, key, source: "192.0.2.7".parse().unwrap() }
    }

    pub(in crate::executor) fn named(value: &str) -> RawParameters {
        RawParameters(BTreeMap::from([(ParameterName::parse("name").unwrap(), value.into())]))
    }

    fn ask(
        policy: &Policy,
        route: &str,
        identity: &Identity,
        proofs: &Proofs,
        value: &str,
    ) -> Result<Agreed, Disagreement> {
        let (route, parameters) = (RouteName::parse(route).unwrap(), named(value));
        agree(policy, Asked { route: &route, identity, proofs, parameters: &parameters, body: None })
    }

    #[test]
    fn i4_argv_and_terms_come_from_the_policy() {
        let directory = tempfile::tempdir().unwrap();
        let run =
            "steps = [[\"/usr/bin/echo\", \"hello {name}\"]]\nlock = \"greet-{name}\"\nexpires = \"5m\"";
        let policy = greeting(directory.path(), run);
        let agreed = ask(&policy, "greet", &jenkins(), &proofs(), "world").unwrap();
        assert_eq!(agreed.steps, [Argv::new("/usr/bin/echo", vec!["hello world".into()]).unwrap()]);
        assert_eq!(agreed.terms.lock, "greet-world");
        assert_eq!(agreed.terms.expires.as_secs(), 300);
        assert!(!agreed.terms.idempotent);
        assert_eq!(agreed.terms.likeness, None);
    }

    #[test]
    fn jobs_are_equal_when_route_and_derived_values_are() {
        let route = |name| RouteName::parse(name).unwrap();
        let derived = |pairs: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| (ParameterName::parse(name).unwrap(), (*value).into());
            DerivedParameters(pairs.iter().map(pair).collect())
        };
        let lists = |lists: &[(&str, &[&str])]| {
            let list = |items: &[&str]| Value::List(items.iter().map(|item| (*item).to_owned()).collect());
            let pair = |(name, items): &(&str, &[&str])| (ParameterName::parse(name).unwrap(), list(items));
            likeness(&route("r"), None, &DerivedParameters(lists.iter().map(pair).collect()))
        };
        let of = |name, pairs: &[(&str, &str)]| likeness(&route(name), None, &derived(pairs));
        let with =
            |body: &[u8], pairs: &[(&str, &str)]| likeness(&route("r"), Some(&body.into()), &derived(pairs));
        assert_eq!(of("r", &[("a", "1"), ("b", "2")]), of("r", &[("b", "2"), ("a", "1")]));
        let all = [
            of("r", &[]),
            of("ra", &[]),
            of("r", &[("a", "")]),
            of("r", &[("a", "1"), ("b", "2")]),
            of("r", &[("a", "1b2")]),
            of("r", &[("a", "1b"), ("b", "2")]),
            of("r", &[("a1", "b"), ("b", "2")]),
            of("s", &[("a", "1"), ("b", "2")]),
            of("r", &[("a", "1")]),
            lists(&[("a", &["1"])]),
            lists(&[("a", &["1", "2"])]),
            lists(&[("a", &["2", "1"])]),
            lists(&[("a", &["12"])]),
            lists(&[("a", &["1", "b", "list", "1", "2"])]),
            lists(&[("a", &["1"]), ("b", &["2"])]),
            with(b"", &[]),
            with(b"1", &[]),
            with(b"1\n", &[]),
            with(b"1", &[("a", "1")]),
            with(b"a", &[("text", "1")]),
        ];
        assert_eq!(with(b"1", &[]), with(b"1", &[]));
        assert_eq!(std::collections::BTreeSet::from(all).len(), all.len());

        let directory = tempfile::tempdir().unwrap();
        let policy = greeting(directory.path(), "steps = [[\"/usr/bin/echo\"]]\ncoalesce = true");
        let [one, same, other] = ["world", "world", "moon"]
            .map(|name| ask(&policy, "greet", &jenkins(), &proofs(), name).unwrap().terms.likeness);
        assert!(one.is_some() && one == same && one != other);
    }

    #[test]
    fn i4_a_body_is_there_where_commands_read_one_and_nowhere_else() {
        let ask = |run: &str, body: Option<usize>| {
            let directory = tempfile::tempdir().unwrap();
            let policy = greeting(directory.path(), &format!("steps = [[\"/usr/bin/cat\"]]\n{run}"));
            let (route, parameters) = (RouteName::parse("greet").unwrap(), named("world"));
            let limit = policy.routes[&route].body;
            let body = body.map(|more| Body::from(vec![b'x'; more * limit + more.min(1)]));
            let (identity, proofs) = (jenkins(), proofs());
            let body = body.as_ref();
            let asked =
                Asked { route: &route, identity: &identity, proofs: &proofs, parameters: &parameters, body };
            agree(&policy, asked).map(|agreed| agreed.terms.likeness)
        };
        let takes = "stdin = \"body\"\ncoalesce = true";
        assert!(ask("", None).is_ok());
        assert!(ask(takes, Some(0)).is_ok_and(|likeness| likeness.is_some()));
        assert!(matches!(ask("", Some(0)), Err(Disagreement::BodyNotTaken(_))));
        assert!(matches!(ask(takes, None), Err(Disagreement::BodyMissing(_))));
        assert!(matches!(ask(takes, Some(1)), Err(Disagreement::BodyTooLarge { .. })));
    }

    #[test]
    fn i4_what_the_policy_does_not_offer_is_a_disagreement() {
        let directory = tempfile::tempdir().unwrap();
        let policy = greeting(directory.path(), "steps = [[\"/usr/bin/echo\", \"{name}\"]]");
        let elsewhere = Proofs { source: "198.51.100.7".parse().unwrap(), ..proofs() };
        let nothing = Proofs { key: None, ..proofs() };
        let other = KeyName::parse("other").map(Identity::Key).unwrap();
        let refused = |route: &str, identity: &Identity, proofs: &Proofs, value: &str| {
            ask(&policy, route, identity, proofs, value).expect_err("a disagreement")
        };
        assert!(matches!(refused("other", &jenkins(), &proofs(), "x"), Disagreement::NoRoute(_)));
        assert!(matches!(refused("greet", &jenkins(), &elsewhere, "x"), Disagreement::NotAllowed { .. }));
        assert!(matches!(refused("greet", &jenkins(), &nothing, "x"), Disagreement::NotAllowed { .. }));
        assert!(matches!(refused("greet", &other, &proofs(), "x"), Disagreement::OtherIdentity { .. }));
        assert!(matches!(refused("greet", &jenkins(), &proofs(), "X;Y"), Disagreement::Parameter(_)));
        assert!(matches!(refused("greet", &jenkins(), &proofs(), "-x"), Disagreement::Argument(_)));
        let told = refused("greet", &jenkins(), &proofs(), "hunter2").to_string();
        assert!(!told.contains("hunter2"), "{told}");
    }
}
