//! `fail_on_output`: what a command that says that it is fine writes when it is not.
//!
//! Judges bytes, because commands write what they like. Linear in time (RE2 syntax); its compiled form is bounded.

use regex::bytes::{Regex, RegexBuilder};

/// Largest compiled form, in bytes.
const LARGEST: usize = 1 << 20;

/// A regular expression that is looked for in a step's output.
#[derive(Clone, Debug)]
pub struct Telltale(Regex);

impl Telltale {
    /// Compiles an expression.
    pub(crate) fn compile(text: &str) -> Result<Self, regex::Error> {
        RegexBuilder::new(text).size_limit(LARGEST).build().map(Self)
    }

    /// Whether it stands somewhere in `output`.
    #[must_use]
    pub fn is_in(&self, output: &[u8]) -> bool {
        self.0.is_match(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_anywhere_also_beside_what_is_not_utf_8() {
        let telltale = Telltale::compile("(?m)^No response from:|[1-9][0-9]* failed").unwrap();
        for (output, expected) in [
            (&b"Finished\nNo response from:\n  node1\n"[..], true),
            (b"\xff\xfe 2 failed", true),
            (b"0 failed", false),
            (b" No response from:", false),
            (b"", false),
        ] {
            assert_eq!(telltale.is_in(output), expected, "{output:?}");
        }
        assert!(Telltale::compile("(").is_err());
        assert!(Telltale::compile("x{1000}{1000}").is_err());
    }
}
