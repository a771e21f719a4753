//! One entry of `when`: where a value stands in the request, and which values let anything run.
//!
//! Asked by the gate alone, before parameters are looked at; a job does not carry what it was asked of.

use super::parameter::{Accepts, From};

/// One entry of `when`.
#[derive(Debug)]
pub struct Condition {
    from: From,
    accepts: Accepts,
}

impl Condition {
    pub(super) fn new(from: From, accepts: Accepts) -> Self {
        Self { from, accepts }
    }

    /// Where the value comes from.
    #[must_use]
    pub fn from(&self) -> &From {
        &self.from
    }

    /// Whether this value lets anything run; a value that is not there does not.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        value.is_some_and(|value| self.accepts.take(value).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parameter::Pattern;

    #[test]
    fn a_value_that_is_missing_or_different_does_not_hold() {
        let branch = Accepts::Pattern(Pattern::compile("refs/heads/(?<value>main|prod)").unwrap());
        let condition = Condition::new(From::Body(vec!["ref".into()]), branch);
        assert!(condition.holds(Some("refs/heads/main")));
        for value in [None, Some(""), Some("main"), Some("refs/heads/main\n"), Some("refs/tags/main")] {
            assert!(!condition.holds(value), "{value:?}");
        }
        let event = Condition::new(From::Header("x-event".into()), Accepts::OneOf(vec!["push".into()]));
        assert!(event.holds(Some("push")) && !event.holds(Some("Push")) && !event.holds(None));
    }
}
