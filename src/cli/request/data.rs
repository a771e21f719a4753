//! The body that `--data` gives: text, a file, or standard input.
//!
//! Reads no more than a bound, and changes nothing of what it reads.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};

/// Largest body that is sent, in bytes.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;

/// Where the body comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// The argument itself.
    Text(String),
    /// A file's bytes as they are.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Data {
    /// `@FILE`, `@-`, or text.
    ///
    /// # Errors
    /// When `@` names no file.
    pub fn parse(given: &str) -> Result<Self, &'static str> {
        match given.strip_prefix('@') {
            None => Ok(Self::Text(given.to_owned())),
            Some("") => Err("`@` names no file: write `@FILE`, or `@-` for standard input"),
            Some("-") => Ok(Self::Stdin),
            Some(path) => Ok(Self::File(path.into())),
        }
    }

    /// The body's bytes; `stdin` is read for `@-` alone.
    ///
    /// # Errors
    /// When a file cannot be read, or holds too much.
    pub fn read(&self, stdin: impl Read) -> anyhow::Result<Vec<u8>> {
        let (what, bytes) = match self {
            Self::Text(text) => return Ok(text.as_bytes().to_vec()),
            Self::Stdin => ("standard input".to_owned(), read_bounded(stdin)),
            Self::File(path) => (path.display().to_string(), File::open(path).and_then(read_bounded)),
        };
        let bytes = bytes.with_context(|| format!("cannot read the body from {what}"))?;
        ensure!(
            u64::try_from(bytes.len()).is_ok_and(|length| length <= LARGEST_BODY),
            "the body from {what} is larger than {} MiB",
            LARGEST_BODY / 1024 / 1024
        );
        Ok(bytes)
    }
}

fn read_bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LARGEST_BODY + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn data_is_text_a_file_or_standard_input_to_the_byte() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"\xff\n").unwrap();
        let at_file = format!("@{}", file.path().display());
        for (data, bytes) in [("{}", &b"{}"[..]), ("-1", b"-1"), (&at_file, b"\xff\n"), ("@-", b"from stdin")]
        {
            assert_eq!(Data::parse(data).unwrap().read(&b"from stdin"[..]).unwrap(), bytes, "{data}");
        }
        assert!(Data::parse("@").is_err());
        let refusal = Data::parse("@/nonexistent/body").unwrap().read(std::io::empty()).unwrap_err();
        assert!(refusal.to_string().contains("/nonexistent/body"), "{refusal}");
    }

    #[test]
    fn a_body_without_bound_is_not_read_to_its_end() {
        let refusal = Data::Stdin.read(std::io::repeat(b'x')).unwrap_err();
        assert!(refusal.to_string().contains("larger than 64 MiB"), "{refusal}");
    }
}
