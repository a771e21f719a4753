//! PEM text to the blocks that are wanted, each with its number.
//!
//! Refuses a file that holds anything else that matters, above all a private key among public certificates. Text
//! between blocks, as `openssl x509 -text` writes it, is passed over.

use rustls::pki_types::pem::{self, PemObject, SectionKind};

/// Why a text is not the PEM file that was expected. Never quotes what stood in it: it may be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPem {
    /// Broken Base64, or a block that does not begin or end properly.
    #[error(
        "PEM block {block} is damaged: its BEGIN line, END line or Base64 text is broken; copy the file again"
    )]
    Damaged {
        /// Counted from one.
        block: usize,
    },
    /// A block of another kind.
    #[error("PEM block {block} is {found}, where only {wanted} may stand; remove it from this file")]
    Foreign {
        /// Counted from one.
        block: usize,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// Not one block of the wanted kind.
    #[error("holds no {wanted} in PEM form (`-----BEGIN {label}-----`)")]
    Nothing {
        /// What was looked for.
        wanted: &'static str,
        /// Its label.
        label: &'static str,
    },
}

/// The DER of every certificate in `text`, in order; at least one.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, BadPem> {
    blocks(text, SectionKind::Certificate, "certificate", "CERTIFICATE")
}

/// The DER of every revocation list in `text`, in order; at least one.
pub(super) fn revocation_lists(text: &[u8]) -> Result<Vec<Vec<u8>>, BadPem> {
    blocks(text, SectionKind::Crl, "revocation list", "X509 CRL")
}

fn blocks(
    text: &[u8],
    kind: SectionKind,
    wanted: &'static str,
    label: &'static str,
) -> Result<Vec<Vec<u8>>, BadPem> {
    let mut found = Vec::new();
    for (index, section) in <(SectionKind, Vec<u8>)>::pem_slice_iter(text).enumerate() {
        let block = index + 1;
        match section {
            Ok((this, der)) if this == kind => found.push(der),
            Ok((this, _)) => return Err(BadPem::Foreign { block, found: article(this), wanted }),
            Err(_) => return Err(BadPem::Damaged { block }),
        }
    }
    if found.is_empty() { Err(BadPem::Nothing { wanted, label }) } else { Ok(found) }
}

fn article(kind: SectionKind) -> &'static str {
    const KNOWN: [(SectionKind, &str); 7] = [
        (SectionKind::Certificate, "a certificate"),
        (SectionKind::PublicKey, "a public key"),
        (SectionKind::RsaPrivateKey, "a private key"),
        (SectionKind::PrivateKey, "a private key"),
        (SectionKind::EcPrivateKey, "a private key"),
        (SectionKind::Crl, "a revocation list"),
        (SectionKind::Csr, "a certificate request"),
    ];
    KNOWN.iter().find(|(known, _)| *known == kind).map_or("something else", |(_, name)| name)
}

/// Whether `error` means that no block of the wanted kind was there at all.
pub(super) fn is_absence(error: &pem::Error) -> bool {
    matches!(error, pem::Error::NoItemsFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";

    #[test]
    fn blocks_come_in_order_and_text_between_them_is_passed_over() {
        let second = CERTIFICATE.replace("AAEC", "AwQF");
        let text = format!("Certificate:\n  Data: x\n{CERTIFICATE}subject=CN = x\n{second}");
        assert_eq!(certificates(text.as_bytes()), Ok(vec![vec![0, 1, 2], vec![3, 4, 5]]));
    }

    #[test]
    fn another_kind_of_block_is_refused_and_named() {
        let key = format!("{CERTIFICATE}{}", CERTIFICATE.replace("CERTIFICATE", "PRIVATE KEY"));
        let error = certificates(key.as_bytes()).unwrap_err();
        assert_eq!(error, BadPem::Foreign { block: 2, found: "a private key", wanted: "certificate" });
        assert!(matches!(revocation_lists(CERTIFICATE.as_bytes()), Err(BadPem::Foreign { block: 1, .. })));
    }

    #[test]
    fn damage_is_reported_with_its_block() {
        for damaged in [
            CERTIFICATE.replace("AAEC", "A*EC"),
            CERTIFICATE.replace("-----END", "-----FIN"),
            CERTIFICATE.replacen("E-----", "E----", 1),
        ] {
            let text = format!("{CERTIFICATE}{damaged}");
            assert_eq!(certificates(text.as_bytes()), Err(BadPem::Damaged { block: 2 }), "{damaged}");
        }
    }

    #[test]
    fn nothing_is_not_an_empty_list() {
        for text in ["", "\n", "hello", "-----BEGIN ODD-----\nAAEC\n-----END ODD-----\n"] {
            assert!(matches!(certificates(text.as_bytes()), Err(BadPem::Nothing { .. })), "{text:?}");
            assert!(matches!(revocation_lists(text.as_bytes()), Err(BadPem::Nothing { .. })), "{text:?}");
        }
    }
}
