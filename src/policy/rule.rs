//! One entry of `allow`: conditions on proofs and addresses that must all hold.
//!
//! A rule without a condition that proves an identity cannot be written down. Verifies no signature and no certificate.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::diagnostic::Place;
use crate::domain::extension::Oid;
use crate::domain::identity::{Certificate, Identity, Proofs};
use crate::domain::name::KeyName;

/// One entry of `allow`.
#[derive(Debug)]
pub struct Rule {
    pub(super) identity: IdentityCondition,
    /// One of them holds the request's source; none: any source.
    pub(super) networks: Option<Vec<IpNet>>,
    /// Where the policy says it.
    pub(super) place: Place,
}

/// The first condition of a rule that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// `networks`
    #[error("the address is in none of its networks")]
    Network,
    /// `key`
    #[error("none of its keys has signed")]
    Key,
    /// `certname` or `extensions`, and there is no certificate to ask.
    #[error("it asks for a certificate, and none was verified")]
    NoCertificate,
    /// `certname`
    #[error("the certificate's name is none of its certnames")]
    Certname,
    /// `extensions`
    #[error("the certificate's extensions are not what it asks for")]
    Extensions,
}

/// What proves who the request is from.
#[derive(Debug)]
pub(super) enum IdentityCondition {
    /// One of these keys, and a certificate where one is asked for; the key is the identity.
    Key { keys: Vec<KeyName>, certificate: Option<CertificateCondition> },
    /// A certificate alone.
    Certificate(CertificateCondition),
}

/// What a certificate must say; at least one of the two is not empty.
#[derive(Debug, Default)]
pub(super) struct CertificateCondition {
    /// One of them matches; none: any certname.
    pub(super) certnames: Vec<CertnamePattern>,
    /// Each of these extensions has one of its values.
    pub(super) extensions: BTreeMap<Oid, Vec<String>>,
}

/// A certname in which `*` stands for one or more characters of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertnamePattern(String);

/// A text that is not a pattern for certnames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a certname is written with printable ASCII; `*` stands for one or more characters that are not a dot, and `**` for nothing"
)]
pub(super) struct NotACertnamePattern;

impl Rule {
    /// The identity this rule picks, if all its conditions hold.
    ///
    /// # Errors
    /// The first condition that does not hold.
    pub fn judge(&self, proofs: &Proofs) -> Result<Identity, Unmet> {
        let source = proofs.source.to_canonical();
        let near =
            self.networks.as_ref().is_none_or(|networks| networks.iter().any(|net| net.contains(&source)));
        if near { self.identity.proven(proofs) } else { Err(Unmet::Network) }
    }

    /// Where the policy says it.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The keys of which one must have signed; none where a certificate is the identity.
    #[must_use]
    pub fn keys(&self) -> &[KeyName] {
        match &self.identity {
            IdentityCondition::Key { keys, .. } => keys,
            IdentityCondition::Certificate(_) => &[],
        }
    }
}

impl IdentityCondition {
    fn proven(&self, proofs: &Proofs) -> Result<Identity, Unmet> {
        let certificate = || proofs.certificate.as_deref().ok_or(Unmet::NoCertificate);
        match self {
            Self::Key { keys, certificate: wanted } => {
                let key = proofs.key.as_ref().filter(|key| keys.contains(key)).ok_or(Unmet::Key)?;
                if let Some(wanted) = wanted {
                    wanted.judge(certificate()?)?;
                }
                Ok(Identity::Key(key.clone()))
            }
            Self::Certificate(wanted) => {
                let certificate = certificate()?;
                wanted.judge(certificate)?;
                Ok(Identity::Certname(certificate.certname.clone()))
            }
        }
    }
}

impl CertificateCondition {
    fn judge(&self, certificate: &Certificate) -> Result<(), Unmet> {
        let named = self.certnames.is_empty()
            || self.certnames.iter().any(|pattern| pattern.matches(&certificate.certname));
        let extended = self
            .extensions
            .iter()
            .all(|(oid, values)| certificate.extensions.get(oid).is_some_and(|shown| values.contains(shown)));
        let says_something = !self.certnames.is_empty() || !self.extensions.is_empty();
        match (says_something && named, extended) {
            (false, _) => Err(Unmet::Certname),
            (true, false) => Err(Unmet::Extensions),
            (true, true) => Ok(()),
        }
    }
}

impl CertnamePattern {
    pub(super) fn parse(text: &str) -> Result<Self, NotACertnamePattern> {
        let plain =
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains("**");
        if plain { Ok(Self(text.to_owned())) } else { Err(NotACertnamePattern) }
    }

    /// Label by label, so that no `*` can reach over a dot.
    fn matches(&self, certname: &str) -> bool {
        let (patterns, labels) = (self.0.split('.'), certname.split('.'));
        patterns.clone().count() == labels.clone().count()
            && patterns.zip(labels).all(|(pattern, label)| label_matches(pattern, label))
    }
}

fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, mut pattern)) = pattern.split_once('*') else {
        return pattern == label;
    };
    let Some(mut label) = label.strip_prefix(head) else {
        return false;
    };
    // Each star takes as little as it can, which leaves the most for those after it.
    while let Some((piece, rest)) = pattern.split_once('*') {
        let Some(first) = label.chars().next().map(char::len_utf8) else {
            return false;
        };
        let Some(found) = label.get(first..).and_then(|tail| tail.find(piece)) else {
            return false;
        };
        label = label.get(first + found + piece.len()..).unwrap_or_default();
        pattern = rest;
    }
    label.strip_suffix(pattern).is_some_and(|star| !star.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn key(name: &str) -> KeyName {
        KeyName::parse(name).unwrap()
    }

    fn certificate(certname: &str, extensions: &[(&str, &str)]) -> Option<Arc<Certificate>> {
        let extensions = extensions.iter().map(|(k, v)| (Oid::parse(k).unwrap(), (*v).to_owned())).collect();
        Some(Arc::new(Certificate { certname: certname.into(), extensions }))
    }

    fn proofs(certificate: Option<Arc<Certificate>>, named: Option<&str>, source: &str) -> Proofs {
        Proofs { certificate, key: named.map(key), source: source.parse().unwrap() }
    }

    fn asks(certnames: &[&str], extensions: &[(&str, &[&str])]) -> CertificateCondition {
        CertificateCondition {
            certnames: certnames.iter().map(|text| CertnamePattern::parse(text).unwrap()).collect(),
            extensions: extensions
                .iter()
                .map(|(name, values)| {
                    (Oid::parse(name).unwrap(), values.iter().map(|v| (*v).to_owned()).collect())
                })
                .collect(),
        }
    }

    fn rule(identity: IdentityCondition, networks: &[&str]) -> Rule {
        let networks: Vec<IpNet> = networks.iter().map(|text| text.parse().unwrap()).collect();
        Rule { identity, networks: if networks.is_empty() { None } else { Some(networks) }, place: nowhere() }
    }

    fn nowhere() -> Place {
        let source = crate::policy::diagnostic::SourceText {
            path: "/policy/routes/r.toml".into(),
            text: String::new(),
        };
        Place { source: Arc::new(source), span: 0..0 }
    }

    #[test]
    fn a_star_stays_within_one_label() {
        for (pattern, certname, fits) in [
            ("ci-*.example.com", "ci-1.example.com", true),
            ("ci-*.example.com", "ci-.example.com", false),
            ("ci-*.example.com", "ci-1.evil.example.com", false),
            ("ci-*.example.com", "ci-1.example.com.evil", false),
            ("ci-*.example.com", "CI-1.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "example.com", false),
            ("*", "host", true),
            ("*", "a.b", false),
            ("*", "", false),
            ("a*b*c.x", "aXbYc.x", true),
            ("a*b*c.x", "abYc.x", false),
            ("a*b*c.x", "aXbc.x", false),
            ("a*b*c.x", "abbbc.x", true),
            ("*a*", "aaa", true),
            ("*a*", "aa", false),
            ("*é", "éé", true),
            ("*é", "é", false),
            ("host", "host", true),
            ("host", "hosts", false),
        ] {
            let fit = CertnamePattern(pattern.into()).matches(certname);
            assert_eq!(fit, fits, "{pattern} {certname}");
        }
        for bad in ["", "a b", "a**", "é", "a\n", "a\0"] {
            assert_eq!(CertnamePattern::parse(bad), Err(NotACertnamePattern), "{bad:?}");
        }
    }

    #[test]
    fn all_conditions_of_a_rule_must_hold_and_the_key_is_the_identity() {
        let both = rule(
            IdentityCondition::Key {
                keys: vec![key("jenkins"), key("backup")],
                certificate: Some(asks(&["ci-*.x"], &[("pp_auth_role", &["deployer", "admin"])])),
            },
            &["10.0.0.0/8", "fd00::/8"],
        );
        assert_eq!(both.keys(), [key("jenkins"), key("backup")]);
        let good = || certificate("ci-1.x", &[("pp_auth_role", "admin"), ("pp_role", "web")]);
        let jenkins = Some(Identity::Key(key("jenkins")));
        for (proofs, picked) in [
            (proofs(good(), Some("jenkins"), "10.1.2.3"), jenkins.clone()),
            (proofs(good(), Some("jenkins"), "::ffff:10.1.2.3"), jenkins.clone()),
            (proofs(good(), Some("jenkins"), "fd00::1"), jenkins),
            (proofs(good(), Some("backup"), "10.1.2.3"), Some(Identity::Key(key("backup")))),
            (proofs(good(), Some("other"), "10.1.2.3"), None),
            (proofs(good(), None, "10.1.2.3"), None),
            (proofs(good(), Some("jenkins"), "11.1.2.3"), None),
            (proofs(None, Some("jenkins"), "10.1.2.3"), None),
            (proofs(certificate("ci-1.x", &[]), Some("jenkins"), "10.1.2.3"), None),
            (proofs(certificate("ci-1.x", &[("pp_auth_role", "web")]), Some("jenkins"), "10.1.2.3"), None),
            (proofs(certificate("ci-1.y", &[("pp_auth_role", "admin")]), Some("jenkins"), "10.1.2.3"), None),
        ] {
            assert_eq!(both.judge(&proofs).ok(), picked, "{proofs:?}");
        }
    }

    #[test]
    fn a_certificate_rule_picks_the_certname_even_when_a_key_was_shown() {
        let rule = rule(IdentityCondition::Certificate(asks(&[], &[("pp_auth_role", &["web"])])), &[]);
        assert!(rule.keys().is_empty());
        let shown = certificate("node.x", &[("pp_auth_role", "web")]);
        let picked = rule.judge(&proofs(shown, Some("jenkins"), "192.0.2.1")).ok();
        assert_eq!(picked, Some(Identity::Certname("node.x".into())));
        assert_eq!(rule.judge(&proofs(None, Some("jenkins"), "192.0.2.1")), Err(Unmet::NoCertificate));
    }

    #[test]
    fn i1_fail_closed_when_a_rule_asks_nothing_of_a_certificate() {
        let empty = rule(IdentityCondition::Certificate(CertificateCondition::default()), &[]);
        assert_eq!(empty.judge(&proofs(certificate("node.x", &[]), None, "192.0.2.1")), Err(Unmet::Certname));
    }

    proptest! {
        /// The obvious way to match, for comparison: as a regular expression.
        #[test]
        fn patterns_match_as_the_regular_expression_would(pattern in "[ab.*]{1,10}", certname in "[ab.]{0,12}") {
            if let Ok(parsed) = CertnamePattern::parse(&pattern) {
                let expression = format!(r"\A{}\z", regex::escape(&pattern).replace(r"\*", "[^.]+"));
                let expected = regex::Regex::new(&expression).unwrap().is_match(&certname);
                prop_assert_eq!(parsed.matches(&certname), expected);
            }
        }
    }
}
