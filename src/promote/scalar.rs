//! How a value is written so that every reader of YAML takes it for a string: Ruby's Psych, YAML 1.1, YAML 1.2.
//!
//! Keeps the quotes that a value has. What has none keeps none only where no schema could see a number, a date or a
//! truth value in it. Writes one line, always.

use regex::Regex;

/// How a scalar of a document is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quotes {
    /// Not at all.
    None,
    /// `'...'`, in which only the quote itself is special.
    Single,
    /// `"..."`, in which a backslash is special too.
    Double,
}

impl Quotes {
    /// Those of a scalar as it stands in a document; `None` for a block scalar.
    pub(super) fn of(source: &str) -> Option<Self> {
        match source.bytes().next() {
            Some(b'|' | b'>') => None,
            Some(b'\'') => Some(Self::Single),
            Some(b'"') => Some(Self::Double),
            Some(_) | None => Some(Self::None),
        }
    }
}

/// Writes `value` with these quotes, or with single ones where it needs some.
pub(super) fn write(value: &str, quotes: Quotes) -> String {
    match quotes {
        Quotes::None if needs_no_quotes(value) => value.to_owned(),
        Quotes::None | Quotes::Single => format!("'{}'", value.replace('\'', "''")),
        Quotes::Double => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

/// Whether `value` is a string to every reader although nothing quotes it: versions of three parts or more, names.
pub(super) fn needs_no_quotes(value: &str) -> bool {
    // Two parts would be a number, colons a sexagesimal number, dashes between digits a date.
    let shape =
        Regex::new(r"\A(?:[0-9]+(?:\.[0-9]+){2,}(?:-[A-Za-z][A-Za-z0-9.-]*)?|[A-Za-z][A-Za-z0-9_.-]*)\z");
    shape.is_ok_and(|shape| shape.is_match(value))
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(value))
}

/// What YAML 1.1 takes for something else, see <https://yaml.org/type/bool.html> and <https://yaml.org/type/null.html>.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// Whether a text can stand on one line of a YAML document as it is: what is printable, and breaks no line.
pub(super) fn is_plain_text(text: &str) -> bool {
    let breaks = |c: char| matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    !text.chars().any(|c| c.is_control() || breaks(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_something_else_is_quoted() {
        for plain in
            ["1.2.3", "10.20.30.40", "1.2.3-rc.1", "web", "v1.2", "release_7", "main-2", "e5", "Yesterday"]
        {
            assert_eq!(write(plain, Quotes::None), plain);
        }
        for quoted in [
            "",
            "1",
            "1.10",
            "1_000",
            "0o17",
            "017",
            "0x1f",
            "1e3",
            "1.5e+3",
            ".5",
            "-1",
            "+1",
            "~",
            "null",
            "Null",
            "yes",
            "No",
            "on",
            "OFF",
            "True",
            "y",
            "N",
            "2024-01-01",
            "2024-01-01 10:00:00",
            "12:30:45",
            "190:20:30.15",
            "=",
            "<<",
            ".inf",
            "-.INF",
            ".NaN",
            "*a",
            "&a",
            "!t",
            "a: b",
            "a #b",
            " a",
            "a ",
            "[a]",
            "{a}",
            "- a",
            "? a",
            "%a",
            "@a",
            "`a",
            "|",
            ">",
            "'",
            "\"",
            "a,b",
            "1.2.3-1",
            "1.2.3_4",
            "1,000",
            "é",
        ] {
            let written = write(quoted, Quotes::None);
            assert!(written.starts_with('\'') && written.ends_with('\''), "{written}");
        }
    }

    #[test]
    fn quotes_are_escaped_in_their_own_way() {
        assert_eq!(write("it's \"x\" \\", Quotes::Single), r#"'it''s "x" \'"#);
        assert_eq!(write("it's \"x\" \\", Quotes::Double), r#""it's \"x\" \\""#);
        assert_eq!(Quotes::of("'a'"), Some(Quotes::Single));
        assert_eq!(Quotes::of("\"a\""), Some(Quotes::Double));
        assert_eq!((Quotes::of("a"), Quotes::of("")), (Some(Quotes::None), Some(Quotes::None)));
        assert_eq!((Quotes::of("|\n a"), Quotes::of(">-\n a")), (None, None));
    }

    #[test]
    fn what_would_break_a_line_is_no_plain_text() {
        assert!(is_plain_text("a b é \u{1f600} \\ ' \""));
        for bad in ["a\nb", "\t", "\u{7f}", "\u{85}", "\u{2028}", "\u{feff}", "\0"] {
            assert!(!is_plain_text(bad), "{bad:?}");
        }
    }
}
