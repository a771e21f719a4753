//! One route: what it matches, whom it allows, what it takes, and what it runs.
//!
//! Values and the questions that gate and worker ask of them; runs nothing and reads no file.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::Rate;
use super::argv::{StepTemplate, Template};
use super::condition::Condition;
use super::output::Telltale;
use super::parameter::{From, Invalid, Parameters};
use super::restrictions::Restrictions;
use super::rule::Rule;
use crate::domain::argv::Argv;
use crate::domain::identity::{Identity, Proofs};
use crate::domain::job::{Exit, State};
use crate::domain::name::{KeyName, ParameterName, RouteName};
use crate::domain::parameters::DerivedParameters;

/// One `routes/<name>.toml`.
#[derive(Debug)]
pub struct Route {
    /// The file's stem.
    pub name: RouteName,
    /// The request's method, compared byte for byte.
    pub method: String,
    /// The raw request path, compared byte for byte.
    pub path: String,
    /// Largest body in bytes; at most `limits.body`.
    pub body: usize,
    /// Where a body holds JSON.
    pub payload: Payload,
    /// Alternatives, in order; at least one.
    pub allow: Vec<Rule>,
    /// How often it may be asked.
    pub rate: Option<RouteRate>,
    /// What must be true, so that anything runs.
    pub when: Vec<Condition>,
    /// Declared parameters.
    pub parameters: Parameters,
    /// What runs.
    pub run: Run,
}

/// Where a body holds JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// It is JSON.
    Json,
    /// It is a form, and this field of it is JSON.
    Form(String),
    /// Nowhere; no more of it is looked at than the fields of a form that parameters and conditions name.
    None,
}

/// `[rate]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRate {
    /// How many.
    pub rate: Rate,
    /// Counted for whom.
    pub per: Per,
}

/// For whom a route's rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each identity has its own.
    Identity,
    /// All identities share one.
    Route,
}

/// `[run]`
#[derive(Debug)]
pub struct Run {
    /// At least one; run in order.
    pub(super) steps: Vec<StepTemplate>,
    /// The name of the lock.
    pub(super) lock: Template,
    /// Parameters that may make an argument start with `-`.
    pub(super) may_lead: BTreeSet<ParameterName>,
    /// How much nicer than the gate commands are, 0 to 19.
    pub nice: i32,
    /// The working directory.
    pub directory: PathBuf,
    /// The whole environment of the child.
    pub env: BTreeMap<String, String>,
    /// What stands on the standard input of each command.
    pub stdin: Stdin,
    /// For the whole run.
    pub timeout: Duration,
    /// From TERM to KILL.
    pub stop_grace: Duration,
    /// How many jobs of this lock at once.
    pub concurrency: NonZeroU32,
    /// How long a job may wait.
    pub expires: Duration,
    /// Whether a request joins an equal job that waits.
    pub coalesce: bool,
    /// No job starts while this file exists.
    pub wait_while_exists: Option<PathBuf>,
    /// Whether a run that fails is repeated.
    pub retry: Retry,
    /// Whether it runs again after a crash mid-run.
    pub idempotent: bool,
    /// How many bytes of a job's output are kept.
    pub output_limit: usize,
    /// What a step that has failed writes, whatever it exits with.
    pub fail_on_output: Option<Telltale>,
    /// What the sender is told, and when.
    pub respond: Respond,
    /// Whether commands may gain privileges (`su`, `sudo`).
    pub privileges: Privileges,
    /// What else they are held to.
    pub restrictions: Restrictions,
}

/// What stands on the standard input of each command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing.
    None,
    /// The request's body, byte for byte.
    Body,
}

/// `retry`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many runs in all; with 1, none is repeated.
    pub attempts: u32,
    /// From the end of a run to the next.
    pub delay: Duration,
    /// What a step must have exited with; when none is given, every run that failed or took too long is repeated.
    pub exit_codes: Vec<i32>,
}

/// What the sender is told, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Respond {
    /// 202 as soon as the job is durable.
    Accepted,
    /// The result, or 202 when `limits.wait` is over first.
    Result,
}

/// Whether commands may gain privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// `no_new_privs` is set.
    Drop,
    /// It is not.
    MayGain,
}

/// The rule that holds, and whom it picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorized {
    /// Who the request is from.
    pub identity: Identity,
    /// Which entry of `allow`, from 1.
    pub rule: usize,
}

impl Route {
    /// The first rule that holds for these proofs decides.
    #[must_use]
    pub fn authorize(&self, proofs: &Proofs) -> Option<Authorized> {
        let picks = |(index, rule): (usize, &Rule)| {
            rule.judge(proofs).ok().map(|identity| Authorized { identity, rule: index + 1 })
        };
        self.allow.iter().enumerate().find_map(picks)
    }

    /// The keys that its rules name.
    pub fn keys(&self) -> impl Iterator<Item = &KeyName> {
        self.allow.iter().flat_map(Rule::keys)
    }

    /// Whatever its conditions and parameters are taken from.
    pub fn sources(&self) -> impl Iterator<Item = &From> {
        let conditions = self.when.iter().map(Condition::from);
        conditions.chain(self.parameters.sources().map(|(_, from)| from))
    }
}

impl Retry {
    /// Whether run number `attempt`, from 1, is followed by another, given how it and its last step ended.
    #[must_use]
    pub fn follows(&self, attempt: u32, state: State, last: Option<Exit>) -> bool {
        let failed = matches!(state, State::Failed | State::TimedOut);
        let listed = matches!(last, Some(Exit::Code(code)) if self.exit_codes.contains(&code));
        attempt < self.attempts && failed && (self.exit_codes.is_empty() || listed)
    }
}

impl Run {
    /// The argv of each step, in order.
    ///
    /// # Errors
    /// When a value is missing, or a rendered argument starts with `-` because of a parameter that may not.
    pub fn render(&self, parameters: &DerivedParameters) -> Result<Vec<Argv>, Invalid> {
        self.steps.iter().map(|step| step.render(parameters, &self.may_lead)).collect()
    }

    /// The name of the lock that a job with these parameters holds: the rendered text, so that a route that writes the
    /// name out and one that has a placeholder in it share the lock.
    #[must_use]
    pub fn lock(&self, parameters: &DerivedParameters) -> String {
        // Only values that no policy derived can be missing; the unfilled name then locks more, not less.
        self.lock.render(parameters).unwrap_or_else(|_| self.lock.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::Certificate;
    use crate::domain::name::KeyName;
    use crate::policy::tests::{GATEWAY, compile};

    fn route(text: &str) -> std::sync::Arc<Route> {
        let loaded = compile(GATEWAY, &[("r", text)]).unwrap_or_else(|found| panic!("{found}"));
        loaded.policy.routes.values().next().unwrap().clone()
    }

    fn derived(pairs: &[(&str, &str)]) -> DerivedParameters {
        let pair = |(name, value): &(&str, &str)| (ParameterName::parse(name).unwrap(), (*value).into());
        DerivedParameters(pairs.iter().map(pair).collect())
    }

    const TWO_RULES: &str = r#"
        method = "POST"
        path = "/p"
        [[allow]]
        key = ["jenkins"]
        networks = ["10.0.0.0/8"]
        [[allow]]
        certname = ["ci-*.x"]
        [parameters]
        role = { from = "body:/role", pattern = ".*" }
        flag = { from = "body:/flag", pattern = ".*", leading_dash = true }
        [run]
        lock = "role-{role}"
        steps = [["/bin/a", "fixed"], ["/bin/b", "-F", "role={role}", "{flag}", "{{"]]
    "#;

    #[test]
    fn the_first_rule_that_holds_decides() {
        let route = route(TWO_RULES);
        let certificate = Certificate { certname: "ci-1.x".into(), extensions: BTreeMap::new() };
        let proofs = |key: bool, certificate: Option<&Certificate>, source: &str| Proofs {
            certificate: certificate.cloned().map(std::sync::Arc::new),
            key: key.then(|| KeyName::parse("jenkins").unwrap()),
            source: source.parse().unwrap(),
        };
        let by = |proofs| route.authorize(&proofs).map(|by| (by.rule, by.identity.to_string()));
        assert_eq!(by(proofs(true, Some(&certificate), "10.0.0.1")), Some((1, "key:jenkins".into())));
        assert_eq!(by(proofs(true, Some(&certificate), "11.0.0.1")), Some((2, "certname:ci-1.x".into())));
        assert_eq!(by(proofs(true, None, "11.0.0.1")), None);
        assert_eq!(by(proofs(false, None, "10.0.0.1")), None);
    }

    #[test]
    fn steps_are_rendered_in_order_with_the_lock_beside_them() {
        let route = route(TWO_RULES);
        let values = derived(&[("role", "web; rm -rf /"), ("flag", "--noop")]);
        let argv = route.run.render(&values).unwrap();
        let lists: Vec<_> = argv.iter().map(Argv::to_list).collect();
        assert_eq!(lists[0], ["/bin/a", "fixed"]);
        assert_eq!(lists[1], ["/bin/b", "-F", "role=web; rm -rf /", "--noop", "{"]);
        assert_eq!(route.run.lock(&values), "role-web; rm -rf /");
    }

    #[test]
    fn a_run_is_repeated_as_often_and_after_what_the_policy_says() {
        let retry = |exit_codes: &[i32]| Retry {
            attempts: 3,
            delay: Duration::ZERO,
            exit_codes: exit_codes.to_vec(),
        };
        let code = |code| Some(Exit::Code(code));
        for (codes, attempt, state, last, expected) in [
            (&[][..], 1, State::Failed, code(1), true),
            (&[], 2, State::Failed, code(1), true),
            (&[], 3, State::Failed, code(1), false),
            (&[], 1, State::Failed, Some(Exit::Signal(9)), true),
            (&[], 1, State::Failed, None, true),
            (&[], 1, State::TimedOut, Some(Exit::TimedOut), true),
            (&[], 1, State::Succeeded, code(0), false),
            (&[], 1, State::Refused, None, false),
            (&[], 1, State::Cancelled, code(1), false),
            (&[], 1, State::Interrupted, Some(Exit::Signal(15)), false),
            (&[75, 2], 1, State::Failed, code(2), true),
            (&[75, 2], 1, State::Failed, code(1), false),
            (&[75, 2], 1, State::Failed, Some(Exit::Signal(2)), false),
            (&[75, 2], 1, State::TimedOut, Some(Exit::TimedOut), false),
        ] {
            let found = retry(codes).follows(attempt, state, last);
            assert_eq!(found, expected, "{codes:?} {attempt} {state} {last:?}");
        }
    }

    #[test]
    fn i1_a_value_that_is_missing_runs_nothing() {
        let route = route(TWO_RULES);
        assert!(route.run.render(&derived(&[("role", "web")])).is_err());
        assert_eq!(route.run.lock(&derived(&[])), "role-{role}");
    }
}
