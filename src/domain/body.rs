//! A request's body, on its way to commands that read it.
//!
//! Bytes and nothing else: not parsed, not changed, and never shown.

use std::fmt;
use std::sync::Arc;

/// The bytes of a body; clones share them. Bodies may hold secrets, so `Debug` tells their number alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(Arc<[u8]>);

impl Body {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_not_shown() {
        assert_eq!(format!("{:?}", Body::from(&b"hunter2"[..])), "Body(7 bytes)");
    }
}
