//! What `Signature-Input` and `Signature` claim, read strictly and before any of it is believed.
//!
//! Both headers are taken only in the one form that RFC 8941 section 4.1 serialises: so nothing can be given twice, and
//! what is verified is what was sent. Refuses everything that does not depend on a key or on the rest of the request.

use axum::http::header::{HeaderMap, HeaderName};
use jiff::Timestamp;
use sfv::{BareItem, Dictionary, FieldType as _, InnerList, Key, List, ListEntry, Parser, Version};

use super::super::base::Component;
use super::super::{LONGEST_ID, Why};
use super::{ALGORITHM, MOST_COMPONENTS};
use crate::domain::name::KeyName;

/// The `Signature-Input` header.
pub(super) const SIGNATURE_INPUT: &str = "signature-input";
/// The `Signature` header.
pub(super) const SIGNATURE: &str = "signature";
/// Longest `Signature-Input`, in bytes: 32 components of 100 bytes, and the parameters.
const LONGEST_INPUT: usize = 4096;
/// Longest `Signature`, in bytes: a label and 44 of base64.
const LONGEST_SIGNATURE: usize = 256;

/// What the sender says of its signature.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) components: Vec<Component>,
    /// The value of `@signature-params`.
    pub(super) parameters: String,
    pub(super) key: KeyName,
    pub(super) nonce: String,
    pub(super) created: Timestamp,
    pub(super) expires: Option<Timestamp>,
    pub(super) mac: Vec<u8>,
}

/// Reads the two headers; `None` when there is neither.
pub(super) fn read(headers: &HeaderMap) -> Result<Option<Claim>, Why> {
    let input = one_line(headers, SIGNATURE_INPUT, LONGEST_INPUT)?;
    let signature = one_line(headers, SIGNATURE, LONGEST_SIGNATURE)?;
    let (input, signature) = match (input, signature) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(Why::Half(SIGNATURE_INPUT)),
        (Some(_), None) => return Err(Why::Half(SIGNATURE)),
        (Some(input), Some(signature)) => (input, signature),
    };
    let (label, input) = single(input, SIGNATURE_INPUT)?;
    let (same_label, signature) = single(signature, SIGNATURE)?;
    let ListEntry::InnerList(list) = input else { return Err(Why::Components) };
    let mac = match signature {
        ListEntry::Item(item) if item.params.is_empty() => match item.bare_item {
            BareItem::ByteSequence(mac) => Some(mac),
            BareItem::Boolean(_)
            | BareItem::Date(_)
            | BareItem::Decimal(_)
            | BareItem::DisplayString(_)
            | BareItem::Integer(_)
            | BareItem::String(_)
            | BareItem::Token(_) => None,
        },
        ListEntry::Item(_) | ListEntry::InnerList(_) => None,
    };
    let mac = mac.ok_or(Why::Malformed(SIGNATURE))?;
    if label != same_label {
        return Err(Why::Label);
    }
    claim(list, mac).map(Some)
}

fn one_line<'h>(headers: &'h HeaderMap, name: &'static str, longest: usize) -> Result<Option<&'h [u8]>, Why> {
    let mut lines = headers.get_all(HeaderName::from_static(name)).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Why::SeveralLines(name));
    }
    if line.len() > longest {
        return Err(Why::TooLong(name));
    }
    Ok(Some(line.as_bytes()))
}

/// The only member of a dictionary in strict form.
fn single(line: &[u8], header: &'static str) -> Result<(Key, ListEntry), Why> {
    let parser = Parser::new(line).with_version(Version::Rfc8941);
    let dictionary: Dictionary = parser.parse().map_err(|_| Why::Malformed(header))?;
    if dictionary.serialize().is_none_or(|strict| strict.as_bytes() != line) {
        return Err(Why::Malformed(header));
    }
    let mut members = dictionary.into_iter();
    match (members.next(), members.next()) {
        (Some(member), None) => Ok(member),
        (Some(_) | None, _) => Err(Why::Label),
    }
}

fn claim(list: InnerList, mac: Vec<u8>) -> Result<Claim, Why> {
    let components = components(&list)?;
    let (mut created, mut expires, mut nonce, mut key) = (None, None, None, None);
    for (name, value) in &list.params {
        match name.as_str() {
            "alg" if text(value) == Some(ALGORITHM) => {}
            "alg" => return Err(Why::Algorithm),
            "created" => created = Some(seconds(value).ok_or(Why::ParameterInvalid("created"))?),
            "expires" => expires = Some(seconds(value).ok_or(Why::ParameterInvalid("expires"))?),
            "nonce" => {
                let given = text(value).filter(|nonce| (1..=LONGEST_ID).contains(&nonce.len()));
                nonce = Some(given.ok_or(Why::ParameterInvalid("nonce"))?.to_owned());
            }
            "keyid" => {
                let given = text(value).and_then(|name| KeyName::parse(name).ok());
                key = Some(given.ok_or(Why::ParameterInvalid("keyid"))?);
            }
            _ => return Err(Why::UnknownParameter),
        }
    }
    let created = created.ok_or(Why::ParameterMissing("created"))?;
    let nonce = nonce.ok_or(Why::ParameterMissing("nonce"))?;
    let key = key.ok_or(Why::ParameterMissing("keyid"))?;
    let parameters = List::from([ListEntry::InnerList(list)]).serialize().ok_or(Why::Components)?;
    Ok(Claim { components, parameters, key, nonce, created, expires, mac })
}

fn components(list: &InnerList) -> Result<Vec<Component>, Why> {
    if list.items.len() > MOST_COMPONENTS {
        return Err(Why::Components);
    }
    let mut components = Vec::with_capacity(list.items.len());
    for item in &list.items {
        let name = text(&item.bare_item).ok_or(Why::Components)?;
        if !item.params.is_empty() {
            return Err(Why::ComponentParameters);
        }
        let component = Component::parse(name).ok_or(Why::UnknownComponent)?;
        if components.contains(&component) {
            return Err(Why::RepeatedComponent(component.name().to_owned()));
        }
        components.push(component);
    }
    Ok(components)
}

fn text(value: &BareItem) -> Option<&str> {
    value.as_string().map(sfv::StringRef::as_str)
}

fn seconds(value: &BareItem) -> Option<Timestamp> {
    value.as_integer().and_then(|seconds| Timestamp::from_second(i64::from(seconds)).ok())
}
