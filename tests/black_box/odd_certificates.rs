//! Certificates that are wrong in one way each, all but one signed by the CA that is trusted: they end the handshake, or
//! their holder meets the wall.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    SerialNumber,
};

use rustls::pki_types::pem::PemObject as _;

use crate::support::*;

const NAME: &str = "node.example.com";
/// `pp_auth_role`
const ROLE: [u64; 9] = [1, 3, 6, 1, 4, 1, 34380, 1, 3];
/// A DER `UTF8String` of `web`.
const WEB: &[u8] = b"\x0c\x03web";

type Ca = CertifiedIssuer<'static, KeyPair>;

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn day(days: i64) -> SystemTime {
    SystemTime::from(now() + jiff::SignedDuration::from_hours(24 * days))
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (day(-1).into(), day(30).into());
    params
}

fn extension(value: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(&[&ROLE[..], &[13]].concat(), value.to_vec())
}

/// What a node of Puppet shows, changed.
fn leaf(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.custom_extensions = vec![extension(WEB)];
    (params.not_before, params.not_after) = (day(-1).into(), day(30).into());
    change(&mut params);
    params
}

/// Chain and key in PEM.
fn issue(ca: &Ca, params: &CertificateParams) -> (String, String) {
    let key = key();
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn site(ca: &Ca, revocation: &str) -> Site {
    let site = Site::new();
    let crl = CertificateRevocationListParams {
        this_update: day(-1).into(),
        next_update: day(30).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    site.write("clients.pem", &ca.pem(), 0o644);
    site.write("clients.crl", &crl.signed_by(ca).unwrap().pem().unwrap(), 0o644);
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    let text = text.replace("\"ca.pem\"", "\"clients.pem\"");
    site.write("gateway.toml", &text.replace("client_crl = \"crl.pem\"", revocation), 0o644);
    site.route(
        "kick",
        &format!(
            "method = \"GET\"\npath = \"/kick\"\n[[allow]]\ncertname = [\"{NAME}\"]\n\
             extensions = {{ pp_auth_role = [\"web\"] }}\n[run]\nsteps = [[\"/bin/true\"]]\n"
        ),
    );
    site
}

/// How far one comes with this certificate.
fn outcome(gateway: &Running, site: &Site, (chain, key): &(String, String)) -> String {
    let connected = Tls::connect_with(gateway.address, &site.ca_pem, Some((chain, key)));
    let asked = connected.and_then(|mut tls| {
        // In TLS 1.3 the client learns with its first read that it was refused.
        tls.write(gateway.get("/kick").as_bytes())?;
        tls.read()
    });
    match asked {
        Err(error) => {
            assert!(!matches!(error.kind(), std::io::ErrorKind::WouldBlock), "nothing happened");
            "no handshake".to_owned()
        }
        Ok(response) if response.is_wall() => "the wall".to_owned(),
        Ok(response) => response.status.to_string(),
    }
}

#[test]
fn i1_odd_certificates_end_the_handshake_or_meet_the_wall() {
    let ca = Ca::self_signed(authority("Clients"), key()).unwrap();
    let stranger = Ca::self_signed(authority("Clients"), key()).unwrap();
    let site = site(&ca, "client_crl = \"clients.crl\"");
    let gateway = site.serve();
    assert_eq!(outcome(&gateway, &site, &issue(&ca, &leaf(|_| {}))), "202", "nothing is wrong with this one");

    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    let named = |name: &'static str| -> Change {
        Box::new(move |params| params.distinguished_name = common_name(name))
    };
    let extended = |values: &'static [&'static [u8]]| -> Change {
        Box::new(move |params| {
            params.custom_extensions = values.iter().map(|value| extension(value)).collect();
        })
    };
    let rows: Vec<(&str, &str, Change)> = vec![
        (
            "two common names, the right one first",
            "the wall",
            Box::new(|params| {
                params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "other.example.com");
            }),
        ),
        (
            "two common names, the right one last",
            "the wall",
            Box::new(|params| {
                params.distinguished_name = DistinguishedName::new();
                params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "other.example.com");
                params.distinguished_name.push(DnType::CommonName, NAME);
            }),
        ),
        (
            "the same name twice",
            "the wall",
            Box::new(|params| {
                params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), NAME);
            }),
        ),
        ("NUL behind the name", "the wall", named("node.example.com\0.evil.org")),
        ("NUL before the name", "the wall", named("\0node.example.com")),
        ("other case", "the wall", named("Node.Example.com")),
        ("wildcard", "the wall", named("*.example.com")),
        ("wildcard of a letter", "the wall", named("nod?.example.com")),
        ("space behind the name", "the wall", named("node.example.com ")),
        ("dot behind the name", "the wall", named("node.example.com.")),
        ("look-alike letter", "the wall", named("n\u{43e}de.example.com")),
        ("line feed", "the wall", named("node.example.com\n")),
        ("longer name", "the wall", named("node.example.com.evil.org")),
        ("empty name", "the wall", named("")),
        (
            "alternative name only",
            "the wall",
            Box::new(|params| params.distinguished_name = DistinguishedName::new()),
        ),
        (
            "name in another attribute",
            "the wall",
            Box::new(|params| {
                params.distinguished_name = DistinguishedName::new();
                params.distinguished_name.push(DnType::OrganizationalUnitName, NAME);
            }),
        ),
        (
            "expired",
            "no handshake",
            Box::new(|params| params.not_after = (day(0) - Duration::from_secs(1)).into()),
        ),
        ("not yet valid", "no handshake", Box::new(|params| params.not_before = day(1).into())),
        (
            "for servers only",
            "no handshake",
            Box::new(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        (
            "for signing code",
            "no handshake",
            Box::new(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
        ),
        (
            "a CA's",
            "no handshake",
            Box::new(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "unknown critical extension",
            "no handshake",
            Box::new(|params| {
                let mut extension =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                extension.set_criticality(true);
                params.custom_extensions.push(extension);
            }),
        ),
        ("no trusted extension", "the wall", extended(&[])),
        ("extension twice, the right one first", "the wall", extended(&[WEB, b"\x0c\x02db"])),
        ("extension twice, the right one last", "the wall", extended(&[b"\x0c\x02db", WEB])),
        ("the same extension twice", "the wall", extended(&[WEB, WEB])),
        ("bytes behind the value", "the wall", extended(&[b"\x0c\x03web\x05\x00"])),
        ("bytes inside the value", "the wall", extended(&[b"\x0c\x04web\0"])),
        ("value cut off", "the wall", extended(&[b"\x0c\x04web"])),
        ("value in another encoding", "the wall", extended(&[b"\x13\x03web"])),
        ("value in indefinite length", "the wall", extended(&[b"\x0c\x80web\0\0"])),
        ("value in other case", "the wall", extended(&[b"\x0c\x03Web"])),
    ];
    for (row, expected, change) in rows {
        assert_eq!(outcome(&gateway, &site, &issue(&ca, &leaf(change))), expected, "{row}");
    }
    let (chain, leaf_key) = issue(&ca, &leaf(|_| {}));
    let mut der = rustls::pki_types::CertificateDer::from_pem_slice(chain.as_bytes()).unwrap().to_vec();
    der.push(0);
    let longer =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    assert_eq!(
        outcome(&gateway, &site, &(longer, leaf_key)),
        "no handshake",
        "a byte behind the certificate"
    );
    let foreign = issue(&stranger, &leaf(|_| {}));
    assert_eq!(outcome(&gateway, &site, &foreign), "no handshake", "another CA of the same name");
    let with_issuer = (foreign.0 + &ca.pem(), foreign.1);
    assert_eq!(outcome(&gateway, &site, &with_issuer), "no handshake", "with the right CA behind it");
    let itself = (ca.pem(), ca.key().serialize_pem());
    assert_eq!(outcome(&gateway, &site, &itself), "no handshake", "the CA itself");
    let unlisted = Ca::signed_by(authority("Unlisted"), key(), &ca).unwrap();
    let (chain, key) = issue(&unlisted, &leaf(|_| {}));
    let below = (chain + &unlisted.pem(), key);
    assert_eq!(outcome(&gateway, &site, &below), "no handshake", "a CA below without a revocation list");
}

#[test]
fn a_chain_is_followed_only_so_far() {
    let ca = Ca::self_signed(authority("Clients"), key()).unwrap();
    let site = site(&ca, "revocation = \"off\"");
    let gateway = site.serve();
    let mut authorities = vec![ca];
    let mut accepted = Vec::new();
    for depth in 0..12 {
        let last = authorities.last().unwrap();
        let (chain, leaf_key) = issue(last, &leaf(|_| {}));
        let above: String = authorities.iter().skip(1).rev().map(CertifiedIssuer::pem).collect();
        accepted.push(outcome(&gateway, &site, &(chain + &above, leaf_key)) == "202");
        authorities.push(Ca::signed_by(authority(&format!("CA {depth}")), key(), last).unwrap());
    }
    assert!(accepted[0] && !accepted[11], "{accepted:?}");
    assert_eq!(accepted.windows(2).filter(|pair| pair[0] != pair[1]).count(), 1, "{accepted:?}");
}
