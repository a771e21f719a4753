//! Raw parameters: each declared one is fetched from where the policy says it stands in the request.
//!
//! Fetches, and refuses what is not one plain text; whether a value is acceptable is the policy's to say.

use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::json::Json;
use crate::domain::identity::Proofs;
use crate::domain::parameters::RawParameters;
use crate::policy::parameter::{From, Invalid, Parameters, Reason};

/// Fetches all declared parameters. Those that are not there are left out: they may have defaults.
pub(super) fn extract(
    parameters: &Parameters,
    parts: &Parts,
    proofs: &Proofs,
    body: Option<&Json>,
) -> Result<RawParameters, Invalid> {
    let mut raw = RawParameters::default();
    for (name, from) in parameters.sources() {
        let value = match from {
            From::Body(tokens) => scalar(body.and_then(|body| body.at(tokens))),
            From::Query(name) => in_query(parts.uri.query(), name),
            From::Header(name) => in_headers(&parts.headers, name),
            From::Certname => Ok(proofs.certificate.as_ref().map(|certificate| certificate.certname.clone())),
            From::Key => Ok(proofs.key.as_ref().map(ToString::to_string)),
            From::Extension(oid) => Ok(proofs
                .certificate
                .as_ref()
                .and_then(|certificate| certificate.extensions.get(oid).cloned())),
        };
        match value {
            Ok(Some(value)) => {
                raw.0.insert(name.clone(), value);
            }
            Ok(None) => {}
            Err(reason) => return Err(Invalid { parameter: name.clone(), reason }),
        }
    }
    Ok(raw)
}

fn scalar(value: Option<&Json>) -> Result<Option<String>, Reason> {
    match value {
        None => Ok(None),
        Some(Json::Scalar(text)) => Ok(Some(text.clone())),
        Some(Json::Object(_) | Json::Array(_) | Json::Null) => Err(Reason::NotScalar),
    }
}

/// A query's fields are in the form of the URL Standard, section 5 (`application/x-www-form-urlencoded`).
fn in_query(query: Option<&str>, name: &str) -> Result<Option<String>, Reason> {
    let fields = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut values = fields.filter(|(field, _)| field == name).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        // The parser writes U+FFFD for what is not UTF-8.
        (Some(value), None) if value.contains('\u{fffd}') => Err(Reason::NotUtf8),
        (Some(value), None) => Ok(Some(value.into_owned())),
        (Some(_), Some(_)) => Err(Reason::Repeated),
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
    fn a_query_field_is_given_once() {
        assert_eq!(in_query(None, "a"), Ok(None));
        assert_eq!(in_query(Some("b=1"), "a"), Ok(None));
        assert_eq!(in_query(Some("b=1&a=x%2Fy+z"), "a"), Ok(Some("x/y z".to_owned())));
        assert_eq!(in_query(Some("a=1&%61=1"), "a"), Err(Reason::Repeated));
        assert_eq!(in_query(Some("a=%ff"), "a"), Err(Reason::NotUtf8));
    }

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
