//! `[[allow]]`: who may.
//! A rule that proves nobody's identity is refused.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net};

use super::gateway::Known;
use super::{Decoded, Table, Value};
use crate::domain::extension::Oid;
use crate::domain::name::KeyName;
use crate::policy::diagnostic::Finding;
use crate::policy::nearest::nearest;
use crate::policy::rule::{CertificateCondition, CertnamePattern, IdentityCondition, Rule};

pub(super) fn decode(table: &mut Table<'_>, known: &Known) -> Decoded<Rule> {
    let keys = table.optional("key", |value| value.set(|value| key(value, known)));
    let networks = table.optional("networks", |value| {
        value.set(|value| {
            let network = network(value)?;
            if network.prefix_len() == 0 {
                value.page().warn(
                    value.place(),
                    "this network is every address",
                    "leave `networks` out if everywhere is meant, or name the senders' networks",
                );
            }
            Ok(network)
        })
    });
    let certnames = table.optional("certname", |value| {
        let verifiable = verifiable(value, known);
        let patterns = value.set(|value| value.parse(CertnamePattern::parse));
        verifiable.and(patterns)
    });
    let extensions = table.optional("extensions", |value| {
        let verifiable = verifiable(value, known);
        let extensions = value.table("`extensions`", extensions);
        if extensions.as_ref().is_ok_and(BTreeMap::is_empty) {
            return Err(value.refuse("at least one extension; leave the key out if none is meant"));
        }
        verifiable.and(extensions)
    });
    if !["key", "certname", "extensions"].iter().any(|key| table.has(key)) {
        let message = "a rule that proves nobody's identity: it has no `key`, `certname` or `extensions`";
        let mut finding = Finding::error(table.place(), message);
        if table.has("networks") {
            finding = finding.help("an address is not an identity; `networks` only narrows a rule");
        }
        return Err(table.page().report(finding));
    }
    let (keys, networks) = (keys?, networks?);
    let (certnames, extensions) = (certnames?.unwrap_or_default(), extensions?.unwrap_or_default());
    let certificate = CertificateCondition { certnames, extensions };
    let says_something = !certificate.certnames.is_empty() || !certificate.extensions.is_empty();
    warn_if_claimable(table, &certificate, keys.is_some());
    let identity = match keys {
        Some(keys) => IdentityCondition::Key {
            keys,
            certificate: if says_something { Some(certificate) } else { None },
        },
        None => IdentityCondition::Certificate(certificate),
    };
    Ok(Rule { identity, networks, place: table.place() })
}

fn key(value: Value<'_>, known: &Known) -> Decoded<KeyName> {
    let name = value.parse(KeyName::parse)?;
    let Some(declared) = known.keys.as_ref().filter(|declared| !declared.contains_key(&name)) else {
        return Ok(name);
    };
    let finding = value.finding(format!("there is no `[keys.{name}]` in gateway.toml"));
    let declared: Vec<&str> = declared.keys().map(KeyName::as_str).collect();
    let finding = match nearest(name.as_str(), declared.iter().copied()) {
        Some(meant) => finding.help(format!("did you mean `{meant}`?")),
        None => finding,
    };
    let list = if declared.is_empty() { "none".to_owned() } else { declared.join(", ") };
    Err(value.page().report(finding.help(format!("declared keys: {list}"))))
}

/// Whether client certificates are asked for at all.
fn verifiable(value: Value<'_>, known: &Known) -> Decoded<()> {
    if known.clients != Some(false) {
        return Ok(());
    }
    let finding = value.finding("no client certificate can be verified without `listen.client_ca`");
    let help = "give `client_ca` and `client_crl` in gateway.toml, or use `key`";
    Err(value.page().report(finding.help(help)))
}

/// A network, or an address alone; what is IPv4 in IPv6's clothes is IPv4.
/// A network, or an address alone.
pub(super) fn network(value: Value<'_>) -> Decoded<IpNet> {
    let text = value.text()?;
    let parsed = text
        .parse::<IpNet>()
        .or_else(|error| text.parse::<std::net::IpAddr>().map(IpNet::from).map_err(|_| error));
    let Ok(network) = parsed else {
        return Err(
            value.refuse("a network or an address, such as `10.20.0.0/16`, `192.0.2.7` or `fd00::/8`")
        );
    };
    if network.addr() != network.network() {
        let finding = value.finding("the address has bits beyond the network's prefix");
        let meant = format!("did you mean `{}`?", network.trunc());
        return Err(value.page().report(finding.help(meant)));
    }
    Ok(unmapped(network))
}

fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    let address = v6.addr().to_ipv4_mapped();
    let prefix = v6.prefix_len().checked_sub(96);
    match address.zip(prefix).map(|(address, prefix)| Ipv4Net::new(address, prefix)) {
        Some(Ok(v4)) => IpNet::V4(v4),
        Some(Err(_)) | None => network,
    }
}

fn extensions(table: &mut Table<'_>) -> Decoded<BTreeMap<Oid, Vec<String>>> {
    let mut conditions = BTreeMap::new();
    let mut outcome = Ok(());
    for (text, place, value) in table.take_all() {
        let values = value.set(|value| value.text().map(str::to_owned));
        match Oid::parse(text) {
            Ok(oid) if conditions.contains_key(&oid) => {
                let message = format!("`{oid}` is named twice, by its name and by its OID");
                outcome = Err(table.page().report(Finding::error(place, message)));
            }
            Ok(oid) => match values {
                Ok(values) => drop(conditions.insert(oid, values)),
                Err(reported) => outcome = Err(reported),
            },
            Err(error) => {
                let message = format!("`{}` is {error}", text.escape_debug());
                outcome = Err(table.page().report(Finding::error(place, message)));
            }
        }
    }
    outcome.map(|()| conditions)
}

fn warn_if_claimable(table: &Table<'_>, certificate: &CertificateCondition, with_key: bool) {
    let rests_on_extensions = !with_key && certificate.certnames.is_empty();
    if rests_on_extensions && certificate.extensions.keys().all(Oid::is_claimable) {
        table.page().warn(
            table.place_of("extensions"),
            "any node whose certificate request is signed automatically can claim these extensions",
            "add `certname` or `key`, or use an authorization extension such as `pp_auth_role`, which cannot be claimed so",
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::{GATEWAY, ROUTE, compile, findings};

    fn route(rule: &str) -> String {
        ROUTE.replace("key = [\"jenkins\"]", rule) + "idempotent = true"
    }

    #[test]
    fn wrong_conditions_are_refused() {
        let network =
            "`networks`: a network or an address, such as `10.20.0.0/16`, `192.0.2.7` or `fd00::/8`";
        let certname = "`certname`: a certname is written with printable ASCII; `*` stands for one or more characters that are not a dot, and `**` for nothing";
        for (rule, finding) in [
            ("key = \"jenkins\"", "`key`: takes a list, not a string"),
            ("key = [\"jenkin\"]", "`key`: there is no `[keys.jenkin]` in gateway.toml"),
            ("key = [\"jenkins\", \"jenkins\"]", "`key`: it is listed twice"),
            ("key = [\"jenkins\"]\nnetworks = [\"10.0.0.0/33\"]", network),
            ("key = [\"jenkins\"]\nnetworks = [\"host\"]", network),
            (
                "key = [\"jenkins\"]\nnetworks = [\"10.1.2.3/8\"]",
                "`networks`: the address has bits beyond the network's prefix",
            ),
            (
                "key = [\"jenkins\"]\nnetworks = []",
                "`networks`: a list of at least one; leave the key out if it is not meant",
            ),
            ("certname = [\"\"]", certname),
            ("certname = [\"a**\"]", certname),
            (
                "extensions = { pp_auth_role = [] }",
                "`pp_auth_role`: a list of at least one; leave the key out if it is not meant",
            ),
            ("extensions = { pp_auth_role = \"web\" }", "`pp_auth_role`: takes a list, not a string"),
            (
                "extensions = { pp_rolle = [\"web\"] }",
                "`pp_rolle` is neither one of Puppet's extension names (such as `pp_auth_role`) nor an OID (such as `1.3.6.1.4.1.34380.1.2.1`)",
            ),
            (
                "extensions = { pp_auth_role = [\"a\"], \"1.3.6.1.4.1.34380.1.3.13\" = [\"b\"] }",
                "`pp_auth_role` is named twice, by its name and by its OID",
            ),
            ("key = [\"jenkins\"]\nips = [\"::1\"]", "unknown key `ips` in `[[allow]]`"),
        ] {
            assert_eq!(findings(GATEWAY, &[("r", &route(rule))]), [finding], "{rule}");
        }
    }

    #[test]
    fn a_rule_cannot_ask_for_certificates_that_nobody_verifies() {
        let gateway = GATEWAY.replace("client_", "#client_");
        for rule in ["certname = [\"a\"]", "extensions = { pp_auth_role = [\"a\"] }"] {
            let key = rule.split(' ').next().unwrap();
            let finding =
                format!("`{key}`: no client certificate can be verified without `listen.client_ca`");
            assert_eq!(findings(&gateway, &[("r", &route(rule))]), [finding]);
        }
    }

    #[test]
    fn claimable_extensions_alone_are_worth_a_warning() {
        let warning = "any node whose certificate request is signed automatically can claim these extensions";
        for (rule, warned) in [
            ("extensions = { pp_role = [\"web\"] }", true),
            ("extensions = { pp_role = [\"web\"], \"1.3.6.1.4.1.34380.1.2.9\" = [\"x\"] }", true),
            ("extensions = { pp_role = [\"web\"], pp_auth_role = [\"web\"] }", false),
            ("extensions = { pp_role = [\"web\"] }\ncertname = [\"*.x\"]", false),
            ("extensions = { pp_role = [\"web\"] }\nkey = [\"jenkins\"]", false),
            ("extensions = { pp_auth_role = [\"web\"] }", false),
        ] {
            let found = findings(GATEWAY, &[("r", &route(rule))]);
            assert_eq!(found, if warned { vec![warning] } else { vec![] }, "{rule}");
        }
    }

    #[test]
    fn networks_are_read_as_one_means_them() {
        let rule = "key = [\"jenkins\"]\nnetworks = [\"192.0.2.7\", \"fd00::1\", \"::ffff:10.0.0.0/104\", \"::ffff:10.1.2.3\", \"fd00::/8\", \"0.0.0.0/0\"]";
        let loaded = compile(GATEWAY, &[("r", &route(rule))]).unwrap();
        let networks = loaded.policy.routes.values().next().unwrap().allow[0].networks.clone().unwrap();
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        assert_eq!(
            networks,
            ["192.0.2.7/32", "fd00::1/128", "10.0.0.0/8", "10.1.2.3/32", "fd00::/8", "0.0.0.0/0"]
        );
    }
}
