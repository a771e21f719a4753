//! The end of an audit log, as another process writes it into its own: neither can be cut then without the other
//! showing it.
//!
//! Says where a log ended, and nothing of what stands in it.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Number and SHA-256 of a log's last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// The line's number.
    pub seq: u64,
    /// The line's SHA-256, without its line feed.
    #[serde(with = "hex")]
    pub sha256: [u8; 32],
}

/// Sixty-four small hexadecimal digits, for SHA-256 in JSON.
pub mod hex {
    use super::{Deserialize as _, write};

    /// Writes the digits.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: serde::Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write(bytes))
    }

    /// Reads the digits, and no other form of them.
    ///
    /// # Errors
    /// When it is not 64 of them, or one is a capital letter.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        super::read(&text).ok_or_else(|| serde::de::Error::custom("not 64 small hexadecimal digits"))
    }
}

fn write(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_reads_back_as_written_and_has_one_form() {
        let anchor = Anchor { seq: 7, sha256: std::array::from_fn(|index| u8::try_from(index * 7).unwrap()) };
        let text = serde_json::to_string(&anchor).unwrap();
        assert_eq!(serde_json::from_str::<Anchor>(&text).unwrap(), anchor);
        let digits = write(&anchor.sha256);
        for bad in [digits.to_uppercase(), digits[1..].to_owned(), format!("{digits}0"), "g".repeat(64)] {
            let text = format!(r#"{{"seq":7,"sha256":"{bad}"}}"#);
            assert!(serde_json::from_str::<Anchor>(&text).is_err(), "{text}");
        }
        for bad in [r#"{"seq":7}"#, r#"{"seq":-1,"sha256":""}"#] {
            assert!(serde_json::from_str::<Anchor>(bad).is_err(), "{bad}");
        }
    }
}
