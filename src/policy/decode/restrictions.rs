//! `user`, `limits` and `writable` of `[run]`.
//! Looks users up, and becomes none of them.

use std::path::PathBuf;
use std::time::Duration;

use super::limits::positive_size;
use super::{Decoded, Table, Value};
use crate::policy::diagnostic::Finding;
use crate::policy::files::Files;
use crate::policy::restrictions::{ResourceLimits, Restrictions, RunAs, Writable};
use crate::policy::route::Privileges;
use crate::policy::units;

/// Most paths of `writable`.
const MOST_PATHS: usize = 64;
/// Most processes or descriptors that a limit may allow; more than any kernel does.
const MOST: u64 = 1 << 30;

pub(super) fn decode(table: &mut Table<'_>, files: &Files, privileges: Privileges) -> Decoded<Restrictions> {
    let user = table.optional("user", |value| user(value, files));
    let limits = table.table_or_defaults("limits", "`limits`", limits);
    let paths = table.optional("writable", |value| writable(value, files));
    let best_effort = table.or("writable_best_effort", false, Value::flag);
    if table.has("writable_best_effort") && !table.has("writable") {
        let place = table.place_of("writable_best_effort");
        let finding = Finding::error(place, "`writable_best_effort` without `writable`");
        return Err(table
            .page()
            .report(finding.help("give `writable`, the paths that commands may write below")));
    }
    if table.has("writable") && privileges == Privileges::MayGain {
        let message =
            "`writable` beside `privileges = \"may_gain\"`: what is confined cannot gain privileges";
        let finding = Finding::error(table.place_of("writable"), message);
        return Err(table.page().report(finding.help("leave one of them out")));
    }
    let (user, limits, best_effort) = (user?, limits?, best_effort?);
    let writable = paths?.map(|paths| Writable { paths, best_effort });
    Ok(Restrictions { user, limits, writable })
}

fn user(value: Value<'_>, files: &Files) -> Decoded<RunAs> {
    let name = value.text()?;
    let named = name.to_owned();
    if !files.purpose().works() {
        return Ok(RunAs { name: named, account: None, attainable: false });
    }
    let shown = name.escape_debug();
    let account =
        files.account(name).map_err(|error| value.refuse(format!("users cannot be looked up: {error}")))?;
    let attainable = account.as_ref().is_some_and(|account| files.may_become(account));
    if account.is_none() {
        let message = format!("there is no user `{shown}` on this machine");
        if files.is_root() {
            return Err(value.refuse(message));
        }
        value.page().warn(value.place(), message, "workers of this route do not start until it is there");
    } else if !attainable {
        let message = format!("whoever reads this cannot become `{shown}`, because it is not root");
        value.page().warn(value.place(), message, "workers of this route do not start unless they are root");
    }
    Ok(RunAs { name: named, account, attainable })
}

fn limits(table: &mut Table<'_>) -> Decoded<ResourceLimits> {
    let processes = table.optional("processes", |value| value.number(1..=MOST));
    let memory = table.optional("memory", |value| {
        positive_size(value).map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX))
    });
    // 0, 1 and 2 are there from the start, and a program's libraries need one.
    let files = table.optional("files", |value| value.number(4..=MOST));
    let cpu = table.optional("cpu", |value| {
        let duration = value.parse(units::duration)?;
        match duration.subsec_nanos() {
            0 if duration >= Duration::from_secs(1) => Ok(duration.as_secs()),
            _ => Err(value.refuse("a whole number of seconds, at least `1s`")),
        }
    });
    Ok(ResourceLimits { processes: processes?, memory: memory?, files: files?, cpu: cpu? })
}

/// An empty list is fine: nothing but `/dev/null` is writable then.
fn writable(value: Value<'_>, files: &Files) -> Decoded<Vec<PathBuf>> {
    if value.is_empty_list() {
        return Ok(Vec::new());
    }
    let paths = value.set(Value::absolute_path)?;
    if paths.len() > MOST_PATHS {
        return Err(value.refuse(format!("more than {MOST_PATHS} paths")));
    }
    for path in &paths {
        // Files may be named as well as directories.
        if let Err(reason) = files.directory(path) {
            value.page().warn(
                value.place(),
                format!("there is no `{}` on this machine: {reason}", path.display()),
                "jobs of this route are refused until it is there",
            );
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::restrictions::Account;
    use crate::policy::route::Route;
    use crate::policy::tests::{GATEWAY, ROUTE, compile, findings};

    fn route(lines: &str) -> Arc<Route> {
        let loaded = compile(GATEWAY, &[("r", &format!("{ROUTE}{lines}"))]);
        let loaded = loaded.unwrap_or_else(|found| panic!("{found}"));
        Arc::clone(loaded.policy.routes.values().next().unwrap())
    }

    #[test]
    fn what_is_written_is_what_holds() {
        assert_eq!(route("").run.restrictions, Restrictions::default());
        let lines = "user = \"nobody\"\nlimits = { processes = 64, memory = \"1GiB\", files = 256, cpu = \"2m\" }\n\
                     writable = [\"/srv/x\", \"/tmp\"]\nwritable_best_effort = true";
        let run = &route(lines).run.restrictions;
        let account = Account { uid: 65534, gid: 65534, groups: vec![65534] };
        let expected = RunAs { name: "nobody".into(), account: Some(account), attainable: true };
        assert_eq!(run.user, Some(expected));
        let limits =
            ResourceLimits { processes: Some(64), memory: Some(1 << 30), files: Some(256), cpu: Some(120) };
        assert_eq!(run.limits, limits);
        let paths = vec!["/srv/x".into(), "/tmp".into()];
        assert_eq!(run.writable, Some(Writable { paths, best_effort: true }));
        let nothing = Some(Writable { paths: vec![], best_effort: false });
        assert_eq!(route("writable = []").run.restrictions.writable, nothing);
    }

    #[test]
    fn what_cannot_hold_is_refused() {
        for (lines, finding) in [
            ("user = \"noone\"", "`user`: there is no user `noone` on this machine"),
            ("user = 0", "`user`: takes a string, not an integer"),
            ("limits = { processes = 0 }", "`processes`: a whole number from 1 to 1073741824"),
            ("limits = { memory = \"0B\" }", "`memory`: a size of at least 1B"),
            ("limits = { files = 3 }", "`files`: a whole number from 4 to 1073741824"),
            ("limits = { cpu = \"1500ms\" }", "`cpu`: a whole number of seconds, at least `1s`"),
            ("limits = { cpu = \"0s\" }", "`cpu`: a whole number of seconds, at least `1s`"),
            ("limits = { core = 1 }", "unknown key `core` in `limits`"),
            ("writable = [\"tmp\"]", "`writable`: an absolute path"),
            ("writable = [\"/a\", \"/a\"]", "`writable`: it is listed twice"),
            ("writable_best_effort = true", "`writable_best_effort` without `writable`"),
        ] {
            assert_eq!(findings(GATEWAY, &[("r", &format!("{ROUTE}{lines}"))]), [finding], "{lines}");
        }
        let both = "writable = [\"/a\"]\nprivileges = \"may_gain\"";
        let found = findings(GATEWAY, &[("r", &format!("{ROUTE}{both}"))]);
        let finding =
            "`writable` beside `privileges = \"may_gain\"`: what is confined cannot gain privileges";
        assert_eq!(found.first().map(String::as_str), Some(finding));
    }
}
