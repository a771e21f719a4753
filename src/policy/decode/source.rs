//! `from`: where in a request a value stands, for parameters and conditions alike.
//! Fetches nothing; refuses what the route's body cannot have, and remembers what no body's signature covers.

use super::{Decoded, Value};
use crate::domain::extension::Oid;
use crate::policy::diagnostic::Place;
use crate::policy::parameter::From;

/// Where a value can come from.
const SOURCES: &str = "`body:/json/pointer`, `form:name`, `query:name`, `header:name`, `identity:certname`, `identity:key`, `identity:` and an extension";

/// What `payload` says, as far as it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing, or nothing that can be understood.
    Not,
    Json,
    Form,
    None,
}

/// All sources of one route, while it is read.
pub(super) struct Sources {
    payload: Written,
    /// Whether some value comes from JSON, and whether some comes from the fields of a form.
    body: bool,
    form: bool,
    /// Values that are in no body: what they are, and where the policy names them.
    pub(super) beside_the_body: Vec<(String, Place)>,
}

impl Sources {
    pub(super) fn new(payload: Written) -> Self {
        Self { payload, body: false, form: false, beside_the_body: Vec::new() }
    }

    /// Whether the body is a form without JSON in it, although nothing says so but that its fields are asked for.
    pub(super) fn only_form(&self) -> bool {
        self.payload == Written::Not && self.form && !self.body
    }

    /// Reads one `from`.
    pub(super) fn read(&mut self, value: Value<'_>) -> Decoded<From> {
        let text = value.text()?;
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let refuse = |message: &str| Err(value.refuse(message));
        match kind {
            "body" if self.payload == Written::None => {
                refuse("there is no JSON to take it from, because `payload` is \"none\"")
            }
            "body" if self.payload == Written::Not && self.form => refuse(
                "a body is JSON or a form: `payload = \"form:<field>\"` says which field of a form holds JSON",
            ),
            "body" => match From::pointer(name) {
                Some(tokens) => {
                    self.body = true;
                    Ok(From::Body(tokens))
                }
                None => refuse("a JSON pointer (RFC 6901) follows `body:`, such as `body:/environment`"),
            },
            "form" if self.payload == Written::Json => {
                refuse("there is no form to take it from, because `payload` is \"json\"")
            }
            "form" if self.payload == Written::Not && self.body => refuse(
                "a body is JSON or a form: `payload = \"form:<field>\"` says which field of a form holds JSON",
            ),
            "form" if !is_field_name(name) => refuse("the name of a form's field follows `form:`"),
            "form" => {
                self.form = true;
                Ok(From::Form(name.to_owned()))
            }
            "query" if !is_field_name(name) => refuse("the name of a query parameter follows `query:`"),
            "query" => Ok(self.beside(value, From::Query(name.to_owned()))),
            "header" if !is_header_name(name) => {
                refuse("the name of a header follows `header:`, such as `header:x-github-event`")
            }
            "header" => Ok(self.beside(value, From::Header(name.to_ascii_lowercase()))),
            "identity" => match (name, Oid::parse(name)) {
                ("certname", _) => Ok(From::Certname),
                ("key", _) => Ok(From::Key),
                (_, Ok(oid)) => Ok(From::Extension(oid)),
                (_, Err(error)) => Err(value.refuse(format!(
                    "`certname`, `key` or an extension follows `identity:`; this is {error}"
                ))),
            },
            _ => {
                let finding =
                    value.finding(format!("`{}` is not where a value can come from", text.escape_debug()));
                Err(value.page().report(finding.help(format!("allowed here: {SOURCES}"))))
            }
        }
    }

    fn beside(&mut self, value: Value<'_>, from: From) -> From {
        self.beside_the_body.push((from.to_string(), value.place()));
        from
    }
}

/// The name of a field of a form or query.
pub(super) fn is_field_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::is_control)
}

/// The name of a header (RFC 9110, section 5.6.2).
pub(super) fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}
