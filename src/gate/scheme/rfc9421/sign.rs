//! Signs a request as [`Verifier`](super::Verifier) demands it.
//!
//! Covers method, authority, path, query, the digest of the body, and every header that it is given.

use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use hmac::Mac as _;
use hmac::digest::InvalidLength;
use jiff::Timestamp;
use sfv::{FieldType as _, InnerList, Integer, Item, Key, List, ListEntry};

use super::super::authority::{Authority, NotAnAuthority};
use super::super::base::{Component, Message, NoValue};
use super::super::{LONGEST_ID, digest};
use super::{ALGORITHM, CONTENT_DIGEST, MOST_COMPONENTS, keyed};
use crate::domain::name::KeyName;
use crate::policy::secret::Secret;

/// The label of our signatures; any would do.
const LABEL: &str = "sig";

/// A request that is to be signed.
#[derive(Clone, Copy, Debug)]
pub struct ToSign<'a> {
    /// Its method.
    pub method: &'a str,
    /// The value of its `Host` header.
    pub authority: &'a str,
    /// Its target: a path, and a query if there is one.
    pub path_and_query: &'a str,
    /// Headers to cover; each once.
    pub headers: &'a [(HeaderName, HeaderValue)],
    /// Its body.
    pub body: Option<&'a [u8]>,
}

/// Why a request cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotSign {
    /// The host.
    #[error(transparent)]
    Authority(#[from] NotAnAuthority),
    /// The path.
    #[error("the path must start with `/`")]
    Path,
    /// A header is given twice.
    #[error(transparent)]
    Header(#[from] NoValue),
    /// A header that signing adds itself.
    #[error("the header `{0}` is added by signing and cannot be given")]
    Reserved(HeaderName),
    /// More headers than a signature may cover.
    #[error("a signature covers at most {MOST_COMPONENTS} things; give fewer headers")]
    TooMany,
    /// The secret.
    #[error("the secret has a length that HMAC does not take")]
    Secret(#[from] InvalidLength),
    /// The nonce.
    #[error("the nonce must have 1 to {LONGEST_ID} bytes of printable ASCII")]
    Nonce,
}

/// The headers that sign `request`, by name and value: `Content-Digest` (with a body), `Signature-Input`, `Signature`.
///
/// # Errors
/// When the request has no form that the verifier would take.
pub fn sign(
    request: &ToSign<'_>,
    key: &KeyName,
    secret: &Secret,
    created: Timestamp,
    nonce: &str,
) -> Result<Vec<(&'static str, String)>, CannotSign> {
    let authority = Authority::parse(request.authority)?;
    let (path, query) = match request.path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (request.path_and_query, None),
    };
    if !path.starts_with('/') {
        return Err(CannotSign::Path);
    }

    let mut signed = Vec::new();
    let mut headers = HeaderMap::new();
    let mut components = vec![Component::Method, Component::Authority, Component::Path];
    components.extend(query.map(|_| Component::Query));
    for (name, value) in request.headers {
        if [CONTENT_DIGEST, super::claim::SIGNATURE, super::claim::SIGNATURE_INPUT].contains(&name.as_str()) {
            return Err(CannotSign::Reserved(name.clone()));
        }
        if headers.insert(name.clone(), value.clone()).is_some() {
            return Err(NoValue::Several(name.clone()).into());
        }
        components.push(Component::Header(name.clone()));
    }
    if let Some(body) = request.body.filter(|body| !body.is_empty()) {
        let value = digest::of(body);
        let name = HeaderName::from_static(CONTENT_DIGEST);
        headers
            .insert(name.clone(), HeaderValue::try_from(&value).map_err(|_| NoValue::Absent(name.clone()))?);
        components.push(Component::Header(name));
        signed.push(("Content-Digest", value));
    }
    if components.len() > MOST_COMPONENTS {
        return Err(CannotSign::TooMany);
    }

    let parameters = parameters(&components, key, created, nonce).ok_or(CannotSign::Nonce)?;
    let message =
        Message { method: request.method, authority: authority.as_str(), path, query, headers: &headers };
    let base = message.base(&components, &parameters)?;
    let mac = keyed(secret)?.chain_update(&base).finalize().into_bytes();
    signed.push(("Signature-Input", format!("{LABEL}={parameters}")));
    signed.push(("Signature", format!("{LABEL}={}", Item::new(mac.as_slice()).serialize())));
    Ok(signed)
}

fn parameters(components: &[Component], key: &KeyName, created: Timestamp, nonce: &str) -> Option<String> {
    if !(1..=LONGEST_ID).contains(&nonce.len()) {
        return None;
    }
    let string = |text: &str| sfv::String::try_from(text.to_owned()).ok();
    let items = components.iter().map(|component| string(component.name()).map(Item::new));
    let mut list = InnerList::new(items.collect::<Option<_>>()?);
    let mut add = |name: &str, value: sfv::BareItem| {
        Some(list.params.insert(Key::try_from(name.to_owned()).ok()?, value))
    };
    add("created", Integer::try_from(created.as_second()).ok()?.into())?;
    add("nonce", string(nonce)?.into())?;
    add("alg", string(ALGORITHM)?.into())?;
    add("keyid", string(key.as_str())?.into())?;
    List::from([ListEntry::InnerList(list)]).serialize()
}
