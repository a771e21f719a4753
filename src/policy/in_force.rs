//! The policy in force, whichever that is when it is asked for.
//!
//! For those who outlive a policy. Whoever decides about one thing asks once and stays with the answer.

use std::fmt;
use std::sync::Arc;

use super::Policy;

/// A way to ask for the policy in force; clones ask the same.
#[derive(Clone)]
pub struct InForce(Arc<dyn Fn() -> Arc<Policy> + Send + Sync>);

impl InForce {
    /// What `now` says.
    pub fn new(now: impl Fn() -> Arc<Policy> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Always this one.
    #[must_use]
    pub fn always(policy: Arc<Policy>) -> Self {
        Self::new(move || Arc::clone(&policy))
    }

    /// The policy in force at this moment.
    #[must_use]
    pub fn now(&self) -> Arc<Policy> {
        (self.0)()
    }
}

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InForce")
    }
}
