//! The chain: what makes a line its continuation, and where one breaks.
//!
//! Line n holds `seq` n and in `prev` the SHA-256 of line n-1, in hexadecimal digits and without its line feed; the
//! first line of a log is chained to 64 zeros. A crash may leave a line cut short. Nobody was told that it is durable,
//! and nothing is cut away: the next line is a `torn` record, which is chained to the last whole line and says how many
//! bytes in between belong to the cut line, and their SHA-256. Any other line that is not a record breaks the chain. A
//! log that was renamed goes on in a new file, whose first line is a `continued` record, chained to the last line of the
//! old one. A log whose end was cut off at a line is still a chain: to find that, compare its head with one kept
//! elsewhere.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::domain::anchor::Anchor;

/// What the first line of a log is chained to.
pub const ROOT: [u8; 32] = [0; 32];

/// The end of a chain: what the next line must continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the last record; 0 for an empty log.
    pub seq: u64,
    /// SHA-256 of the last record's line.
    pub hash: [u8; 32],
    /// How many lines that a crash cut short were found, and accounted for.
    pub torn: u64,
}

impl From<Head> for Anchor {
    fn from(Head { seq, hash, .. }: Head) -> Self {
        Self { seq, sha256: hash }
    }
}

impl Head {
    /// The hash in hexadecimal digits, as `prev` of the next line has it.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.hash)
    }
}

/// Where a chain breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Broken {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Follows a chain from its first line to its last. Lines are given without their line feeds.
///
/// # Errors
/// The first line that does not continue the chain: it, or the line before it, is not what was written.
pub fn verify<L: AsRef<[u8]>>(lines: impl IntoIterator<Item = L>) -> Result<Head, Broken> {
    let mut chain = Chain::new();
    for line in lines {
        chain.follow(line.as_ref())?;
    }
    chain.end()
}

/// A chain up to some line, perhaps through several files.
#[derive(Clone, Debug)]
pub struct Chain {
    head: Head,
    /// What the first line continues, when that is not the beginning of a log.
    base: Option<Head>,
    line: u64,
    cut: Option<Cut>,
}

/// Bytes after the last record that are no record.
#[derive(Clone, Debug)]
struct Cut {
    line: u64,
    bytes: u64,
    hash: Sha256,
}

#[derive(Deserialize)]
struct Link<'a> {
    seq: u64,
    #[serde(borrow)]
    prev: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(default)]
    bytes: u64,
    #[serde(default, borrow)]
    sha256: std::borrow::Cow<'a, str>,
}

impl Chain {
    /// Before the first line of a log, or of a later file of it.
    #[must_use]
    pub fn new() -> Self {
        Self { head: Head { seq: 0, hash: ROOT, torn: 0 }, base: None, line: 0, cut: None }
    }

    /// After a line that is trusted without looking at what comes before it; `None` when it is not a record.
    pub(super) fn resume(line: &[u8]) -> Option<Self> {
        let link: Link<'_> = serde_json::from_slice(line).ok()?;
        Some(Self {
            head: Head { seq: link.seq, hash: digest(line), torn: 0 },
            base: None,
            line: 0,
            cut: None,
        })
    }

    /// Goes on by one line, which is given without its line feed.
    ///
    /// # Errors
    /// When it does not continue the chain.
    pub fn follow(&mut self, line: &[u8]) -> Result<(), Broken> {
        self.line += 1;
        let broken = |line, reason| Err(Broken { line, reason });
        let Ok(link) = serde_json::from_slice::<Link<'_>>(line) else {
            return self.add_cut(line);
        };
        if self.line == 1 && self.head.seq == 0 && link.kind == "continued" {
            let seq = link.seq.checked_sub(1);
            let (Some(seq), Some(hash)) = (seq, parse_hash(&link.prev)) else {
                return broken(self.line, "it does not say what it continues");
            };
            self.head = Head { seq, hash, torn: 0 };
            self.base = Some(self.head);
        }
        if link.prev != hex(&self.head.hash) {
            return broken(
                self.line,
                "it does not continue the line before it: one of the two was changed, or \
                                      lines between them were added, removed or moved",
            );
        }
        if Some(link.seq) != self.head.seq.checked_add(1) {
            return broken(self.line, "its number does not follow the number of the line before it");
        }
        match (self.cut.take(), link.kind == "torn") {
            (None, false) => {}
            (Some(cut), true) => {
                let hash: [u8; 32] = cut.hash.finalize().into();
                if cut.bytes != link.bytes || hex(&hash) != link.sha256 {
                    return broken(cut.line, "it is not the cut line that the next record accounts for");
                }
                self.head.torn += 1;
            }
            (Some(cut), false) => return broken(cut.line, "it is not a record, and none accounts for it"),
            (None, true) => return broken(self.line, "it accounts for a cut line that is not there"),
        }
        self.head.seq = link.seq;
        self.head.hash = digest(line);
        Ok(())
    }

    /// Goes on in the next file of the same log: its lines are counted from 1.
    ///
    /// # Errors
    /// When something is left over at the end of the former one.
    pub fn next_file(&mut self) -> Result<(), Broken> {
        self.end()?;
        self.line = 0;
        Ok(())
    }

    /// How many lines of the present file were followed.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// What the first line continues; `None` when it begins a log.
    #[must_use]
    pub fn base(&self) -> Option<Head> {
        self.base
    }

    /// The head, when nothing is left over.
    ///
    /// # Errors
    /// When the last lines are no records.
    pub fn end(&self) -> Result<Head, Broken> {
        match &self.cut {
            None => Ok(self.head),
            Some(cut) => Err(Broken {
                line: cut.line,
                reason: "it is not a record, and none accounts for it; if a crash cut it short, the next start \
                         of the gateway does",
            }),
        }
    }

    /// The head as far as the chain goes.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// How many bytes after the head are no record, and their SHA-256 in hexadecimal digits.
    pub(super) fn cut(&self) -> Option<(u64, String)> {
        let cut = self.cut.as_ref()?;
        let hash: [u8; 32] = cut.hash.clone().finalize().into();
        Some((cut.bytes, hex(&hash)))
    }

    /// A crash while a cut line was being accounted for leaves two of them.
    fn add_cut(&mut self, line: &[u8]) -> Result<(), Broken> {
        // The beginning that it must have had; a file system may have put zeros in place of the rest.
        let beginning = format!(r#"{{"seq":{},"#, self.head.seq.saturating_add(1)).into_bytes();
        let zeros = line.iter().rev().take_while(|byte| **byte == 0).count();
        let written = &line[..line.len() - zeros];
        let begun = written.starts_with(&beginning) || beginning.starts_with(written);
        if line.is_empty() || !begun {
            return Err(Broken { line: self.line, reason: "it is not a record, nor the beginning of one" });
        }
        match &mut self.cut {
            None => {
                let hash = Sha256::new_with_prefix(line);
                self.cut = Some(Cut { line: self.line, bytes: line.len() as u64, hash });
            }
            Some(cut) => {
                cut.hash.update(b"\n");
                cut.hash.update(line);
                cut.bytes += 1 + line.len() as u64;
            }
        }
        Ok(())
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads what [`Head::hex`] wrote.
#[must_use]
pub fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// SHA-256 of a line without its line feed.
pub(super) fn digest(line: &[u8]) -> [u8; 32] {
    Sha256::digest(line).into()
}

/// Small hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: u64) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for seq in 1..=count {
            let prev = lines.last().map_or(ROOT, |line| digest(line));
            lines.push(record(seq, prev, r#""kind":"accepted","rule":1"#));
        }
        lines
    }

    fn record(seq: u64, prev: [u8; 32], rest: &str) -> Vec<u8> {
        format!(r#"{{"seq":{seq},"prev":"{}",{rest}}}"#, hex(&prev)).into_bytes()
    }

    #[test]
    fn i10_a_whole_log_verifies() {
        let lines = log(5);
        assert_eq!(verify(&lines), Ok(Head { seq: 5, hash: digest(&lines[4]), torn: 0 }));
        assert_eq!(verify(Vec::<Vec<u8>>::new()), Ok(Head { seq: 0, hash: ROOT, torn: 0 }));
        assert_eq!(hex(&digest(b"")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn i10_any_flipped_bit_before_the_last_line_is_found() {
        let lines = log(3);
        for index in 0..2 {
            for at in 0..lines[index].len() {
                for bit in 0..8 {
                    let mut changed = lines.clone();
                    changed[index][at] ^= 1 << bit;
                    assert!(verify(&changed).is_err(), "line {index}, byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn i10_a_line_removed_added_swapped_or_repeated_is_found() {
        let lines = log(6);
        for index in 0..5 {
            let mut removed = lines.clone();
            removed.remove(index);
            assert_eq!(verify(&removed).map_err(|broken| broken.line), Err(index as u64 + 1));

            let mut swapped = lines.clone();
            swapped.swap(index, index + 1);
            assert!(verify(&swapped).is_err());

            let mut repeated = lines.clone();
            repeated.insert(index, lines[index].clone());
            assert!(verify(&repeated).is_err());

            for extra in [b"".as_slice(), b"junk", b"{}", br#"{"seq":2,"prev":"","kind":"accepted"}"#] {
                let mut added = lines.clone();
                added.insert(index + 1, extra.to_vec());
                assert!(verify(&added).is_err());
            }
        }
        let mut forged = lines.clone();
        forged.insert(3, record(4, digest(&lines[2]), r#""kind":"accepted""#));
        assert_eq!(verify(&forged).map_err(|broken| broken.line), Err(5));
    }

    #[test]
    fn i10_a_chain_goes_on_in_the_next_file_and_a_file_that_is_missing_is_found() {
        let mut lines = log(3);
        for seq in 4..=6 {
            let kind = if seq == 5 { "accepted" } else { "continued" };
            let prev = digest(lines.last().unwrap());
            lines.push(record(seq, prev, &format!(r#""kind":"{kind}""#)));
        }
        let follow = |files: &[&[Vec<u8>]]| {
            let mut chain = Chain::new();
            for file in files {
                chain.next_file()?;
                file.iter().try_for_each(|line| chain.follow(line))?;
            }
            chain.end().map(|head| (head.seq, chain.base().map(|base| base.seq)))
        };
        let files: [&[Vec<u8>]; 3] = [&lines[..3], &lines[3..5], &lines[5..]];
        assert_eq!(follow(&files), Ok((6, None)));
        assert_eq!(follow(&files[1..]), Ok((6, Some(3))));
        assert_eq!(follow(&files[2..]), Ok((6, Some(5))));
        assert_eq!(follow(&[files[0], files[2]]).map_err(|broken| broken.line), Err(1));
        assert_eq!(follow(&[files[1], files[0]]).map_err(|broken| broken.line), Err(1));
        assert_eq!(follow(&[&lines[..2], files[1]]).map_err(|broken| broken.line), Err(1));
        assert_eq!(
            follow(&[&lines[4..]]).map_err(|broken| broken.line),
            Err(1),
            "only `continued` may begin"
        );
        assert_eq!(verify(&lines).map(|head| head.seq), Ok(6));
        let zeros = record(0, ROOT, r#""kind":"continued""#);
        assert!(verify([zeros]).is_err());
    }

    #[test]
    fn a_hash_reads_back_as_written() {
        let hash = digest(b"x");
        assert_eq!(parse_hash(&hex(&hash)), Some(hash));
        for bad in ["", "ab", &"g".repeat(64), &"é".repeat(32), &format!("+{}", "0".repeat(63))] {
            assert_eq!(parse_hash(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_cut_line_stands_only_before_the_record_that_accounts_for_it() {
        let mut lines = log(3);
        let cut = b"{\"seq\":4,\"at".to_vec();
        let account = |cut: &[u8]| {
            let rest = format!(r#""kind":"torn","bytes":{},"sha256":"{}""#, cut.len(), hex(&digest(cut)));
            record(4, digest(&log(3)[2]), &rest)
        };
        lines.push(cut.clone());
        assert_eq!(verify(&lines).map_err(|broken| broken.line), Err(4));
        lines.push(account(&cut));
        assert_eq!(verify(&lines).map(|head| (head.seq, head.torn)), Ok((4, 1)));

        let mut without = lines.clone();
        without.remove(3);
        assert!(verify(&without).is_err(), "the cut line was removed");
        let mut changed = lines.clone();
        changed[3][3] ^= 1;
        assert_eq!(verify(&changed).map_err(|broken| broken.line), Err(4));

        // The account itself was cut short by another crash.
        let mut twice = log(3);
        let half = account(&cut)[..20].to_vec();
        twice.extend([cut.clone(), half.clone()]);
        twice.push(account(&[cut, half].join(&b'\n')));
        assert_eq!(verify(&twice).map(|head| (head.seq, head.torn)), Ok((4, 1)));
    }
}
