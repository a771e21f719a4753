//! Values of a request: each is fetched from where the policy says that it stands.
//!
//! Fetches, and refuses what is not one plain text; whether a value is acceptable is the policy's to say.

use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::form::Fields;
use super::json::Json;
use crate::domain::identity::Proofs;
use crate::domain::parameters::{RawParameters, Value};
use crate::policy::parameter::{From, Invalid, Parameters, Reason, Shape};

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
        for ((name, from), (_, shape)) in parameters.sources().zip(parameters.shapes()) {
            let value = match shape {
                Shape::Text => self.text(from).map(|text| text.map(Value::Text)),
                Shape::List { .. } => self.list(from).map(|items| items.map(Value::List)),
            };
            match value {
                Ok(Some(value)) => drop(raw.0.insert(name.clone(), value)),
                Ok(None) => {}
                Err(reason) => return Err(Invalid { parameter: name.clone(), reason }),
            }
        }
        Ok(raw)
    }

    /// The items of the list that stands there, if anything does: only JSON has lists.
    fn list(&self, from: &From) -> Result<Option<Vec<String>>, Reason> {
        match from {
            From::Body(tokens) => list(self.json.and_then(|json| json.at(tokens))),
            From::Form(_)
            | From::Query(_)
            | From::Header(_)
            | From::Certname
            | From::Key
            | From::Extension(_) => Err(Reason::NotAList),
        }
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

fn list(value: Option<&Json>) -> Result<Option<Vec<String>>, Reason> {
    let item = |item: &Json| scalar(Some(item)).ok().flatten();
    match value {
        None => Ok(None),
        Some(Json::Array(items)) => {
            items.iter().map(item).collect::<Option<_>>().map(Some).ok_or(Reason::NotAList)
        }
        Some(Json::Scalar(_) | Json::Object(_) | Json::Null) => Err(Reason::NotAList),
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

    #[test]
    fn a_list_holds_scalars_alone() {
        for (body, expected) in [
            (r#"["a", 1.0, true]"#, Ok(Some(vec!["a".to_owned(), "1.0".to_owned(), "true".to_owned()]))),
            ("[]", Ok(Some(vec![]))),
            ("\"a\"", Err(Reason::NotAList)),
            ("null", Err(Reason::NotAList)),
            ("{}", Err(Reason::NotAList)),
            ("[null]", Err(Reason::NotAList)),
            ("[[]]", Err(Reason::NotAList)),
        ] {
            assert_eq!(list(Some(&Json::parse(body.as_bytes()).unwrap())), expected, "{body}");
        }
        assert_eq!(list(None), Ok(None));
    }
}
