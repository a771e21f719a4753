//! Names that an operator chooses: of routes, keys and parameters.
//!
//! Refuses whatever could not stand in a file name, a header, a log line or a placeholder without quoting.

use std::fmt;

/// Longest name of any kind, in bytes.
pub const LONGEST_NAME: usize = 100;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    /// Nothing, or more than [`LONGEST_NAME`] bytes.
    #[error("a name has 1 to {LONGEST_NAME} bytes")]
    Length,
    /// A character that this kind of name cannot have.
    #[error("{allowed}")]
    Character {
        /// What this kind of name is made of, as a sentence.
        allowed: &'static str,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $allowed:literal, $first:expr, $rest:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            #[doc = concat!("Reads a name: ", $allowed, ".")]
            ///
            /// # Errors
            /// When the text is empty, too long, or holds another character.
            pub fn parse(text: &str) -> Result<Self, NotAName> {
                if text.is_empty() || text.len() > LONGEST_NAME {
                    return Err(NotAName::Length);
                }
                let first: fn(char) -> bool = $first;
                let rest: fn(char) -> bool = $rest;
                let mut characters = text.chars();
                if characters.next().is_some_and(first) && characters.all(rest) {
                    Ok(Self(text.into()))
                } else {
                    Err(NotAName::Character { allowed: $allowed })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// The name of a route: the stem of its file in `routes/`.
    RouteName,
    "a route's name is made of letters, digits, `_`, `-` and `.`, and starts with a letter or digit",
    |c| c.is_ascii_alphanumeric(),
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
);

name!(
    /// The name of a key in the policy; for `rfc9421` it is also the `keyid` on the wire.
    KeyName,
    "a key's name is made of letters, digits, `_`, `-` and `.`, and starts with a letter or digit",
    |c| c.is_ascii_alphanumeric(),
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
);

name!(
    /// The name of a parameter, as it stands between the braces of a placeholder.
    ParameterName,
    "a parameter's name is made of small letters, digits and `_`, and starts with a small letter",
    |c| c.is_ascii_lowercase(),
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_would_need_quoting() {
        for bad in ["", "../x", ".hidden", "a b", "a/b", "a\n", "é", &"x".repeat(LONGEST_NAME + 1)] {
            assert!(RouteName::parse(bad).is_err(), "{bad:?}");
            assert!(KeyName::parse(bad).is_err(), "{bad:?}");
            assert!(ParameterName::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["Role", "1st", "a-b", "_x"] {
            assert!(ParameterName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            RouteName::parse("kick_haproxy-1.x").map(|n| n.to_string()),
            Ok("kick_haproxy-1.x".into())
        );
    }
}
