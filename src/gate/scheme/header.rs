//! Signature headers as text: one line, bounded, and decoded without leniency.
//!
//! What is not exactly in the one form that senders write is refused, so that nothing about a signature can be changed
//! without it being noticed.

use std::fmt;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::Why;
use crate::policy::scheme::Encoding;

/// Longest line of a signature header, in bytes: a Stripe signature with a dozen HMACs, or a long token.
const LONGEST: usize = 1024;
/// Longest time in seconds, in digits: until the year 33658.
const LONGEST_TIME: usize = 12;

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The signature is there without it.
    Missing,
    /// It is several lines.
    Several,
    /// It is longer than any that an honest sender needs.
    TooLong,
    /// It is not in the form that the scheme demands.
    Malformed,
    /// It is no time: whole seconds since 1970, in plain digits.
    NotATime,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "is missing beside the signature",
            Self::Several => "is several lines",
            Self::TooLong => "is too long",
            Self::Malformed => "does not have the form of its scheme",
            Self::NotATime => "is not a time in whole seconds",
        })
    }
}

/// The reason that `header` has this problem.
pub(super) fn why(header: &str, problem: Problem) -> Why {
    Why::Header { header: header.to_owned(), problem }
}

/// The one line of a header; `None` when it is not there.
pub(super) fn line<'h>(headers: &'h HeaderMap, header: &str) -> Result<Option<&'h [u8]>, Why> {
    let mut lines = headers.get_all(header).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) if line.len() <= LONGEST => Ok(Some(line.as_bytes())),
        (Some(_), None) => Err(why(header, Problem::TooLong)),
        (Some(_), Some(_)) => Err(why(header, Problem::Several)),
    }
}

/// The one line of a header that must be there.
pub(super) fn companion<'h>(headers: &'h HeaderMap, header: &str) -> Result<&'h [u8], Why> {
    line(headers, header)?.ok_or_else(|| why(header, Problem::Missing))
}

/// Whole seconds since 1970, in digits without leading zeros.
pub(super) fn time(text: &[u8]) -> Option<Timestamp> {
    let plain = (1..=LONGEST_TIME).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let seconds = std::str::from_utf8(text).ok().filter(|_| plain && (text == b"0" || text[0] != b'0'))?;
    Timestamp::from_second(seconds.parse().ok()?).ok()
}

/// Bytes in the one spelling of their encoding: small hexadecimal letters, or base64 with padding.
pub(super) fn decode(text: &[u8], encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Base64 => STANDARD.decode(text).ok(),
        Encoding::Hex => {
            let digit = |byte: u8| match byte {
                b'0'..=b'9' => Some(byte - b'0'),
                b'a'..=b'f' => Some(byte - b'a' + 10),
                _ => None,
            };
            let (pairs, rest) = text.as_chunks::<2>();
            let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
            bytes.collect::<Option<_>>().filter(|_| rest.is_empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_has_one_spelling() {
        assert_eq!(time(b"1614265330"), Timestamp::from_second(1_614_265_330).ok());
        assert_eq!(time(b"0"), Some(Timestamp::UNIX_EPOCH));
        for bad in
            ["", "01614265330", "-1", "+1", "1.5", " 1", "1 ", "1e9", "9999999999999", "999999999999", "x"]
        {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn bytes_have_one_spelling() {
        assert_eq!(decode(b"00ff0a", Encoding::Hex), Some(vec![0, 255, 10]));
        for bad in ["0", "00FF", "0g", "0x00", "00 ff", "00\n"] {
            assert_eq!(decode(bad.as_bytes(), Encoding::Hex), None, "{bad}");
        }
        assert_eq!(decode(b"AP8K", Encoding::Base64), Some(vec![0, 255, 10]));
        assert_eq!(decode(b"AP8=", Encoding::Base64), Some(vec![0, 255]));
        for bad in ["AP8", "AP9=", "AP8K\n", "AP-_", "AP8=="] {
            assert_eq!(decode(bad.as_bytes(), Encoding::Base64), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_that_differs_decodes_to_the_same_bytes(one in "[0-9a-fA-F=+/]{0,8}", other in "[0-9a-fA-F=+/]{0,8}") {
            for encoding in [Encoding::Hex, Encoding::Base64] {
                let decoded = [&one, &other].map(|text| decode(text.as_bytes(), encoding));
                prop_assert!(one == other || decoded[0].is_none() || decoded[0] != decoded[1]);
            }
        }
    }
}
