//! The edit of a YAML file: the bytes of the asked values change, and no other byte.
//!
//! One parser finds where a value stands; a second, unrelated one reads the whole document before and after, and unless
//! exactly the asked keys differ, nothing is handed back. Refuses what it cannot change on one line: lists, mappings,
//! blocks, aliases, tags. Touches top-level keys alone, as hiera looks them up.

use yaml_edit::{YamlFile, YamlKind};
use yaml_serde::{Mapping, Value};

use super::order::Setting;
use super::scalar::{self, Quotes};

/// A value that the edit changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The value as it stands in the file now, quotes included; `None` when the key is new.
    pub before: Option<String>,
    /// The value as it stands in the file then.
    pub after: String,
}

/// Why a document was not edited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEdited {
    /// Not YAML, several documents, or a key twice.
    #[error("it cannot be read as one YAML document: {0}")]
    Unreadable(String),
    /// A list, or a lone value.
    #[error("it holds no keys at its top; hiera's data are a mapping")]
    NotAMapping,
    /// The key is not there.
    #[error("it has no key `{0}`; look for a typing error, or give --create to add the key")]
    NoSuchKey(String),
    /// The value is of another kind.
    #[error(
        "the value of `{key}` is {kind}; only a value on one line is replaced, so change it by hand first"
    )]
    NotOnOneLine {
        /// Whose value.
        key: String,
        /// What it is.
        kind: &'static str,
    },
    /// The second parser does not agree.
    #[error(
        "setting {0} would change something else as well, or not be read back: an anchor, an inline mapping, an end \
         marker or an unusual indentation; change it by hand"
    )]
    NotProven(String),
}

/// Sets keys of a document; the new text, and what changed. Without a change the text is the old one.
///
/// # Errors
/// When the document cannot be read, a key is missing and not to be made, a value is not on one line, or more than the
/// asked would change.
pub(super) fn edit(
    text: &str,
    settings: &[Setting],
    create: bool,
) -> Result<(String, Vec<Change>), NotEdited> {
    let before = read(text)?;
    let mut edited = text.to_owned();
    let mut changes = Vec::new();
    for setting in settings {
        let place = find(&edited, setting, create)?;
        if let Some(change) = apply(&mut edited, setting, place) {
            changes.push(change);
        }
    }
    if !changes.is_empty() {
        prove(before, settings, &edited)?;
    }
    Ok((edited, changes))
}

/// Where a value stands, in bytes.
#[derive(Clone, Copy)]
enum Place {
    /// A scalar that is there.
    Scalar { start: usize, end: usize, quotes: Quotes },
    /// Right after the colon of a key without a value.
    Colon(usize),
    /// The key is new.
    New,
}

fn find(text: &str, setting: &Setting, create: bool) -> Result<Place, NotEdited> {
    let unreadable = |error: &dyn ToString| NotEdited::Unreadable(error.to_string());
    let file = YamlFile::parse(text).to_result().map_err(|error| unreadable(&error))?;
    let key = &setting.key;
    let entry = match file.document() {
        Some(document) => document.as_mapping().and_then(|mapping| mapping.find_entry_by_key(key.as_str())),
        None => None,
    };
    let Some(entry) = entry else {
        return if create { Ok(Place::New) } else { Err(NotEdited::NoSuchKey(key.clone())) };
    };
    let no_line = |kind| NotEdited::NotOnOneLine { key: key.clone(), kind };
    let value = entry.value_node().ok_or_else(|| no_line("nothing that can be found"))?;
    if !value.is_scalar() {
        return Err(no_line(match value.kind() {
            YamlKind::Mapping => "a mapping",
            YamlKind::Sequence => "a list",
            YamlKind::Alias => "an alias",
            YamlKind::Tagged(_) => "tagged",
            YamlKind::Scalar | YamlKind::Document => "of an unknown kind",
        }));
    }
    let range = value.byte_range();
    let (start, end) = (range.start as usize, range.end as usize);
    let source = text.get(start..end).ok_or_else(|| no_line("nothing that can be found"))?;
    if source.is_empty() {
        // A comment may stand before the place where the parser sees nothing.
        let key_ends = entry.key_node().map_or(0, |key| key.byte_range().end as usize);
        let gap = text[key_ends..].find(|c| c != ' ').unwrap_or_default();
        let colon = key_ends + gap;
        let is_colon = text[colon..].starts_with(':');
        return if is_colon {
            Ok(Place::Colon(colon + 1))
        } else {
            Err(no_line("nothing that can be found"))
        };
    }
    match Quotes::of(source) {
        Some(quotes) if !source.contains(['\n', '\r']) => Ok(Place::Scalar { start, end, quotes }),
        Some(_) | None => Err(no_line("a text of several lines")),
    }
}

fn apply(text: &mut String, setting: &Setting, place: Place) -> Option<Change> {
    let Setting { key, value } = setting;
    let change = |before: Option<&str>, after: String| {
        Some(Change { key: key.clone(), before: before.map(str::to_owned), after })
    };
    match place {
        Place::Scalar { start, end, quotes } => {
            let before = text[start..end].to_owned();
            if says(&before, quotes, value) {
                return None;
            }
            let after = scalar::write(value, quotes);
            text.replace_range(start..end, &after);
            change(Some(&before), after)
        }
        Place::Colon(at) => {
            let after = scalar::write(value, Quotes::Single);
            text.insert_str(at, &format!(" {after}"));
            change(Some(""), after)
        }
        Place::New => {
            let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
            if text.is_empty() {
                text.push_str("---\n");
            } else if !text.ends_with('\n') {
                text.push_str(line_end);
            }
            let after = scalar::write(value, Quotes::Single);
            let written = if is_plain_key(key) { key.clone() } else { scalar::write(key, Quotes::Single) };
            text.push_str(&format!("{written}: {after}{line_end}"));
            change(None, after)
        }
    }
}

/// Whether a scalar is this string already, to every reader: `1.10` without quotes is a number to some.
fn says(source: &str, quotes: Quotes, value: &str) -> bool {
    let is_string = quotes != Quotes::None || scalar::needs_no_quotes(source);
    is_string && yaml_serde::from_str::<Value>(source).is_ok_and(|read| read.as_str() == Some(value))
}

/// As hiera's keys usually are: `role::version`.
fn is_plain_key(key: &str) -> bool {
    key.contains("::") && key.split("::").all(scalar::needs_no_quotes)
}

fn read(text: &str) -> Result<Mapping, NotEdited> {
    match yaml_serde::from_str(text) {
        Ok(Value::Mapping(mapping)) => Ok(mapping),
        Ok(Value::Null) => Ok(Mapping::new()),
        Ok(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Sequence(_) | Value::Tagged(_)) => {
            Err(NotEdited::NotAMapping)
        }
        Err(error) => Err(NotEdited::Unreadable(error.to_string())),
    }
}

/// Whether exactly the settings tell the documents apart, in the same order of keys.
fn prove(mut before: Mapping, settings: &[Setting], edited: &str) -> Result<(), NotEdited> {
    for Setting { key, value } in settings {
        before.insert(Value::String(key.clone()), Value::String(value.clone()));
    }
    if read(edited).is_ok_and(|after| before.iter().eq(after.iter())) {
        return Ok(());
    }
    let keys: Vec<String> = settings.iter().map(|setting| format!("`{}`", setting.key)).collect();
    Err(NotEdited::NotProven(keys.join(", ")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn setting(text: &str) -> Setting {
        Setting::parse(text).unwrap()
    }

    fn set(text: &str, asked: &[&str]) -> Result<String, NotEdited> {
        let settings: Vec<Setting> = asked.iter().map(|text| setting(text)).collect();
        edit(text, &settings, false).map(|(text, _)| text)
    }

    fn create(text: &str, asked: &str) -> Result<String, NotEdited> {
        edit(text, &[setting(asked)], true).map(|(text, _)| text)
    }

    const DATA: &str = "---\n# Versions of the web role.\n\nweb::version: \"1.2.3\"   # pinned: see the wiki\nweb::port : 8080\n\
        web::hosts:\n    - a.example.com\n    -   b.example.com  # old\nweb::note: >-\n  folded\n  text\n\
        'web::build': '0017'\nweb::plain: 1.2.3\nweb::empty:\nweb::none: ~\n\n# the end\n";

    #[test]
    fn only_the_value_changes() {
        for (asked, old, new) in [
            ("web::version=1.2.4", "\"1.2.3\"", "\"1.2.4\""),
            ("web::version=a\"b\\c", "\"1.2.3\"", r#""a\"b\\c""#),
            ("web::port=9090", "8080", "'9090'"),
            ("web::build=0018", "'0017'", "'0018'"),
            ("web::plain=1.2.4", "plain: 1.2.3", "plain: 1.2.4"),
            ("web::plain=1.2", "plain: 1.2.3", "plain: '1.2'"),
            ("web::plain=2024-01-01", "plain: 1.2.3", "plain: '2024-01-01'"),
            ("web::empty=x", "empty:", "empty: 'x'"),
            ("web::none=null", "none: ~", "none: 'null'"),
        ] {
            assert_eq!(set(DATA, &[asked]).unwrap(), DATA.replacen(old, new, 1), "{asked}");
        }
        let both = set(DATA, &["web::plain=2.0.0", "web::version=2.0.0"]).unwrap();
        assert_eq!(both, DATA.replace("1.2.3", "2.0.0"));
    }

    #[test]
    fn what_is_said_already_is_no_change() {
        for asked in ["web::version=1.2.3", "web::build=0017", "web::plain=1.2.3"] {
            let (text, changes) = edit(DATA, &[setting(asked)], false).unwrap();
            assert_eq!((text.as_str(), changes.len()), (DATA, 0), "{asked}");
        }
        // The same characters, but a number, a date, a truth value to Ruby: these become strings.
        for (text, asked, now) in [
            ("a: 1.10\n", "a=1.10", "a: '1.10'\n"),
            ("a: 2024-01-01\n", "a=2024-01-01", "a: '2024-01-01'\n"),
            ("a: yes\n", "a=yes", "a: 'yes'\n"),
            ("a: 1:30\n", "a=1:30", "a: '1:30'\n"),
            ("a: 017\n", "a=017", "a: '017'\n"),
            ("a: 1_000\n", "a=1_000", "a: '1_000'\n"),
        ] {
            assert_eq!(set(text, &[asked]).unwrap(), now);
        }
    }

    #[test]
    fn i1_fail_closed_on_what_is_not_a_value_on_one_line() {
        for (text, asked) in [
            (DATA, "web::hosts=x"),
            (DATA, "web::note=x"),
            ("a: {b: c}\n", "a=x"),
            ("a: &x 1\nb: *x\n", "b=x"),
            ("a: !t 1\n", "a=x"),
            ("a: |\n  x\n", "a=x"),
            ("a: x\n  y\n", "a=z"),
            ("a: 'x\n  y'\n", "a=z"),
            ("a: !t\n", "a=z"),
        ] {
            let error = set(text, &[asked]).unwrap_err();
            assert!(matches!(error, NotEdited::NotOnOneLine { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn i1_fail_closed_on_documents_that_say_something_else() {
        for text in [
            "a: 1\n---\nb: 2\n",
            "a: 1\na: 2\n",
            "a: 1\nb: {c: 1, c: 2}\n",
            "a: b: c\n",
            "a: [\n",
            "a: *x\n",
            "\u{1}",
        ] {
            let error = set(text, &["a=x"]).unwrap_err();
            assert!(matches!(error, NotEdited::Unreadable(_)), "{text}: {error}");
        }
        for text in ["- a\n", "a\n", "1\n", "!t {a: 1}\n"] {
            assert_eq!(set(text, &["a=x"]), Err(NotEdited::NotAMapping), "{text}");
        }
        // Whoever has the same anchor would change as well.
        let shared = set("a: &x 1.2.3\nb: *x\n", &["a=1.2.4"]).unwrap_err();
        assert!(matches!(shared, NotEdited::NotProven(_)), "{shared}");
        assert_eq!(set("a: &x 1.2.3\nb: 1\n", &["a=1.2.4"]).unwrap(), "a: &x 1.2.4\nb: 1\n");
        // A number is no string.
        assert!(set("1: x\n", &["1=y"]).is_err());
    }

    #[test]
    fn missing_keys_are_made_only_when_asked() {
        assert_eq!(set(DATA, &["web::other=1"]), Err(NotEdited::NoSuchKey("web::other".into())));
        // A nested key of that name is another key.
        assert!(set("b:\n  a: 1\n", &["a=x"]).is_err());
        assert!(set("<<: &d {a: 1}\n", &["a=x"]).is_err());
        assert_eq!(create(DATA, "web::other=1").unwrap(), format!("{DATA}web::other: '1'\n"));
        assert_eq!(create("", "a::b=1").unwrap(), "---\na::b: '1'\n");
        assert_eq!(create("---\n", "no=1").unwrap(), "---\n'no': '1'\n");
        assert_eq!(create("# c", "a: b=1").unwrap(), "# c\n'a: b': '1'\n");
        assert_eq!(create("a: 1\r\nb: 2\r\n", "c::d=x").unwrap(), "a: 1\r\nb: 2\r\nc::d: 'x'\r\n");
        assert_eq!(create("a:\n  - b\n  - c", "c::d=x").unwrap(), "a:\n  - b\n  - c\nc::d: 'x'\n");
        for text in ["a: 1\n...\n", "{a: 1}\n", "  a: 1\n", "--- {}\n"] {
            let error = create(text, "c=x").unwrap_err();
            assert!(matches!(error, NotEdited::NotProven(_) | NotEdited::Unreadable(_)), "{text}: {error}");
        }
    }

    #[test]
    fn line_ends_marks_and_inline_mappings_stay() {
        assert_eq!(set("a: 1.2.3\r\nb: 2\r\n", &["a=1.2.4"]).unwrap(), "a: 1.2.4\r\nb: 2\r\n");
        assert_eq!(set("\u{feff}a: 1.2.3\n", &["a=1.2.4"]).unwrap(), "\u{feff}a: 1.2.4\n");
        assert_eq!(set("{\"a\": \"1\", b: 2}\n", &["a=2"]).unwrap(), "{\"a\": \"2\", b: 2}\n");
        assert_eq!(set("a: 'é' # ü\nb: ö", &["a=ß"]).unwrap(), "a: 'ß' # ü\nb: ö");
    }

    /// One entry of a generated document: its lines, and whether its value is on one line.
    fn entry(key: usize) -> impl Strategy<Value = (String, bool)> {
        let scalar = prop_oneof![
            "[a-z0-9][a-z0-9._-]{0,12}",
            "'[a-z :#0-9]{0,10}'",
            "\"[a-z :#0-9]{0,10}\"",
            Just("~".to_owned()),
            Just(String::new()),
        ];
        let one_line =
            (scalar, prop_oneof![Just(""), Just("  # note: x")], prop_oneof![Just(" "), Just("   ")])
                .prop_map(|(value, note, gap)| (format!("{gap}{value}{note}\n"), true));
        let block = prop_oneof![
            Just("\n  - x\n  - y: 1\n    z: 2\n"),
            Just("\n  nested: 1\n  k0: inner\n"),
            Just(" |\n  k1: text\n\n  # text\n"),
            Just(" {a: [1, 2], k2: 3}\n"),
        ];
        let value = prop_oneof![3 => one_line, 1 => block.prop_map(|text| (text.to_owned(), false))];
        let before = prop_oneof![Just(""), Just("\n"), Just("# a comment: k0\n"), Just("\n\n  # indented\n")];
        (before, value).prop_map(move |(before, (value, one_line))| {
            (format!("{before}k{key}::version:{value}"), one_line)
        })
    }

    proptest! {
        #[test]
        fn in_any_document_the_asked_values_change_and_nothing_else(
            entries in (1..6usize).prop_flat_map(|count| (0..count).map(entry).collect::<Vec<_>>()),
            head in prop_oneof![Just(""), Just("---\n"), Just("# head\n---\n")],
            chosen in any::<prop::sample::Index>(),
            value in "[ -~é]{0,20}",
        ) {
            let chosen = chosen.index(entries.len());
            let key = format!("k{chosen}::version");
            let lines: Vec<&str> = entries.iter().map(|(lines, _)| lines.as_str()).collect();
            let text = format!("{head}{}", lines.concat());
            prop_assume!(read(&text).is_ok());
            let asked = Setting { key: key.clone(), value: value.clone() };
            match edit(&text, std::slice::from_ref(&asked), false) {
                Ok((edited, _)) => {
                    prop_assert!(entries[chosen].1);
                    let after = read(&edited).unwrap();
                    prop_assert_eq!(after[key.as_str()].as_str(), Some(value.as_str()));
                    let differ = text.lines().zip(edited.lines()).filter(|(old, new)| old != new).count();
                    prop_assert!(differ <= 1 && text.lines().count() == edited.lines().count());
                    // Comments, too, are where they were.
                    let notes = |text: &str| text.matches("# note: x").count();
                    prop_assert!(value.contains("# note") || notes(&text) == notes(&edited));
                    let again = edit(&edited, &[asked], false).unwrap();
                    prop_assert_eq!(again, (edited, vec![]));
                }
                Err(error) => prop_assert!(!entries[chosen].1, "{}", error),
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n\r\té:#'\"|&*!{}\\[\\]-]{0,60}") {
            let _ = edit(&text, &[setting("a=x")], true);
        }
    }
}
