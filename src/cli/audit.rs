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
/// How much of a file is read at once, in bytes.
const BUFFER: usize = 64 << 10;
/// Among how many lines the first record of a file is looked for: a crash leaves one or two that are none.
const FIRST_LINES: u64 = 4;

/// What is not known of a chain that was held against nothing.
const UNANCHORED: &str = "\
note: nothing here vouches for the last line: that it was changed, or that lines after it were cut off, does not show.
Keep the head elsewhere, and give it as --head: the gateway's log has it at each start and stop, and `/audit/head` of its
`admin.socket` at any time. Where gate and workers are two processes, --heads-in names the other's log.";

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
    /// 1 when it breaks, and says in which line, or when a file is empty.
    ///
    /// Each line vouches for those before it, and none for the last: alone, a chain does not show that its last line was
    /// changed, nor that lines were cut off at its end. So keep a head elsewhere, and give it as --head later: a start and
    /// a stop of the gateway log it, and `/audit/head` of the gateway's `admin.socket` tells it. Where gate and workers are
    /// two processes, each keeps the heads of the other: --heads-in.
    #[command(after_help = "Examples:\n  bridgeward audit verify /var/lib/bridgeward/audit.jsonl\n  \
                            bridgeward audit verify audit.jsonl* --head 5be1...\n  \
                            bridgeward audit verify audit.jsonl --heads-in audit.work.jsonl")]
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The log; after a rotation all its files, in any order
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
    let files = in_order(&args.files)?;
    let mut former = None;
    for file in files {
        let path = file.path;
        let name = path.display();
        follow(file, former, &mut chain, args.head, &mut found, &mut recorded)
            .with_context(|| name.to_string())?;
        if let Some(Head { seq, hash, .. }) = chain.base().filter(|_| former.is_none()) {
            if args.head == Some(hash) {
                found = Some(format!("the line before the first, record {seq}"));
            }
            let hex = chain.base().map(|base| base.hex()).unwrap_or_default();
            writeln!(out, "{name}: continues an older file that ends with record {seq}, sha256 {hex}")?;
        }
        writeln!(out, "{name}: whole, lines: {}", chain.line())?;
        former = Some(path);
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
        (None, _) if args.heads_in.is_empty() => Ok(writeln!(out, "{UNANCHORED}")?),
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

/// A file of a log, of which the beginning was looked at. It is read once: it may be a pipe from a program that unpacks.
struct LogFile<'a> {
    path: &'a Path,
    /// The lines that were looked at.
    begun: Vec<u8>,
    rest: BufReader<File>,
    /// Line and number of the first record; `None` when there is none at its beginning.
    first: Option<(u64, u64)>,
}

#[derive(serde::Deserialize)]
struct Numbered {
    seq: u64,
}

/// The oldest file first, by the numbers of their first records; what holds none comes last.
fn in_order(paths: &[PathBuf]) -> anyhow::Result<Vec<LogFile<'_>>> {
    let files = paths.iter().map(|path| LogFile::look(path).with_context(|| path.display().to_string()));
    let mut files = files.collect::<anyhow::Result<Vec<_>>>()?;
    files.sort_by_key(|file| file.first.map_or(u64::MAX, |(_, seq)| seq));
    Ok(files)
}

impl<'a> LogFile<'a> {
    fn look(path: &'a Path) -> anyhow::Result<Self> {
        let mut rest = BufReader::with_capacity(BUFFER, File::open(path)?);
        let (mut begun, mut first) = (Vec::new(), None);
        for line in 1..=FIRST_LINES {
            let before = begun.len();
            rest.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut begun)?;
            let text = begun.get(before..).unwrap_or_default();
            if let Ok(Numbered { seq }) = serde_json::from_slice(text) {
                first = Some((line, seq));
                break;
            }
        }
        if begun.is_empty() {
            bail!(
                "it is empty, and a gateway's log never is: what stood here was taken away, or it is not `audit.file`, or \
                 a rotation made it, which should leave that to the gateway (logrotate: `nocreate`)"
            );
        }
        Ok(Self { path, begun, rest, first })
    }
}

/// Follows the chain through one more file.
fn follow(
    file: LogFile<'_>,
    former: Option<&Path>,
    chain: &mut Chain,
    wanted: Option<[u8; 32]>,
    found: &mut Option<String>,
    recorded: &mut Recorded,
) -> anyhow::Result<()> {
    if let Some(former) = former {
        chain.next_file()?;
        let last = chain.head().seq;
        if let Some((1, first)) = file.first
            && last.checked_add(1) != Some(first)
        {
            bail!(
                "line 1: record {first} does not follow record {last}, the last one of {}: is a file missing between \
                 the two, or is one of them of another log?",
                former.display()
            );
        }
    }
    let mut reader = file.begun.as_slice().chain(file.rest);
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
            *found = Some(format!("{}: line {line}, record {seq}", file.path.display()));
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
        assert!(told.contains(&format!("\nhead: record 3, sha256 {}\n", head.hex())), "{told}");
        let told = verified(&[&text], Some(&head.hex())).unwrap();
        assert!(told.ends_with("log.0: line 3, record 3\n"), "{told}");
        let cut: Vec<u8> = text.split_inclusive(|byte| *byte == b'\n').take(2).flatten().copied().collect();
        assert!(verified(&[&cut], None).is_ok());
        assert!(verified(&[&cut], Some(&head.hex())).unwrap_err().contains("cut off"));
        let mut changed = text.clone();
        changed[text.len() / 3 + 5] ^= 1;
        let told = verified(&[&changed], None).unwrap_err();
        assert!(told.contains("log.0: line 2:") || told.contains("log.0: line 3:"), "{told}");
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
        assert!(verified(&[&old, b"{\"seq\":4,\"a", &new], None).unwrap_err().contains("log.1: line 1:"));
    }

    #[test]
    fn i10_what_nothing_vouches_for_is_said() {
        let (text, head) = log(3, (0, ROOT), "opened");
        let said = "nothing here vouches for the last line";
        assert!(verified(&[&text], None).unwrap().contains(said));
        assert!(!verified(&[&text], Some(&head.hex())).unwrap().contains(said));
        let changed = String::from_utf8(text.clone()).unwrap();
        let (before, last) = changed.rsplit_once("accepted").unwrap();
        let changed = format!("{before}refused!{last}");
        assert!(verified(&[changed.as_bytes()], None).unwrap().contains(said));
        assert!(verified(&[changed.as_bytes()], Some(&head.hex())).is_err());

        let directory = tempfile::tempdir().unwrap();
        let [ours, theirs] = ["ours", "theirs"].map(|name| directory.path().join(name));
        std::fs::write(&ours, &text).unwrap();
        let recorded = format!(r#"{{"gate":{{"seq":3,"sha256":"{}"}}}}"#, head.hex());
        std::fs::write(&theirs, recorded).unwrap();
        let mut out = Vec::new();
        verify(&Verify { files: vec![ours], head: None, heads_in: vec![theirs] }, &mut out).unwrap();
        let told = String::from_utf8(out).unwrap();
        assert!(told.contains("heads that others recorded: 1") && !told.contains(said), "{told}");
    }

    #[test]
    fn an_empty_file_is_no_log() {
        let (text, _) = log(3, (0, ROOT), "opened");
        for (files, name) in [(&[b"".as_slice()][..], "log.0"), (&[&text, b""], "log.1")] {
            let told = verified(files, None).unwrap_err();
            assert!(told.contains(&format!("{name}: it is empty")), "{told}");
        }
    }

    #[test]
    fn the_order_of_files_does_not_matter_and_one_that_is_missing_does() {
        let (first, head) = log(3, (0, ROOT), "opened");
        let (second, head) = log(2, (head.seq, head.hash), "continued");
        let (third, head) = log(2, (head.seq, head.hash), "continued");
        for files in [[&third, &second, &first], [&second, &first, &third]] {
            let told = verified(&files.map(Vec::as_slice), None).unwrap();
            assert!(told.contains(&format!("head: record 7, sha256 {}", head.hex())), "{told}");
        }
        let told = verified(&[&third, &first], None).unwrap_err();
        assert!(told.contains("log.0: line 1: record 6 does not follow record 3"), "{told}");
        assert!(told.contains("log.1: is a file missing"), "{told}");
        let (another, _) = log(3, (0, ROOT), "opened");
        assert!(verified(&[&first, &another], None).unwrap_err().contains("of another log?"));
        // Each is read once.
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let writing = std::thread::spawn({
            let (pipe, bytes) = (pipe.clone(), second.clone());
            move || std::fs::write(pipe, bytes).unwrap()
        });
        let mut out = Vec::new();
        verify(&Verify { files: vec![pipe], head: None, heads_in: Vec::new() }, &mut out).unwrap();
        writing.join().unwrap();
        assert!(String::from_utf8(out).unwrap().contains("head: record 5"));
        // A file that begins with a cut line has a place, too.
        let cut = br#"{"seq":4,"at"#;
        let account = format!(
            r#"{{"seq":4,"prev":"{}","kind":"torn","bytes":{},"sha256":"{}"}}"#,
            Head { seq: 3, hash: sha256(first.split(|byte| *byte == b'\n').nth(2).unwrap()), torn: 0 }.hex(),
            cut.len(),
            Head { seq: 0, hash: sha256(cut), torn: 0 }.hex()
        );
        let torn = [cut.as_slice(), b"\n", account.as_bytes(), b"\n"].concat();
        assert!(verified(&[&torn, &first], None).unwrap().contains("head: record 4"));
    }
}
