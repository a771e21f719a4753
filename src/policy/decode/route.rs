//! `routes/<name>.toml`: what a route matches, whom it allows, and how often.
//! Its `[parameters]` and `[run]` have files of their own.

use std::num::NonZeroU32;

use super::gateway::Known;
use super::limits::positive_size;
use super::source::{Sources, Written};
use super::{Decoded, Page, Table, Value, parameters, rule, run, source, when};
use crate::domain::name::{KeyName, RouteName};
use crate::policy::argv::Template;
use crate::policy::diagnostic::{Finding, Place};
use crate::policy::files::Files;
use crate::policy::restrictions::Account;
use crate::policy::route::{Payload, Per, Route, RouteRate};
use crate::policy::units;

/// What other routes are compared with, as far as it could be read.
#[derive(Debug, Default)]
pub(in crate::policy) struct Outline {
    pub(in crate::policy) matches: Option<(String, String, Place)>,
    pub(in crate::policy) lock: Option<(Template, NonZeroU32, Place)>,
    /// Keys that it allows and that sign the body alone.
    pub(in crate::policy) signed_bodies: Vec<(KeyName, Place)>,
    /// The user whom its commands run as.
    pub(in crate::policy) user: Option<(Account, Place)>,
}

/// Methods of which a route can have one.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Paths below this one are the gateway's own.
const OWN_PATHS: &str = "/-/";

/// Decodes the whole file; `outline` is filled as far as possible.
pub(in crate::policy) fn decode(
    page: &Page,
    stem: &str,
    known: &Known,
    files: &Files,
    outline: &mut Outline,
) -> Decoded<Route> {
    // Read even without a name, so that all that is wrong in the file is said at once.
    let name = RouteName::parse(stem)
        .map_err(|error| page.report(Finding::error(page.start(), format!("not a route's file: {error}"))));
    page.read(&format!("`routes/{}.toml`", stem.escape_debug()), |top| {
        let method = top.required("method", method);
        let path = top.required("path", path);
        if let (Ok(method), Ok(path)) = (&method, &path) {
            outline.matches = Some((method.clone(), path.clone(), top.place_of("path")));
        }
        let body = top.or("body", known.body.unwrap_or(usize::MAX), |value| body(value, known));
        let payload = top.or("payload", Payload::Json, payload);
        let mut sources = Sources::new(match (&payload, top.has("payload")) {
            (Ok(Payload::Json), true) => Written::Json,
            (Ok(Payload::Form(_)), _) => Written::Form,
            (Ok(Payload::None), _) => Written::None,
            (Ok(Payload::Json), false) | (Err(_), _) => Written::Not,
        });
        let allow = allow(top, known);
        let rate = top.optional("rate", |value| value.table("`[rate]`", rate));
        let when = top.or("when", Vec::new(), |value| when::decode(value, &mut sources));
        let mut declared = parameters::names(top);
        let parameters = top.table_or_defaults("parameters", "`[parameters]`", |table| {
            parameters::decode(table, &mut sources)
        });
        if let (Some(declared), Ok(parameters)) = (&mut declared, &parameters) {
            declared.extend(parameters.shapes().map(|(name, shape)| (name.clone(), shape)));
        }
        let run = top.required("run", |value| {
            value.table("`[run]`", |table| {
                run::decode(table, stem, declared.as_ref(), files, &mut outline.lock)
            })
        });
        let route = Route {
            name: name?,
            method: method?,
            path: path?,
            body: body?,
            payload: if sources.only_form() { Payload::None } else { payload? },
            allow: allow?,
            rate: rate?,
            when: when?,
            parameters: parameters?,
            run: run?,
        };
        let account = route.run.restrictions.user.as_ref().and_then(|user| user.account.as_ref());
        outline.user = account.map(|account| (account.clone(), top.place_of("run")));
        outline.signed_bodies =
            signed_bodies(&route, known).map(|key| (key.clone(), top.place_of("allow"))).collect();
        warn_of_unsigned(top, &sources, &outline.signed_bodies);
        complete(top, route, known)
    })
}

/// What can only be said of a whole route.
fn complete(top: &Table<'_>, mut route: Route, known: &Known) -> Decoded<Route> {
    let known_key = |name| known.keys.as_ref().and_then(|keys| keys.get(name));
    if route.payload == Payload::None
        && let Some(key) = route.keys().find(|name| known_key(*name).is_some_and(|key| key.id == Some(true)))
    {
        let message =
            format!("the key `{key}` takes its message ids from a body's JSON, and this route reads none");
        return Err(top.page().report(Finding::error(top.place_of("payload"), message)));
    }
    for (name, parameter) in &route.parameters.0 {
        if parameter.leading_dash {
            route.run.may_lead.insert(name.clone());
        }
    }
    let by_certificate = route.allow.iter().any(|rule| rule.keys().is_empty());
    if by_certificate && !route.run.idempotent && !route.run.coalesce {
        top.page().warn(
            top.place_of("allow"),
            "requests with a certificate are no numbered messages: one that is sent twice runs twice",
            "say `coalesce = true` in `[run]` if one run serves all who wait for it, or `idempotent = true` if a second run does no harm",
        );
    }
    Ok(route)
}

fn method(value: Value<'_>) -> Decoded<String> {
    let text = value.text()?;
    if METHODS.contains(&text) {
        return Ok(text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    let message = match upper.as_str() {
        "HEAD" => "a HEAD request runs nothing: use GET".to_owned(),
        "CONNECT" | "OPTIONS" | "TRACE" => format!("{upper} speaks to servers and proxies, and runs nothing"),
        _ => format!("`{}` is not a method that a route can have", text.escape_debug()),
    };
    let mut finding = value.finding(message);
    if METHODS.contains(&upper.as_str()) {
        finding = finding.help(format!("did you mean `{upper}`?"));
    }
    Err(value.page().report(finding.help(format!("allowed here: {}", METHODS.join(", ")))))
}

fn path(value: Value<'_>) -> Decoded<String> {
    let text = value.text()?;
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"%?#{}*".contains(&byte);
    if !text.starts_with('/') {
        return Err(value.refuse("a path starts with `/`"));
    }
    if let Some(at) = text.bytes().position(|byte| !plain(byte)) {
        let message =
            "`path`: printable ASCII without `%`, `?`, `#`, `{`, `}` and `*`; it is compared byte for byte";
        let finding = Finding::error(value.part(at..at + 1), message);
        return Err(value.page().report(finding));
    }
    if text.starts_with(OWN_PATHS) {
        return Err(value.refuse(format!("paths below `{OWN_PATHS}` are the gateway's own")));
    }
    Ok(text.to_owned())
}

fn body(value: Value<'_>, known: &Known) -> Decoded<usize> {
    let size = positive_size(value)?;
    match known.body {
        Some(limit) if size > limit => Err(value.refuse(format!(
            "more than `limits.body` ({limit} bytes), beyond which no body is read: raise that, or lower this"
        ))),
        Some(_) | None => Ok(size),
    }
}

fn payload(value: Value<'_>) -> Decoded<Payload> {
    let text = value.text()?;
    match (text, text.strip_prefix("form:")) {
        ("json", _) => Ok(Payload::Json),
        ("none", _) => Ok(Payload::None),
        (_, Some(field)) if source::is_field_name(field) => Ok(Payload::Form(field.to_owned())),
        (_, Some(_)) => Err(value.refuse("the name of the form's field that holds JSON follows `form:`")),
        (_, None) => {
            let finding = value.finding(format!("`{}` is not one of its values", text.escape_debug()));
            let help = "allowed here: `json`, `none`, and `form:` with the name of the field that holds JSON";
            Err(value.page().report(finding.help(help)))
        }
    }
}

/// The keys of its rules that sign bodies, but not for which path.
fn signed_bodies<'r>(route: &'r Route, known: &Known) -> impl Iterator<Item = &'r KeyName> {
    let signs_requests =
        |name| known.keys.as_ref().and_then(|keys| keys.get(name)).and_then(|key| key.signs_requests);
    let mut keys: Vec<_> = route.keys().filter(|name| signs_requests(*name) == Some(false)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
}

fn warn_of_unsigned(top: &Table<'_>, sources: &Sources, signed_bodies: &[(KeyName, Place)]) {
    let Some((key, _)) = signed_bodies.first() else {
        return;
    };
    for (source, place) in &sources.beside_the_body {
        top.page().warn(
            place.clone(),
            format!("`{source}` is not signed by the key `{key}`, which signs the body alone: whoever sees a request can send it with another"),
            "take what matters from the body, or use a key of the scheme `rfc9421`",
        );
    }
}

fn allow(top: &mut Table<'_>, known: &Known) -> Decoded<Vec<crate::policy::rule::Rule>> {
    if !top.has("allow") {
        let message = "`allow` is missing: a route without a rule that says who may is not a policy";
        let help = "add `[[allow]]` with `key`, `certname` or `extensions`";
        // Asked for all the same, so that the key counts as known.
        let _ = top.optional("allow", |_| Ok(()));
        return Err(top.page().report(Finding::error(top.place(), message).help(help)));
    }
    top.required("allow", |value| {
        if value.is_table() {
            return Err(
                value.refuse("there may be several rules: write each with double brackets, `[[allow]]`")
            );
        }
        value.list(|value| value.table("`[[allow]]`", |table| rule::decode(table, known)))
    })
}

fn rate(table: &mut Table<'_>) -> Decoded<RouteRate> {
    let limit = table.required("limit", |value| value.parse(units::rate));
    let burst = table.optional("burst", |value| value.number(1..=u32::MAX));
    let words = [("identity", Per::Identity), ("route", Per::Route)];
    let per = table.or("per", Per::Identity, |value| value.word(&words, &[]));
    let mut rate = limit?;
    if let Some(burst) = burst?.and_then(NonZeroU32::new) {
        rate.burst = burst;
    }
    Ok(RouteRate { rate, per: per? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{GATEWAY, ROUTE, compile, findings};
    use std::time::Duration;

    fn with(from: &str, to: &str) -> Vec<String> {
        assert!(ROUTE.contains(from), "{from}");
        findings(GATEWAY, &[("r", &ROUTE.replace(from, to))])
    }

    fn route(text: &str) -> std::sync::Arc<Route> {
        let loaded = compile(GATEWAY, &[("r", text)]).unwrap_or_else(|found| panic!("{found}"));
        loaded.policy.routes.values().next().unwrap().clone()
    }

    #[test]
    fn defaults_are_those_of_the_language() {
        let route = route(ROUTE);
        assert_eq!((route.method.as_str(), route.path.as_str()), ("POST", "/promote"));
        assert_eq!((route.body, &route.payload, route.rate), (65_536, &Payload::Json, None));
        assert_eq!(route.run.lock(&Default::default()), "r");
        assert_eq!((route.run.nice, route.run.directory.to_str()), (5, Some("/")));
        assert!(route.run.env.is_empty() && !route.run.idempotent && !route.run.coalesce);
        assert_eq!((route.run.timeout.as_secs(), route.run.stop_grace.as_secs()), (600, 10));
        assert_eq!((route.run.concurrency.get(), route.run.expires.as_secs()), (1, 3600));
        assert_eq!(route.run.output_limit, 1 << 20);
        assert_eq!(route.run.respond, crate::policy::route::Respond::Accepted);
        assert_eq!(route.run.privileges, crate::policy::route::Privileges::Drop);
    }

    #[test]
    fn a_rate_has_a_burst_and_someone_it_counts_for() {
        for (text, limit, burst, per) in [
            ("limit = \"60/m\"", 60, 60, Per::Identity),
            ("limit = \"60/m\"\nburst = 10\nper = \"route\"", 60, 10, Per::Route),
        ] {
            let rate = route(&ROUTE.replace("[run]", &format!("[rate]\n{text}\n[run]"))).rate.unwrap();
            assert_eq!((rate.rate.limit.get(), rate.rate.burst.get(), rate.per), (limit, burst, per));
            assert_eq!(rate.rate.period, Duration::from_secs(60));
        }
    }

    #[test]
    fn what_a_route_matches_is_checked() {
        let path =
            "`path`: printable ASCII without `%`, `?`, `#`, `{`, `}` and `*`; it is compared byte for byte";
        for (from, to, finding) in [
            ("method = \"POST\"", "", "`method` is missing in `routes/r.toml`"),
            ("\"POST\"", "\"post\"", "`method`: `post` is not a method that a route can have"),
            ("\"POST\"", "\"PURGE\"", "`method`: `PURGE` is not a method that a route can have"),
            ("\"POST\"", "\"HEAD\"", "`method`: a HEAD request runs nothing: use GET"),
            ("\"POST\"", "\"CONNECT\"", "`method`: CONNECT speaks to servers and proxies, and runs nothing"),
            ("\"POST\"", "[\"POST\"]", "`method`: takes a string, not an array"),
            ("path = \"/promote\"", "", "`path` is missing in `routes/r.toml`"),
            ("/promote", "promote", "`path`: a path starts with `/`"),
            ("/promote", "/a?b", path),
            ("/promote", "/a%20b", path),
            ("/promote", "/{a}", path),
            ("/promote", "/a*", path),
            ("/promote", "/a b", path),
            ("/promote", "/é", path),
            ("/promote", "/-/jobs/x", "`path`: paths below `/-/` are the gateway's own"),
            (
                "[[allow]]",
                "body = \"65KiB\"\n[[allow]]",
                "`body`: more than `limits.body` (65536 bytes), beyond which no body is read: raise that, or lower this",
            ),
            ("[[allow]]", "body = \"0B\"\n[[allow]]", "`body`: a size of at least 1B"),
            ("[[allow]]", "payload = \"xml\"\n[[allow]]", "`payload`: `xml` is not one of its values"),
            (
                "[[allow]]",
                "payload = \"form:\"\n[[allow]]",
                "`payload`: the name of the form's field that holds JSON follows `form:`",
            ),
            (
                "[[allow]]",
                "[[when]]\nfrom = \"query:x\"\n[[allow]]",
                "a condition has exactly one of `pattern` and `one_of`",
            ),
            (
                "[[allow]]",
                "[[when]]\nfrom = \"query:x\"\none_of = [\"a\"]\npattern = \"a\"\n[[allow]]",
                "a condition has exactly one of `pattern` and `one_of`",
            ),
            (
                "[[allow]]",
                "[when]\nfrom = \"query:x\"\none_of = [\"a\"]\n[[allow]]",
                "`when`: there may be several conditions: write each with double brackets, `[[when]]`",
            ),
            ("[[allow]]", "[[when]]\none_of = [\"a\"]\n[[allow]]", "`from` is missing in `[[when]]`"),
            (
                "[[allow]]",
                "[[when]]\nfrom = \"query:x\"\ninteger = { min = 1, max = 2 }\none_of = [\"a\"]\n[[allow]]",
                "unknown key `integer` in `[[when]]`",
            ),
            ("[[allow]]", "name = \"r\"\n[[allow]]", "unknown key `name` in `routes/r.toml`"),
            ("[run]", "[rate]\nburst = 5\n[run]", "`limit` is missing in `[rate]`"),
            (
                "[run]",
                "[rate]\nlimit = \"1/s\"\nburst = 0\n[run]",
                "`burst`: a whole number from 1 to 4294967295",
            ),
            (
                "[run]",
                "[rate]\nlimit = \"1/s\"\nper = \"key\"\n[run]",
                "`per`: `key` is not one of its values",
            ),
        ] {
            assert_eq!(with(from, to), [finding], "{to}");
        }
        for method in METHODS {
            assert_eq!(with("POST", method), [""; 0]);
        }
    }

    #[test]
    fn i1_a_route_without_a_rule_that_proves_an_identity_is_no_policy() {
        let rule = "[[allow]]\n        key = [\"jenkins\"]";
        for (to, finding) in [
            ("", "`allow` is missing: a route without a rule that says who may is not a policy"),
            ("allow = []", "`allow`: a list of at least one; leave the key out if it is not meant"),
            ("[allow]", "`allow`: there may be several rules: write each with double brackets, `[[allow]]`"),
            (
                "[[allow]]",
                "a rule that proves nobody's identity: it has no `key`, `certname` or `extensions`",
            ),
            (
                "[[allow]]\nnetworks = [\"10.0.0.0/8\"]",
                "a rule that proves nobody's identity: it has no `key`, `certname` or `extensions`",
            ),
            ("[[allow]]\nkey = []", "`key`: a list of at least one; leave the key out if it is not meant"),
            (
                "[[allow]]\nextensions = {}",
                "`extensions`: at least one extension; leave the key out if none is meant",
            ),
        ] {
            assert_eq!(with(rule, to), [finding], "{to}");
        }
    }

    #[test]
    fn a_certificate_rule_on_a_route_that_neither_coalesces_nor_is_idempotent_is_worth_a_warning() {
        let certname = ROUTE.replace("key = [\"jenkins\"]", "certname = [\"node.x\"]");
        let warning =
            "requests with a certificate are no numbered messages: one that is sent twice runs twice";
        assert_eq!(findings(GATEWAY, &[("r", &certname)]), [warning]);
        assert_eq!(findings(GATEWAY, &[("r", &format!("{certname}idempotent = true"))]), [""; 0]);
        assert_eq!(findings(GATEWAY, &[("r", &format!("{certname}coalesce = true"))]), [""; 0]);
    }

    /// A gateway with one key of each kind of scheme, of which `builds` finds its message ids in bodies.
    const SENDERS: &str = r#"
        [keys.gitea]
        scheme = "gitea"
        secrets = ["secrets/other"]
        [keys.builds]
        scheme = "body-hmac"
        header = "X-Signature"
        secrets = ["secrets/third"]
        id = "body:/build_tag"
        [limits]
        body = "1MiB"
    "#;

    fn of_senders(key: &str, more: &str) -> Vec<String> {
        let text = ROUTE.replace("jenkins", key).replace("[[allow]]", &format!("{more}\n[[allow]]"));
        findings(&format!("{GATEWAY}{SENDERS}"), &[("r", &text)])
    }

    #[test]
    fn what_a_signed_body_does_not_cover_is_worth_a_warning() {
        let beside = "[parameters]\np = { from = \"query:p\", one_of = [\"1\"] }\n[[when]]\nfrom = \"header:X-Event\"\none_of = [\"push\"]";
        let warnings = ["query:p", "header:x-event"].map(|source| {
            format!("`{source}` is not signed by the key `gitea`, which signs the body alone: whoever sees a request can send it with another")
        });
        assert_eq!(of_senders("gitea", beside), warnings);
        assert_eq!(of_senders("jenkins", beside), [""; 0]);
        assert_eq!(of_senders("gitea", "[[when]]\nfrom = \"body:/x\"\none_of = [\"1\"]"), [""; 0]);

        let other = ROUTE.replace("/promote", "/other").replace("jenkins", "gitea");
        let text = ROUTE.replace("[\"jenkins\"]", "[\"jenkins\", \"gitea\"]");
        let found = findings(&format!("{GATEWAY}{SENDERS}"), &[("a", &text), ("b", &other)]);
        let shared =
            "the key `gitea` signs the body alone: what it signs for the route `a` is good for this one, too";
        assert_eq!(found, [shared]);
    }

    #[test]
    fn a_body_is_json_or_a_form_or_a_form_with_json() {
        let parameter = |from: &str| format!("[parameters]\np = {{ from = \"{from}\", one_of = [\"1\"] }}");
        let payload = |written: &str, more: &str| {
            let text = ROUTE.replace("[[allow]]", &format!("{written}\n{more}\n[[allow]]"));
            compile(GATEWAY, &[("r", &text)])
                .map(|loaded| loaded.policy.routes.into_values().next().unwrap().payload.clone())
                .map_err(|found| found.messages().map(str::to_owned).collect::<Vec<_>>())
        };
        let form = || Payload::Form("payload".into());
        for (written, from, expected) in [
            ("", "body:/p", Payload::Json),
            ("", "query:p", Payload::Json),
            ("", "form:p", Payload::None),
            ("payload = \"none\"", "form:p", Payload::None),
            ("payload = \"form:payload\"", "form:p", form()),
            ("payload = \"form:payload\"", "body:/p", form()),
        ] {
            assert_eq!(payload(written, &parameter(from)), Ok(expected), "{written} {from}");
        }
        let refused = payload("payload = \"json\"", &parameter("form:p"));
        assert_eq!(
            refused,
            Err(vec!["`from`: there is no form to take it from, because `payload` is \"json\"".into()])
        );
        let both = "[[when]]\nfrom = \"form:p\"\none_of = [\"1\"]\n".to_owned() + &parameter("body:/p");
        let mixed = "`from`: a body is JSON or a form: `payload = \"form:<field>\"` says which field of a form holds JSON";
        assert_eq!(payload("", &both), Err(vec![mixed.into()]));
        assert_eq!(payload("payload = \"form:payload\"", &both), Ok(form()));

        let no_ids = "the key `builds` takes its message ids from a body's JSON, and this route reads none";
        assert_eq!(of_senders("builds", "payload = \"none\""), [no_ids]);
        assert_eq!(of_senders("builds", ""), [""; 0]);
    }

    #[test]
    fn all_errors_of_a_file_are_shown_at_once_with_carets() {
        let text = r#"method = "post"
path = "promote"
pth = 1

[[allow]]
key = ["jenkin"]
networks = ["10.20.3.4/16"]

[parameters]
role = { from = "body:/role", patern = "[a-z]+" }

[run]
steps = [["mco", "role={rolle}", "x}"]]
timeout = "10 minutes"
"#;
        let found = compile(GATEWAY, &[("promote", text)]).unwrap_err();
        insta::assert_snapshot!(found, @r#"
        error: `method`: `post` is not a method that a route can have
         --> /policy/routes/promote.toml:1:10
          |
        1 | method = "post"
          |          ^^^^^^
          |
          = help: did you mean `POST`?
          = help: allowed here: GET, POST, PUT, PATCH, DELETE

        error: `path`: a path starts with `/`
         --> /policy/routes/promote.toml:2:8
          |
        2 | path = "promote"
          |        ^^^^^^^^^

        error: unknown key `pth` in `routes/promote.toml`
         --> /policy/routes/promote.toml:3:1
          |
        3 | pth = 1
          | ^^^
          |
          = help: did you mean `path`?
          = help: allowed here: method, path, body, payload, allow, rate, when, parameters, run

        error: `key`: there is no `[keys.jenkin]` in gateway.toml
         --> /policy/routes/promote.toml:6:8
          |
        6 | key = ["jenkin"]
          |        ^^^^^^^^
          |
          = help: did you mean `jenkins`?
          = help: declared keys: jenkins

        error: `networks`: the address has bits beyond the network's prefix
         --> /policy/routes/promote.toml:7:13
          |
        7 | networks = ["10.20.3.4/16"]
          |             ^^^^^^^^^^^^^^
          |
          = help: did you mean `10.20.0.0/16`?

        error: a parameter has exactly one of `pattern`, `one_of` and `integer`
          --> /policy/routes/promote.toml:10:8
           |
        10 | role = { from = "body:/role", patern = "[a-z]+" }
           |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           |
           = help: none is given

        error: unknown key `patern` in the parameter `role`
          --> /policy/routes/promote.toml:10:31
           |
        10 | role = { from = "body:/role", patern = "[a-z]+" }
           |                               ^^^^^^
           |
           = help: did you mean `pattern`?
           = help: allowed here: from, pattern, one_of, integer, max_length, default, replace, leading_dash, list, max_items

        error: `steps`: the program is an absolute path without `.`, `..` or empty parts, such as `/usr/bin/mco`
          --> /policy/routes/promote.toml:13:11
           |
        13 | steps = [["mco", "role={rolle}", "x}"]]
           |           ^^^^^

        error: `steps`: `{rolle}` is not declared in `[parameters]`
          --> /policy/routes/promote.toml:13:18
           |
        13 | steps = [["mco", "role={rolle}", "x}"]]
           |                  ^^^^^^^^^^^^^^
           |
           = help: did you mean `{role}`?

        error: a lone brace: a placeholder reads `{name}`, and `{{` and `}}` stand for braces
          --> /policy/routes/promote.toml:13:36
           |
        13 | steps = [["mco", "role={rolle}", "x}"]]
           |                                    ^

        error: `timeout`: a duration is a whole number and one of the units ms, s, m, h, d, such as `5m`
          --> /policy/routes/promote.toml:14:11
           |
        14 | timeout = "10 minutes"
           |           ^^^^^^^^^^^^

        11 errors
        "#);
    }
}
