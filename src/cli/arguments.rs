//! Arguments that others chose, as a terminal can be shown them.
//!
//! For a reader's eyes, not for a shell.

use crate::domain::printable::printable;

/// Arguments in one line, each as one sees where it begins and ends.
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
    fn one_sees_where_an_argument_ends_and_none_ends_the_line() {
        let argv = ["/bin/x", "-n=1", "", "two words", "a\" \"b", "\u{1b}]0;\u{202e}\n"].map(str::to_owned);
        assert_eq!(arguments(&argv), r#"/bin/x -n=1 "" "two words" "a\" \"b" "\u{1b}]0;\u{202e}\n""#);
    }
}
