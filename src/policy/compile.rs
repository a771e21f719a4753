//! From the texts of a policy to the policy: every file is decoded, then the routes are compared with each other.
//!
//! Goes on after errors, so that all of them are found; where there is one, there is no policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decode::gateway::{self, Gateway, Known};
use super::decode::route::{self, Outline};
use super::decode::{Decoded, Page};
use super::diagnostic::{Diagnostics, Finding};
use super::directory::{RouteText, Texts};
use super::exposure::Exposure;
use super::files::Files;
use super::files::User;
use super::route::Route;
use super::{Credentials, Examined, Policy};

/// Compiles what could be read; `found` is what was said of it so far.
pub(super) fn compile(texts: &Texts, files: &Files, mut found: Diagnostics) -> Examined {
    let mut known = Known::default();
    let mut credentials = Credentials::default();
    let gateway = texts.gateway.as_ref().and_then(|(path, text)| {
        let page = Page::new(path.clone(), text.clone());
        let gateway = gateway::decode(&page, files, &mut known, &mut credentials);
        found.merge(page.into_diagnostics());
        gateway.ok()
    });
    let sheets: Vec<Sheet<'_>> = texts.routes.iter().map(|text| Sheet::decode(text, &known, files)).collect();
    for (index, sheet) in sheets.iter().enumerate() {
        let before = sheets.get(..index).unwrap_or_default();
        sheet.refuse_same_request(before);
        sheet.compare_locks(before);
        sheet.warn_of_shared_bodies(before);
        sheet.refuse_gate_user(gateway.as_ref().and_then(|gateway| gateway.queue.gate_user.as_ref()));
    }
    if let (Some(gateway), Some((path, _))) = (&gateway, &texts.gateway) {
        let exposure = Exposure::of(gateway, files);
        let own: Vec<&str> = sheets.iter().filter_map(|sheet| sheet.runs_as_own(&exposure)).collect();
        exposure.warn_of_own(&own, (path, gateway), files.purpose(), &mut found);
        sheets.iter().for_each(|sheet| sheet.warn_of_readable_secrets(&exposure));
    }
    if sheets.is_empty() && !texts.unread_routes {
        found.warning_in_directory(
            &texts.routes_directory,
            "no routes: nothing is offered, and every request is refused",
        );
    }
    let mut routes = Some(BTreeMap::new());
    for Sheet { page, route, .. } in sheets {
        found.merge(page.into_diagnostics());
        match (&mut routes, route) {
            (Some(routes), Ok(route)) => drop(routes.insert(route.name.clone(), Arc::new(route))),
            (Some(_), Err(_)) => routes = None,
            (None, _) => {}
        }
    }
    let policy = gateway.zip(routes).map(|(gateway, routes)| {
        let Gateway { listen, admin, queue, audit, limits, keys, secret_files } = gateway;
        let hash = texts.hash();
        Policy { hash, listen, admin, queue, audit, limits, keys, secret_files, routes }
    });
    Examined { policy: policy.filter(|_| found.errors() == 0), credentials, found }
}

/// One route's file and what came of it.
struct Sheet<'a> {
    text: &'a RouteText,
    page: Page,
    outline: Outline,
    route: Decoded<Route>,
}

impl<'a> Sheet<'a> {
    fn decode(text: &'a RouteText, known: &Known, files: &Files) -> Self {
        let page = Page::new(text.path.clone(), text.text.clone());
        let mut outline = Outline::default();
        let route = route::decode(&page, &text.stem, known, files, &mut outline);
        Self { text, page, outline, route }
    }

    fn refuse_same_request(&self, before: &[Sheet<'_>]) {
        let Some((method, path, place)) = &self.outline.matches else {
            return;
        };
        let same = before.iter().find_map(|other| {
            let (other_method, other_path, other_place) = other.outline.matches.as_ref()?;
            (other_method == method && other_path == path).then_some((&other.text.stem, other_place))
        });
        if let Some((other, other_place)) = same {
            let message = format!("`{method} {path}` is the request of the route `{other}`, too");
            let finding = Finding::error(place.clone(), message).also(other_place.clone(), "first here");
            self.page.report(finding);
        }
    }

    /// Whoever breaks into the gate could do to these commands whatever they may do to themselves.
    fn refuse_gate_user(&self, gate: Option<&User>) {
        if let (Some((account, place)), Some(gate)) = (&self.outline.user, gate)
            && account.uid == gate.uid
        {
            let message = format!("`user` is `{}`, the `gate_user` of `[queue]`", gate.name);
            let help = "let commands run as a user of their own: the gate faces strangers";
            self.page.report(Finding::error(place.clone(), message).help(help));
        }
    }

    /// The route's name, if its commands run as the process that starts them.
    fn runs_as_own(&self, exposure: &Exposure) -> Option<&'a str> {
        let route = self.route.as_ref().ok()?;
        exposure.is_own(route.run.restrictions.user.as_ref()).then_some(self.text.stem.as_str())
    }

    fn warn_of_readable_secrets(&self, exposure: &Exposure) {
        if let Some((account, place)) = &self.outline.user
            && self.runs_as_own(exposure).is_none()
            && let Some(path) = exposure.readable_by(account)
        {
            let message = format!("the `user` of these commands can read `{}`", path.display());
            let help = "choose one that is neither root, nor the file's owner, nor in its group";
            self.page.warn(place.clone(), message, help);
        }
    }

    /// What a key signs that signs the body alone is good for every route that allows it.
    fn warn_of_shared_bodies(&self, before: &[Sheet<'_>]) {
        for (key, place) in &self.outline.signed_bodies {
            let same =
                before.iter().find(|other| other.outline.signed_bodies.iter().any(|(name, _)| name == key));
            if let Some(other) = same {
                let message = format!(
                    "the key `{key}` signs the body alone: what it signs for the route `{}` is good for this one, too",
                    other.text.stem
                );
                self.page.warn(place.clone(), message, "give each route a key of its own");
            }
        }
    }

    /// Routes that share a lock must agree how many may hold it at once.
    fn compare_locks(&self, before: &[Sheet<'_>]) {
        let Some((lock, concurrency, place)) = &self.outline.lock else {
            return;
        };
        let disagreeing = before.iter().filter_map(|other| {
            let (other_lock, other_concurrency, other_place) = other.outline.lock.as_ref()?;
            (other_concurrency != concurrency).then_some((
                other_lock,
                other_concurrency,
                &other.text.stem,
                other_place,
            ))
        });
        for (other_lock, other_concurrency, other, other_place) in disagreeing {
            if lock.has_shape_of(other_lock) {
                let message = format!(
                    "this route allows {concurrency} at once of the lock `{lock}`, which the route `{other}` shares and allows {other_concurrency} of"
                );
                self.page
                    .report(Finding::error(place.clone(), message).also(other_place.clone(), "disagrees"));
            } else if lock.may_equal(other_lock) {
                let message = format!(
                    "the locks `{lock}` and `{other_lock}` (route `{other}`) may turn out the same, but allow {concurrency} and {other_concurrency} at once"
                );
                self.page.warn(place.clone(), message, "let the locks begin with different words, or agree");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::{GATEWAY, ROUTE, compile, findings};
    use proptest::prelude::*;

    #[test]
    fn two_routes_cannot_offer_the_same_request() {
        let found = compile(GATEWAY, &[("a", ROUTE), ("b", ROUTE)]).unwrap_err();
        assert_eq!(
            found.messages().collect::<Vec<_>>(),
            ["`POST /promote` is the request of the route `a`, too"]
        );
        let shown = found.to_string();
        assert!(
            shown.contains("/policy/routes/b.toml:3:16") && shown.contains("/policy/routes/a.toml:3:16"),
            "{shown}"
        );
        let get = ROUTE.replace("POST", "GET");
        assert_eq!(findings(GATEWAY, &[("a", ROUTE), ("b", &get)]), [""; 0]);
        let broken = ROUTE.replace("steps", "stps");
        assert_eq!(
            findings(GATEWAY, &[("a", &broken), ("b", ROUTE)]).len(),
            3,
            "an invalid route counts, too"
        );
    }

    #[test]
    fn routes_that_share_a_lock_agree() {
        let route = |path: &str, run: &str| {
            let text = ROUTE.replace("/promote", path);
            text.replace("[run]", "[parameters]\nx = { from = \"query:x\", one_of = [\"1\"] }\n[run]") + run
        };
        let check = |left: &str, right: &str| {
            findings(GATEWAY, &[("a", &route("/a", left)), ("b", &route("/b", right))])
        };
        for (left, right, finding) in [
            ("", "", None),
            ("lock = \"l\"", "lock = \"l\"", None),
            ("lock = \"l\"\nconcurrency = 2", "lock = \"m\"", None),
            ("lock = \"l-{x}\"\nconcurrency = 2", "lock = \"m-{x}\"", None),
            (
                "lock = \"l\"\nconcurrency = 2",
                "lock = \"l\"",
                Some("this route allows 1 at once of the lock `l`"),
            ),
            (
                "lock = \"l-{x}\"\nconcurrency = 2",
                "lock = \"l-{x}\"",
                Some("this route allows 1 at once of the lock `l-{x}`"),
            ),
            ("concurrency = 2", "lock = \"a\"", Some("this route allows 1 at once of the lock `a`")),
            (
                "lock = \"l-{x}\"\nconcurrency = 2",
                "lock = \"l-1\"",
                Some("the locks `l-1` and `l-{x}` (route `a`) may turn out the same"),
            ),
        ] {
            let found = check(left, right);
            assert_eq!(found.len(), usize::from(finding.is_some()), "{found:?}");
            assert!(finding.is_none_or(|finding| found[0].starts_with(finding)), "{found:?}");
        }
    }

    #[test]
    fn no_routes_offer_nothing() {
        let loaded = compile(GATEWAY, &[]).unwrap();
        assert_eq!(loaded.policy.routes.len(), 0);
        assert_eq!(
            loaded.warnings.messages().collect::<Vec<_>>(),
            ["no routes: nothing is offered, and every request is refused"]
        );
    }

    #[test]
    fn syntax_errors_are_shown_beside_the_errors_of_other_files() {
        let found = compile("[listen]\naddress =\nfile = 'x\n", &[("a", "path = \"x\"")]).unwrap_err();
        insta::assert_snapshot!(found, @r#"
        error: not TOML: string values must be quoted, expected literal string
         --> /policy/gateway.toml:2:10
          |
        2 | address =
          |          ^

        error: not TOML: invalid literal string, expected `'`
         --> /policy/gateway.toml:3:10
          |
        3 | file = 'x
          |          ^

        error: `method` is missing in `routes/a.toml`
         --> /policy/routes/a.toml:1:1
          |
        1 | path = "x"
          | ^

        error: `allow` is missing: a route without a rule that says who may is not a policy
         --> /policy/routes/a.toml:1:1
          |
        1 | path = "x"
          | ^
          |
          = help: add `[[allow]]` with `key`, `certname` or `extensions`

        error: `run` is missing in `routes/a.toml`
         --> /policy/routes/a.toml:1:1
          |
        1 | path = "x"
          | ^

        error: `path`: a path starts with `/`
         --> /policy/routes/a.toml:1:8
          |
        1 | path = "x"
          |        ^^^

        6 errors
        "#);
    }

    #[test]
    fn errors_of_all_files_are_reported_at_once_in_order() {
        let gateway = GATEWAY.replace("rfc9421", "rfc").replace("[queue]", "[limits]\nbody = \"x\"\n[queue]");
        let route = ROUTE.replace("jenkins", "jenkin");
        let found = findings(&gateway, &[("a", &route), ("b b", "x = 1"), ("c", "x = 1")]);
        let starts = [
            "`body`: a size",
            "`scheme`: `rfc`",
            "`key`: there is no `[keys.jenkin]`",
            "not a route's file: a route's name is made of",
            "`method` is missing in `routes/b b.toml`",
            "`path` is missing",
            "`allow` is missing",
            "`run` is missing",
            "unknown key `x`",
            "`method` is missing in `routes/c.toml`",
            "`path` is missing",
            "`allow` is missing",
            "`run` is missing",
            "unknown key `x`",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (found, start) in found.iter().zip(starts) {
            assert!(found.starts_with(start), "{found} / {start}");
        }
    }

    #[test]
    fn deep_and_long_texts_are_refused_without_harm() {
        for text in [
            format!("a = {}", "[".repeat(100_000)),
            format!("a = {}", "{ b = ".repeat(100_000)),
            format!("a{} = 1", ".b".repeat(100_000)),
            "a = 1\n".repeat(100_000),
        ] {
            let found = compile(&text, &[("r", &text)]).unwrap_err();
            assert!(found.errors() > 0 && found.to_string().len() < 4 << 20);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(
            gateway in any::<String>(),
            soup in "([a-z_]{1,8}|\\[|\\]|\\[\\[|\\]\\]|=|\"|'|\\{|\\}|,|\\.|\n| |[0-9]|\\PC){0,60}",
        ) {
            for text in [&gateway, &soup] {
                let found = compile(text, &[("r", text)]);
                if let Err(found) = found {
                    prop_assert!(!found.to_string().is_empty());
                }
            }
        }

        /// A valid policy with one character changed is refused or accepted, never a panic.
        #[test]
        fn damaged_policies_never_panic(at in any::<prop::sample::Index>(), letter in any::<char>(), cut in any::<bool>()) {
            for valid in [GATEWAY, ROUTE] {
                let mut letters: Vec<char> = valid.chars().collect();
                let at = at.index(letters.len());
                if cut { letters.truncate(at) } else { letters[at] = letter }
                let text: String = letters.into_iter().collect();
                let _ = compile(&text, &[("r", &text)]).map_err(|found| found.to_string());
                let _ = compile(GATEWAY, &[("r", &text)]).map_err(|found| found.to_string());
            }
        }

        #[test]
        fn a_valid_policy_compiles_to_what_was_written(
            method in prop::sample::select(&["GET", "POST", "PUT", "PATCH", "DELETE"][..]),
            path in "/[a-zA-Z0-9._~!$&'()+,;=:@][a-zA-Z0-9._~!$&'()+,;=:@/-]{0,30}",
            body in 1..64_usize,
            minutes in 1..10_000_u64,
            nice in 0..20_i32,
            concurrency in 1..100_u32,
            idempotent in any::<bool>(),
            arguments in prop::collection::vec("[^\0]{0,20}", 0..6),
        ) {
            let quoted = |text: &str| toml_string(&text.replace('{', "{{").replace('}', "}}"));
            let list: String = arguments.iter().map(|argument| format!(", {}", quoted(argument))).collect();
            let text = format!(
                "method = \"{method}\"\npath = {}\nbody = \"{body}KiB\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\nsteps = [[\"/bin/a\"{list}]]\n\
                 timeout = \"{minutes}m\"\nnice = {nice}\nconcurrency = {concurrency}\nidempotent = {idempotent}\n",
                toml_string(&path),
            );
            let loaded = compile(GATEWAY, &[("r", &text)]);
            let route = loaded.as_ref().map_err(ToString::to_string).unwrap().policy.routes.values().next().unwrap();
            prop_assert_eq!((route.method.as_str(), &route.path, route.body), (method, &path, body << 10));
            prop_assert_eq!((route.run.timeout.as_secs(), route.run.nice), (minutes * 60, nice));
            prop_assert_eq!((route.run.concurrency.get(), route.run.idempotent), (concurrency, idempotent));
            let argv = route.run.render(&Default::default()).unwrap();
            prop_assert_eq!(argv[0].arguments(), &arguments[..]);
        }
    }

    /// A basic string with every character that may need it escaped.
    fn toml_string(text: &str) -> String {
        let escaped = text.chars().map(|letter| {
            if letter.is_control() || matches!(letter, '"' | '\\') {
                format!("\\U{:08X}", u32::from(letter))
            } else {
                letter.to_string()
            }
        });
        format!("\"{}\"", escaped.collect::<String>())
    }
}
