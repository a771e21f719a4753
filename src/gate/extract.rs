//! Values of a request: each is fetched from where the policy says that it stands.
//!
//! Fetches, and refuses what is not one plain text; whether a value is acceptable is the policy's to say.

use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::form::Fields;
use super::json::Json;
use crate::domain::identity::Proofs;
use crate::domain::parameters::RawParameters;
use crate::policy::parameter::{From, Invalid, Parameters, Reason};

/// What values are fetched from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given<'a> {
    pub(super) parts: &'a Parts,
    pub(super) proofs: &'a Proofs,
    /// The fields of the body, whether or not it is a form.
    pub(super) form: Fields<'a>,
    /// The body's JSON, if there is any.
    pub(super) json: Option<&'a Json>,
}

impl Given<'_> {
    /// Fetches all declared parameters. Those that are not there are left out: they may have defaults.
    pub(super) fn parameters(&self, parameters: &Parameters) -> Result<RawParameters, Invalid> {
        let mut raw = RawParameters::default();
        for (name, from) in parameters.sources() {
            match self.text(from) {
                Ok(Some(value)) => drop(raw.0.insert(name.clone(), value)),
                Ok(None) => {}
                Err(reason) => return Err(Invalid { parameter: name.clone(), reason }),
            }
        }
        Ok(raw)
    }

    /// The text that stands there, if anything does.
    pub(super) fn text(&self, from: &From) -> Result<Option<String>, Reason> {
        let certificate = self.proofs.certificate.as_ref();
        match from {
            From::Body(tokens) => scalar(self.json.and_then(|json| json.at(tokens))),
            From::Form(name) => self.form.get(name),
            From::Query(name) => Fields::new(self.parts.uri.query().unwrap_or_default().as_bytes()).get(name),
            From::Header(name) => in_headers(&self.parts.headers, name),
            From::Certname => Ok(certificate.map(|certificate| certificate.certname.clone())),
            From::Key => Ok(self.proofs.key.as_ref().map(ToString::to_string)),
            From::Extension(oid) => Ok(certificate.and_then(|shown| shown.extensions.get(oid).cloned())),
        }
    }
}

/// A JSON value as text.
pub(super) fn scalar(value: Option<&Json>) -> Result<Option<String>, Reason> {
    match value {
        None => Ok(None),
        Some(Json::Scalar(text)) => Ok(Some(text.clone())),
        Some(Json::Object(_) | Json::Array(_) | Json::Null) => Err(Reason::NotScalar),
    }
}

fn in_headers(headers: &HeaderMap, name: &str) -> Result<Option<String>, Reason> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|text| Some(text.to_owned())).map_err(|_| Reason::NotAscii),
        (Some(_), Some(_)) => Err(Reason::Repeated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_given_once() {
        let mut headers = HeaderMap::new();
        assert_eq!(in_headers(&headers, "x-a"), Ok(None));
        headers.append("x-a", "1".parse().unwrap());
        assert_eq!(in_headers(&headers, "x-a"), Ok(Some("1".to_owned())));
        headers.append("x-a", "1".parse().unwrap());
        assert_eq!(in_headers(&headers, "x-a"), Err(Reason::Repeated));
        headers.insert("x-a", axum::http::HeaderValue::from_bytes(b"\xe9").unwrap());
        assert_eq!(in_headers(&headers, "x-a"), Err(Reason::NotAscii));
    }

    #[test]
    fn only_scalars_are_values() {
        for (body, expected) in [
            ("1.0", Ok(Some("1.0".to_owned()))),
            ("null", Err(Reason::NotScalar)),
            ("[1]", Err(Reason::NotScalar)),
            ("{}", Err(Reason::NotScalar)),
        ] {
            assert_eq!(scalar(Some(&Json::parse(body.as_bytes()).unwrap())), expected, "{body}");
        }
        assert_eq!(scalar(None), Ok(None));
    }
}
