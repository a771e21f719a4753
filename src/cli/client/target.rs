//! A URL, taken apart into what a connection, a TLS handshake and a signature need of it.
//!
//! Refuses everything but `https`, user names and fragments, and changes nothing of path and query.

use axum::http::Uri;

use crate::gate::scheme::Authority;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host to connect to and to find in the certificate; IPv6 without brackets.
    pub host: String,
    /// The port to connect to.
    pub port: u16,
    /// The value of the `Host` header: small letters, no default port.
    pub authority: String,
    /// The request target: a path, and a query if there is one.
    pub path_and_query: String,
}

/// Why a text is no URL to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotATarget {
    /// It does not parse.
    #[error("this is not a URL; one reads https://gateway.example.com:8443/path")]
    Syntax,
    /// Its scheme is another.
    #[error("the URL must start with https://: the gateway speaks TLS only")]
    Scheme,
    /// Its host is none.
    #[error("the URL's host must be a name or an address, with or without a port, and no user name")]
    Host,
    /// It has a fragment.
    #[error("the URL holds a `#`: leave out what starts with it, or write %23")]
    Fragment,
}

impl Target {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// When it is none, or none that a gateway can serve.
    pub fn parse(url: &str) -> Result<Self, NotATarget> {
        if url.contains('#') {
            return Err(NotATarget::Fragment);
        }
        let uri: Uri = url.parse().map_err(|_| NotATarget::Syntax)?;
        match uri.scheme_str() {
            Some("https") => {}
            Some(_) => return Err(NotATarget::Scheme),
            None => return Err(NotATarget::Syntax),
        }
        let given = uri.authority().ok_or(NotATarget::Host)?;
        let authority = Authority::parse(given.as_str()).map_err(|_| NotATarget::Host)?;
        let path_and_query = uri.path_and_query().map_or("/", |target| target.as_str());
        let slash = if path_and_query.starts_with('/') { "" } else { "/" };
        Ok(Self {
            host: given.host().trim_matches(['[', ']']).to_ascii_lowercase(),
            port: given.port_u16().unwrap_or(443),
            authority: authority.as_str().to_owned(),
            path_and_query: format!("{slash}{path_and_query}"),
        })
    }

    /// Another path on the same gateway, as a `Location` header names it; `None` when it leads elsewhere.
    #[must_use]
    pub fn at_path(&self, path: &str) -> Option<Self> {
        let url = format!("https://{}{path}", self.authority);
        let other = Self::parse(&url).ok()?;
        (path.starts_with('/') && other.authority == self.authority).then_some(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_comes_apart() {
        for (url, host, port, authority, target) in [
            ("https://GW.example.com", "gw.example.com", 443, "gw.example.com", "/"),
            ("https://gw:443/a?b", "gw", 443, "gw", "/a?b"),
            ("https://gw:8443?b", "gw", 8443, "gw:8443", "/?b"),
            ("https://[::1]:8443/a?", "::1", 8443, "[::1]:8443", "/a?"),
            ("https://192.0.2.1/a/../b", "192.0.2.1", 443, "192.0.2.1", "/a/../b"),
        ] {
            let expected = Target {
                host: host.into(),
                port,
                authority: authority.into(),
                path_and_query: target.into(),
            };
            assert_eq!(Target::parse(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for (url, why) in [
            ("", NotATarget::Syntax),
            ("gw", NotATarget::Syntax),
            ("/a", NotATarget::Syntax),
            ("https://gw/a b", NotATarget::Syntax),
            ("http://gw/", NotATarget::Scheme),
            ("https://user:secret@gw/", NotATarget::Host),
            ("https://gw:99999/", NotATarget::Host),
            ("https://gw/a#b", NotATarget::Fragment),
        ] {
            assert_eq!(Target::parse(url), Err(why), "{url}");
        }
    }

    #[test]
    fn a_location_stays_on_the_gateway() {
        let target = Target::parse("https://gw:8443/a?b").unwrap();
        let job = target.at_path("/-/jobs/1").unwrap();
        assert_eq!((job.authority.as_str(), job.path_and_query.as_str()), ("gw:8443", "/-/jobs/1"));
        for elsewhere in ["https://evil.test/", "", "1", ".evil.test/", "@evil.test/"] {
            assert_eq!(target.at_path(elsewhere), None, "{elsewhere}");
        }
    }
}
