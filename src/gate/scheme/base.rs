//! The signature base: the bytes that a signature is made over (RFC 9421, section 2.5).
//!
//! Signing and verifying share it. A component is refused when it does not have exactly one value in the message;
//! which components must be covered is not decided here.

use axum::http::header::{HeaderMap, HeaderName};

/// Longest name of a covered header, in bytes.
const LONGEST_NAME: usize = 100;

/// Something that a signature can cover. Components have no parameters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Component {
    /// `@method`
    Method,
    /// `@authority`
    Authority,
    /// `@path`
    Path,
    /// `@query`
    Query,
    /// `@target-uri`
    TargetUri,
    /// A header, by its name in small letters.
    Header(HeaderName),
}

impl Component {
    /// The component of this name, if it is one.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "@method" => Some(Self::Method),
            "@authority" => Some(Self::Authority),
            "@path" => Some(Self::Path),
            "@query" => Some(Self::Query),
            "@target-uri" => Some(Self::TargetUri),
            _ if name.len() > LONGEST_NAME => None,
            _ => HeaderName::from_lowercase(name.as_bytes()).ok().map(Self::Header),
        }
    }

    /// Its name, as it stands between the quotes.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Method => "@method",
            Self::Authority => "@authority",
            Self::Path => "@path",
            Self::Query => "@query",
            Self::TargetUri => "@target-uri",
            Self::Header(name) => name.as_str(),
        }
    }
}

/// The parts of a request that components take their values from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) method: &'a str,
    pub(super) authority: &'a str,
    pub(super) path: &'a str,
    /// What follows the `?`, if there is one.
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
}

/// A covered component that does not have exactly one value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoValue {
    /// The request has no such header.
    #[error("the header `{0}` is covered, but not there")]
    Absent(HeaderName),
    /// The request has it more than once.
    #[error("the header `{0}` is covered, but there more than once")]
    Several(HeaderName),
    /// The request target holds no `?`.
    #[error("`@query` is covered, but the request target holds no `?`")]
    Query,
}

impl Message<'_> {
    /// The signature base over `components`; `parameters` is the serialised value of `@signature-params`.
    ///
    /// # Errors
    /// When a component does not have exactly one value.
    pub(super) fn base(&self, components: &[Component], parameters: &str) -> Result<Vec<u8>, NoValue> {
        let mut base = Vec::with_capacity(512);
        for component in components {
            base.extend_from_slice(b"\"");
            base.extend_from_slice(component.name().as_bytes());
            base.extend_from_slice(b"\": ");
            self.write_value(component, &mut base)?;
            base.extend_from_slice(b"\n");
        }
        base.extend_from_slice(b"\"@signature-params\": ");
        base.extend_from_slice(parameters.as_bytes());
        Ok(base)
    }

    fn write_value(&self, component: &Component, base: &mut Vec<u8>) -> Result<(), NoValue> {
        match component {
            Component::Method => base.extend_from_slice(self.method.as_bytes()),
            Component::Authority => base.extend_from_slice(self.authority.as_bytes()),
            Component::Path => base.extend_from_slice(self.path.as_bytes()),
            Component::Query => write_query(self.query.ok_or(NoValue::Query)?, base),
            Component::TargetUri => {
                for part in ["https://", self.authority, self.path] {
                    base.extend_from_slice(part.as_bytes());
                }
                if let Some(query) = self.query {
                    write_query(query, base);
                }
            }
            Component::Header(name) => {
                let mut lines = self.headers.get_all(name).iter();
                let value = lines.next().ok_or_else(|| NoValue::Absent(name.clone()))?;
                if lines.next().is_some() {
                    return Err(NoValue::Several(name.clone()));
                }
                base.extend_from_slice(value.as_bytes().trim_ascii());
            }
        }
        Ok(())
    }
}

fn write_query(query: &str, base: &mut Vec<u8>) {
    base.extend_from_slice(b"?");
    base.extend_from_slice(query.as_bytes());
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn components(names: &[&str]) -> Vec<Component> {
        names.iter().map(|name| Component::parse(name).unwrap()).collect()
    }

    fn message(headers: &HeaderMap) -> Message<'_> {
        Message {
            method: "POST",
            authority: "example.com",
            path: "/foo",
            query: Some("param=Value&Pet=dog"),
            headers,
        }
    }

    #[test]
    fn every_component_has_its_value() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("  application/json \t"));
        let names = ["@method", "@authority", "@path", "@query", "@target-uri", "content-type"];
        let base = message(&headers).base(&components(&names), "(x);created=1").unwrap();
        let expected = "\"@method\": POST\n\"@authority\": example.com\n\"@path\": /foo\n\
            \"@query\": ?param=Value&Pet=dog\n\
            \"@target-uri\": https://example.com/foo?param=Value&Pet=dog\n\
            \"content-type\": application/json\n\"@signature-params\": (x);created=1";
        assert_eq!(String::from_utf8(base).unwrap(), expected);
    }

    #[test]
    fn a_component_without_exactly_one_value_is_refused() {
        let mut headers = HeaderMap::new();
        headers.append("x-twice", HeaderValue::from_static("1"));
        headers.append("x-twice", HeaderValue::from_static("2"));
        let with = |name: &str| message(&headers).base(&components(&[name]), "");
        assert!(matches!(with("x-none"), Err(NoValue::Absent(_))));
        assert!(matches!(with("x-twice"), Err(NoValue::Several(_))));
        let without_query = Message { query: None, ..message(&headers) };
        assert_eq!(without_query.base(&components(&["@query"]), ""), Err(NoValue::Query));
    }

    #[test]
    fn other_names_are_no_components() {
        for bad in [
            "",
            "@status",
            "@scheme",
            "@request-target",
            "@query-param",
            "@signature-params",
            "Content-Type",
            "a b",
            "a:",
            &"x".repeat(LONGEST_NAME + 1),
        ] {
            assert_eq!(Component::parse(bad), None, "{bad:?}");
        }
    }
}
