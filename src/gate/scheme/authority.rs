//! The host that a request names, and the hosts that signatures may name.
//!
//! Gives `Host` the one spelling that RFC 9421 section 2.2.3 signs: small letters, no default port. Refuses user names,
//! empty hosts, and characters that no host has.

use std::net::{IpAddr, Ipv6Addr};

/// Longest `Host` value: a DNS name has at most 253 bytes, a port with its colon 6.
const LONGEST: usize = 259;

/// A `Host` value in the spelling that is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    text: String,
    host: Host,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

/// A text that is not a host with an optional port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host with an optional port, such as `gateway.example.com:8443` or `[2001:db8::1]`")]
pub struct NotAnAuthority;

impl Authority {
    /// Reads the value of a `Host` header, or the host and port of a URL.
    ///
    /// # Errors
    /// When it is anything else than a name or address, with or without a port.
    pub fn parse(text: &str) -> Result<Self, NotAnAuthority> {
        if text.len() > LONGEST {
            return Err(NotAnAuthority);
        }
        let text = text.to_ascii_lowercase();
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inner, after) = rest.split_once(']').ok_or(NotAnAuthority)?;
                let address = inner.parse::<Ipv6Addr>().map_err(|_| NotAnAuthority)?;
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':').ok_or(NotAnAuthority)?),
                };
                (Host::Address(address.into()), port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (Host::named(host)?, Some(port)),
                None => (Host::named(&text)?, None),
            },
        };
        if port.is_some_and(|port| !is_port(port)) {
            return Err(NotAnAuthority);
        }
        Ok(Self { text: text.strip_suffix(":443").unwrap_or(&text).to_owned(), host })
    }

    /// The value of `@authority`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Host {
    fn named(text: &str) -> Result<Self, NotAnAuthority> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if text.is_empty() || !text.bytes().all(is_name) {
            return Err(NotAnAuthority);
        }
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Address))
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// The hosts that signatures may name.
#[derive(Debug)]
pub(super) struct Authorities(Vec<Allowed>);

#[derive(Debug)]
enum Allowed {
    Host(Host),
    /// `.example.com` for `*.example.com`, which certificates have: the star is one label.
    AnyLabel(String),
}

impl Authorities {
    /// Takes host names (one with a leading `*.` stands for one label) and addresses (IPv6 with or without brackets).
    pub(super) fn new(hosts: &[String]) -> Self {
        let allowed = |text: &String| {
            let text = text.to_ascii_lowercase();
            let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&text);
            if let Ok(address) = bare.parse() {
                return Allowed::Host(Host::Address(address));
            }
            match text.strip_prefix('*') {
                Some(rest) if rest.starts_with('.') => Allowed::AnyLabel(rest.to_owned()),
                Some(_) | None => Allowed::Host(Host::Name(text)),
            }
        };
        Self(hosts.iter().map(allowed).collect())
    }

    pub(super) fn allow(&self, authority: &Authority) -> bool {
        self.0.iter().any(|allowed| match (allowed, &authority.host) {
            (Allowed::Host(allowed), host) => allowed == host,
            (Allowed::AnyLabel(rest), Host::Name(name)) => {
                name.strip_suffix(rest).is_some_and(|label| !label.is_empty() && !label.contains('.'))
            }
            (Allowed::AnyLabel(_), Host::Address(_)) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (given, signed) in [
            ("GW.Example.com", "gw.example.com"),
            ("gw.example.com:443", "gw.example.com"),
            ("gw.example.com:8443", "gw.example.com:8443"),
            ("192.0.2.1:8443", "192.0.2.1:8443"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("[::1]:8443", "[::1]:8443"),
        ] {
            assert_eq!(Authority::parse(given).map(|a| a.text), Ok(signed.to_owned()), "{given}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "",
            ":443",
            ":8443",
            "a:",
            "a:b",
            "a:+1",
            "a:65536",
            "a:443:443",
            "user@a",
            "a/b",
            "a b",
            "a,b",
            "é",
            "[::1",
            "::1",
            "[a]",
            "[::1]x",
            "[::1]:",
            "[192.0.2.1]",
            &"a".repeat(LONGEST + 1),
        ] {
            assert_eq!(Authority::parse(bad), Err(NotAnAuthority), "{bad:?}");
        }
    }

    #[test]
    fn only_listed_hosts_are_allowed() {
        let hosts = ["GW.example.com", "*.wild.example.com", "192.0.2.1", "[::1]", "2001:db8::2"];
        let authorities = Authorities::new(&hosts.map(str::to_owned));
        let allowed = |host: &str| authorities.allow(&Authority::parse(host).unwrap());
        for good in
            ["gw.example.com:8443", "a.wild.example.com", "192.0.2.1", "[0:0::1]:8443", "[2001:db8::2]"]
        {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "example.com",
            "gw.example.com.",
            "gw.example.com.evil.test",
            "xgw.example.com",
            "wild.example.com",
            ".wild.example.com",
            "a.b.wild.example.com",
            "192.0.2.2",
            "[::2]",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
        assert!(!Authorities::new(&[]).allow(&Authority::parse("gw.example.com").unwrap()));
        assert!(!Authorities::new(&["*".into()]).allow(&Authority::parse("gw").unwrap()));
    }
}
