//! The two lives of a parameter: raw, as the request gave it, and derived, as a policy accepted it.
//!
//! The types keep them apart: jobs carry raw values, argv arrays are rendered from derived ones, and only
//! `policy::parameter` turns the one into the other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::name::ParameterName;

/// Values as they stood in the request; what was not given is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawParameters(pub BTreeMap<ParameterName, String>);

/// Values that matched, after `value` groups, defaults and replacements: one for each declared parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DerivedParameters(pub BTreeMap<ParameterName, String>);
