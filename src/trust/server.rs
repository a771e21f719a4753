//! The server's own certificate chain and private key, proven to belong together.
//!
//! Key material is handed to the TLS library and kept nowhere else; nothing here can be printed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_cert::Certificate as X509;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::certificate::timestamp;
use super::{pem, provider};

/// A certificate chain with its key.
pub struct ServerIdentity {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    not_after: Timestamp,
}

/// A chain that is valid, without its key.
struct Chain {
    blocks: Vec<Vec<u8>>,
    names: Vec<String>,
    not_after: Timestamp,
}

/// Why a chain and a key cannot be served with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// The chain's file.
    #[error("the server certificate: {0}")]
    ChainFile(pem::BadPem),
    /// The first certificate cannot be parsed.
    #[error("the server certificate cannot be parsed; copy the file again")]
    Malformed,
    /// Not valid any more.
    #[error("the server certificate has expired at {0}; renew it")]
    Expired(Timestamp),
    /// Not valid yet.
    #[error("the server certificate is not valid before {0}; is the clock right?")]
    NotYetValid(Timestamp),
    /// No private key that can be used.
    #[error(
        "the private key: none found; PEM with PKCS#8, PKCS#1 or SEC1 is needed, not encrypted by a passphrase"
    )]
    NoKey,
    /// Damaged, or of a kind that TLS has no use for.
    #[error("the private key cannot be used: it is damaged, or neither RSA, ECDSA nor Ed25519")]
    BadKey,
    /// More than one private key.
    #[error("the private key: the file holds several; keep the one that belongs to the certificate")]
    SeveralKeys,
    /// The key is another certificate's.
    #[error(
        "the private key does not belong to the server certificate; \
         the server's own certificate must be the first in its file, its issuers follow"
    )]
    Mismatch,
}

impl ServerIdentity {
    /// Reads a chain, the server's own certificate first, and the key of that certificate.
    ///
    /// # Errors
    /// When one of them cannot be read, they do not belong together, or the certificate is not valid at `now`.
    pub fn parse(chain_pem: &[u8], key_pem: &[u8], now: Timestamp) -> Result<Self, BadIdentity> {
        let Chain { blocks, names, not_after } = Chain::parse(chain_pem, now)?;
        let chain = blocks.into_iter().map(CertificateDer::from).collect();
        let key = CertifiedKey::new(chain, signer(key_pem)?);
        key.keys_match().map_err(|_| BadIdentity::Mismatch)?;
        Ok(Self { key: Arc::new(key), names, not_after })
    }

    /// Whether a chain could be served with, whatever its key; for where the key cannot be had.
    ///
    /// # Errors
    /// As [`ServerIdentity::parse`] for the chain alone.
    pub fn check_chain(chain_pem: &[u8], now: Timestamp) -> Result<(), BadIdentity> {
        Chain::parse(chain_pem, now).map(drop)
    }

    /// Whether a key could be served with, whatever its chain; for where the chain cannot be had.
    ///
    /// # Errors
    /// As [`ServerIdentity::parse`] for the key alone.
    pub fn check_key(key_pem: &[u8]) -> Result<(), BadIdentity> {
        signer(key_pem).map(drop)
    }

    /// The DNS names and IP addresses that the certificate is for, in lower case, IPv6 without brackets. Empty for a
    /// certificate that has a common name only.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Last moment of the certificate's validity.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Chain and key as the TLS library wants them.
    #[must_use]
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

impl Chain {
    fn parse(text: &[u8], now: Timestamp) -> Result<Self, BadIdentity> {
        let blocks = pem::certificates(text).map_err(BadIdentity::ChainFile)?;
        let own = blocks.first().ok_or(BadIdentity::Malformed)?;
        let own = X509::from_der(own).map_err(|_| BadIdentity::Malformed)?;
        let validity = own.tbs_certificate().validity();
        let not_before = timestamp(validity.not_before).ok_or(BadIdentity::Malformed)?;
        let not_after = timestamp(validity.not_after).ok_or(BadIdentity::Malformed)?;
        if now < not_before {
            return Err(BadIdentity::NotYetValid(not_before));
        }
        if now > not_after {
            return Err(BadIdentity::Expired(not_after));
        }
        let names = names(&own).ok_or(BadIdentity::Malformed)?;
        Ok(Self { blocks, names, not_after })
    }
}

fn signer(text: &[u8]) -> Result<Arc<dyn SigningKey>, BadIdentity> {
    provider().key_provider.load_private_key(key(text)?).map_err(|_| BadIdentity::BadKey)
}

fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, BadIdentity> {
    let mut keys = PrivateKeyDer::pem_slice_iter(text);
    let first = match keys.next() {
        None => return Err(BadIdentity::NoKey),
        Some(Err(error)) if pem::is_absence(&error) => return Err(BadIdentity::NoKey),
        Some(Err(_)) => return Err(BadIdentity::BadKey),
        Some(Ok(key)) => key,
    };
    if keys.next().is_some() { Err(BadIdentity::SeveralKeys) } else { Ok(first) }
}

fn names(own: &X509) -> Option<Vec<String>> {
    let alternatives = own.tbs_certificate().get_extension::<SubjectAltName>().ok()?;
    let mut names = Vec::new();
    for name in alternatives.iter().flat_map(|(_, alternatives)| &alternatives.0) {
        if let GeneralName::DnsName(name) = name {
            names.push(name.as_str().to_ascii_lowercase());
        }
        if let GeneralName::IpAddress(bytes) = name {
            names.push(address(bytes.as_bytes())?.to_string());
        }
    }
    Some(names)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))).ok()
}

#[cfg(test)]
mod tests {
    use super::super::mint::{Authority, Validity};
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn refusal(chain: &str, key: &str, now: Timestamp) -> BadIdentity {
        ServerIdentity::parse(chain.as_bytes(), key.as_bytes(), now)
            .err()
            .expect("it should have been refused")
    }

    #[test]
    fn a_chain_and_its_key_are_read() {
        let root = Authority::new("Root", Validity::days(NOW, 30)).unwrap();
        let ca = root.intermediate("CA", Validity::days(NOW, 30)).unwrap();
        let names = ["Hook.Example.com", "192.0.2.1", "2001:db8::1"].map(str::to_owned);
        let issued = ca.issue_server(&names, Validity::days(NOW, 10)).unwrap();
        let chain = format!("{}{}", issued.certificate, ca.pem());
        let identity = ServerIdentity::parse(chain.as_bytes(), issued.key.as_bytes(), NOW).unwrap();
        assert_eq!(identity.names(), ["hook.example.com", "192.0.2.1", "2001:db8::1"]);
        assert_eq!(identity.not_after(), Validity::days(NOW, 10).until);
        assert_eq!(identity.certified_key().cert.len(), 2);
    }

    #[test]
    fn what_cannot_be_served_with_is_refused() {
        let ca = Authority::new("CA", Validity::days(NOW, 30)).unwrap();
        let names = ["hook.example.com".to_owned()];
        let issued = ca.issue_server(&names, Validity::days(NOW, 10)).unwrap();
        let other = ca.issue_server(&names, Validity::days(NOW, 10)).unwrap();
        let (chain, key) = (issued.certificate.as_str(), issued.key.as_str());
        let day = |number: i64| Timestamp::from_second(NOW.as_second() + number * 86_400).unwrap();
        assert!(matches!(refusal(chain, key, day(11)), BadIdentity::Expired(_)));
        assert!(matches!(refusal(chain, key, day(-1)), BadIdentity::NotYetValid(_)));
        assert_eq!(refusal(chain, &other.key, NOW), BadIdentity::Mismatch);
        let wrong_order = format!("{}{chain}", ca.pem());
        assert_eq!(refusal(&wrong_order, key, NOW), BadIdentity::Mismatch);
        assert!(matches!(refusal("", key, NOW), BadIdentity::ChainFile(_)));
        assert!(matches!(refusal(key, key, NOW), BadIdentity::ChainFile(_)));
        assert_eq!(refusal(chain, "", NOW), BadIdentity::NoKey);
        assert_eq!(ServerIdentity::check_chain(chain.as_bytes(), NOW), Ok(()));
        assert!(ServerIdentity::check_chain(chain.as_bytes(), day(11)).is_err());
        assert_eq!(ServerIdentity::check_key(key.as_bytes()), Ok(()));
        assert_eq!(ServerIdentity::check_key(chain.as_bytes()), Err(BadIdentity::NoKey));
        assert_eq!(refusal(chain, chain, NOW), BadIdentity::NoKey);
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert_eq!(refusal(chain, &encrypted, NOW), BadIdentity::NoKey);
        let label = "PRIVATE KEY";
        let empty = format!("-----BEGIN {label}-----\nAAEC\n-----END {label}-----\n");
        assert_eq!(refusal(chain, &empty, NOW), BadIdentity::BadKey);
        assert_eq!(refusal(chain, &key.replacen("\n", "\n*", 1), NOW), BadIdentity::BadKey);
        assert_eq!(refusal(chain, &format!("{key}{}", other.key.as_str()), NOW), BadIdentity::SeveralKeys);
    }

    #[test]
    fn no_refusal_quotes_the_key() {
        let ca = Authority::new("CA", Validity::days(NOW, 30)).unwrap();
        let issued = ca.issue_server(&["hook.example.com".to_owned()], Validity::days(NOW, 10)).unwrap();
        let body = issued.key.lines().nth(1).unwrap();
        for damaged in [issued.key.replacen("\n", "\n*", 1), issued.key.replace("-----END", "-----FIN")] {
            let text = format!("{:?}", refusal(&issued.certificate, &damaged, NOW));
            assert!(!text.contains(&body[..8]), "{text}");
        }
    }
}
