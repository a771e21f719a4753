//! A throwaway certificate authority: for development certificates, the demonstration and tests.
//!
//! ECDSA with P-256. Writes no files, and a key leaves it only as PEM text that is wiped when dropped. Not meant to
//! run a site's CA: it keeps no register of what it issued.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber,
};
use x509_cert::der::asn1::Utf8StringRef;
use x509_cert::der::{Decode, Encode};
use zeroize::Zeroizing;

use crate::domain::extension::Oid;

/// How long a certificate or a revocation list is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: Timestamp,
    /// Last moment, which for a revocation list is when the next one is due.
    pub until: Timestamp,
}

impl Validity {
    /// From an hour before `now`, for machines whose clocks are behind, to so many days after it.
    #[must_use]
    pub fn days(now: Timestamp, days: u32) -> Self {
        let hours = |hours: i64| now.saturating_add(SignedDuration::from_hours(hours)).unwrap_or(now);
        Self { from: hours(-1), until: hours(i64::from(days) * 24) }
    }
}

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// A name that cannot stand in a certificate, or no randomness.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A value that cannot be encoded.
    #[error("cannot encode a certificate: {0}")]
    Encoding(#[from] x509_cert::der::Error),
    /// Not a dotted OID of small numbers.
    #[error("`{0}` cannot be the OID of an extension")]
    Oid(Oid),
}

/// A certificate authority with its key.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, both in PEM.
pub struct Issued {
    /// The certificate alone, without its issuers.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: Zeroizing<String>,
    serial: Vec<u8>,
}

impl Authority {
    /// A self-signed authority.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new(name: &str, validity: Validity) -> Result<Self, MintError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self(CertifiedIssuer::self_signed(authority(name, validity), key)?))
    }

    /// An authority that this one has signed, as Puppet's is signed by its root.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn intermediate(&self, name: &str, validity: Validity) -> Result<Self, MintError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self(CertifiedIssuer::signed_by(authority(name, validity), key, &self.0)?))
    }

    /// Its certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a server with these DNS names and IP addresses, the first of which is its common name too.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn issue_server(&self, names: &[String], validity: Validity) -> Result<Issued, MintError> {
        let common = names.first().map_or("localhost", String::as_str);
        let mut params = leaf(common, names.to_vec(), validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&params)
    }

    /// A certificate for a client, with trusted extensions as Puppet encodes them.
    ///
    /// # Errors
    /// When a name or value cannot stand in a certificate.
    pub fn issue_client(
        &self,
        certname: &str,
        extensions: &BTreeMap<Oid, String>,
        validity: Validity,
    ) -> Result<Issued, MintError> {
        let mut params = leaf(certname, vec![certname.to_owned()], validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        for (oid, value) in extensions {
            let arcs: Result<Vec<u64>, _> = oid.dotted().split('.').map(str::parse).collect();
            let arcs = arcs.map_err(|_| MintError::Oid(oid.clone()))?;
            let value = Utf8StringRef::new(value)?.to_der()?;
            params.custom_extensions.push(CustomExtension::from_oid_content(&arcs, value));
        }
        self.issue(&params)
    }

    /// A revocation list in PEM: of the certificates given, and of no others.
    ///
    /// # Errors
    /// When `validity` ends before it begins.
    pub fn crl(&self, revoked: &[&Issued], validity: Validity) -> Result<String, MintError> {
        self.numbered_crl(1, revoked, validity)
    }

    /// As [`Authority::crl`], with the list's number.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn numbered_crl(
        &self,
        number: u64,
        revoked: &[&Issued],
        validity: Validity,
    ) -> Result<String, MintError> {
        let entry = |issued: &&Issued| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&issued.serial),
            revocation_time: SystemTime::from(validity.from).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: SystemTime::from(validity.from).into(),
            next_update: SystemTime::from(validity.until).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.0)?.pem()?)
    }

    fn issue(&self, params: &CertificateParams) -> Result<Issued, MintError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.0)?;
        let parsed = x509_cert::Certificate::from_der(certificate.der())?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
            serial: parsed.tbs_certificate().serial_number().as_bytes().to_vec(),
        })
    }
}

#[cfg(test)]
impl Issued {
    /// An authority seen as a certificate that another list may revoke.
    pub(super) fn known(authority: &Authority) -> Self {
        let parsed = x509_cert::Certificate::from_der(authority.0.der()).unwrap();
        let serial = parsed.tbs_certificate().serial_number().as_bytes().to_vec();
        Self { certificate: authority.pem(), key: Zeroizing::new(String::new()), serial }
    }
}

fn authority(name: &str, validity: Validity) -> CertificateParams {
    let mut params = named(name, CertificateParams::default(), validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(name: &str, alternatives: Vec<String>, validity: Validity) -> Result<CertificateParams, MintError> {
    let mut params = named(name, CertificateParams::new(alternatives)?, validity);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(name: &str, mut params: CertificateParams, validity: Validity) -> CertificateParams {
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = SystemTime::from(validity.from).into();
    params.not_after = SystemTime::from(validity.until).into();
    params
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::super::certificate;
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    #[test]
    fn what_is_minted_reads_back() {
        let ca = Authority::new("CA", Validity::days(NOW, 30)).unwrap();
        let role = Oid::parse("pp_auth_role").unwrap();
        let extensions = BTreeMap::from([(role, "deployer".to_owned())]);
        let issued = ca.issue_client("node1.example.com", &extensions, Validity::days(NOW, 3)).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let presented = certificate::read(&der).unwrap();
        assert_eq!(presented.certificate.certname, "node1.example.com");
        assert_eq!(presented.certificate.extensions, extensions);
        assert_eq!(presented.not_after.as_second(), NOW.as_second() + 3 * 86_400);
        assert_eq!(presented.not_before.as_second(), NOW.as_second() - 3_600);
    }

    #[test]
    fn names_that_no_certificate_can_hold_are_refused() {
        let ca = Authority::new("CA", Validity::days(NOW, 30)).unwrap();
        assert!(ca.issue_server(&["h\u{f6}st".to_owned()], Validity::days(NOW, 3)).is_err());
        assert!(ca.issue_client("n\u{f6}de", &BTreeMap::new(), Validity::days(NOW, 3)).is_err());
        let backwards = Validity { from: NOW, until: Validity::days(NOW, 1).from };
        assert!(ca.crl(&[], backwards).is_err());
    }
}
