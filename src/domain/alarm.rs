//! What an operator must be told of until it is mended.
//!
//! Names only: who raises one and who shows it is elsewhere.

use std::fmt;

use super::name::KeyName;

/// Something that is wrong although the gateway goes on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// The policy that was to be loaded is not valid; the former one stays in force.
    Reload,
    /// The server's certificate or private key cannot be used; the former ones stay in use.
    Certificate,
    /// The CA or its revocation lists cannot be used, and the former ones stay in use; or those in use say nothing any
    /// more, and certificates are refused.
    Trust,
    /// A file of this key's secrets cannot be used, and verifies nothing.
    Secret(KeyName),
}

impl Alarm {
    /// The kind, without what it is about.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Certificate => "certificate",
            Self::Trust => "trust",
            Self::Secret(_) => "secret",
        }
    }

    /// All kinds.
    pub const KINDS: [&'static str; 4] = ["reload", "certificate", "trust", "secret"];
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(key) => write!(f, "secret of key {key}"),
            Self::Reload | Self::Certificate | Self::Trust => f.write_str(self.kind()),
        }
    }
}
