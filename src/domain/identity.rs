//! Who a request comes from: the peer of a connection, what it has shown, and the identity a rule picked.
//!
//! Decides nothing: whether a certificate stands is `trust`'s to say, whether proofs suffice is a rule's.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::extension::Oid;
use super::name::KeyName;

/// The other end of a connection, as the kernel and the handshake tell.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Address and port of the connection.
    pub address: SocketAddr,
    /// What the handshake showed of a client certificate.
    pub shown: Shown,
}

impl Peer {
    /// The address that networks and limits are compared with: IPv4-mapped IPv6 is IPv4.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }
}

/// What a connection showed of a client certificate, and why there is none to rely on.
#[derive(Clone, Debug)]
pub enum Shown {
    /// A certificate that chains to an anchor and was not revoked at the handshake.
    Verified(Arc<Presented>),
    /// The client sent none.
    Nothing,
    /// It chains to an anchor, but nobody can be named by it.
    Unusable(String),
}

/// A verified certificate together with what its standing depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// What rules may ask about.
    pub certificate: Arc<Certificate>,
    /// The issuer's distinguished name, in DER.
    pub issuer: Vec<u8>,
    /// The serial number as the big-endian bytes of its DER INTEGER.
    pub serial: Vec<u8>,
    /// First moment of validity.
    pub not_before: Timestamp,
    /// Last moment of validity.
    pub not_after: Timestamp,
    /// Under which set of CAs it was verified: it says nothing once they were replaced.
    pub epoch: u64,
}

/// What a verified certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The one common name.
    pub certname: String,
    /// Puppet's trusted extensions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<Oid, String>,
}

/// What a request has shown: a certificate, a key, or both; and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proofs {
    /// The certificate of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Arc<Certificate>>,
    /// The key whose signature was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyName>,
    /// The address the request came from.
    pub source: IpAddr,
}

/// The one identity that the matching rule picked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// The holder of a certificate with this common name.
    Certname(String),
    /// The holder of a key.
    Key(KeyName),
}

/// A text that [`Identity`]'s `Display` cannot have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an identity: one reads `certname:<CN>` or `key:<name>`")]
pub struct NotAnIdentity;

impl Identity {
    /// Reads what `Display` wrote.
    ///
    /// # Errors
    /// When the text has another form.
    pub fn parse(text: &str) -> Result<Self, NotAnIdentity> {
        match text.split_once(':') {
            Some(("certname", certname)) if !certname.is_empty() => Ok(Self::Certname(certname.to_owned())),
            Some(("key", key)) => KeyName::parse(key).map(Self::Key).map_err(|_| NotAnIdentity),
            Some(_) | None => Err(NotAnIdentity),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certname(certname) => write!(f, "certname:{certname}"),
            Self::Key(key) => write!(f, "key:{key}"),
        }
    }
}

impl Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_as_written() {
        let key = KeyName::parse("jenkins").map(Identity::Key).unwrap();
        for identity in [Identity::Certname("a:b.example.com".into()), key] {
            assert_eq!(Identity::parse(&identity.to_string()), Ok(identity));
        }
        for bad in ["", "certname:", "key:", "key:a b", "user:x", "jenkins"] {
            assert_eq!(Identity::parse(bad), Err(NotAnIdentity), "{bad:?}");
        }
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let address = "[::ffff:192.0.2.7]:443".parse().unwrap();
        let peer = Peer { address, shown: Shown::Nothing };
        assert_eq!(peer.source().to_string(), "192.0.2.7");
    }
}
