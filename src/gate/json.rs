//! JSON bodies, strictly: no key twice in one object, and no more depth than a webhook needs.
//!
//! Numbers keep their literal text, so that `1.10` stays `1.10`. Syntax is `serde_json`'s (RFC 8259); this file refuses
//! what that crate lets pass in silence.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Deepest nesting of arrays and objects.
pub(super) const DEEPEST: usize = 32;

/// A JSON document whose objects have distinct keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Json {
    Object(BTreeMap<String, Json>),
    Array(Vec<Json>),
    /// A string's value, or the literal text of a number or boolean.
    Scalar(String),
    Null,
}

/// Why a body is not taken as JSON; never holds any of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotJson {
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("syntax error at line {line}, column {column}")]
    Syntax { line: usize, column: usize },
    #[error("an object has the same key twice")]
    DuplicateKey,
    #[error("it is nested more than {DEEPEST} levels deep")]
    TooDeep,
}

impl Json {
    /// Parses a whole body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, NotJson> {
        let text = std::str::from_utf8(body).map_err(|_| NotJson::NotUtf8)?;
        let raw: &RawValue = serde_json::from_str(text)
            .map_err(|error| NotJson::Syntax { line: error.line(), column: error.column() })?;
        Self::read(raw, 0)
    }

    /// Follows the reference tokens of a JSON pointer (RFC 6901).
    pub(super) fn at(&self, tokens: &[String]) -> Option<&Self> {
        tokens.iter().try_fold(self, |value, token| match value {
            Self::Object(members) => members.get(token),
            Self::Array(elements) => elements.get(index(token)?),
            Self::Scalar(_) | Self::Null => None,
        })
    }

    fn read(raw: &RawValue, depth: usize) -> Result<Self, NotJson> {
        let text = raw.get();
        let inner = || if depth < DEEPEST { Ok(depth + 1) } else { Err(NotJson::TooDeep) };
        match text.as_bytes().first() {
            Some(b'{') => {
                let depth = inner()?;
                let mut members = BTreeMap::new();
                for (key, value) in again::<Members<'_>>(text)?.0 {
                    let value = Self::read(value, depth)?;
                    if members.insert(key.into_owned(), value).is_some() {
                        return Err(NotJson::DuplicateKey);
                    }
                }
                Ok(Self::Object(members))
            }
            Some(b'[') => {
                let depth = inner()?;
                let elements = again::<Vec<&RawValue>>(text)?;
                elements
                    .into_iter()
                    .map(|raw| Self::read(raw, depth))
                    .collect::<Result<_, _>>()
                    .map(Self::Array)
            }
            Some(b'"') => again::<String>(text).map(Self::Scalar),
            Some(b'n') => Ok(Self::Null),
            Some(_) | None => Ok(Self::Scalar(text.to_owned())),
        }
    }
}

/// An array index as RFC 6901 writes it: no sign, no leading zero.
fn index(token: &str) -> Option<usize> {
    let index = token.parse::<usize>().ok()?;
    (index.to_string() == token).then_some(index)
}

/// Parses one level of what was already found to be JSON; only text that is no Unicode can still fail.
fn again<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, NotJson> {
    serde_json::from_str(text).map_err(|error| NotJson::Syntax { line: error.line(), column: error.column() })
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> serde::Deserialize<'a> for Members<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'a> Visitor<'a> for Collect {
            type Value = Members<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Members<'a>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &RawValue>()? {
                    members.push((Cow::Owned(member.0), member.1));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(body: &str, pointer: &[&str]) -> Option<Json> {
        let tokens: Vec<String> = pointer.iter().map(|&token| token.to_owned()).collect();
        Json::parse(body.as_bytes()).unwrap().at(&tokens).cloned()
    }

    #[test]
    fn scalars_keep_their_text() {
        let body = r#"{"a":{"b":[1.10,true,null,"x\u00e9\/",-0e5]}}"#;
        for (index, expected) in [("0", "1.10"), ("1", "true"), ("3", "xé/"), ("4", "-0e5")] {
            assert_eq!(at(body, &["a", "b", index]), Some(Json::Scalar(expected.to_owned())));
        }
        assert_eq!(at(body, &["a", "b", "2"]), Some(Json::Null));
        for none in
            [&["a", "c"][..], &["a", "b", "5"], &["a", "b", "00"], &["a", "b", "-"], &["a", "b", "0", "x"]]
        {
            assert_eq!(at(body, none), None, "{none:?}");
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        for (body, expected) in [
            (r#"{"a":1,"a":2}"#, NotJson::DuplicateKey),
            (r#"{"x":[{"a":1,"\u0061":2}]}"#, NotJson::DuplicateKey),
            (&deep(DEEPEST + 1), NotJson::TooDeep),
            (&deep(5000), NotJson::TooDeep),
        ] {
            assert_eq!(Json::parse(body.as_bytes()), Err(expected), "{body:.40}");
        }
        assert!(Json::parse(deep(DEEPEST).as_bytes()).is_ok());
        assert_eq!(Json::parse(b"\"\xff\""), Err(NotJson::NotUtf8));
        for body in ["", " ", "{", "{\"a\":1}x", "{'a':1}", "[1,]", "NaN", "01", "\"\\ud800\"", "{} {}"] {
            assert!(matches!(Json::parse(body.as_bytes()), Err(NotJson::Syntax { .. })), "{body}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_where_that_accepts(body in "[\\[\\]{},:\"a0-9.e \\\\-]{0,40}") {
            let ours = Json::parse(body.as_bytes());
            let theirs = serde_json::from_str::<serde_json::Value>(&body);
            match ours {
                Ok(_) => prop_assert!(theirs.is_ok() || theirs.is_err_and(|error| error.to_string().contains("out of range"))),
                Err(NotJson::DuplicateKey) => prop_assert!(theirs.is_ok()),
                Err(NotJson::Syntax { .. }) => prop_assert!(theirs.is_err()),
                Err(NotJson::TooDeep | NotJson::NotUtf8) => {}
            }
        }
    }
}
