//! How single values stand in the database, and how they are read back.
//!
//! A value that this program cannot have written is an error, never a guess.

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::Unavailable;
use crate::domain::identity::Identity;
use crate::domain::job::{JobId, State};
use crate::domain::name::RouteName;

/// A duration as the database counts it, in microseconds.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A file's path as the database holds it, byte for byte.
pub(super) fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

pub(super) fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

pub(super) fn time(micros: i64) -> Result<Timestamp, Unavailable> {
    Timestamp::from_microsecond(micros).map_err(|error| damaged(&micros.to_string(), &error))
}

pub(super) fn job_id(text: &str) -> Result<JobId, Unavailable> {
    JobId::parse(text).map_err(|error| damaged(text, &error))
}

pub(super) fn state(word: &str) -> Result<State, Unavailable> {
    State::parse(word).ok_or_else(|| damaged(word, &"not a state"))
}

pub(super) fn route(name: &str) -> Result<RouteName, Unavailable> {
    RouteName::parse(name).map_err(|error| damaged(name, &error))
}

pub(super) fn identity(text: &str) -> Result<Identity, Unavailable> {
    Identity::parse(text).map_err(|error| damaged(text, &error))
}

pub(super) fn json<T: DeserializeOwned>(text: &str) -> Result<T, Unavailable> {
    serde_json::from_str(text).map_err(|error| damaged(text, &error))
}

fn damaged(value: &str, why: &dyn Display) -> Unavailable {
    Unavailable(format!("the database holds {value:?}: {why}"))
}
