//! Names of Puppet's trusted certificate extensions.
//!
//! Source of the table: Puppet's documentation, "CSR attributes and certificate extensions",
//! <https://www.puppet.com/docs/puppet/8/ssl_attributes_extensions.html>. Knows no certificates.

use std::fmt;

/// Arc under which anyone whose request is signed automatically can claim a value.
const CLAIMABLE_ARC: &str = "1.3.6.1.4.1.34380.1.1";
/// Arc that a Puppet CA signs only where its operator allows authorization extensions.
const AUTHORIZATION_ARC: &str = "1.3.6.1.4.1.34380.1.3";

const CLAIMABLE: [(u32, &str); 26] = [
    (1, "pp_uuid"),
    (2, "pp_instance_id"),
    (3, "pp_image_name"),
    (4, "pp_preshared_key"),
    (5, "pp_cost_center"),
    (6, "pp_product"),
    (7, "pp_project"),
    (8, "pp_application"),
    (9, "pp_service"),
    (10, "pp_employee"),
    (11, "pp_created_by"),
    (12, "pp_environment"),
    (13, "pp_role"),
    (14, "pp_software_version"),
    (15, "pp_department"),
    (16, "pp_cluster"),
    (17, "pp_provisioner"),
    (18, "pp_region"),
    (19, "pp_datacenter"),
    (20, "pp_zone"),
    (21, "pp_network"),
    (22, "pp_securitypolicy"),
    (23, "pp_cloudplatform"),
    (24, "pp_apptier"),
    (25, "pp_hostname"),
    (26, "pp_owner"),
];

const AUTHORIZATION: [(u32, &str); 4] =
    [(1, "pp_authorization"), (2, "pp_auth_auto_renew"), (13, "pp_auth_role"), (39, "pp_cli_auth")];

/// The object identifier of a certificate extension, in dotted decimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Oid(String);

impl serde::Serialize for Oid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Oid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A text that is neither an extension's short name nor a dotted OID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "neither one of Puppet's extension names (such as `pp_auth_role`) nor an OID (such as `1.3.6.1.4.1.34380.1.2.1`)"
)]
pub struct NotAnExtension;

impl Oid {
    /// Reads one of Puppet's short names, or a dotted OID.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self, NotAnExtension> {
        let named = |arc: &str, table: &[(u32, &str)]| {
            table.iter().find(|(_, name)| *name == text).map(|(number, _)| Self(format!("{arc}.{number}")))
        };
        if let Some(oid) =
            named(CLAIMABLE_ARC, &CLAIMABLE).or_else(|| named(AUTHORIZATION_ARC, &AUTHORIZATION))
        {
            return Ok(oid);
        }
        let arcs: Vec<&str> = text.split('.').collect();
        let is_arc = |arc: &&str| arc.parse::<u32>().is_ok_and(|number| number.to_string() == **arc);
        if arcs.len() >= 3 && arcs.len() <= 32 && arcs.iter().all(is_arc) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAnExtension)
        }
    }

    /// Whether any node whose certificate request is signed automatically can give itself this extension.
    #[must_use]
    pub fn is_claimable(&self) -> bool {
        !self.0.strip_prefix(AUTHORIZATION_ARC).is_some_and(|rest| rest.starts_with('.'))
    }

    /// The dotted OID.
    #[must_use]
    pub fn dotted(&self) -> &str {
        &self.0
    }
}

/// The short name where Puppet has one, the dotted OID otherwise.
impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |arc: &str, table: &'static [(u32, &'static str)]| {
            let number = self.0.strip_prefix(arc)?.strip_prefix('.')?.parse::<u32>().ok()?;
            table.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
        };
        let name = named(CLAIMABLE_ARC, &CLAIMABLE).or_else(|| named(AUTHORIZATION_ARC, &AUTHORIZATION));
        f.write_str(name.unwrap_or(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_and_oids_are_the_same_thing() {
        for (short, dotted) in
            [("pp_role", "1.3.6.1.4.1.34380.1.1.13"), ("pp_auth_role", "1.3.6.1.4.1.34380.1.3.13")]
        {
            assert_eq!(Oid::parse(short), Oid::parse(dotted));
            assert_eq!(Oid::parse(dotted).map(|oid| oid.to_string()), Ok(short.to_owned()));
        }
    }

    #[test]
    fn only_authorization_extensions_cannot_be_claimed() {
        for (text, claimable) in
            [("pp_role", true), ("1.3.6.1.4.1.34380.1.2.7", true), ("pp_auth_role", false)]
        {
            assert_eq!(Oid::parse(text).map(|oid| oid.is_claimable()), Ok(claimable), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "pp_rolle", "1.2", "1..3", "1.2.03", "1.2.-3", "1.2.3.", "1.2.+3"] {
            assert_eq!(Oid::parse(bad), Err(NotAnExtension), "{bad:?}");
        }
    }
}
