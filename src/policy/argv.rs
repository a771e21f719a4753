//! Templates of arguments: text with `{parameter}` placeholders, each filled inside its own array element.
//!
//! Rendering never splits, joins, quotes or expands: one template gives one argument, but for a list's placeholder that
//! stands alone, which gives one for each item. Refuses a missing value, a NUL byte, and an argument that a value would turn
//! into an option.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use super::parameter::{Invalid, Reason};
use crate::domain::argv::{Argv, NotAnArgv};
use crate::domain::name::{NotAName, ParameterName};
use crate::domain::parameters::{DerivedParameters, Value};

/// Text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Never two texts in a row, and no empty text.
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Placeholder(ParameterName),
}

/// Why a text is not a template, and which bytes of it are to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct NotATemplate {
    /// What is wrong.
    pub problem: TemplateProblem,
    /// Where in the text, in bytes.
    pub at: Range<usize>,
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateProblem {
    /// A brace that belongs to no placeholder.
    #[error("a lone brace: a placeholder reads `{{name}}`, and `{{{{` and `}}}}` stand for braces")]
    LoneBrace,
    /// No parameter can have the name between the braces.
    #[error("not a placeholder: {0}")]
    Name(NotAName),
    /// A NUL byte.
    #[error("an argument cannot hold a NUL byte")]
    Nul,
}

impl Template {
    /// Reads a template: `{name}` is a placeholder, `{{` and `}}` are braces, all else is itself.
    ///
    /// # Errors
    /// The first lone brace, impossible name or NUL byte.
    pub fn parse(text: &str) -> Result<Self, NotATemplate> {
        let refuse = |problem, at| Err(NotATemplate { problem, at });
        let mut template = Self { pieces: Vec::new() };
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some(brace) = ["{{", "}}"].iter().find(|pair| rest.starts_with(**pair)) {
                template.push_text(brace.get(..1).unwrap_or_default());
                at += 2;
            } else if let Some(inner) = rest.strip_prefix('{') {
                let Some(end) = inner.find(['{', '}']).filter(|end| inner[*end..].starts_with('}')) else {
                    return refuse(TemplateProblem::LoneBrace, at..at + 1);
                };
                let after = at + end + 2;
                match ParameterName::parse(&inner[..end]) {
                    Ok(name) => template.pieces.push(Piece::Placeholder(name)),
                    Err(error) => return refuse(TemplateProblem::Name(error), at..after),
                }
                at = after;
            } else if rest.starts_with('}') {
                return refuse(TemplateProblem::LoneBrace, at..at + 1);
            } else {
                let end = rest.find(['{', '}']).unwrap_or(rest.len());
                if let Some(nul) = rest[..end].find('\0') {
                    return refuse(TemplateProblem::Nul, at + nul..at + nul + 1);
                }
                template.push_text(&rest[..end]);
                at += end;
            }
        }
        Ok(template)
    }

    /// A template that renders to `text` as it stands, braces included.
    pub(super) fn literal(text: &str) -> Self {
        let mut template = Self { pieces: Vec::new() };
        template.push_text(text);
        template
    }

    /// The parameters that it names, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &ParameterName> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Placeholder(name) => Some(name),
            Piece::Text(_) => None,
        })
    }

    /// The parameter whose placeholder is all of it.
    pub(super) fn alone(&self) -> Option<&ParameterName> {
        match self.pieces.as_slice() {
            [Piece::Placeholder(name)] => Some(name),
            [] | [Piece::Text(_)] | [_, _, ..] => None,
        }
    }

    /// Whether two templates are the same but for the names of their placeholders.
    pub(super) fn has_shape_of(&self, other: &Self) -> bool {
        let same = |(left, right): (&Piece, &Piece)| match (left, right) {
            (Piece::Text(left), Piece::Text(right)) => left == right,
            (Piece::Placeholder(_), Piece::Placeholder(_)) => true,
            (Piece::Text(_), Piece::Placeholder(_)) | (Piece::Placeholder(_), Piece::Text(_)) => false,
        };
        self.pieces.len() == other.pieces.len() && self.pieces.iter().zip(&other.pieces).all(same)
    }

    /// Whether some values could render two templates to one text; never a wrong `false`.
    pub(super) fn may_equal(&self, other: &Self) -> bool {
        if self.placeholders().next().is_none() && other.placeholders().next().is_none() {
            return self == other;
        }
        let overlap = |left: &str, right: &str, starts: fn(&str, &str) -> bool| {
            starts(left, right) || starts(right, left)
        };
        overlap(self.text_at(0), other.text_at(0), |long, short| long.starts_with(short))
            && overlap(self.last_text(), other.last_text(), |long, short| long.ends_with(short))
    }

    /// The text with its placeholders filled.
    ///
    /// # Errors
    /// When a value is missing, is a list, or holds a NUL byte.
    pub fn render(&self, values: &DerivedParameters) -> Result<String, Invalid> {
        self.render_and_blame(values).map(|(text, _)| text)
    }

    /// As `render`, and names the parameter to which the text owes a leading `-` that the template does not have.
    fn render_and_blame(
        &self,
        values: &DerivedParameters,
    ) -> Result<(String, Option<&ParameterName>), Invalid> {
        let mut rendered = String::new();
        let mut first_placeholder = None;
        let mut starter = None;
        for piece in &self.pieces {
            let (value, source) = match piece {
                Piece::Text(text) => (text, first_placeholder),
                Piece::Placeholder(name) => {
                    let invalid = |reason| Invalid { parameter: name.clone(), reason };
                    let value = match values.0.get(name) {
                        Some(Value::Text(text)) => text,
                        Some(Value::List(_)) => return Err(invalid(Reason::NotScalar)),
                        None => return Err(invalid(Reason::Missing)),
                    };
                    if value.contains('\0') {
                        return Err(invalid(Reason::Nul));
                    }
                    first_placeholder = first_placeholder.or(Some(name));
                    (value, Some(name))
                }
            };
            if rendered.is_empty() {
                starter = source;
            }
            rendered.push_str(value);
        }
        let blamed = if rendered.starts_with('-') { starter } else { None };
        Ok((rendered, blamed))
    }

    fn push_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.pieces.last_mut() {
            Some(Piece::Text(last)) => last.push_str(text),
            Some(Piece::Placeholder(_)) | None => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    fn text_at(&self, index: usize) -> &str {
        match self.pieces.get(index) {
            Some(Piece::Text(text)) => text,
            Some(Piece::Placeholder(_)) | None => "",
        }
    }

    fn last_text(&self) -> &str {
        self.text_at(self.pieces.len().saturating_sub(1))
    }
}

/// The text that `parse` reads back as this template.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}")),
            Piece::Placeholder(name) => write!(f, "{{{name}}}"),
        })
    }
}

/// One step: an absolute program and templates of its arguments.
#[derive(Debug)]
pub struct StepTemplate(Step);

#[derive(Debug)]
enum Step {
    /// Without placeholders.
    Fixed(Argv),
    /// With at least one placeholder.
    Filled { program: String, arguments: Vec<Template>, first: ParameterName },
}

impl StepTemplate {
    /// Puts a program and the templates of its arguments together.
    ///
    /// # Errors
    /// When the program is not absolute, or there are too many arguments.
    pub fn new(program: &str, arguments: Vec<Template>) -> Result<Self, NotAnArgv> {
        let empty = arguments.iter().map(|_| String::new()).collect();
        Argv::new(program, empty)?;
        let first = arguments.iter().find_map(|template| template.placeholders().next()).cloned();
        match first {
            Some(first) => Ok(Self(Step::Filled { program: program.to_owned(), arguments, first })),
            None => {
                let texts = arguments.iter().map(|template| template.text_at(0).to_owned()).collect();
                Argv::new(program, texts).map(|argv| Self(Step::Fixed(argv)))
            }
        }
    }

    /// The argv, with exactly one argument for each template, and one for each item of a list whose placeholder stands alone.
    ///
    /// # Errors
    /// When a value is missing, makes too many arguments, is a list amid text, holds a NUL byte, or makes an argument start with `-` although it is not one of those
    /// that `may_lead` with one.
    pub fn render(
        &self,
        values: &DerivedParameters,
        may_lead: &BTreeSet<ParameterName>,
    ) -> Result<Argv, Invalid> {
        let (program, arguments, first) = match &self.0 {
            Step::Fixed(argv) => return Ok(argv.clone()),
            Step::Filled { program, arguments, first } => (program, arguments, first),
        };
        let mut rendered = Vec::with_capacity(arguments.len());
        for template in arguments {
            if let Some(name) = template.alone()
                && let Some(Value::List(items)) = values.0.get(name)
            {
                let dashes = items.iter().any(|item| item.starts_with('-'));
                if dashes && !may_lead.contains(name) {
                    return Err(Invalid { parameter: name.clone(), reason: Reason::LeadingDash });
                }
                rendered.extend(items.iter().cloned());
                continue;
            }
            match template.render_and_blame(values)? {
                (_, Some(name)) if !may_lead.contains(name) => {
                    return Err(Invalid { parameter: name.clone(), reason: Reason::LeadingDash });
                }
                (text, _) => rendered.push(text),
            }
        }
        Argv::new(program, rendered).map_err(|error| {
            let reason = match error {
                NotAnArgv::TooMany => Reason::TooMany,
                // `new` has proven the program: only an item's NUL byte can be left to refuse.
                NotAnArgv::Nul { .. } | NotAnArgv::Program => Reason::Nul,
            };
            Invalid { parameter: first.clone(), reason }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> ParameterName {
        ParameterName::parse(text).unwrap()
    }

    fn values(pairs: &[(&str, &str)]) -> DerivedParameters {
        DerivedParameters(pairs.iter().map(|(key, value)| (name(key), (*value).into())).collect())
    }

    fn list(items: &[&str]) -> Value {
        Value::List(items.iter().map(|item| (*item).to_owned()).collect())
    }

    fn render(template: &str, pairs: &[(&str, &str)]) -> Result<String, Invalid> {
        Template::parse(template).unwrap().render(&values(pairs))
    }

    #[test]
    fn placeholders_are_filled_and_double_braces_are_braces() {
        let pairs = [("role", "web"), ("version", "1.2.3")];
        for (template, text) in [
            ("", ""),
            ("plain", "plain"),
            ("{role}", "web"),
            ("{role}::version={version}", "web::version=1.2.3"),
            ("{{role}}", "{role}"),
            ("{{{role}}}", "{web}"),
            ("{{}}", "{}"),
            ("é{role}ü", "éwebü"),
        ] {
            assert_eq!(render(template, &pairs), Ok(text.to_owned()), "{template}");
        }
    }

    #[test]
    fn values_are_not_templates() {
        assert_eq!(
            render("{role}", &[("role", "{version} $(id) `id` ; *")]),
            Ok("{version} $(id) `id` ; *".into())
        );
    }

    #[test]
    fn lone_braces_and_impossible_names_are_refused_where_they_stand() {
        use TemplateProblem::{LoneBrace, Name, Nul};
        let character = || Name(ParameterName::parse("A").unwrap_err());
        for (text, problem, at) in [
            ("a{", LoneBrace, 1..2),
            ("a}", LoneBrace, 1..2),
            ("{role", LoneBrace, 0..1),
            ("{a{b}}", LoneBrace, 0..1),
            ("x{}", Name(NotAName::Length), 1..3),
            ("{Role}", character(), 0..6),
            ("{ role }", character(), 0..8),
            ("{role}}", LoneBrace, 6..7),
            ("{{{role}}", LoneBrace, 8..9),
            ("a\0b", Nul, 1..2),
        ] {
            assert_eq!(Template::parse(text), Err(NotATemplate { problem, at }), "{text:?}");
        }
    }

    #[test]
    fn i1_a_missing_value_renders_nothing() {
        let missing = Invalid { parameter: name("role"), reason: Reason::Missing };
        assert_eq!(render("-x{role}", &[("version", "1")]), Err(missing));
        let nul = Invalid { parameter: name("role"), reason: Reason::Nul };
        assert_eq!(render("{role}", &[("role", "a\0b")]), Err(nul));
    }

    #[test]
    fn an_argument_becomes_an_option_only_by_leave() {
        let step = |template: &str| {
            StepTemplate::new("/bin/true", vec![Template::parse(template).unwrap()]).unwrap()
        };
        let blamed = |template: &str, pairs: &[(&str, &str)], may: &[&str]| {
            let may = may.iter().map(|text| name(text)).collect();
            match step(template).render(&values(pairs), &may) {
                Ok(_) => None,
                Err(Invalid { parameter, reason }) => {
                    assert_eq!(reason, Reason::LeadingDash);
                    Some(parameter.to_string())
                }
            }
        };
        for (template, a, b, may, expected) in [
            ("{a}", "-x", "", &[][..], Some("a")),
            ("{a}", "-x", "", &["a"], None),
            ("{a}", "x-", "", &[], None),
            ("--o={a}", "-x", "", &[], None),
            ("-{a}", "-x", "", &[], None),
            ("x{a}", "-x", "", &[], None),
            ("{a}{b}", "", "-x", &["a"], Some("b")),
            ("{a}{b}", "", "-x", &["b"], None),
            ("{a}{b}", "-", "x", &["b"], Some("a")),
            ("{a}-x", "", "", &[], Some("a")),
            ("{a}-x", "", "", &["a"], None),
            ("{a}-x", "y", "", &[], None),
        ] {
            assert_eq!(
                blamed(template, &[("a", a), ("b", b)], may).as_deref(),
                expected,
                "{template} {a:?} {b:?}"
            );
        }
    }

    #[test]
    fn i3_argv_only_a_list_that_stands_alone_becomes_as_many_arguments_as_it_has_items() {
        use crate::domain::argv::MOST_ARGUMENTS;
        let step = |templates: &[&str]| {
            let parsed = templates.iter().map(|text| Template::parse(text).unwrap()).collect();
            StepTemplate::new("/bin/mco", parsed).unwrap()
        };
        let render = |templates: &[&str], hosts: Value, may: &[&str]| {
            let values = DerivedParameters([(name("hosts"), hosts), (name("role"), "web".into())].into());
            let may = may.iter().map(|text| name(text)).collect();
            step(templates)
                .render(&values, &may)
                .map(|argv| argv.arguments().to_vec())
                .map_err(|invalid| invalid.reason)
        };
        let hosts = || list(&["a b", "{role}", ""]);
        assert_eq!(
            render(&["-I", "{hosts}", "{role}"], hosts(), &[]).unwrap(),
            ["-I", "a b", "{role}", "", "web"]
        );
        assert_eq!(render(&["{hosts}{role}"], hosts(), &[]), Err(Reason::NotScalar));
        assert_eq!(render(&["x{hosts}"], hosts(), &[]), Err(Reason::NotScalar));
        assert_eq!(render(&["{hosts}"], list(&["a", "-x"]), &[]), Err(Reason::LeadingDash));
        assert_eq!(render(&["{hosts}"], list(&["a", "-x"]), &["role"]), Err(Reason::LeadingDash));
        assert_eq!(render(&["{hosts}"], list(&["a", "-x"]), &["hosts"]).unwrap(), ["a", "-x"]);
        assert_eq!(render(&["{hosts}"], list(&["a", "b\0"]), &[]), Err(Reason::Nul));
        let many = list(&vec!["x"; MOST_ARGUMENTS]);
        assert!(render(&["{hosts}"], many.clone(), &[]).is_ok());
        assert_eq!(render(&["{hosts}", "y"], many, &[]), Err(Reason::TooMany));
        let values = DerivedParameters([(name("hosts"), list(&["a"]))].into());
        assert!(Template::parse("{hosts}").unwrap().render(&values).is_err(), "a lock is one text");
    }

    #[test]
    fn i3_argv_only_from_absolute_programs_and_bounded_arguments() {
        use crate::domain::argv::MOST_ARGUMENTS;
        assert_eq!(StepTemplate::new("mco", vec![]).map(drop), Err(NotAnArgv::Program));
        let many = vec![Template::parse("x").unwrap(); MOST_ARGUMENTS + 1];
        assert_eq!(StepTemplate::new("/bin/mco", many).map(drop), Err(NotAnArgv::TooMany));
    }

    #[test]
    fn templates_that_may_meet_are_recognised() {
        for (left, right, shape, meet) in [
            ("promote", "promote", true, true),
            ("promote", "kick", false, false),
            ("env-{a}", "env-{b}", true, true),
            ("env-{a}", "env-production", false, true),
            ("env-{a}", "role-{a}", false, false),
            ("{a}", "anything", false, true),
            ("{a}.x", "{a}.y", false, false),
            ("{a}-{b}", "x{a}", false, true),
        ] {
            let (left, right) = (Template::parse(left).unwrap(), Template::parse(right).unwrap());
            assert_eq!((left.has_shape_of(&right), left.may_equal(&right)), (shape, meet), "{left} {right}");
            assert_eq!((right.has_shape_of(&left), right.may_equal(&left)), (shape, meet), "{right} {left}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics_and_what_parses_is_written_back(text in any::<String>(), braces in "[{}a-c \\PC]{0,20}") {
            for text in [text, braces] {
                if let Ok(template) = Template::parse(&text) {
                    prop_assert_eq!(template.to_string(), text);
                }
            }
        }

        #[test]
        fn any_text_can_be_written_with_double_braces(text in "[^\0]*") {
            let written = Template::literal(&text).to_string();
            let read = Template::parse(&written);
            prop_assert_eq!(read.as_ref().map(|template| template.render(&values(&[]))), Ok(Ok(text)));
        }

        #[test]
        fn i3_argv_only_one_argument_for_each_template(
            templates in prop::collection::vec("([a-z {}$;'\"-]{0,5}|\\{a\\}|\\{b\\})*", 0..8),
            a in any::<String>(),
            b in any::<String>(),
        ) {
            let parsed: Vec<_> = templates.iter().filter_map(|text| Template::parse(text).ok()).collect();
            let step = StepTemplate::new("/bin/true", parsed.clone()).unwrap();
            let values = values(&[("a", &a), ("b", &b)]);
            if let Ok(argv) = step.render(&values, &BTreeSet::new()) {
                prop_assert_eq!(argv.program(), std::path::Path::new("/bin/true"));
                prop_assert_eq!(argv.arguments().len(), parsed.len());
                for (template, argument) in parsed.iter().zip(argv.arguments()) {
                    let rendered = template.render(&values);
                    prop_assert_eq!(rendered.as_ref(), Ok(argument));
                    prop_assert!(!argument.starts_with('-') || template.to_string().starts_with('-'));
                }
            }
        }
    }
}
