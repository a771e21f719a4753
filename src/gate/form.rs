//! Fields of a query or of a form: `application/x-www-form-urlencoded`, as the URL Standard has it in section 5.1.
//!
//! Stricter than that in two ways: a field is given once, and what its percent signs stand for is UTF-8.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use crate::policy::parameter::Reason;

/// Fields as they were sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(encoded: &'a [u8]) -> Self {
        Self(encoded)
    }

    /// The value of the one field of this name.
    pub(super) fn get(self, name: &str) -> Result<Option<String>, Reason> {
        let mut values = self.0.split(|byte| *byte == b'&').filter_map(|field| {
            let mut parts = field.splitn(2, |byte| *byte == b'=');
            let is_it = decode(parts.next()?) == name.as_bytes();
            is_it.then(|| decode(parts.next().unwrap_or_default()))
        });
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => String::from_utf8(value).map(Some).map_err(|_| Reason::NotUtf8),
            (Some(_), Some(_)) => Err(Reason::Repeated),
        }
    }
}

fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Cow<'_, [u8]> = if text.contains(&b'+') {
        text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect()
    } else {
        text.into()
    };
    percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_field_is_given_once_and_is_text() {
        for (encoded, value) in [
            ("", Ok(None)),
            ("b=1", Ok(None)),
            ("aa=1&b=a", Ok(None)),
            ("b=1&a=x%2Fy+z", Ok(Some("x/y z"))),
            ("a=%2B%26%3d", Ok(Some("+&="))),
            ("a==b", Ok(Some("=b"))),
            ("a", Ok(Some(""))),
            ("a=", Ok(Some(""))),
            ("%61=%zz%", Ok(Some("%zz%"))),
            ("a=%EF%BF%BD", Ok(Some("\u{fffd}"))),
            ("a=1&%61=1", Err(Reason::Repeated)),
            ("a=%ff", Err(Reason::NotUtf8)),
        ] {
            let value = value.map(|value| value.map(str::to_owned));
            assert_eq!(Fields::new(encoded.as_bytes()).get("a"), value, "{encoded}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_url_standard(encoded in "[ab=&+%0-9F;é]{0,30}") {
            let all: Vec<_> = form_urlencoded::parse(encoded.as_bytes()).filter(|(name, _)| name == "a").collect();
            match Fields::new(encoded.as_bytes()).get("a") {
                Ok(None) => prop_assert!(all.is_empty()),
                Ok(Some(value)) => prop_assert_eq!(&value, &all[0].1),
                Err(Reason::Repeated) => prop_assert!(all.len() > 1),
                Err(reason) => {
                    prop_assert_eq!(reason, Reason::NotUtf8);
                    prop_assert!(all[0].1.contains(char::REPLACEMENT_CHARACTER));
                }
            }
        }
    }
}
