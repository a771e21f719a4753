//! The text of a line: the record's fields in JSON, and the chain's fields before them.
//!
//! Whatever a sender chose is escaped so far that no reader takes it for another line or for another direction of
//! writing: beyond what JSON demands, all control characters, line and paragraph separators, and invisible format
//! characters.

use std::io;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::verify::hex;
use crate::domain::printable::acts;

/// What the log says of itself, beside the records that others give it.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Own<'a> {
    /// A process began to write.
    Opened {
        /// The program's version.
        version: &'a str,
        /// How to read the chain; on the first line of a log.
        #[serde(skip_serializing_if = "Option::is_none")]
        chain: Option<&'a str>,
    },
    /// The first line of a file that goes on where another one, which was renamed, ends.
    Continued {
        /// The program's version.
        version: &'a str,
        /// How to read the chain.
        chain: &'a str,
    },
    /// Lines could not be written for a while, and now they can.
    Resumed,
    /// The bytes between the last record and this one are a line that a crash cut short.
    Torn {
        /// How many.
        bytes: u64,
        /// Their SHA-256.
        sha256: &'a str,
    },
    /// Refusals of strangers that were not written down one by one.
    Refusals {
        /// How many.
        count: u64,
    },
    /// Other records that were lost for want of room.
    Omitted {
        /// How many.
        count: u64,
    },
}

/// What the first line of a log says about the rest.
pub(super) const CHAIN: &str = "prev is the SHA-256 of the line before, without its line feed, and zeros on the first \
    line; a file that begins with a continued record goes on where an older one ends; a line cut short by a crash is no part of the chain: the torn record after it, chained to the last whole \
    line, gives the number and the SHA-256 of its bytes";

/// A record's fields as one JSON object.
pub(super) fn fields(record: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(256);
    record.serialize(&mut Serializer::with_formatter(&mut bytes, Plain))?;
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// The whole line, without its line feed. `fields` is an object with at least one field.
pub(super) fn compose(seq: u64, at: Timestamp, prev: &[u8; 32], fields: &str) -> String {
    let fields = fields.strip_prefix('{').unwrap_or(fields);
    format!(r#"{{"seq":{seq},"at":"{at:.6}","prev":"{}",{fields}"#, hex(prev))
}

/// JSON without characters that a terminal or an editor would act upon.
struct Plain;

impl Formatter for Plain {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((index, found)) = rest.char_indices().find(|(_, character)| acts(*character)) {
            writer.write_all(&rest.as_bytes()[..index])?;
            for unit in found.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[index + found.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_sender_chose_can_look_like_a_line_of_its_own() {
        let hostile = "a\n\r\u{b}\u{c}\u{7f}\u{85}\u{9b}\u{2028}\u{2029}\u{202e}\u{feff}\u{e0001}\"\\é漢";
        let text = fields(&Own::Opened { version: hostile, chain: None }).unwrap();
        assert!(text.chars().all(|character| !acts(character)), "{text:?}");
        assert!(text.contains("\\u0085") && text.contains("\\u2028") && text.contains("é漢"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["version"], hostile);
    }

    #[test]
    fn a_line_begins_with_its_place_in_the_chain() {
        let fields = fields(&Own::Refusals { count: 3 }).unwrap();
        let line = compose(7, Timestamp::UNIX_EPOCH, &[0xab; 32], &fields);
        let prev = "ab".repeat(32);
        let expected = format!(
            r#"{{"seq":7,"at":"1970-01-01T00:00:00.000000Z","prev":"{prev}","kind":"refusals","count":3}}"#
        );
        assert_eq!(line, expected);
    }
}
