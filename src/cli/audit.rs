//! `bridgeward audit verify`: whether an audit log is a whole chain, or where it breaks.
//!
//! Reads files and nothing else: it needs neither a policy nor a running gateway, so that a reviewer can run it anywhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::audit::verify::{Chain, Head, parse_hash};
use crate::domain::anchor::Anchor;

/// Longest line that is read, in bytes: a record is bounded by a request's own limits.
const LONGEST_LINE: u64 = 64 << 20;

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Follow the chain of an audit log from its first line to its last
    ///
    /// Exits with 0 when the chain is whole, and prints its head: the number and the SHA-256 of the last line. Exits with
    /// 1 when it breaks, and says in which line. A chain whose end was cut off at a line is whole: keep the head
    /// elsewhere, and give it as --head later.
    #[command(after_help = "Examples:\n  bridgeward audit verify /var/lib/bridgeward/audit.jsonl\n  \
                            bridgeward audit verify audit.jsonl.2 audit.jsonl.1 audit.jsonl --head 5be1...\n  \
                            bridgeward audit verify audit.jsonl --heads-in audit.work.jsonl")]
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The log; after a rotation all its files, the oldest first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A head that was noted earlier: 64 hexadecimal digits that must be the SHA-256 of one of the lines
    #[arg(long, value_name = "HASH", value_parser = hash)]
    head: Option<[u8; 32]>,
    /// The log of the other process, where gate and workers are two: each head of this log that stands there must be
    /// that of one of the lines here. Give it once for each file
    #[arg(long, value_name = "FILE")]
    heads_in: Vec<PathBuf>,
}

fn hash(text: &str) -> Result<[u8; 32], &'static str> {
    parse_hash(text).ok_or("a head is 64 hexadecimal digits")
}

/// Does what the subcommand says.
///
/// # Errors
/// When a file cannot be read, the chain breaks, or a head is not in it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Verify(args) => verify(args, &mut std::io::stdout()).map(|()| ExitCode::SUCCESS),
    }
}

fn verify(args: &Verify, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    let mut chain = Chain::new();
    let mut found = None;
    let mut recorded = Recorded::read(&args.heads_in)?;
    for (index, file) in args.files.iter().enumerate() {
        let name = file.display();
        follow(file, index, &mut chain, args.head, &mut found, &mut recorded)
            .with_context(|| name.to_string())?;
        if let Some(Head { seq, hash, .. }) = chain.base().filter(|_| index == 0) {
            if args.head == Some(hash) {
                found = Some(format!("the line before the first, record {seq}"));
            }
            let hex = chain.base().map(|base| base.hex()).unwrap_or_default();
            writeln!(out, "{name}: continues an older file that ends with record {seq}, sha256 {hex}")?;
        }
        writeln!(out, "{name}: whole, lines: {}", chain.line())?;
    }
    let head = chain.end()?;
    if head.torn > 0 {
        writeln!(out, "lines that a crash cut short, accounted for: {}", head.torn)?;
    }
    writeln!(out, "head: record {}, sha256 {}", head.seq, head.hex())?;
    if !args.heads_in.is_empty() {
        let count = recorded.all_found(chain.base(), head)?;
        writeln!(out, "heads that others recorded: {count}, all found")?;
    }
    match (args.head, found) {
        (None, _) => Ok(()),
        (Some(_), Some(place)) => Ok(writeln!(out, "the given head is {place}")?),
        (Some(_), None) => bail!(
            "no line has the SHA-256 that was given as --head: the end was cut off or changed, or it is the head of \
             another log"
        ),
    }
}

/// Heads of one log that stand in another one.
#[derive(Default)]
struct Recorded {
    /// By number; those that were passed are taken out.
    heads: BTreeMap<u64, [u8; 32]>,
    count: usize,
}

/// The fields of a record in which another log's head stands.
#[derive(serde::Deserialize)]
struct Heads {
    gate: Option<Anchor>,
    worker: Option<Anchor>,
}

impl Recorded {
    fn read(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut recorded = Self::default();
        for file in files {
            let name = || file.display().to_string();
            let mut reader = BufReader::with_capacity(1 << 20, File::open(file).with_context(name)?);
            let mut line = Vec::new();
            while reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).with_context(name)? > 0 {
                // What is no record is found when that log itself is verified.
                let heads = serde_json::from_slice::<Heads>(&line).ok();
                for Anchor { seq, sha256 } in
                    heads.into_iter().flat_map(|heads| [heads.gate, heads.worker]).flatten()
                {
                    if recorded.heads.insert(seq, sha256).is_some_and(|other| other != sha256) {
                        bail!(
                            "{}: two heads for record {seq}: they are of two logs, or one is not true",
                            name()
                        );
                    }
                }
                line.clear();
            }
        }
        recorded.count = recorded.heads.len();
        Ok(recorded)
    }

    fn pass(&mut self, head: Head) -> anyhow::Result<()> {
        match self.heads.remove(&head.seq) {
            Some(hash) if hash != head.hash => bail!(
                "record {} is not the one whose SHA-256 the other log holds: the lines were written anew, or it is the \
                 head of another log",
                head.seq
            ),
            Some(_) | None => Ok(()),
        }
    }

    /// How many were looked for and found.
    fn all_found(mut self, base: Option<Head>, head: Head) -> anyhow::Result<usize> {
        if let Some(base) = base {
            self.pass(base)?;
        }
        let (first, last) = (base.map_or(1, |base| base.seq), head.seq);
        if let Some((seq, _)) = self.heads.range(last.saturating_add(1)..).next() {
            bail!(
                "the other log holds the head of record {seq}, and the last one here is {last}: its end was cut off"
            );
        }
        // What stood in older files is not asked for here; an empty log, or the root, has no line.
        let older = self.heads.range(..first).count();
        Ok(self.count - older)
    }
}

/// Follows the chain through one more file.
fn follow(
    file: &Path,
    index: usize,
    chain: &mut Chain,
    wanted: Option<[u8; 32]>,
    found: &mut Option<String>,
    recorded: &mut Recorded,
) -> anyhow::Result<()> {
    if index > 0 {
        chain.next_file()?;
    }
    let mut reader = BufReader::with_capacity(1 << 20, File::open(file)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        chain.follow(line.strip_suffix(b"\n").unwrap_or(&line))?;
        recorded.pass(chain.head())?;
        if wanted == Some(chain.head().hash) && found.is_none() {
            let (line, seq) = (chain.line(), chain.head().seq);
            *found = Some(format!("{}: line {line}, record {seq}", file.display()));
        }
    }
    // Whatever follows accounts for nothing that is left over here.
    chain.end()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::verify::ROOT;

    fn verified(files: &[&[u8]], head: Option<&str>) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = |index: usize| directory.path().join(format!("log.{index}"));
        for (index, bytes) in files.iter().enumerate() {
            std::fs::write(path(index), bytes).unwrap();
        }
        let files = (0..files.len()).map(path).collect();
        let mut out = Vec::new();
        verify(&Verify { files, head: head.map(|head| hash(head).unwrap()), heads_in: Vec::new() }, &mut out)
            .map(|()| String::from_utf8(out).unwrap())
            .map_err(|error| format!("{error:#}"))
    }

    fn log(count: u64, first: (u64, [u8; 32]), kind: &str) -> (Vec<u8>, Head) {
        let mut text = Vec::new();
        let (seq, hash) = first;
        let mut head = Head { seq, hash, torn: 0 };
        for index in 0..count {
            let kind = if index == 0 { kind } else { "accepted" };
            let line = format!(r#"{{"seq":{},"prev":"{}","kind":"{kind}"}}"#, head.seq + 1, head.hex());
            head = Head { seq: head.seq + 1, hash: sha256(line.as_bytes()), torn: 0 };
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        (text, head)
    }

    fn sha256(bytes: &[u8]) -> [u8; 32] {
        use sha2::Digest as _;
        sha2::Sha256::digest(bytes).into()
    }

    #[test]
    fn a_whole_log_shows_its_head_and_a_broken_one_its_line() {
        let (text, head) = log(3, (0, ROOT), "opened");
        let told = verified(&[&text], None).unwrap();
        assert!(told.contains("log.0: whole, lines: 3\n"), "{told}");
        assert!(told.ends_with(&format!("head: record 3, sha256 {}\n", head.hex())), "{told}");
        assert!(verified(&[&text], Some(&head.hex())).unwrap().contains("log.0: line 3, record 3"));
        let cut: Vec<u8> = text.split_inclusive(|byte| *byte == b'\n').take(2).flatten().copied().collect();
        assert!(verified(&[&cut], None).is_ok());
        assert!(verified(&[&cut], Some(&head.hex())).unwrap_err().contains("cut off"));
        let mut changed = text.clone();
        changed[text.len() / 3 + 5] ^= 1;
        let told = verified(&[&changed], None).unwrap_err();
        assert!(told.contains("log.0: line 2:") || told.contains("log.0: line 3:"), "{told}");
        assert!(verified(&[], None).unwrap().contains("record 0"));
        assert!(
            verify(
                &Verify { files: vec!["/no/such".into()], head: None, heads_in: Vec::new() },
                &mut Vec::new()
            )
            .is_err()
        );
    }

    #[test]
    fn several_files_are_one_chain_and_an_older_one_that_is_missing_is_said() {
        let (old, middle) = log(3, (0, ROOT), "opened");
        let (new, head) = log(2, (middle.seq, middle.hash), "continued");
        let told = verified(&[&old, &new], Some(&middle.hex())).unwrap();
        assert!(told.contains("log.0: line 3, record 3") && told.contains(&head.hex()), "{told}");
        let told = verified(&[&new], Some(&middle.hex())).unwrap();
        assert!(told.contains("continues an older file that ends with record 3"), "{told}");
        assert!(told.contains("the line before the first, record 3"), "{told}");
        assert!(verified(&[&new, &old], None).unwrap_err().contains("log.1: line 1:"));
        assert!(verified(&[&old, b"{\"seq\":4,\"a", &new], None).unwrap_err().contains("log.1: line 1:"));
    }
}
