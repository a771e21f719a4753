//! One certificate revocation list: parsed, signed by an anchor, complete, in force.
//!
//! Answers whether it lists a serial number. Refuses partial lists (delta, or scoped by a distribution point), because
//! what they do not list may still be revoked elsewhere. Format: RFC 5280, section 5.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::{AnyRef, Int};
use x509_cert::der::{self, Decode, Encode, Reader, SliceReader};
use x509_cert::spki::{ObjectIdentifier, SubjectPublicKeyInfoOwned};

use super::certificate::timestamp;

/// `id-ce-deltaCRLIndicator` and `id-ce-issuingDistributionPoint`, RFC 5280 sections 5.2.4 and 5.2.5.
const PARTIAL: [ObjectIdentifier; 2] =
    [ObjectIdentifier::new_unwrap("2.5.29.27"), ObjectIdentifier::new_unwrap("2.5.29.28")];
/// `id-ce-cRLNumber`.
const NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");

/// A parsed revocation list.
pub(super) struct RevocationList {
    /// As it stood in the file, for the verifier of handshakes.
    pub(super) der: CertificateRevocationListDer<'static>,
    /// The issuer's distinguished name, in DER.
    pub(super) issuer: Vec<u8>,
    /// The same, to be read by people.
    pub(super) issuer_name: String,
    /// From when it is.
    pub(super) this_update: Timestamp,
    /// Until when it is in force.
    pub(super) next_update: Timestamp,
    /// `cRLNumber`, RFC 5280 section 5.2.3, big-endian without leading zeros; old CAs give none.
    number: Option<Vec<u8>>,
    revoked: BTreeSet<Box<[u8]>>,
    parsed: Signed,
}

/// What the signature is checked with.
struct Signed {
    message: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

/// Why a list cannot be used, whoever signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadList {
    /// Not a revocation list in DER.
    #[error("cannot be parsed; fetch it again")]
    Malformed,
    /// A delta, or for a part of the certificates only.
    #[error("covers only a part of its issuer's certificates; a complete list is needed")]
    Partial,
    /// Nothing says until when it is in force.
    #[error("does not say when the next one is due (nextUpdate)")]
    Endless,
}

impl RevocationList {
    pub(super) fn parse(der: Vec<u8>) -> Result<Self, BadList> {
        let list: CertificateList = CertificateList::from_der(&der).map_err(|_| BadList::Malformed)?;
        let tbs = list.tbs_cert_list;
        let extensions = tbs.crl_extensions.unwrap_or_default();
        if extensions.iter().any(|extension| PARTIAL.contains(&extension.extn_id)) {
            return Err(BadList::Partial);
        }
        let number = extensions.iter().find(|extension| extension.extn_id == NUMBER);
        let number = number.map(|number| Int::from_der(number.extn_value.as_bytes())).transpose();
        let number = number.map_err(|_| BadList::Malformed)?.map(|number| {
            let bytes = number.as_bytes();
            bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
        });
        let next_update = tbs.next_update.ok_or(BadList::Endless)?;
        let entries = tbs.revoked_certificates.unwrap_or_default();
        let parsed = Signed {
            message: first_element(&der).map_err(|_| BadList::Malformed)?.to_vec(),
            algorithm: content(&list.signature_algorithm).map_err(|_| BadList::Malformed)?,
            signature: list.signature.as_bytes().ok_or(BadList::Malformed)?.to_vec(),
        };
        Ok(Self {
            issuer: tbs.issuer.to_der().map_err(|_| BadList::Malformed)?,
            issuer_name: tbs.issuer.to_string(),
            this_update: timestamp(tbs.this_update).ok_or(BadList::Malformed)?,
            number,
            next_update: timestamp(next_update).ok_or(BadList::Malformed)?,
            revoked: entries.iter().map(|entry| entry.serial_number.as_bytes().into()).collect(),
            der: der.into(),
            parsed,
        })
    }

    /// Whether the holder of `key` signed this list.
    pub(super) fn is_signed_by(&self, key: &SubjectPublicKeyInfoOwned, provider: &CryptoProvider) -> bool {
        let Signed { message, algorithm, signature } = &self.parsed;
        let (Ok(key_algorithm), Some(key)) = (content(&key.algorithm), key.subject_public_key.as_bytes())
        else {
            return false;
        };
        provider.signature_verification_algorithms.all.iter().any(|candidate| {
            candidate.public_key_alg_id().as_ref() == key_algorithm.as_slice()
                && candidate.signature_alg_id().as_ref() == algorithm.as_slice()
                && candidate.verify_signature(key, message, signature).is_ok()
        })
    }

    /// Whether the same issuer made this list before `other`: by their numbers, or where one has none by their dates.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        match (&self.number, &other.number) {
            (Some(own), Some(other)) => (own.len(), own) < (other.len(), other),
            (None, _) | (_, None) => self.this_update < other.this_update,
        }
    }

    /// Whether the certificate with this serial number is revoked; the bytes are those of its DER INTEGER.
    pub(super) fn lists(&self, serial: &[u8]) -> bool {
        self.revoked.contains(serial)
    }
}

/// The bytes of the first element of a SEQUENCE, exactly as they were signed.
fn first_element(sequence: &[u8]) -> der::Result<&[u8]> {
    SliceReader::new(AnyRef::from_der(sequence)?.value())?.tlv_bytes()
}

/// An algorithm identifier without the SEQUENCE around it, as rustls compares them.
fn content(algorithm: &impl Encode) -> der::Result<Vec<u8>> {
    let whole = algorithm.to_der()?;
    Ok(AnyRef::from_der(&whole)?.value().to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CrlDistributionPoint,
        CrlIssuingDistributionPoint, CrlScope, IsCa, KeyIdMethod, KeyPair, SerialNumber, date_time_ymd,
    };

    use super::*;

    fn list(partial: Option<CrlIssuingDistributionPoint>) -> Vec<u8> {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let ca = CertifiedIssuer::self_signed(ca, key).unwrap();
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2027, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: partial,
            revoked_certs: vec![],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&ca).unwrap().der().to_vec()
    }

    #[test]
    fn a_partial_list_is_refused() {
        let uris = vec!["http://ca.example.com/users.crl".to_owned()];
        let part = CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris },
            scope: Some(CrlScope::UserCertsOnly),
        };
        assert_eq!(RevocationList::parse(list(Some(part))).err(), Some(BadList::Partial));
        assert!(RevocationList::parse(list(None)).is_ok());
    }

    proptest! {
        #[test]
        fn mutated_lists_never_panic(
            place in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
            cut in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let mut der = SAMPLE.get_or_init(|| list(None)).clone();
            let place = place.index(der.len());
            der[place] = byte;
            if let Some(cut) = cut {
                der.truncate(cut.index(der.len()));
            }
            let _ = RevocationList::parse(der);
        }
    }
}
