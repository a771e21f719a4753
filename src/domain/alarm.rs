//! What an operator must be told of until it is mended.
//!
//! Names only: who raises one and who shows it is elsewhere.

use std::fmt;

use super::name::{KeyName, RouteName};

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
    /// The workers' policy does not offer what the gate's does of this route; its senders are told to try again.
    Disagreement(RouteName),
    /// Whether files have changed cannot be found out: those in use stay in use.
    Watch,
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
            Self::Disagreement(_) => "disagreement",
            Self::Watch => "watch",
        }
    }

    /// Whether it is about a file that is looked at again and again, and over as soon as a look finds nothing wrong.
    #[must_use]
    pub fn is_of_files(&self) -> bool {
        match self {
            Self::Certificate | Self::Trust | Self::Secret(_) => true,
            Self::Reload | Self::Disagreement(_) | Self::Watch => false,
        }
    }

    /// Whether requests raise it, each with what it came upon, and no other request can tell that it is over.
    #[must_use]
    pub fn is_of_requests(&self) -> bool {
        match self {
            Self::Disagreement(_) => true,
            Self::Reload | Self::Certificate | Self::Trust | Self::Secret(_) | Self::Watch => false,
        }
    }

    /// All kinds.
    pub const KINDS: [&'static str; 6] =
        ["reload", "certificate", "trust", "secret", "disagreement", "watch"];
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(key) => write!(f, "secret of key {key}"),
            Self::Disagreement(route) => write!(f, "disagreement over route {route}"),
            Self::Reload | Self::Certificate | Self::Trust | Self::Watch => f.write_str(self.kind()),
        }
    }
}
