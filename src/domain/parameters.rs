//! The two lives of a parameter: raw, as the request gave it, and derived, as a policy accepted it.
//!
//! The types keep them apart: jobs carry raw values, argv arrays are rendered from derived ones, and only
//! `policy::parameter` turns the one into the other. In JSON, a text is a string and a list an array of strings.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::ParameterName;

/// Values as they stood in the request; what was not given is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawParameters(pub BTreeMap<ParameterName, Value>);

/// Values that matched, after `value` groups, defaults and replacements: one for each declared parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DerivedParameters(pub BTreeMap<ParameterName, Value>);

/// What a parameter is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// One text.
    Text(String),
    /// Several, in order; for parameters that are declared as lists alone.
    List(Vec<String>),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// For people: a list reads `[a, b]`, which a text could read, too.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::List(items) => write!(f, "[{}]", items.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_and_a_list_are_told_apart_in_json() {
        let name = |text: &str| ParameterName::parse(text).unwrap();
        let list = |items: &[&str]| Value::List(items.iter().map(|item| (*item).to_owned()).collect());
        let raw = RawParameters(
            [(name("a"), r#"["x"]"#.into()), (name("b"), list(&["x"])), (name("c"), list(&[]))].into(),
        );
        let json = serde_json::to_string(&raw).unwrap();
        assert_eq!(json, r#"{"a":"[\"x\"]","b":["x"],"c":[]}"#);
        assert_eq!(serde_json::from_str::<RawParameters>(&json).unwrap(), raw);
        for bad in [r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":[1]}"#, r#"{"a":[["x"]]}"#, r#"{"a":{"b":"c"}}"#] {
            assert!(serde_json::from_str::<RawParameters>(bad).is_err(), "{bad}");
        }
    }
}
