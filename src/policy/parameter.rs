//! What a declared parameter takes: where its raw value comes from, and which values are accepted.
//!
//! Gate and worker both call [`Parameters::accept`] (invariant I4).

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;

use crate::domain::extension::Oid;
use crate::domain::name::ParameterName;
use crate::domain::parameters::{DerivedParameters, RawParameters, Value};

/// All parameters of a route.
#[derive(Debug, Default)]
pub struct Parameters(pub(super) BTreeMap<ParameterName, Parameter>);

/// One declared parameter.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) from: From,
    pub(super) accepts: Accepts,
    /// Bytes of the raw value.
    pub(super) max_length: usize,
    /// Stands in for a raw value that was not given, and is judged like one.
    pub(super) default: Option<Value>,
    pub(super) replace: BTreeMap<char, char>,
    pub(super) leading_dash: bool,
    pub(super) shape: Shape,
}

/// Whether a parameter is one value or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    Text,
    /// At least one, and at most so many; each is judged like a value of its own.
    List {
        /// How many.
        most: usize,
    },
}

/// Which values are accepted.
#[derive(Debug)]
pub(super) enum Accepts {
    /// The whole value matches.
    Pattern(Pattern),
    OneOf(Vec<String>),
    /// A whole number in its shortest decimal form.
    Integer {
        min: i64,
        max: i64,
    },
}

/// A regular expression that a whole value must match.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: Regex,
    has_value_group: bool,
}

/// Where a raw value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// `body:<JSON pointer>`, RFC 6901: the unescaped reference tokens.
    Body(Vec<String>),
    /// `form:<name>`: a field of a body in the form of the URL Standard, section 5.
    Form(String),
    /// `query:<name>`
    Query(String),
    /// `header:<name>`, in small letters.
    Header(String),
    /// `identity:certname`
    Certname,
    /// `identity:key`
    Key,
    /// `identity:<extension>`
    Extension(Oid),
}

/// Why a value was not accepted; never holds the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parameter `{parameter}` {reason}")]
pub struct Invalid {
    /// Which parameter.
    pub parameter: ParameterName,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// There is none, and no default.
    #[error("is missing")]
    Missing,
    /// It is longer than `max_length`.
    #[error("is too long")]
    TooLong,
    /// It is not what the route takes.
    #[error("is not one of the values that this route takes")]
    NotAccepted,
    /// It holds a NUL byte.
    #[error("holds a NUL byte")]
    Nul,
    /// It is given more than once.
    #[error("is given more than once")]
    Repeated,
    /// It is a list, an object or null.
    #[error("is not a string, number or boolean")]
    NotScalar,
    /// It is no list of strings, numbers and booleans.
    #[error("is not a list of strings, numbers or booleans")]
    NotAList,
    /// It is a list without anything in it.
    #[error("is an empty list")]
    Empty,
    /// It is longer than `max_items`, or makes more arguments than one command takes.
    #[error("has too many items")]
    TooMany,
    /// Its bytes are no text, or hold the character that stands in for such bytes.
    #[error("is not UTF-8 text")]
    NotUtf8,
    /// A header's value has other bytes than those of ASCII text.
    #[error("is not ASCII text")]
    NotAscii,
    /// It would make an argument look like an option.
    #[error("would make an argument start with `-`")]
    LeadingDash,
}

impl Parameters {
    /// Where each declared parameter comes from.
    pub fn sources(&self) -> impl Iterator<Item = (&ParameterName, &From)> {
        self.0.iter().map(|(name, parameter)| (name, &parameter.from))
    }

    /// Whether each declared parameter is one value or several.
    pub fn shapes(&self) -> impl Iterator<Item = (&ParameterName, Shape)> {
        self.0.iter().map(|(name, parameter)| (name, parameter.shape))
    }

    /// Turns raw values into derived ones, one for each declared parameter; values of others are left out.
    ///
    /// # Errors
    /// The first parameter that is missing or not accepted.
    pub fn accept(&self, raw: &RawParameters) -> Result<DerivedParameters, Invalid> {
        let accept = |(name, parameter): (&ParameterName, &Parameter)| {
            let derived = parameter.accept(raw.0.get(name));
            derived
                .map(|value| (name.clone(), value))
                .map_err(|reason| Invalid { parameter: name.clone(), reason })
        };
        self.0.iter().map(accept).collect::<Result<_, _>>().map(DerivedParameters)
    }
}

impl Parameter {
    /// The derived value of a raw one.
    pub(super) fn accept(&self, given: Option<&Value>) -> Result<Value, Reason> {
        match (self.shape, given.or(self.default.as_ref()).ok_or(Reason::Missing)?) {
            (Shape::Text, Value::Text(raw)) => self.derive(raw).map(Value::Text),
            (Shape::Text, Value::List(_)) => Err(Reason::NotScalar),
            (Shape::List { .. }, Value::Text(_)) => Err(Reason::NotAList),
            // A command that is told nothing to act on may act on everything.
            (Shape::List { .. }, Value::List(items)) if items.is_empty() => Err(Reason::Empty),
            (Shape::List { most }, Value::List(items)) if items.len() > most => Err(Reason::TooMany),
            (Shape::List { .. }, Value::List(items)) => {
                items.iter().map(|raw| self.derive(raw)).collect::<Result<_, _>>().map(Value::List)
            }
        }
    }

    fn derive(&self, raw: &str) -> Result<String, Reason> {
        if raw.len() > self.max_length {
            return Err(Reason::TooLong);
        }
        if raw.contains('\0') {
            return Err(Reason::Nul);
        }
        let taken = self.accepts.take(raw).ok_or(Reason::NotAccepted)?;
        let replaced = |letter| *self.replace.get(&letter).unwrap_or(&letter);
        Ok(taken.chars().map(replaced).collect())
    }
}

impl Accepts {
    /// The part of an accepted value that is taken.
    pub(super) fn take<'a>(&self, raw: &'a str) -> Option<&'a str> {
        match self {
            Self::Pattern(pattern) => pattern.take(raw),
            Self::OneOf(values) => values.iter().any(|value| value == raw).then_some(raw),
            Self::Integer { min, max } => {
                let number = raw.parse::<i64>().ok().filter(|number| number.to_string() == raw)?;
                (*min..=*max).contains(&number).then_some(raw)
            }
        }
    }
}

impl Pattern {
    /// Largest compiled expression, in bytes.
    const SIZE_LIMIT: usize = 1 << 20;
    /// The group whose match is taken in place of the whole value.
    const VALUE_GROUP: &str = "value";

    /// Compiles an expression that has to match whole values.
    pub(super) fn compile(text: &str) -> Result<Self, regex::Error> {
        let build = |text: &str| regex::RegexBuilder::new(text).size_limit(Self::SIZE_LIMIT).build();
        // Alone first: `a)|(?:b` is an expression only between the anchors, and would escape them there.
        build(text)?;
        let regex = build(&format!(r"\A(?:{text})\z"))?;
        let has_value_group = regex.capture_names().flatten().any(|name| name == Self::VALUE_GROUP);
        Ok(Self { regex, has_value_group })
    }

    fn take<'a>(&self, raw: &'a str) -> Option<&'a str> {
        if self.has_value_group {
            let captures = self.regex.captures(raw)?;
            captures.name(Self::VALUE_GROUP).map(|group| group.as_str())
        } else {
            self.regex.is_match(raw).then_some(raw)
        }
    }
}

/// As the policy writes it.
impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(tokens) => {
                f.write_str("body:")?;
                let escaped = |token: &String| token.replace('~', "~0").replace('/', "~1");
                tokens.iter().try_for_each(|token| write!(f, "/{}", escaped(token)))
            }
            Self::Form(name) => write!(f, "form:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Certname => f.write_str("identity:certname"),
            Self::Key => f.write_str("identity:key"),
            Self::Extension(oid) => write!(f, "identity:{oid}"),
        }
    }
}

impl From {
    /// The reference tokens of a JSON pointer (RFC 6901); `None` when it is not one.
    pub(super) fn pointer(text: &str) -> Option<Vec<String>> {
        if text.is_empty() {
            return Some(Vec::new());
        }
        let unescape = |token: &str| {
            let rest = token.replace("~0", "").replace("~1", "");
            if rest.contains('~') { None } else { Some(token.replace("~1", "/").replace("~0", "~")) }
        };
        text.strip_prefix('/')?.split('/').map(unescape).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parameter(accepts: Accepts) -> Parameter {
        Parameter {
            from: From::Certname,
            accepts,
            max_length: 20,
            default: None,
            replace: BTreeMap::new(),
            leading_dash: false,
            shape: Shape::Text,
        }
    }

    /// What a parameter makes of one text, or of none.
    fn accept(parameter: &Parameter, given: Option<&str>) -> Result<String, Reason> {
        match parameter.accept(given.map(Value::from).as_ref())? {
            Value::Text(text) => Ok(text),
            Value::List(items) => panic!("{items:?}"),
        }
    }

    fn pattern(text: &str) -> Accepts {
        Accepts::Pattern(Pattern::compile(text).unwrap())
    }

    #[test]
    fn a_pattern_matches_whole_values() {
        for (text, value, taken) in [
            ("[a-z]+", "web", Some("web")),
            ("[a-z]+", "web1", None),
            ("[a-z]+", "web\n", None),
            ("[a-z]+$", "web\n", None),
            ("(?m)^[a-z]+$", "x\nweb", None),
            ("a|b", "ab", None),
            ("a|b", "b", Some("b")),
            ("", "", Some("")),
            ("refs/heads/(?<value>.+)", "refs/heads/main", Some("main")),
            ("refs/heads/(?<value>.+)", "main", None),
            ("(?<value>a)|b", "b", None),
        ] {
            let accepted = accept(&parameter(pattern(text)), Some(value));
            assert_eq!(accepted.ok().as_deref(), taken, "{text} {value:?}");
        }
    }

    #[test]
    fn patterns_that_would_escape_their_anchors_or_grow_without_bound_are_refused() {
        for text in ["a)|(?:b", "(", "a{1000}{1000}", "(?x) a # comment"] {
            assert!(Pattern::compile(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_integer_has_one_form() {
        let parameter = parameter(Accepts::Integer { min: -5, max: 100 });
        for good in ["0", "100", "-5", "7"] {
            assert_eq!(accept(&parameter, Some(good)).as_deref(), Ok(good));
        }
        for bad in ["", "+7", "07", "-0", "101", "-6", "7.0", "1e1", " 7", "0x7", "٧", "9223372036854775808"]
        {
            assert_eq!(accept(&parameter, Some(bad)), Err(Reason::NotAccepted), "{bad:?}");
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let choice = || parameter(Accepts::OneOf(vec!["a".into(), "b\0".into(), "ä".repeat(11)]));
        for (given, verdict) in [
            (Some("a"), Ok("a")),
            (Some("A"), Err(Reason::NotAccepted)),
            (Some(""), Err(Reason::NotAccepted)),
            (Some("b\0"), Err(Reason::Nul)),
            (Some("äääääääääää"), Err(Reason::TooLong)),
            (None, Err(Reason::Missing)),
        ] {
            assert_eq!(accept(&choice(), given).as_deref(), verdict.as_ref().map(|text| *text), "{given:?}");
        }
    }

    #[test]
    fn a_default_is_judged_like_a_value_and_given_values_win() {
        let with =
            |default: &str| Parameter { default: Some(default.into()), ..parameter(pattern("[a-z]+")) };
        assert_eq!(accept(&with("web"), None).as_deref(), Ok("web"));
        assert_eq!(accept(&with("web"), Some("db")).as_deref(), Ok("db"));
        assert_eq!(accept(&with("web"), Some("")), Err(Reason::NotAccepted));
        assert_eq!(accept(&with("WEB"), None), Err(Reason::NotAccepted));
    }

    #[test]
    fn replacing_comes_after_the_match_and_happens_at_once() {
        let swap = BTreeMap::from([('a', 'b'), ('b', 'a'), ('/', '_')]);
        let parameter = Parameter { replace: swap, ..parameter(pattern("x:(?<value>[ab/]+)")) };
        assert_eq!(accept(&parameter, Some("x:ab/")).as_deref(), Ok("ba_"));
        assert_eq!(accept(&parameter, Some("x:_")), Err(Reason::NotAccepted));
    }

    #[test]
    fn i4_a_job_gets_declared_parameters_only() {
        let name = |text: &str| ParameterName::parse(text).unwrap();
        let declared = Parameters(BTreeMap::from([(name("role"), parameter(pattern("[a-z]+")))]));
        let raw = |pairs: &[(&str, &str)]| {
            RawParameters(pairs.iter().map(|(key, value)| (name(key), (*value).into())).collect())
        };
        let derived = declared.accept(&raw(&[("role", "web"), ("extra", "x")])).unwrap();
        assert_eq!(derived.0, BTreeMap::from([(name("role"), "web".into())]));
        let missing = Invalid { parameter: name("role"), reason: Reason::Missing };
        assert_eq!(declared.accept(&raw(&[("extra", "x")])), Err(missing));
    }

    #[test]
    fn each_item_of_a_list_is_judged_like_a_value_and_a_list_has_bounds() {
        let hosts =
            || Parameter { shape: Shape::List { most: 3 }, ..parameter(pattern("h:(?<value>[a-z]+)")) };
        let list = |items: &[&str]| Value::List(items.iter().map(|item| (*item).to_owned()).collect());
        assert_eq!(hosts().accept(Some(&list(&["h:b", "h:a", "h:b"]))), Ok(list(&["b", "a", "b"])));
        for (given, reason) in [
            (None, Reason::Missing),
            (Some("h:a".into()), Reason::NotAList),
            (Some(list(&[])), Reason::Empty),
            (Some(list(&["h:a"; 4])), Reason::TooMany),
            (Some(list(&["h:a", "a"])), Reason::NotAccepted),
            (Some(list(&["h:a", "h:a\0"])), Reason::Nul),
            (Some(list(&["h:aaaaaaaaaaaaaaaaaaaaaaaaa"])), Reason::TooLong),
        ] {
            assert_eq!(hosts().accept(given.as_ref()), Err(reason), "{given:?}");
        }
        assert_eq!(parameter(pattern(".*")).accept(Some(&list(&["a"]))), Err(Reason::NotScalar));
        let with_default = Parameter { default: Some(list(&["h:x"])), ..hosts() };
        assert_eq!(with_default.accept(None), Ok(list(&["x"])));
    }

    #[test]
    fn a_reason_never_holds_the_value() {
        let parameter = ParameterName::parse("role").unwrap();
        let invalid = Invalid { parameter, reason: Reason::NotAccepted };
        assert_eq!(
            invalid.to_string(),
            "the parameter `role` is not one of the values that this route takes"
        );
    }

    #[test]
    fn json_pointers_are_read_as_rfc_6901_has_them() {
        let tokens = |list: &[&str]| Some(list.iter().map(|token| (*token).to_owned()).collect::<Vec<_>>());
        for (text, read) in [
            ("", tokens(&[])),
            ("/", tokens(&[""])),
            ("/a/b", tokens(&["a", "b"])),
            ("/a~1b/m~0n", tokens(&["a/b", "m~n"])),
            ("/~01", tokens(&["~1"])),
            ("/a//0", tokens(&["a", "", "0"])),
            ("a", None),
            ("/~", None),
            ("/~2", None),
            ("#/a", None),
        ] {
            assert_eq!(From::pointer(text), read, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn accepting_never_panics(text in any::<String>(), value in any::<String>()) {
            let _ = From::pointer(&text);
            if let Ok(pattern) = Pattern::compile(&text) {
                let _ = accept(&parameter(Accepts::Pattern(pattern)), Some(&value));
            }
            let _ = accept(&parameter(Accepts::Integer { min: i64::MIN, max: i64::MAX }), Some(&value));
        }

        #[test]
        fn every_integer_in_range_is_accepted_and_no_other(number in any::<i64>(), min in any::<i64>(), max in any::<i64>()) {
            let parameter = parameter(Accepts::Integer { min, max });
            let text = number.to_string();
            let accepted = accept(&parameter, Some(&text)).is_ok();
            prop_assert_eq!(accepted, min <= number && number <= max);
        }
    }
}
