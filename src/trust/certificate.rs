//! A certificate's DER to the name and the trusted extensions that rules ask about.
//!
//! Verifies nothing: it is given certificates that a handshake has verified. Refuses whatever two readers could
//! understand differently: several names, an extension that stands there twice, text with control characters.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use x509_cert::Certificate as X509;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::name::Name;
use x509_cert::spki::ObjectIdentifier;
use x509_cert::time::Time;

use crate::domain::extension::Oid;
use crate::domain::identity::{Certificate, Presented};

/// Longest common name, in bytes.
pub const LONGEST_CERTNAME: usize = 255;
/// Longest value of a trusted extension, in bytes.
pub const LONGEST_EXTENSION: usize = 4096;
/// Most trusted extensions in one certificate.
pub const MOST_EXTENSIONS: usize = 64;

/// `id-at-commonName`, X.520 and RFC 5280 appendix A.1.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// The DER tag of a `UTF8String`.
const UTF8_STRING: u8 = 0x0c;
/// Everything that Puppet calls a trusted extension stands below this arc.
const PUPPET_ARC: &str = "1.3.6.1.4.1.34380.1.";

/// Why nobody can be named by a certificate, although it may be a valid one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not DER, or bytes follow it.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// Not exactly one common name.
    #[error("the certificate has {0} common names; exactly one is needed")]
    Names(usize),
    /// The one common name is not a name that can be written down unambiguously.
    #[error("the certificate's common name {0}")]
    Name(&'static str),
    /// A trusted extension without a clear value.
    #[error("the certificate's extension {extension} {why}")]
    Extension {
        /// Its short name or OID.
        extension: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than [`MOST_EXTENSIONS`].
    #[error("the certificate has more than {MOST_EXTENSIONS} trusted extensions")]
    Extensions,
}

/// Reads a verified certificate. Its epoch is 0; who knows a later one says so.
///
/// # Errors
/// When it does not name exactly one holder, or a trusted extension has no unambiguous value.
pub fn read(der: &[u8]) -> Result<Presented, Unusable> {
    let parsed = X509::from_der(der).map_err(|_| Unusable::Malformed)?;
    let tbs = parsed.tbs_certificate();
    let certificate = Certificate {
        certname: certname(tbs.subject())?,
        extensions: extensions(tbs.extensions().map_or(&[][..], Vec::as_slice))?,
    };
    Ok(Presented {
        certificate: Arc::new(certificate),
        issuer: tbs.issuer().to_der().map_err(|_| Unusable::Malformed)?,
        serial: tbs.serial_number().as_bytes().to_vec(),
        not_before: timestamp(tbs.validity().not_before).ok_or(Unusable::Malformed)?,
        not_after: timestamp(tbs.validity().not_after).ok_or(Unusable::Malformed)?,
        epoch: 0,
    })
}

/// A certificate's time, in whole seconds; `None` when it is beyond what a [`Timestamp`] holds.
pub(super) fn timestamp(time: Time) -> Option<Timestamp> {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).ok()?;
    Timestamp::from_second(seconds).ok()
}

fn certname(subject: &Name) -> Result<String, Unusable> {
    let is_name = |attribute: &&AttributeTypeAndValue| attribute.oid == COMMON_NAME;
    let names: Vec<_> = subject.iter().filter(is_name).collect();
    let [name] = names[..] else { return Err(Unusable::Names(names.len())) };
    let shares_its_place = subject.iter_rdn().any(|rdn| rdn.len() > 1 && rdn.iter().any(|a| is_name(&a)));
    if shares_its_place {
        return Err(Unusable::Name("is one part of a multi-valued name"));
    }
    let value = name.value.to_der().map_err(|_| Unusable::Malformed)?;
    let text = match Utf8StringRef::from_der(&value) {
        Ok(text) => text.as_str(),
        Err(_) => PrintableStringRef::from_der(&value)
            .map(|text| text.as_str())
            .or_else(|_| Ia5StringRef::from_der(&value).map(|text| text.as_str()))
            .map_err(|_| Unusable::Name("is not a UTF8String, PrintableString or IA5String"))?,
    };
    if text.is_empty() || text.len() > LONGEST_CERTNAME {
        return Err(Unusable::Name("is empty or too long"));
    }
    // Puppet's own rule: printable ASCII. It keeps look-alike letters and text direction marks out of rules and logs.
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(Unusable::Name("holds something else than printable ASCII characters"));
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err(Unusable::Name("begins or ends with a space"));
    }
    Ok(text.to_owned())
}

fn extensions(all: &[Extension]) -> Result<BTreeMap<Oid, String>, Unusable> {
    let mut found = BTreeMap::new();
    for extension in all {
        let dotted = extension.extn_id.to_string();
        if !dotted.starts_with(PUPPET_ARC) {
            continue;
        }
        if found.len() >= MOST_EXTENSIONS {
            return Err(Unusable::Extensions);
        }
        let refuse = |why| Unusable::Extension { extension: dotted.clone(), why };
        let oid = Oid::parse(&dotted).map_err(|_| refuse("has an OID out of bounds"))?;
        let refuse = |why| Unusable::Extension { extension: oid.to_string(), why };
        let value = text(extension.extn_value.as_bytes()).map_err(refuse)?;
        if found.insert(oid.clone(), value).is_some() {
            return Err(refuse("stands there twice"));
        }
    }
    Ok(found)
}

/// The text of a trusted extension: a DER `UTF8String`, or the raw bytes that old Puppets wrote.
///
/// No bytes can be read both ways: the tag of a `UTF8String` is the control character 0x0c, which raw text may not
/// hold. So what begins with that tag must be exactly one well-formed `UTF8String`, and is never tried as raw text.
fn text(value: &[u8]) -> Result<String, &'static str> {
    if value.len() > LONGEST_EXTENSION {
        return Err("is too long");
    }
    let text = if value.first() == Some(&UTF8_STRING) {
        Utf8StringRef::from_der(value).map_err(|_| "is not a well-formed UTF8String")?.as_str()
    } else {
        std::str::from_utf8(value).map_err(|_| "is not text")?
    };
    if text.chars().any(char::is_control) {
        return Err("holds control characters, or is not a UTF8String");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair};
    use x509_cert::der::asn1::SetOfVec;
    use x509_cert::name::{RdnSequence, RelativeDistinguishedName};

    use super::*;

    const PP_ROLE: [u64; 9] = [1, 3, 6, 1, 4, 1, 34380, 1, 1];

    fn minted(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "node1.example.com");
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0xfe, 0x01]));
        change(&mut params);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn with_name(name: impl Into<DnValue>) -> Vec<u8> {
        minted(|params| {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        })
    }

    fn with_roles(values: &[&[u8]]) -> Vec<u8> {
        minted(|params| {
            let role = [&PP_ROLE[..], &[13]].concat();
            let extension = |value: &&[u8]| CustomExtension::from_oid_content(&role, value.to_vec());
            params.custom_extensions = values.iter().map(extension).collect();
        })
    }

    /// A name of these RDNs, each of these attributes of (OID, text).
    fn name(rdns: &[&[(&str, &str)]]) -> Name {
        let rdns = rdns.iter().map(|attributes| {
            let mut set = SetOfVec::new();
            for (oid, text) in *attributes {
                let value = x509_cert::der::Any::from(Utf8StringRef::new(text).unwrap());
                let oid = ObjectIdentifier::new(oid).unwrap();
                set.insert(AttributeTypeAndValue { oid, value }).unwrap();
            }
            RelativeDistinguishedName::try_from(set.into_vec()).unwrap()
        });
        let sequence = rdns.fold(RdnSequence::default(), |mut all, rdn| {
            all.push(rdn);
            all
        });
        Name::from_der(&sequence.to_der().unwrap()).unwrap()
    }

    #[test]
    fn name_issuer_serial_and_dates_are_read() {
        let presented = read(&minted(|_| {})).unwrap();
        assert_eq!(presented.certificate.certname, "node1.example.com");
        assert!(presented.certificate.extensions.is_empty());
        assert_eq!(presented.issuer, name(&[&[("2.5.4.3", "node1.example.com")]]).to_der().unwrap());
        assert_eq!(presented.not_before.to_string(), "1975-01-01T00:00:00Z");
        assert_eq!(presented.not_after.to_string(), "4096-01-01T00:00:00Z");
        assert!(presented.serial.ends_with(&[0xfe, 0x01]), "{:?}", presented.serial);
    }

    #[test]
    fn exactly_one_common_name_in_a_place_of_its_own() {
        let cn = "2.5.4.3";
        let ou = "2.5.4.11";
        assert_eq!(certname(&name(&[&[(ou, "web")], &[(cn, "a")]])), Ok("a".to_owned()));
        assert_eq!(certname(&name(&[])), Err(Unusable::Names(0)));
        assert_eq!(certname(&name(&[&[(ou, "a")]])), Err(Unusable::Names(0)));
        assert_eq!(certname(&name(&[&[(cn, "a")], &[(cn, "b")]])), Err(Unusable::Names(2)));
        assert_eq!(certname(&name(&[&[(cn, "a"), (cn, "b")]])), Err(Unusable::Names(2)));
        assert!(matches!(certname(&name(&[&[(cn, "a"), (ou, "b")]])), Err(Unusable::Name(_))));
    }

    #[test]
    fn a_common_name_is_plain_text() {
        let longest = "x".repeat(LONGEST_CERTNAME);
        for good in ["a", "node-1.example.com", "Jenkins deploy", &longest] {
            assert_eq!(read(&with_name(good)).unwrap().certificate.certname, good);
        }
        let too_long = "x".repeat(LONGEST_CERTNAME + 1);
        for bad in ["", " a", "a ", "a\0b", "a\nb", "a\u{7f}", "n\u{f6}de", "a\u{202e}b", &too_long] {
            assert!(matches!(read(&with_name(bad)), Err(Unusable::Name(_))), "{bad:?}");
        }
        let printable = DnValue::PrintableString("node1".try_into().unwrap());
        assert_eq!(read(&with_name(printable)).unwrap().certificate.certname, "node1");
        let wide = DnValue::BmpString("node1".try_into().unwrap());
        assert!(matches!(read(&with_name(wide)), Err(Unusable::Name(_))));
    }

    #[test]
    fn a_trusted_extension_is_a_utf8_string_or_raw_text() {
        let role = Oid::parse("pp_role").unwrap();
        for (value, text) in [
            (&b"\x0c\x03web"[..], "web"),
            (b"\x0c\x00", ""),
            (b"\x0c\x02\xc3\xb6", "\u{f6}"),
            (b"web", "web"),
            (b"", ""),
            (b"0123", "0123"),
        ] {
            let presented = read(&with_roles(&[value])).unwrap();
            assert_eq!(
                presented.certificate.extensions.get(&role).map(String::as_str),
                Some(text),
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_trusted_extension_that_could_be_read_in_two_ways_is_refused() {
        for value in [
            &b"\x0c\x02web"[..],    // shorter than what follows
            b"\x0c\x04web",         // longer than what follows
            b"\x0c\x81\x03web",     // not the shortest form of the length
            b"\x0c\x80web\x00\x00", // indefinite length
            b"\x0c",
            b"\x0c\x02\xc3\x28", // not UTF-8
            b"\x0c\x04we\nb",    // control characters
            b"\x0c\x05we\xc2\x85b",
            b"\x13\x03web",         // a PrintableString
            b"\x16\x03web",         // an IA5String
            b"\x04\x05\x0c\x03web", // an OCTET STRING too many
            b"we\0b",
            b"we\nb",
            b"\xff",
            &[b'x'; LONGEST_EXTENSION + 1],
        ] {
            let refused = read(&with_roles(&[value]));
            assert!(
                matches!(&refused, Err(Unusable::Extension { extension, .. }) if extension == "pp_role"),
                "{value:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn the_same_extension_twice_is_refused_even_with_the_same_value() {
        for values in [[&b"\x0c\x01a"[..], b"\x0c\x01b"], [b"\x0c\x01a", b"a"]] {
            assert!(matches!(read(&with_roles(&values)), Err(Unusable::Extension { .. })));
        }
    }

    #[test]
    fn only_puppets_arc_is_read_and_only_so_much_of_it() {
        let extension = |arcs: &[u64]| CustomExtension::from_oid_content(arcs, b"\x0c\x01a".to_vec());
        let arcs = |last| [&PP_ROLE[..], &[last]].concat();
        let other = minted(|params| {
            params.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 34380, 2, 1]), extension(&arcs(1))];
        });
        assert_eq!(read(&other).unwrap().certificate.extensions.len(), 1);
        let many = |count: usize| {
            minted(|params| {
                params.custom_extensions = (1..=count).map(|last| extension(&arcs(last as u64))).collect();
            })
        };
        assert_eq!(read(&many(MOST_EXTENSIONS)).unwrap().certificate.extensions.len(), MOST_EXTENSIONS);
        assert_eq!(read(&many(MOST_EXTENSIONS + 1)), Err(Unusable::Extensions));
    }

    #[test]
    fn bytes_after_the_certificate_are_refused() {
        let mut der = minted(|_| {});
        der.push(0);
        assert_eq!(read(&der), Err(Unusable::Malformed));
        assert_eq!(read(&[]), Err(Unusable::Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(der in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&der);
        }

        #[test]
        fn mutated_certificates_never_panic(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
            cut in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            let mut der = sample().to_vec();
            for (place, byte) in changes {
                let place = place.index(der.len());
                der[place] = byte;
            }
            if let Some(cut) = cut {
                der.truncate(cut.index(der.len()));
            }
            if let Ok(presented) = read(&der) {
                prop_assert!(!presented.certificate.certname.is_empty());
            }
        }

        #[test]
        fn extension_values_are_read_in_one_way(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = text(&value) {
                let as_der = Utf8StringRef::new(&text).unwrap().to_der().unwrap();
                prop_assert!(value == as_der || value == text.as_bytes());
            }
        }
    }

    fn sample() -> &'static [u8] {
        static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        SAMPLE.get_or_init(|| with_roles(&[b"\x0c\x03web"]))
    }
}
