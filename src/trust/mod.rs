//! Whom to trust: anchors, revocation lists, and whether a certificate stands now.
//!
//! [`Trust`] is parsed once from the operator's files and proven before it is used. It grants nothing: that a
//! certificate stands says who its holder is, and every node of a Puppet site has one. What the holder may do is for
//! rules to say.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_cert::Certificate as X509;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use crate::domain::identity::Presented;

mod believed;
pub mod certificate;
pub mod mint;
pub mod pem;
pub mod revocation;
pub mod server;

use believed::Believed;
use revocation::{BadList, RevocationList};

/// What client certificates are verified against.
pub struct Trust {
    anchors: Vec<Anchor>,
    /// `None`: revocation is not looked at, because the operator said so.
    lists: Option<Vec<RevocationList>>,
    /// Until when the lists are believed, whatever they say themselves.
    believed_until: Option<Timestamp>,
    /// Counts how often the CAs were replaced in a way that what was verified before says nothing any more.
    epoch: u64,
}

/// One certificate of the CA file.
struct Anchor {
    der: CertificateDer<'static>,
    subject: Vec<u8>,
    name: String,
    issuer: Vec<u8>,
    serial: Vec<u8>,
    key: SubjectPublicKeyInfoOwned,
    not_after: Timestamp,
}

/// Why the CA file and the revocation lists cannot be relied on. Blocks and lists are counted from one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The CA file.
    #[error("the CA file: {0}")]
    AuthorityFile(pem::BadPem),
    /// One certificate of the CA file.
    #[error("the CA file: certificate {block} {why}")]
    Authority {
        /// Which one.
        block: usize,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The file of revocation lists.
    #[error("the CRL file: {0}")]
    ListFile(pem::BadPem),
    /// One revocation list.
    #[error("the CRL file: list {block} {why}")]
    List {
        /// Which one.
        block: usize,
        /// What is wrong, and what to do.
        why: String,
    },
    /// One revocation list, compared with the one in force.
    #[error("the CRL file: the list of {name} {why}")]
    Succession {
        /// The issuer.
        name: String,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// The revocation lists revoke every certificate of the CA file.
    #[error("every certificate of the CA file is revoked by the CRL file; trust another CA")]
    AllRevoked,
    /// The library that verifies handshakes refuses them.
    #[error("the CA and CRL files cannot be used together: {0}")]
    Verifier(String),
}

/// Why a certificate that was good at the handshake is not good now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStanding {
    /// Its validity has not begun.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// Its validity is over.
    #[error("the certificate has expired")]
    Expired,
    /// Its issuer lists it as revoked.
    #[error("the certificate is revoked")]
    Revoked,
    /// There is no list of its issuer.
    #[error("no revocation list says whether the certificate is revoked")]
    StatusUnknown,
    /// The list of its issuer is not in force any more.
    #[error("the revocation list of the certificate's issuer has expired")]
    ListExpired,
    /// The file of revocation lists is older than `listen.crl_max_age`.
    #[error("the file of revocation lists is older than listen.crl_max_age")]
    ListsTooOld,
    /// Its issuer is not trusted, or not any more.
    #[error("the certificate's issuer is not trusted, or has expired")]
    Issuer,
}

impl Trust {
    /// Reads the CA file, every certificate of which is an anchor, and the revocation lists; without lists revocation
    /// is not looked at. An anchor that another anchor's list revokes is left out.
    ///
    /// # Errors
    /// All blocks that are not what they should be or have expired at `now`, and all lists that are of no anchor or not
    /// signed by it; at least one.
    pub fn parse(ca_pem: &[u8], crl_pem: Option<&[u8]>, now: Timestamp) -> Result<Self, Vec<TrustError>> {
        let mut wrong = Vec::new();
        let blocks = pem::certificates(ca_pem).unwrap_or_else(|bad| {
            wrong.push(TrustError::AuthorityFile(bad));
            Vec::new()
        });
        let anchor = |(index, der)| {
            Anchor::parse(der, now).map_err(|why| TrustError::Authority { block: index + 1, why })
        };
        let parsed = blocks.into_iter().enumerate().map(anchor);
        let mut anchors: Vec<Anchor> =
            parsed.filter_map(|anchor| anchor.map_err(|error| wrong.push(error)).ok()).collect();
        // Without all of its CAs, that a list is of none of them is nobody's fault.
        let complete = wrong.is_empty();
        let lists = crl_pem.map(|pem| parse_lists(pem, complete.then_some(&anchors), now, &mut wrong));
        if !wrong.is_empty() {
            return Err(wrong);
        }
        if let Some(lists) = &lists {
            anchors.retain(|anchor| {
                let revoked =
                    lists.iter().any(|list| list.issuer == anchor.issuer && list.lists(&anchor.serial));
                if revoked {
                    tracing::warn!(ca = %anchor.name, "left out of the trusted CAs: it is revoked");
                }
                !revoked
            });
        }
        if anchors.is_empty() {
            return Err(vec![TrustError::AllRevoked]);
        }
        let trust = Self { anchors, lists, believed_until: None, epoch: 0 };
        trust.client_verifier().map_err(|error| vec![error])?;
        Ok(trust)
    }

    /// The lists are believed until then, and certificates are refused after it, whatever the lists say themselves.
    #[must_use]
    pub fn believed_until(self, until: Option<Timestamp>) -> Self {
        Self { believed_until: until, ..self }
    }

    /// Makes this trust the successor of `former`, which was in force: what stood under it may go on to stand, unless
    /// another CA has taken the name of its own.
    ///
    /// # Errors
    /// Lists that are older than the ones in force, or that are gone although their CA is not: somebody may want a
    /// revoked certificate to be good again.
    pub fn succeeding(self, former: &Self) -> Result<Self, Vec<TrustError>> {
        let mut wrong = Vec::new();
        let former_lists = former.lists.iter().flatten().filter(|_| self.lists.is_some());
        for old in former_lists {
            let is_issuer = |anchor: &&Anchor| anchor.subject == old.issuer;
            let same_ca = former
                .anchors
                .iter()
                .filter(is_issuer)
                .any(|old| self.anchors.iter().any(|new| new.is_same_ca(old)));
            if !same_ca {
                continue;
            }
            let refuse = |why| TrustError::Succession { name: old.issuer_name.clone(), why };
            match self.lists.iter().flatten().find(|new| new.issuer == old.issuer) {
                Some(new) if new.is_older_than(old) => {
                    wrong.push(refuse("is older than the one in force; fetch the newest one"));
                }
                Some(_) => {}
                None => wrong.push(refuse("is gone, but its CA is not; put it back")),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let replaced = former.anchors.iter().any(|old| {
            let stays = self.anchors.iter().any(|new| new.is_same_ca(old));
            // Without lists a certificate may rest on an issuer that the client sent along, of whichever anchor.
            let mistakable =
                self.lists.is_none() || self.anchors.iter().any(|new| new.subject == old.subject);
            !stays && mistakable
        });
        Ok(Self { epoch: former.epoch + u64::from(replaced), ..self })
    }

    /// Which CAs a certificate that is verified now is verified by; see [`Presented::epoch`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Why the revocation lists say nothing any more, so that certificates are refused; `None` while they do.
    #[must_use]
    pub fn silence(&self, now: Timestamp) -> Option<String> {
        if self.believed_until.is_some_and(|until| now > until) {
            return Some(NotStanding::ListsTooOld.to_string());
        }
        let expired = self.lists.iter().flatten().find(|list| now > list.next_update)?;
        Some(format!("the revocation list of {} has expired at {}", expired.issuer_name, expired.next_update))
    }

    /// From when the oldest revocation list is, and until when all are in force; `None` where there are none.
    #[must_use]
    pub fn lists_in_force(&self) -> Option<(Timestamp, Timestamp)> {
        let lists = || self.lists.iter().flatten();
        lists().map(|list| list.this_update).min().zip(lists().map(|list| list.next_update).min())
    }

    /// What handshakes verify client certificates with: the whole chain up to an anchor must be unrevoked by lists
    /// that are in force. Clients without a certificate are let through, for signatures to identify them.
    ///
    /// # Errors
    /// When the library refuses an anchor or a list; [`Trust::parse`] has tried that already.
    pub fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TrustError> {
        let mut roots = RootCertStore::empty();
        for anchor in &self.anchors {
            roots.add(anchor.der.clone()).map_err(|error| TrustError::Verifier(error.to_string()))?;
        }
        let lists = self.lists.iter().flatten().map(|list| list.der.clone());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .with_crls(lists)
            .enforce_revocation_expiration()
            .allow_unauthenticated()
            .build()
            .map_err(|error| TrustError::Verifier(error.to_string()))?;
        Ok(match self.believed_until {
            Some(until) => Arc::new(Believed { until, verifier }),
            None => verifier,
        })
    }

    /// Whether a certificate that was verified at the handshake is still good at `now`. Dates, the list of its issuer
    /// and the issuer itself are looked at again, so that a live connection ends with what it rests on.
    ///
    /// # Errors
    /// What it does not stand up to.
    pub fn stands(&self, presented: &Presented, now: Timestamp) -> Result<(), NotStanding> {
        if presented.epoch != self.epoch {
            return Err(NotStanding::Issuer);
        }
        if now < presented.not_before {
            return Err(NotStanding::NotYetValid);
        }
        if now > presented.not_after {
            return Err(NotStanding::Expired);
        }
        if self.believed_until.is_some_and(|until| now > until) {
            return Err(NotStanding::ListsTooOld);
        }
        if let Some(lists) = &self.lists {
            let list = lists.iter().find(|list| list.issuer == presented.issuer);
            let list = list.ok_or(NotStanding::StatusUnknown)?;
            if now > list.next_update {
                return Err(NotStanding::ListExpired);
            }
            if list.lists(&presented.serial) {
                return Err(NotStanding::Revoked);
            }
        }
        let mut issuers = self.anchors.iter().filter(|anchor| anchor.subject == presented.issuer).peekable();
        // Without lists an issuer may be one that the client sent along: it chained to an anchor at the handshake.
        let sent_along = self.lists.is_none() && issuers.peek().is_none();
        if sent_along || issuers.any(|issuer| now <= issuer.not_after) {
            Ok(())
        } else {
            Err(NotStanding::Issuer)
        }
    }
}

impl Anchor {
    /// Whether both are certificates of the same authority: renewing one changes neither name nor key.
    fn is_same_ca(&self, other: &Self) -> bool {
        self.subject == other.subject && self.key == other.key
    }

    fn parse(der: Vec<u8>, now: Timestamp) -> Result<Self, String> {
        let unreadable = |_| "cannot be parsed; copy the file again".to_owned();
        let parsed = X509::from_der(&der).map_err(unreadable)?;
        let tbs = parsed.tbs_certificate();
        let name = tbs.subject().to_string();
        let constraints = tbs.get_extension::<BasicConstraints>().map_err(unreadable)?;
        // The verifier takes an anchor's word for everything: a node's certificate here could sign others.
        if !constraints.is_some_and(|(_, constraints)| constraints.ca) {
            return Err(format!("({name}) is not a CA's; remove it"));
        }
        let (from, until) = (tbs.validity().not_before, tbs.validity().not_after);
        let (Some(from), Some(until)) = (certificate::timestamp(from), certificate::timestamp(until)) else {
            return Err(format!("({name}) has dates out of bounds"));
        };
        if now < from {
            return Err(format!("({name}) is not valid before {from}; is the clock right?"));
        }
        if now > until {
            return Err(format!("({name}) has expired at {until}; remove or renew it"));
        }
        Ok(Self {
            subject: tbs.subject().to_der().map_err(unreadable)?,
            issuer: tbs.issuer().to_der().map_err(unreadable)?,
            serial: tbs.serial_number().as_bytes().to_vec(),
            key: tbs.subject_public_key_info().clone(),
            not_after: until,
            name,
            der: der.into(),
        })
    }
}

/// The lists of a file; `anchors` is `None` when not all of them are known.
fn parse_lists(
    pem: &[u8],
    anchors: Option<&Vec<Anchor>>,
    now: Timestamp,
    wrong: &mut Vec<TrustError>,
) -> Vec<RevocationList> {
    let blocks = match pem::revocation_lists(pem) {
        Ok(blocks) => blocks,
        Err(bad) => {
            wrong.push(TrustError::ListFile(bad));
            return Vec::new();
        }
    };
    let mut lists: Vec<RevocationList> = Vec::new();
    for (index, der) in blocks.into_iter().enumerate() {
        match judged_list(der, anchors, now, &lists) {
            Ok(list) => lists.push(list),
            Err(why) => wrong.push(TrustError::List { block: index + 1, why }),
        }
    }
    lists
}

fn judged_list(
    der: Vec<u8>,
    anchors: Option<&Vec<Anchor>>,
    now: Timestamp,
    before: &[RevocationList],
) -> Result<RevocationList, String> {
    let list = RevocationList::parse(der).map_err(|bad: BadList| bad.to_string())?;
    let name = &list.issuer_name;
    if let Some(anchors) = anchors {
        let mut issuers = anchors.iter().filter(|anchor| anchor.subject == list.issuer).peekable();
        if issuers.peek().is_none() {
            return Err(format!(
                "is of {name}, which the CA file does not hold; add that CA or remove the list"
            ));
        }
        let provider = provider();
        if !issuers.any(|issuer| list.is_signed_by(&issuer.key, &provider)) {
            return Err(format!(
                "is not signed by {name} as the CA file has it; fetch it from that CA again"
            ));
        }
    }
    if now > list.next_update {
        return Err(format!("of {name} has expired at {}; fetch a new one", list.next_update));
    }
    // Handshakes would only look at the first.
    if before.iter().any(|earlier| earlier.issuer == list.issuer) {
        return Err(format!("is a second one of {name}; keep the newer one"));
    }
    Ok(list)
}

/// The cryptography used throughout, always named, never a process-wide default.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rustls::pki_types::UnixTime;
    use rustls::pki_types::pem::PemObject;

    use super::mint::{Authority, Issued, Validity};
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
    const DAY: i64 = 86_400;

    /// From so many days after [`NOW`] to so many.
    fn days(from: i64, until: i64) -> Validity {
        let day = |number: i64| Timestamp::from_second(NOW.as_second() + number * DAY).unwrap();
        Validity { from: day(from), until: day(until) }
    }

    fn authority(name: &str) -> Authority {
        Authority::new(name, days(-10, 100)).unwrap()
    }

    fn client(authority: &Authority) -> Issued {
        authority.issue_client("node1.example.com", &BTreeMap::new(), days(-1, 10)).unwrap()
    }

    fn presented(issued: &Issued) -> Presented {
        certificate::read(&der(issued)).unwrap()
    }

    fn der(issued: &Issued) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()
    }

    fn parse(ca: &str, crl: &str) -> Result<Trust, Vec<TrustError>> {
        Trust::parse(ca.as_bytes(), Some(crl.as_bytes()), NOW)
    }

    /// What a handshake at `at` would say.
    fn handshake(trust: &Trust, issued: &Issued, at: Timestamp) -> Result<(), rustls::Error> {
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.as_second().cast_unsigned()));
        trust.client_verifier().unwrap().verify_client_cert(&der(issued), &[], at).map(|_| ())
    }

    fn refusal(result: Result<Trust, Vec<TrustError>>) -> String {
        let wrong = result.err().expect("it should have been refused");
        wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_certificate_of_an_anchor_stands_until_something_speaks_against_it() {
        let ca = authority("CA");
        let node = client(&ca);
        let trust = parse(&ca.pem(), &ca.crl(&[], days(-1, 20)).unwrap()).unwrap();
        let shown = presented(&node);
        assert_eq!(trust.stands(&shown, NOW), Ok(()));
        assert_eq!(handshake(&trust, &node, NOW), Ok(()));
        assert_eq!(trust.stands(&shown, days(-2, 0).from), Err(NotStanding::NotYetValid));
        assert_eq!(trust.stands(&shown, days(11, 12).from), Err(NotStanding::Expired));
        assert!(handshake(&trust, &node, days(11, 12).from).is_err());
    }

    #[test]
    fn a_revoked_certificate_neither_connects_nor_stands() {
        let ca = authority("CA");
        let (node, other) = (client(&ca), client(&ca));
        let trust = parse(&ca.pem(), &ca.crl(&[&node], days(-1, 20)).unwrap()).unwrap();
        assert_eq!(trust.stands(&presented(&node), NOW), Err(NotStanding::Revoked));
        assert!(handshake(&trust, &node, NOW).is_err());
        assert_eq!(trust.stands(&presented(&other), NOW), Ok(()));
        assert_eq!(handshake(&trust, &other, NOW), Ok(()));
    }

    #[test]
    fn nothing_stands_on_an_expired_list() {
        let ca = authority("CA");
        let node = client(&ca);
        let trust = parse(&ca.pem(), &ca.crl(&[], days(-1, 2)).unwrap()).unwrap();
        let later = days(3, 4).from;
        assert_eq!(trust.stands(&presented(&node), later), Err(NotStanding::ListExpired));
        assert!(handshake(&trust, &node, later).is_err());
    }

    #[test]
    fn without_lists_only_dates_and_issuer_count() {
        let (ca, stranger) = (authority("CA"), authority("Stranger"));
        let trust = Trust::parse(ca.pem().as_bytes(), None, NOW).unwrap();
        let node = client(&ca);
        assert_eq!(trust.stands(&presented(&node), NOW), Ok(()));
        assert_eq!(trust.stands(&presented(&node), days(11, 12).from), Err(NotStanding::Expired));
        assert!(handshake(&trust, &client(&stranger), NOW).is_err());
    }

    #[test]
    fn a_stranger_neither_connects_nor_stands() {
        let (ca, stranger) = (authority("CA"), authority("Stranger"));
        let trust = parse(&ca.pem(), &ca.crl(&[], days(-1, 20)).unwrap()).unwrap();
        let node = client(&stranger);
        assert!(handshake(&trust, &node, NOW).is_err());
        assert_eq!(trust.stands(&presented(&node), NOW), Err(NotStanding::StatusUnknown));
    }

    #[test]
    fn an_anchor_is_not_trusted_beyond_its_own_end() {
        let ca = Authority::new("CA", days(-10, 5)).unwrap();
        let trust = parse(&ca.pem(), &ca.crl(&[], days(-1, 20)).unwrap()).unwrap();
        let node = client(&ca);
        assert_eq!(trust.stands(&presented(&node), NOW), Ok(()));
        assert_eq!(trust.stands(&presented(&node), days(6, 7).from), Err(NotStanding::Issuer));
    }

    #[test]
    fn every_certificate_of_the_file_is_an_anchor() {
        let root = authority("Root");
        let intermediate = root.intermediate("CA", days(-10, 100)).unwrap();
        let node = client(&intermediate);
        let crl = intermediate.crl(&[], days(-1, 20)).unwrap();
        let both = format!("{}{}", intermediate.pem(), root.pem());
        assert_eq!(handshake(&parse(&both, &crl).unwrap(), &node, NOW), Ok(()));
        let lists = format!("{crl}{}", root.crl(&[], days(-1, 20)).unwrap());
        let trust = parse(&both, &lists).unwrap();
        assert_eq!(handshake(&trust, &node, NOW), Ok(()));
        assert_eq!(trust.stands(&presented(&node), NOW), Ok(()));
    }

    #[test]
    fn a_revoked_anchor_is_no_anchor() {
        let root = authority("Root");
        let intermediate = root.intermediate("CA", days(-10, 100)).unwrap();
        let node = client(&intermediate);
        let as_issued = Issued::known(&intermediate);
        let both = format!("{}{}", intermediate.pem(), root.pem());
        let of_intermediate = intermediate.crl(&[], days(-1, 20)).unwrap();
        let lists = format!("{of_intermediate}{}", root.crl(&[&as_issued], days(-1, 20)).unwrap());
        let trust = parse(&both, &lists).unwrap();
        assert!(handshake(&trust, &node, NOW).is_err());
        assert_eq!(trust.stands(&presented(&node), NOW), Err(NotStanding::Issuer));
        let own = root.crl(&[&Issued::known(&root)], days(-1, 20)).unwrap();
        assert_eq!(parse(&root.pem(), &own).err(), Some(vec![TrustError::AllRevoked]));
    }

    #[test]
    fn a_ca_file_is_refused_with_the_block_that_is_wrong() {
        let good = authority("CA").pem();
        let damaged = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
        let leaf = client(&authority("CA"));
        let expired = Authority::new("Old", days(-10, -1)).unwrap().pem();
        let early = Authority::new("New", days(1, 10)).unwrap().pem();
        for (second, expected) in [
            (damaged, "certificate 2 cannot be parsed"),
            (&leaf.certificate, "certificate 2 (CN=node1.example.com) is not a CA's"),
            (&leaf.key, "block 2 is a private key"),
            (&expired, "certificate 2 (CN=Old) has expired"),
            (&early, "certificate 2 (CN=New) is not valid before"),
        ] {
            let text = refusal(Trust::parse(format!("{good}{second}").as_bytes(), None, NOW));
            assert!(text.contains(expected), "{text}");
        }
        assert!(refusal(Trust::parse(b"", None, NOW)).contains("no certificate"));
    }

    #[test]
    fn a_crl_file_is_refused_with_the_list_that_is_wrong() {
        let (ca, other) = (authority("CA"), authority("Other"));
        let impostor = authority("CA");
        let good = ca.crl(&[], days(-1, 20)).unwrap();
        let damaged = "-----BEGIN X509 CRL-----\nAAEC\n-----END X509 CRL-----\n";
        let both = format!("{}{}", ca.pem(), other.pem());
        for (ca_pem, second, expected) in [
            (ca.pem(), damaged.to_owned(), "list 2 cannot be parsed"),
            (
                ca.pem(),
                other.crl(&[], days(-1, 20)).unwrap(),
                "list 2 is of CN=Other, which the CA file does not hold",
            ),
            (ca.pem(), impostor.crl(&[], days(-1, 20)).unwrap(), "list 2 is not signed by CN=CA"),
            (both, other.crl(&[], days(-2, -1)).unwrap(), "list 2 of CN=Other has expired"),
            (ca.pem(), good.clone(), "list 2 is a second one of CN=CA"),
            (ca.pem(), ca.pem(), "block 2 is a certificate"),
        ] {
            let text = refusal(parse(&ca_pem, &format!("{good}{second}")));
            assert!(text.contains(expected), "{text}");
        }
        // The verifier takes no lists for "do not look": an empty file must not mean that.
        assert!(refusal(parse(&ca.pem(), "")).contains("no revocation list"));
    }

    #[test]
    fn a_list_whose_content_was_changed_is_refused() {
        let ca = authority("CA");
        let node = client(&ca);
        let pem = ca.crl(&[&node], days(-1, 20)).unwrap();
        let mut der = pem::revocation_lists(pem.as_bytes()).unwrap().remove(0);
        let serial = presented(&node).serial;
        let place = der.windows(serial.len()).position(|bytes| bytes == serial).unwrap();
        der[place + serial.len() - 1] ^= 1;
        let list = RevocationList::parse(der).unwrap();
        let anchor = Anchor::parse(pem::certificates(ca.pem().as_bytes()).unwrap().remove(0), NOW).unwrap();
        assert!(!list.is_signed_by(&anchor.key, &provider()));
    }

    #[test]
    fn a_list_is_followed_by_a_newer_one_of_the_same_ca_and_by_nothing_else() {
        let (ca, other, same_name) = (authority("CA"), authority("Other"), authority("CA"));
        let list = |ca: &Authority, number| ca.numbered_crl(number, &[], days(-1, 20)).unwrap();
        let both = format!("{}{}", ca.pem(), other.pem());
        let former = parse(&both, &(list(&ca, 300) + &list(&other, 7))).unwrap();
        let next = |ca_pem: &str, lists: String| parse(ca_pem, &lists).unwrap().succeeding(&former);
        assert!(next(&both, list(&ca, 300) + &list(&other, 7)).is_ok());
        assert!(next(&both, list(&ca, 1000) + &list(&other, 8)).is_ok());
        let older = refusal(next(&both, list(&ca, 255) + &list(&other, 6)));
        assert_eq!(older.matches("is older than the one in force").count(), 2, "{older}");
        let gone = refusal(next(&both, list(&ca, 300)));
        assert!(gone.contains("the list of CN=Other is gone, but its CA is not"), "{gone}");
        assert!(next(&ca.pem(), list(&ca, 301)).is_ok(), "its CA is gone, too");
        assert!(next(&same_name.pem(), list(&same_name, 1)).is_ok(), "another CA counts for itself");
    }

    #[test]
    fn what_stood_under_a_ca_does_not_stand_under_another_one_of_its_name() {
        let (ca, other, impostor) = (authority("CA"), authority("Other"), authority("CA"));
        let list = |ca: &Authority| ca.crl(&[], days(-1, 20)).unwrap();
        let former = parse(&ca.pem(), &list(&ca)).unwrap();
        let shown = presented(&client(&ca));
        let both = format!("{}{}", ca.pem(), other.pem());
        let wider = parse(&both, &(list(&ca) + &list(&other))).unwrap().succeeding(&former).unwrap();
        assert_eq!((wider.epoch(), wider.stands(&shown, NOW)), (0, Ok(())));
        let taken = parse(&impostor.pem(), &list(&impostor)).unwrap().succeeding(&former).unwrap();
        assert_eq!((taken.epoch(), taken.stands(&shown, NOW)), (1, Err(NotStanding::Issuer)));
        let gone = parse(&other.pem(), &list(&other)).unwrap().succeeding(&former).unwrap();
        assert_eq!(gone.stands(&shown, NOW), Err(NotStanding::StatusUnknown));
    }

    #[test]
    fn lists_are_believed_until_they_are_too_old() {
        let ca = authority("CA");
        let node = client(&ca);
        let trust = parse(&ca.pem(), &ca.crl(&[], days(-1, 20)).unwrap()).unwrap();
        let later = days(2, 3).from;
        let trust = trust.believed_until(Some(NOW));
        assert_eq!((trust.stands(&presented(&node), NOW), handshake(&trust, &node, NOW)), (Ok(()), Ok(())));
        assert_eq!(trust.silence(NOW), None);
        assert_eq!(trust.stands(&presented(&node), later), Err(NotStanding::ListsTooOld));
        assert!(handshake(&trust, &node, later).is_err() && trust.silence(later).is_some());
    }
}
