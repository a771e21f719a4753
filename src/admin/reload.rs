//! Loads the policy anew, for whoever asks on the operators' socket.
//!
//! Knows no policy: what is loaded, and how, is the process's to say.

use std::future::Future;
use std::pin::Pin;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::{Caller, Desk};

/// A policy that is in force now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// Its hash.
    pub policy: String,
    /// How many routes it has.
    pub routes: usize,
    /// How many keys it has.
    pub keys: usize,
    /// What is worth a look although it can be used, to be read by people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnings: Option<String>,
}

/// Loads the policy for a user; the error is everything that is wrong with it, to be read by people.
pub struct Reload(Box<dyn Fn(u32) -> Pending + Send + Sync>);

type Pending = Pin<Box<dyn Future<Output = Result<Reloaded, String>> + Send>>;

impl Reload {
    /// Loads it as `load` does.
    pub fn new<F>(load: impl Fn(u32) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reloaded, String>> + Send + 'static,
    {
        Self(Box::new(move |uid| Box::pin(load(uid))))
    }
}

impl<R> Desk<R> {
    pub(super) async fn reload(&self, caller: Caller) -> Answer {
        match (self.reload.0)(caller.uid).await {
            Ok(reloaded) => Answer::ok(&reloaded),
            Err(found) => Answer::error(StatusCode::UNPROCESSABLE_ENTITY, found),
        }
    }
}
