//! Text that others chose, such as arguments and what commands write, as a terminal can be shown it.
//!
//! Decides nothing about where it goes: a pipe gets what was written, as it is.

/// Without characters that move a cursor, end a line or turn the text around; `lines` keeps line feeds and tabs.
pub(super) fn printable(text: &str, lines: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let acts = character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if acts && !(lines && matches!(character, '\n' | '\t')) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Arguments in one line, each as one sees where it begins and ends; not for a shell.
pub(super) fn arguments(argv: &[String]) -> String {
    argv.iter().map(|word| argument(word)).collect::<Vec<_>>().join(" ")
}

fn argument(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/-_=.,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("\"{}\"", printable(word, false).replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_keeps_its_lines() {
        assert_eq!(printable("a\tb\n\u{1b}[31mc\r\n", true), "a\tb\n\\u{1b}[31mc\\r\n");
    }

    #[test]
    fn one_sees_where_an_argument_ends_and_none_ends_the_line() {
        let argv = ["/bin/x", "-n=1", "", "two words", "a\" \"b", "\u{1b}]0;\u{202e}\n"].map(str::to_owned);
        assert_eq!(arguments(&argv), r#"/bin/x -n=1 "" "two words" "a\" \"b" "\u{1b}]0;\u{202e}\n""#);
    }
}
