//! `[run]`: the steps, and what surrounds them.
//! Refuses what is not an argv array, and starts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::gateway::positive_duration;
use super::limits::positive_size;
use super::parameters::no_pattern;
use super::{Decoded, Table, Value, restrictions};
use crate::domain::argv::{Argv, MOST_ARGUMENTS};
use crate::domain::name::ParameterName;
use crate::policy::argv::{StepTemplate, Template};
use crate::policy::diagnostic::{Finding, Place};
use crate::policy::files::Files;
use crate::policy::nearest::nearest;
use crate::policy::opening::ProgramProblem;
use crate::policy::output::Telltale;
use crate::policy::parameter::Shape;
use crate::policy::route::{Privileges, Respond, Retry, Run, Stdin};
use crate::policy::units;

/// Most runs of one job that `retry` may ask for.
const MOST_ATTEMPTS: u32 = 100;

/// Programs that read their arguments as commands.
const SHELLS: [&str; 12] =
    ["sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "busybox"];

/// What a placeholder may name; `None` when the declarations cannot be told.
type Declared<'a> = Option<&'a BTreeMap<ParameterName, Shape>>;

pub(super) fn decode(
    table: &mut Table<'_>,
    route: &str,
    declared: Declared<'_>,
    files: &Files,
    outline: &mut Option<(Template, NonZeroU32, Place)>,
) -> Decoded<Run> {
    let minute = Duration::from_secs(60);
    let steps = table.required("steps", |value| value.list(|value| step(value, declared, files)));
    let nice = table.or("nice", 5, |value| value.number(0..=19));
    let directory = table.or("directory", PathBuf::from("/"), |value| working_directory(value, files));
    let env = table.or("env", BTreeMap::new(), |value| value.table("`env`", env));
    let words = [("none", Stdin::None), ("body", Stdin::Body)];
    let stdin = table.or("stdin", Stdin::None, |value| value.word(&words, &[]));
    let timeout = table.or("timeout", 10 * minute, positive_duration);
    let stop_grace = table.or("stop_grace", Duration::from_secs(10), |value| value.parse(units::duration));
    let lock = table.or("lock", Template::literal(route), |value| lock(value, declared));
    let concurrency = table.or("concurrency", 1, |value| value.number(1..=u32::MAX));
    let concurrency = concurrency.map(|number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN));
    if let (Ok(lock), Ok(concurrency)) = (&lock, concurrency) {
        let key = if table.has("concurrency") { "concurrency" } else { "lock" };
        *outline = Some((lock.clone(), concurrency, table.place_of(key)));
    }
    let coalesce = table.or("coalesce", false, Value::flag);
    let wait_while_exists = table.optional("wait_while_exists", Value::absolute_path);
    let expires = table.or("expires", 60 * minute, positive_duration);
    let retry = table.table_or_defaults("retry", "`retry`", retry);
    let idempotent = table.or("idempotent", false, Value::flag);
    let output_limit = table.or("output_limit", 1 << 20, positive_size);
    let fail_on_output = table.optional("fail_on_output", |value| {
        value.parse(|text| Telltale::compile(text).map_err(|error| no_pattern(&error)))
    });
    let words = [("accepted", Respond::Accepted), ("result", Respond::Result)];
    let respond = table.or("respond", Respond::Accepted, |value| value.word(&words, &[]));
    let words = [("drop", Privileges::Drop), ("may_gain", Privileges::MayGain)];
    let privileges = table.or("privileges", Privileges::Drop, |value| {
        let privileges = value.word(&words, &[])?;
        if privileges == Privileges::MayGain {
            value.page().warn(
                value.place(),
                "commands of this route may gain privileges: whatever is set-uid on this machine can be used",
                "only `su`, `sudo` and the like need it",
            );
        }
        Ok(privileges)
    });
    let restrictions = restrictions::decode(table, files, privileges.unwrap_or(Privileges::Drop));
    Ok(Run {
        steps: steps?,
        lock: lock?,
        may_lead: BTreeSet::new(),
        nice: nice?,
        directory: directory?,
        env: env?,
        stdin: stdin?,
        timeout: timeout?,
        stop_grace: stop_grace?,
        concurrency: concurrency?,
        expires: expires?,
        coalesce: coalesce?,
        wait_while_exists: wait_while_exists?,
        retry: retry?,
        idempotent: idempotent?,
        output_limit: output_limit?,
        fail_on_output: fail_on_output?,
        respond: respond?,
        privileges: privileges?,
        restrictions: restrictions?,
    })
}

fn retry(table: &mut Table<'_>) -> Decoded<Retry> {
    let attempts = table.or("attempts", 1, |value| value.number(1..=MOST_ATTEMPTS));
    let delay = table.or("delay", Duration::from_secs(30), |value| value.parse(units::duration));
    let exit_codes = table.or("exit_codes", Vec::new(), |value| match value.is_empty_list() {
        true => Ok(Vec::new()),
        false => value.set(|value| value.number(1..=255)),
    });
    Ok(Retry { attempts: attempts?, delay: delay?, exit_codes: exit_codes? })
}

/// The program and its arguments, each an array element of its own.
fn step(value: Value<'_>, declared: Declared<'_>, files: &Files) -> Decoded<StepTemplate> {
    let mut known_program = None;
    let mut arguments = Vec::new();
    let elements = value.list(|value| {
        if known_program.is_none() {
            let program = program(value, files);
            known_program = Some(program);
            program.map(drop)
        } else {
            argument(value, declared).map(|template| arguments.push(template))
        }
    });
    elements?;
    let most: usize =
        arguments.iter().map(|template| template.alone().map_or(1, |name| most(name, declared))).sum();
    if arguments.len() <= MOST_ARGUMENTS && most > MOST_ARGUMENTS {
        return Err(value.refuse(format!(
            "up to {most} arguments with all their lists at their longest, and a command takes {MOST_ARGUMENTS}: lower `max_items`"
        )));
    }
    match known_program {
        Some(Ok(program)) => StepTemplate::new(program, arguments).map_err(|error| value.refuse(error)),
        Some(Err(reported)) => Err(reported),
        None => Err(value.refuse(format!("a program and up to {MOST_ARGUMENTS} arguments"))),
    }
}

fn program<'a>(value: Value<'a>, files: &Files) -> Decoded<&'a str> {
    let text = value.text()?;
    if text.contains(['{', '}']) {
        return Err(value.refuse("a request cannot choose the program: placeholders stand in arguments only"));
    }
    Argv::new(text, Vec::new()).map_err(|error| value.refuse(error))?;
    let path = Path::new(text);
    let resolved = match files.program(path) {
        Ok(resolved) => resolved,
        Err(ProgramProblem::Missing) => {
            value.page().warn(
                value.place(),
                format!("there is no program `{text}` on this machine"),
                "jobs of this route are refused until it is there",
            );
            path.to_owned()
        }
        Err(ProgramProblem::Unsafe { reason } | ProgramProblem::Shortage { reason }) => {
            return Err(value.refuse(reason));
        }
    };
    let is_shell =
        |path: &Path| path.file_name().is_some_and(|name| SHELLS.iter().any(|shell| name == *shell));
    // A link to busybox is whatever it is called, so busybox counts only by its own name.
    let becomes_shell = is_shell(&resolved) && !resolved.ends_with("busybox");
    if is_shell(path) || becomes_shell {
        value.page().warn(
            value.place(),
            "this program is a shell: what it is given, it reads as commands",
            "name the program itself, and give each argument an array element of its own",
        );
    }
    Ok(text)
}

/// Where commands start; like a program, it need not be there on every machine that checks the policy.
fn working_directory(value: Value<'_>, files: &Files) -> Decoded<PathBuf> {
    let path = value.absolute_path()?;
    match files.directory(&path) {
        Ok(true) => Ok(path),
        Ok(false) => Err(value.refuse(format!("`{}` is not a directory", path.display()))),
        Err(reason) => {
            value.page().warn(
                value.place(),
                format!("there is no directory `{}` on this machine: {reason}", path.display()),
                "commands of this route do not start until it is there",
            );
            Ok(path)
        }
    }
}

/// How many arguments a placeholder that stands alone becomes at most.
fn most(name: &ParameterName, declared: Declared<'_>) -> usize {
    match declared.and_then(|declared| declared.get(name)) {
        Some(Shape::List { most }) => *most,
        Some(Shape::Text) | None => 1,
    }
}

fn template(value: Value<'_>, declared: Declared<'_>) -> Decoded<Template> {
    let template = Template::parse(value.text()?).map_err(|error| {
        let finding = Finding::error(value.part(error.at.clone()), error.to_string());
        value.page().report(finding)
    })?;
    let Some(declared) = declared else {
        return Ok(template);
    };
    let mut reported = None;
    for name in template.placeholders().filter(|name| !declared.contains_key(*name)) {
        let finding = value.finding(format!("`{{{name}}}` is not declared in `[parameters]`"));
        let finding = match nearest(name.as_str(), declared.keys().map(ParameterName::as_str)) {
            Some(meant) => finding.help(format!("did you mean `{{{meant}}}`?")),
            None => finding.help("declare it, or write `{{` and `}}` for braces"),
        };
        reported = Some(value.page().report(finding));
    }
    reported.map_or(Ok(template), Err)
}

/// An argument: a list's placeholder stands alone in it, or not at all.
fn argument(value: Value<'_>, declared: Declared<'_>) -> Decoded<Template> {
    let template = template(value, declared)?;
    match template.alone() {
        Some(_) => Ok(template),
        None => without_lists(
            value,
            template,
            declared,
            "it becomes several arguments, so it stands alone in its own",
        ),
    }
}

fn lock(value: Value<'_>, declared: Declared<'_>) -> Decoded<Template> {
    if value.text()?.is_empty() {
        return Err(value.refuse("a lock has a name"));
    }
    let template = template(value, declared)?;
    without_lists(value, template, declared, "a lock has one name")
}

fn without_lists(
    value: Value<'_>,
    template: Template,
    declared: Declared<'_>,
    why: &str,
) -> Decoded<Template> {
    let is_list = |name: &&ParameterName| {
        matches!(declared.and_then(|declared| declared.get(*name)), Some(Shape::List { .. }))
    };
    if let Some(name) = template.placeholders().find(is_list) {
        return Err(value.refuse(format!("`{{{name}}}` is a list: {why}")));
    }
    Ok(template)
}

fn env(table: &mut Table<'_>) -> Decoded<BTreeMap<String, String>> {
    let mut pairs = Vec::new();
    for (name, place, value) in table.take_all() {
        let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let text = value.text().and_then(|text| match text.contains('\0') {
            false => Ok(text),
            true => Err(value.refuse("a value cannot hold a NUL byte")),
        });
        pairs.push(if starts_well && plain {
            text.map(|text| (name.to_owned(), text.to_owned()))
        } else {
            let message = format!(
                "`{}` is not the name of a variable: letters, digits and `_`, not first a digit",
                name.escape_debug()
            );
            Err(table.page().report(Finding::error(place, message)))
        });
    }
    pairs.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{GATEWAY, ROUTE, compile, findings};

    fn with_steps(steps: &str) -> String {
        ROUTE
            .replace("[run]", "[parameters]\nrole = { from = \"body:/role\", one_of = [\"x\"] }\n[run]")
            .replace("[[\"/bin/a\", \"x\"]]", steps)
    }

    #[test]
    fn wrong_steps_are_refused() {
        let absolute = "`steps`: the program is an absolute path without `.`, `..` or empty parts, such as `/usr/bin/mco`";
        let brace = "a lone brace: a placeholder reads `{name}`, and `{{` and `}}` stand for braces";
        for (steps, finding) in [
            ("[]", "`steps`: a list of at least one; leave the key out if it is not meant"),
            ("[[]]", "`steps`: a list of at least one; leave the key out if it is not meant"),
            ("[\"/bin/a x\"]", "`steps`: takes a list, not a string"),
            ("\"/bin/a x\"", "`steps`: takes a list, not a string"),
            ("[[\"a\"]]", absolute),
            ("[[\"/bin/../bin/a\"]]", absolute),
            (
                "[[\"/bin/{role}\"]]",
                "`steps`: a request cannot choose the program: placeholders stand in arguments only",
            ),
            ("[[\"/bin/none\"]]", "there is no program `/bin/none` on this machine"),
            (
                "[[\"/bin/bash\", \"-c\", \"x\"]]",
                "this program is a shell: what it is given, it reads as commands",
            ),
            ("[[\"/bin/a\", 5]]", "`steps`: takes a string, not an integer"),
            ("[[\"/bin/a\", \"{rolle}\"]]", "`steps`: `{rolle}` is not declared in `[parameters]`"),
            ("[[\"/bin/a\", \"{role\"]]", brace),
            ("[[\"/bin/a\", \"role}\"]]", brace),
            ("[[\"/bin/a\", \"{}\"]]", "not a placeholder: a name has 1 to 100 bytes"),
            ("[[\"/bin/a\", \"\\u0000\"]]", "an argument cannot hold a NUL byte"),
        ] {
            assert_eq!(findings(GATEWAY, &[("r", &with_steps(steps))]), [finding], "{steps}");
        }
        let many = format!("[[\"/bin/a\"{}]]", ", \"x\"".repeat(MOST_ARGUMENTS + 1));
        assert_eq!(findings(GATEWAY, &[("r", &with_steps(&many))]), ["`steps`: more than 256 arguments"]);
    }

    #[test]
    fn a_list_stands_alone_and_fits_into_one_command() {
        let found = |run: &str, most: usize| {
            let list = format!(
                "[parameters]\nhosts = {{ from = \"body:/hosts\", one_of = [\"x\"], list = true, max_items = {most} }}\n[run]"
            );
            findings(
                GATEWAY,
                &[("r", &ROUTE.replace("[run]", &list).replace("steps = [[\"/bin/a\", \"x\"]]", run))],
            )
        };
        let alone =
            "`steps`: `{hosts}` is a list: it becomes several arguments, so it stands alone in its own";
        for (run, most, finding) in [
            ("steps = [[\"/bin/a\", \"-I\", \"{hosts}\"]]", 16, None),
            ("steps = [[\"/bin/a\", \"{hosts}\"]]", 256, None),
            ("steps = [[\"/bin/a\", \"x{hosts}\"]]", 16, Some(alone)),
            ("steps = [[\"/bin/a\", \"{hosts}{hosts}\"]]", 16, Some(alone)),
            (
                "steps = [[\"/bin/a\"]]\nlock = \"{hosts}\"",
                16,
                Some("`lock`: `{hosts}` is a list: a lock has one name"),
            ),
            (
                "steps = [[\"/bin/a\", \"{hosts}\", \"{hosts}\"]]",
                129,
                Some(
                    "`steps`: up to 258 arguments with all their lists at their longest, and a command takes 256: lower `max_items`",
                ),
            ),
        ] {
            assert_eq!(found(run, most), Vec::from_iter(finding), "{run}");
        }
    }

    #[test]
    fn wrong_surroundings_are_refused() {
        for (line, finding) in [
            ("nice = 20", "`nice`: a whole number from 0 to 19"),
            ("nice = -1", "`nice`: a whole number from 0 to 19"),
            ("directory = \"tmp\"", "`directory`: an absolute path"),
            ("directory = \"/bin/a\"", "`directory`: `/bin/a` is not a directory"),
            (
                "env = { \"1A\" = \"x\" }",
                "`1A` is not the name of a variable: letters, digits and `_`, not first a digit",
            ),
            (
                "env = { \"A=B\" = \"x\" }",
                "`A=B` is not the name of a variable: letters, digits and `_`, not first a digit",
            ),
            ("env = { A = 1 }", "`A`: takes a string, not an integer"),
            ("env = { A = \"\\u0000\" }", "`A`: a value cannot hold a NUL byte"),
            ("stdin = \"file\"", "`stdin`: `file` is not one of its values"),
            ("timeout = \"0s\"", "`timeout`: a duration longer than nothing"),
            ("lock = \"\"", "`lock`: a lock has a name"),
            ("lock = \"{role}\"", "`lock`: `{role}` is not declared in `[parameters]`"),
            ("concurrency = 0", "`concurrency`: a whole number from 1 to 4294967295"),
            ("coalesce = \"yes\"", "`coalesce`: takes `true` or `false`, not a string"),
            ("expires = \"0ms\"", "`expires`: a duration longer than nothing"),
            ("idempotent = 1", "`idempotent`: takes `true` or `false`, not an integer"),
            (
                "output_limit = \"1MB\"",
                "`output_limit`: a size is a whole number and one of the units B, KiB, MiB, GiB, such as `64KiB`",
            ),
            ("respond = \"now\"", "`respond`: `now` is not one of its values"),
            ("privileges = \"keep\"", "`privileges`: `keep` is not one of its values"),
            ("wait_while_exists = \"x\"", "`wait_while_exists`: an absolute path"),
            ("retry = 3", "`retry`: takes a table, not an integer"),
            ("retry = { attempts = 0 }", "`attempts`: a whole number from 1 to 100"),
            ("retry = { exit_codes = [0] }", "`exit_codes`: a whole number from 1 to 255"),
            ("retry = { exit_codes = [1, 1] }", "`exit_codes`: it is listed twice"),
            ("retry = { times = 3 }", "unknown key `times` in `retry`"),
            ("fail_on_output = \"(\"", "`fail_on_output`: not a pattern: unclosed group"),
            ("fail_on_output = [\"x\"]", "`fail_on_output`: takes a string, not an array"),
            ("shell = \"x\"", "unknown key `shell` in `[run]`"),
        ] {
            assert_eq!(findings(GATEWAY, &[("r", &format!("{ROUTE}{line}"))]), [finding], "{line}");
        }
        assert_eq!(findings(GATEWAY, &[("r", &ROUTE.replace("steps", "stps"))]).len(), 2);
        let none = ROUTE.split("[run]").next().unwrap();
        assert_eq!(findings(GATEWAY, &[("r", none)]), ["`run` is missing in `routes/r.toml`"]);
    }

    #[test]
    fn what_is_written_is_what_runs() {
        let text = with_steps("[[\"/bin/a\", \"role={role}\"], [\"/bin/b\"]]")
            + "nice = 0\ndirectory = \"/srv\"\nenv = { PATH = \"/bin\", _x = \"{role}\" }\nstdin = \"body\"\ntimeout = \"1h\"\nstop_grace = \"0s\"\nlock = \"l-{role}\"\nconcurrency = 3\ncoalesce = true\nexpires = \"2d\"\nidempotent = true\noutput_limit = \"1KiB\"\nrespond = \"result\"\nprivileges = \"may_gain\"\nwait_while_exists = \"/run/x.lock\"\nretry = { attempts = 3, delay = \"1m\", exit_codes = [75, 1] }\nfail_on_output = \"No r.sponse\"";
        let loaded = compile(GATEWAY, &[("r", &text)]).unwrap_or_else(|found| panic!("{found}"));
        let run = &loaded.policy.routes.values().next().unwrap().run;
        assert_eq!((run.nice, run.directory.to_str(), run.concurrency.get()), (0, Some("/srv"), 3));
        assert_eq!(run.env["_x"], "{role}");
        let seconds = [run.timeout, run.stop_grace, run.expires].map(|duration| duration.as_secs());
        assert_eq!((seconds, run.output_limit), ([3600, 0, 172_800], 1024));
        assert_eq!((run.respond, run.privileges), (Respond::Result, Privileges::MayGain));
        assert_eq!(run.stdin, Stdin::Body);
        assert!(run.idempotent && run.coalesce);
        assert!(run.fail_on_output.as_ref().is_some_and(|telltale| telltale.is_in(b"No response from")));
        assert_eq!(run.wait_while_exists.as_deref(), Some(Path::new("/run/x.lock")));
        let delay = Duration::from_secs(60);
        assert_eq!(run.retry, Retry { attempts: 3, delay, exit_codes: vec![75, 1] });
        let none = compile(GATEWAY, &[("r", &format!("{ROUTE}retry = {{ exit_codes = [] }}"))]).unwrap();
        let delay = Duration::from_secs(30);
        let defaults = &none.policy.routes.values().next().unwrap().run;
        assert_eq!(defaults.stdin, Stdin::None);
        assert_eq!(defaults.retry, Retry { attempts: 1, delay, exit_codes: vec![] });
        assert_eq!((run.steps.len(), run.lock.to_string()), (2, "l-{role}".to_owned()));
    }
}
