//! `[parameters]`: where values come from and which are accepted.
//! Sees no request; `policy::parameter` judges their values.

use std::collections::BTreeMap;

use super::source::Sources;
use super::{Decoded, Table, Value};
use crate::domain::argv::MOST_ARGUMENTS;
use crate::domain::name::ParameterName;
use crate::domain::parameters::Value as Given;
use crate::policy::diagnostic::Finding;
use crate::policy::parameter::{Accepts, From, Parameter, Parameters, Pattern, Shape};
use crate::policy::units;

/// Bytes of a raw value where the policy does not say.
const MAX_LENGTH: usize = 256;
/// Most that `max_length` can be: half of what Linux takes as one argument (`MAX_ARG_STRLEN`).
const LONGEST: usize = 64 << 10;

/// Items of a list where the policy does not say.
const MAX_ITEMS: usize = 16;

/// Declared parameters, valid or not, as if none were a list; `None` when they cannot be told.
pub(super) fn names(top: &mut Table<'_>) -> Option<BTreeMap<ParameterName, Shape>> {
    if !top.has("parameters") {
        return Some(BTreeMap::new());
    }
    let value = top.optional("parameters", Ok).ok().flatten().filter(|value| value.is_table())?;
    let names = value.table("`[parameters]`", |table| {
        let names = table.take_all().into_iter().filter_map(|(text, _, _)| ParameterName::parse(text).ok());
        Ok(names.map(|name| (name, Shape::Text)).collect())
    });
    names.ok()
}

pub(super) fn decode(table: &mut Table<'_>, sources: &mut Sources) -> Decoded<Parameters> {
    let mut parameters = Vec::new();
    for (text, place, value) in table.take_all() {
        let shown = text.escape_debug();
        let name = ParameterName::parse(text).map_err(|error| {
            let message = format!("`{shown}` is not the name of a parameter: {error}");
            table.page().report(Finding::error(place, message))
        });
        // Read even without a name, so that all that is wrong in it is said at once.
        let title = format!("the parameter `{shown}`");
        let parameter = value.table(&title, |table| parameter(table, sources));
        parameters.push(name.and_then(|name| Ok((name, parameter?))));
    }
    parameters.into_iter().collect::<Decoded<_>>().map(Parameters)
}

fn parameter(table: &mut Table<'_>, sources: &mut Sources) -> Decoded<Parameter> {
    let from = table.required("from", |value| sources.read(value));
    let pattern = table.optional("pattern", |value| pattern(value).map(Accepts::Pattern));
    let one_of = table
        .optional("one_of", |value| value.set(|value| value.text().map(str::to_owned)).map(Accepts::OneOf));
    let integer = table.optional("integer", |value| value.table("`integer`", integer));
    let max_length = table.or("max_length", MAX_LENGTH, max_length);
    let default = table.optional("default", Ok);
    let replace = table.or("replace", BTreeMap::new(), |value| value.table("`replace`", replace));
    let leading_dash = table.or("leading_dash", false, Value::flag);
    let is_list = table.or("list", false, Value::flag);
    let max_items = table.optional("max_items", |value| value.number(1..=MOST_ARGUMENTS));
    let given: Vec<&str> =
        ["pattern", "one_of", "integer"].into_iter().filter(|key| table.has(key)).collect();
    if given.len() != 1 {
        let message = "a parameter has exactly one of `pattern`, `one_of` and `integer`";
        let said = if given.is_empty() {
            "none is given".to_owned()
        } else {
            format!("given: {}", given.join(", "))
        };
        return Err(table.page().report(Finding::error(table.place(), message).help(said)));
    }
    let accepts = pattern?.or(one_of?).or(integer?);
    let (from, default) = (from?, default?);
    let (max_length, replace, leading_dash) = (max_length?, replace?, leading_dash?);
    let shape = shape(table, &from, is_list?, max_items?)?;
    // One of the three was given, and an error in it has ended this already.
    let accepts = accepts.unwrap_or(Accepts::OneOf(Vec::new()));
    let mut parameter = Parameter { from, accepts, max_length, default: None, replace, leading_dash, shape };
    if let Some(value) = default {
        let given = match shape {
            Shape::Text => Given::Text(value.scalar()?),
            Shape::List { .. } => Given::List(value.list(Value::scalar)?),
        };
        if let Err(reason) = parameter.accept(Some(&given)) {
            return Err(value.refuse(format!("the default {reason}")));
        }
        parameter.default = Some(given);
    }
    Ok(parameter)
}

fn shape(table: &Table<'_>, from: &From, is_list: bool, max_items: Option<usize>) -> Decoded<Shape> {
    let refuse =
        |key: &str, message: &str| Err(table.page().report(Finding::error(table.place_of(key), message)));
    match (is_list, from, max_items) {
        (false, _, None) => Ok(Shape::Text),
        (false, _, Some(_)) => refuse("max_items", "`max_items` without `list = true`"),
        (true, From::Body(_), most) => Ok(Shape::List { most: most.unwrap_or(MAX_ITEMS) }),
        (true, ..) => refuse("from", "`from`: a list is a JSON array, and comes from `body:`"),
    }
}

pub(super) fn pattern(value: Value<'_>) -> Decoded<Pattern> {
    value.parse(|text| Pattern::compile(text).map_err(|error| no_pattern(&error)))
}

/// What is wrong with a regular expression, in one line.
pub(super) fn no_pattern(error: &impl std::fmt::Display) -> String {
    let error = error.to_string();
    let last = error.lines().last().unwrap_or_default();
    format!("not a pattern: {}", last.strip_prefix("error: ").unwrap_or(last))
}

fn integer(table: &mut Table<'_>) -> Decoded<Accepts> {
    let min = table.required("min", |value| value.number(i64::MIN..=i64::MAX));
    let max = table.required("max", |value| value.number(i64::MIN..=i64::MAX));
    let (min, max) = (min?, max?);
    if min > max {
        return Err(table.page().report(Finding::error(table.place(), "`min` is greater than `max`")));
    }
    Ok(Accepts::Integer { min, max })
}

fn max_length(value: Value<'_>) -> Decoded<usize> {
    if value.is_number() {
        return value.number(1..=LONGEST);
    }
    let size =
        value.parse(|text| units::size(text).map_err(|error| format!("a number of bytes, or {error}")))?;
    if (1..=LONGEST).contains(&size) { Ok(size) } else { Err(value.refuse("from 1B to 64KiB")) }
}

fn replace(table: &mut Table<'_>) -> Decoded<BTreeMap<char, char>> {
    let mut pairs = Vec::new();
    for (text, place, value) in table.take_all() {
        let from = single(text).ok_or_else(|| {
            let message = format!("`{}` is not a single character", text.escape_debug());
            table.page().report(Finding::error(place, message))
        });
        let to = value.text().and_then(|text| single(text).ok_or_else(|| value.refuse("a single character")));
        pairs.push(from.and_then(|from| Ok((from, to?))));
    }
    pairs.into_iter().collect()
}

fn single(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|character| *character != '\0' && characters.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::extension::Oid;
    use crate::policy::tests::{GATEWAY, ROUTE, compile, findings};

    fn route(parameter: &str) -> String {
        ROUTE.replace("[run]", &format!("[parameters]\np = {{ {parameter} }}\n[run]"))
    }

    fn accept(parameter: &str) -> Parameters {
        let loaded = compile(GATEWAY, &[("r", &route(parameter))]).unwrap_or_else(|found| panic!("{found}"));
        let mut routes = loaded.policy.routes.into_values();
        std::sync::Arc::into_inner(routes.next().unwrap()).unwrap().parameters
    }

    #[test]
    fn sources_are_read() {
        for (text, from) in [
            ("body:/a~1b/0", From::Body(vec!["a/b".into(), "0".into()])),
            ("body:", From::Body(vec![])),
            ("form:to", From::Form("to".into())),
            ("query:to", From::Query("to".into())),
            ("header:X-GitHub-Event", From::Header("x-github-event".into())),
            ("identity:certname", From::Certname),
            ("identity:key", From::Key),
            ("identity:pp_role", From::Extension(Oid::parse("pp_role").unwrap())),
        ] {
            let parameters = accept(&format!("from = \"{text}\", one_of = [\"x\"]"));
            assert_eq!(parameters.sources().map(|(_, from)| from.clone()).collect::<Vec<_>>(), [from]);
        }
    }

    #[test]
    fn wrong_declarations_are_refused() {
        let one = "a parameter has exactly one of `pattern`, `one_of` and `integer`";
        let ok = "from = \"body:/p\", ";
        for (text, finding) in [
            ("one_of = [\"x\"]".to_owned(), "`from` is missing in the parameter `p`"),
            (
                "from = \"body:p\", one_of = [\"x\"]".into(),
                "`from`: a JSON pointer (RFC 6901) follows `body:`, such as `body:/environment`",
            ),
            (
                "from = \"query:\", one_of = [\"x\"]".into(),
                "`from`: the name of a query parameter follows `query:`",
            ),
            (
                "from = \"header:a b\", one_of = [\"x\"]".into(),
                "`from`: the name of a header follows `header:`, such as `header:x-github-event`",
            ),
            (
                "from = \"identity:name\", one_of = [\"x\"]".into(),
                "`from`: `certname`, `key` or an extension follows `identity:`; this is neither one of Puppet's extension names (such as `pp_auth_role`) nor an OID (such as `1.3.6.1.4.1.34380.1.2.1`)",
            ),
            (
                "from = \"form:\", one_of = [\"x\"]".into(),
                "`from`: the name of a form's field follows `form:`",
            ),
            (
                "from = \"cookie:x\", one_of = [\"x\"]".into(),
                "`from`: `cookie:x` is not where a value can come from",
            ),
            (ok.into(), one),
            (format!("{ok}one_of = [\"x\"], pattern = \"x\""), one),
            (format!("{ok}pattern = \"(\""), "`pattern`: not a pattern: unclosed group"),
            (format!("{ok}pattern = \"a)|(?:b\""), "`pattern`: not a pattern: unopened group"),
            (
                format!("{ok}pattern = \"x{{1000}}{{1000}}\""),
                "`pattern`: not a pattern: Compiled regex exceeds size limit of 1048576 bytes.",
            ),
            (
                format!("{ok}one_of = []"),
                "`one_of`: a list of at least one; leave the key out if it is not meant",
            ),
            (format!("{ok}one_of = [\"x\", \"x\"]"), "`one_of`: it is listed twice"),
            (format!("{ok}integer = {{ min = 1 }}"), "`max` is missing in `integer`"),
            (format!("{ok}integer = {{ min = 2, max = 1 }}"), "`min` is greater than `max`"),
            (
                format!("{ok}one_of = [\"x\"], default = \"y\""),
                "`default`: the default is not one of the values that this route takes",
            ),
            (
                format!("{ok}one_of = [\"x\"], default = []"),
                "`default`: takes a string, a decimal number or a boolean, not an array",
            ),
            (
                format!("{ok}pattern = \".*\", max_length = 2, default = \"abc\""),
                "`default`: the default is too long",
            ),
            (format!("{ok}one_of = [\"x\"], max_length = 0"), "`max_length`: a whole number from 1 to 65536"),
            (format!("{ok}one_of = [\"x\"], max_length = \"1MiB\""), "`max_length`: from 1B to 64KiB"),
            (
                format!("{ok}one_of = [\"x\"], replace = {{ \"ab\" = \"c\" }}"),
                "`ab` is not a single character",
            ),
            (format!("{ok}one_of = [\"x\"], replace = {{ \"a\" = \"\" }}"), "`a`: a single character"),
            (
                format!("{ok}one_of = [\"x\"], leading_dash = \"yes\""),
                "`leading_dash`: takes `true` or `false`, not a string",
            ),
            (format!("{ok}one_of = [\"x\"], max_items = 3"), "`max_items` without `list = true`"),
            (
                format!("{ok}one_of = [\"x\"], list = true, max_items = 0"),
                "`max_items`: a whole number from 1 to 256",
            ),
            (
                "from = \"query:p\", one_of = [\"x\"], list = true".into(),
                "`from`: a list is a JSON array, and comes from `body:`",
            ),
            (
                format!("{ok}one_of = [\"x\"], list = true, default = \"x\""),
                "`default`: takes a list, not a string",
            ),
            (
                format!("{ok}one_of = [\"x\"], list = true, default = [\"x\", \"y\"]"),
                "`default`: the default is not one of the values that this route takes",
            ),
            (
                format!("{ok}one_of = [\"x\"], list = true, max_items = 1, default = [\"x\", \"x\"]"),
                "`default`: the default has too many items",
            ),
            (format!("{ok}one_of = [\"x\"], type = \"x\""), "unknown key `type` in the parameter `p`"),
        ] {
            assert_eq!(findings(GATEWAY, &[("r", &route(&text))]), [finding], "{text}");
        }
        let named = ROUTE.replace("[run]", "[parameters]\nRole = { typ = 1 }\n[run]");
        let found = findings(GATEWAY, &[("r", &named)]);
        assert!(found[0].starts_with("`Role` is not the name of a parameter"));
        let inside =
            ["`from` is missing in the parameter `Role`", one, "unknown key `typ` in the parameter `Role`"];
        assert_eq!(found[1..], inside, "a bad name hides nothing");
        let no_table = ROUTE.replace("[[allow]]", "parameters = 5\n[[allow]]").replace("\"x\"", "\"{p}\"");
        assert_eq!(findings(GATEWAY, &[("r", &no_table)]), ["`parameters`: takes a table, not an integer"]);
    }

    #[test]
    fn a_route_that_reads_no_body_takes_nothing_from_it() {
        let text =
            route("from = \"body:/p\", one_of = [\"x\"]").replace("path =", "payload = \"none\"\npath =");
        let finding = "`from`: there is no JSON to take it from, because `payload` is \"none\"";
        assert_eq!(findings(GATEWAY, &[("r", &text)]), [finding]);
    }

    #[test]
    fn declarations_do_what_they_say() {
        let name = ParameterName::parse("p").unwrap();
        let derive = |declaration: &str, given: Option<&str>| {
            let raw = given.map(|given| (name.clone(), given.into())).into_iter().collect();
            let derived = accept(&format!("from = \"body:/p\", {declaration}"))
                .accept(&crate::domain::parameters::RawParameters(raw));
            derived.ok().map(|derived| derived.0[&name].to_string())
        };
        for (declaration, given, value) in [
            ("pattern = \"[a-z]+\"", Some("web"), Some("web")),
            (
                "pattern = \"refs/heads/(?<value>.+)\", replace = { \"/\" = \"_\" }",
                Some("refs/heads/a/b"),
                Some("a_b"),
            ),
            ("integer = { min = 1, max = 9 }, default = 5", None, Some("5")),
            ("integer = { min = 1, max = 9 }", Some("10"), None),
            ("one_of = [\"true\"], default = true", None, Some("true")),
            ("pattern = \".*\", max_length = 3", Some("abcd"), None),
            ("pattern = \".*\", max_length = \"1KiB\"", Some("abcd"), Some("abcd")),
            ("pattern = \".*\"", None, None),
            ("one_of = [\"a\", \"5\"], list = true, default = [\"a\", 5]", None, Some("[a, 5]")),
        ] {
            assert_eq!(derive(declaration, given).as_deref(), value, "{declaration} {given:?}");
        }
        let long = "x".repeat(257);
        assert_eq!(derive("pattern = \".*\"", Some(&long)), None);
        assert_eq!(derive("pattern = \".*\"", Some(&long[..256])), Some(long[..256].to_owned()));
    }
}
