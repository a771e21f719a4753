//! Which characters do something other than being shown, and text in which they only are.
//!
//! One list for the audit log, the log and terminals: what strangers, commands and files say can end no line there, move no
//! cursor and turn no text around. Decides nothing about where text goes.

/// Whether a character does something other than being shown: Unicode's categories Cc, Zl, Zp, and of Cf the marks of
/// direction, joiners and tags.
#[must_use]
pub fn acts(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// With those characters escaped as Rust escapes them; `lines` keeps line feeds and tabs.
#[must_use]
pub fn printable(text: &str, lines: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if acts(character) && !(lines && matches!(character, '\n' | '\t')) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_keeps_its_lines() {
        assert_eq!(printable("a\tb\n\u{1b}[31mc\r\n", true), "a\tb\n\\u{1b}[31mc\\r\n");
    }

    #[test]
    fn what_is_escaped_acts_no_more_and_all_else_stays() {
        let hostile = "\n\r\u{7f}\u{85}\u{9b}\u{ad}\u{200b}\u{202e}\u{2028}\u{2066}\u{feff}\u{e0001}";
        let shown = printable(hostile, false);
        assert!(!shown.chars().any(acts), "{shown:?}");
        assert_eq!(printable("é漢 \\u{202e}", false), "é漢 \\u{202e}");
    }
}
