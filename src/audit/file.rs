//! The file of the log: opening it, finding the end of its chain, adding lines durably.
//!
//! Nothing that somebody was told is durable is ever changed. What a failed write left is cut off before the next one,
//! because nobody was told of it; what a crash left stays, and is accounted for (see `verify`). A file that was renamed
//! is left alone, and the chain goes on in a new one under the old name; one that was cut or written to by somebody
//! else gets no further line until it is moved away.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::line::{self, CHAIN, Own};
use super::predecessor;
use super::verify::{Broken, Chain, Head, digest};

/// How much of the file's end is read first to find the last record, in bytes.
const TAIL: u64 = 64 << 10;

/// How much of it is read at most: no line is so long.
const LONGEST_TAIL: u64 = 64 << 20;

/// Why the audit log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its directory cannot be opened, read or written.
    #[error("{}: {source}: the audit log needs a file that this process may create and write", path.display())]
    File {
        /// What was opened.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Something other than a regular file.
    #[error("{} is not a regular file: choose another `audit.file`", .0.display())]
    Kind(PathBuf),
    /// Others may write it.
    #[error("{} may be written by other users (mode {mode:03o}): run `chmod 600` on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else, who could change it.
    #[error("{} belongs to uid {owner}, not to the user that this process runs as: chown it", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A second process.
    #[error("another process writes the audit log {}: stop it first, or choose another `audit.file`", .0.display())]
    Held(PathBuf),
    /// It was changed.
    #[error(
        "the end of the audit log {} is not a chain ({reason}): keep it under another name as evidence, and a new \
         one is begun",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: &'static str,
    },
    /// The writer's thread cannot be started.
    #[error("the writer of the audit log cannot be started: {0}")]
    Thread(io::Error),
}

/// An open log, at the end of its chain.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Tells the open file from another one under the same name.
    place: Place,
    head: Head,
    /// Whether the first line that says what this file continues is still to be written.
    continues: bool,
    /// Bytes up to which the file is known to be good.
    length: u64,
    /// Whether a failed write may have left something beyond `length`.
    spoiled: bool,
}

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u64, u64);

impl Place {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// A child that was forked and has not executed its program yet has a copy of the descriptor: closing ours alone would
/// keep the lock until it does.
impl Drop for Log {
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Log {
    /// Opens `path` for this process alone and writes that it did so.
    pub(super) fn open(path: &Path, now: Timestamp) -> Result<Self, OpenError> {
        let failed = |source| OpenError::File { path: path.to_owned(), source };
        let (mut file, metadata) = open(path)?;
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let tail = read_tail(&mut file, length).map_err(failed)?;
        let Tail { mut chain, complete } =
            tail.map_err(|Broken { reason, .. }| OpenError::Broken { path: path.to_owned(), reason })?;
        let former = if length == 0 { predecessor::find(path) } else { None };
        let continues = former.is_some();
        if let Some(former) = former {
            chain = former;
        }
        let (head, path, place) = (chain.head(), path.to_owned(), Place::of(&metadata));
        let mut log = Self { path, file, place, head, continues, length, spoiled: false };
        log.begin(&chain, complete, now)
            .map_err(|source| OpenError::File { path: log.path.clone(), source })?;
        Ok(log)
    }

    /// The end of the chain.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Adds lines: all are on the disk when this returns, or, on an error, none counts.
    pub(super) fn append<'a>(
        &mut self,
        lines: impl IntoIterator<Item = (Timestamp, &'a str)>,
    ) -> io::Result<()> {
        self.append_after("", lines)
    }

    fn begin(&mut self, chain: &Chain, complete: bool, now: Timestamp) -> io::Result<()> {
        let close = if complete { "" } else { "\n" };
        let mut lines = Vec::new();
        if let Some((bytes, sha256)) = chain.cut() {
            tracing::warn!(
                bytes,
                "a crash cut a line of the audit log short; it stays, and is accounted for"
            );
            lines.push(line::fields(&Own::Torn { bytes, sha256: &sha256 })?);
        }
        let first = self.head.seq == 0 && lines.is_empty();
        let version = env!("CARGO_PKG_VERSION");
        lines.push(line::fields(&Own::Opened { version, chain: first.then_some(CHAIN) })?);
        self.append_after(close, lines.iter().map(|fields| (now, fields.as_str())))
    }

    fn append_after<'a>(
        &mut self,
        close: &str,
        lines: impl IntoIterator<Item = (Timestamp, &'a str)>,
    ) -> io::Result<()> {
        if self.spoiled {
            self.file.set_len(self.length)?;
            self.spoiled = false;
        }
        self.follow_path()?;
        let mut text = close.to_owned();
        let mut head = self.head;
        let mut add = |at, fields: &str| {
            head.seq += 1;
            let line = line::compose(head.seq, at, &head.hash, fields);
            head.hash = digest(line.as_bytes());
            text.push_str(&line);
            text.push('\n');
        };
        let mut lines = lines.into_iter().peekable();
        if self.continues
            && let Some((at, _)) = lines.peek()
        {
            let version = env!("CARGO_PKG_VERSION");
            add(*at, &line::fields(&Own::Continued { version, chain: CHAIN })?);
        }
        lines.for_each(|(at, fields)| add(at, fields));
        if text.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Cut off at once where that is possible, and before the next line in any case.
            self.spoiled = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += text.len() as u64;
        self.head = head;
        self.continues = false;
        Ok(())
    }

    /// Goes on in a new file when the open one no longer has the log's name, and refuses one that somebody else changed.
    fn follow_path(&mut self) -> io::Result<()> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if Place::of(&found) == self.place => {
                if found.len() == self.length {
                    return Ok(());
                }
                Err(io::Error::other(format!(
                    "{} has {} bytes in place of {}: somebody else cut it or wrote into it (logrotate must not use \
                     `copytruncate`); rename it, and the log goes on in a new file",
                    self.path.display(),
                    found.len(),
                    self.length
                )))
            }
            Ok(_) => self.move_on(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.move_on(),
            Err(error) => Err(error),
        }
    }

    fn move_on(&mut self) -> io::Result<()> {
        let (file, metadata) = open(&self.path).map_err(io::Error::other)?;
        if metadata.len() != 0 {
            return Err(io::Error::other(format!(
                "{} was replaced by a file that is not empty: move it away, and the log goes on in a new file",
                self.path.display()
            )));
        }
        let Head { seq, .. } = self.head;
        tracing::info!(seq, hash = self.head.hex(), "the audit log was renamed; it goes on in a new file");
        // The former file's lock goes with its descriptor, as it does when the log is dropped.
        let _ = flock(&self.file, FlockOperation::Unlock);
        self.file = file;
        self.place = Place::of(&metadata);
        self.length = 0;
        self.continues = true;
        Ok(())
    }
}

/// Opens or makes the file, for this process alone.
fn open(path: &Path) -> Result<(File, Metadata), OpenError> {
    let failed = |source| OpenError::File { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(OpenError::Kind(path.to_owned()));
    }
    let owner = metadata.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(OpenError::Owner { path: path.to_owned(), owner });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(OpenError::Exposed { path: path.to_owned(), mode });
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Held(path.to_owned())),
        Err(error) => return Err(failed(error.into())),
    }
    sync_directory(path).map_err(failed)?;
    Ok((file, metadata))
}

/// What the end of the file says.
pub(super) struct Tail {
    pub(super) chain: Chain,
    /// Whether the file ends with a line feed, or is empty.
    pub(super) complete: bool,
}

/// Follows the chain through the end of the file, from the first record found there: a long log is not read whole at
/// each start.
pub(super) fn read_tail(file: &mut File, length: u64) -> io::Result<Result<Tail, Broken>> {
    let mut span = TAIL;
    loop {
        let start = length.saturating_sub(span);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.take(length - start).read_to_end(&mut bytes)?;
        let complete = bytes.last().is_none_or(|last| *last == b'\n');
        let mut lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|byte| *byte == b'\n');
        let base = if bytes.is_empty() {
            return Ok(Ok(Tail { chain: Chain::new(), complete }));
        } else if start == 0 {
            Some(Chain::new())
        } else {
            // The first line may have begun before `start`.
            lines.by_ref().skip(1).find_map(Chain::resume)
        };
        match base {
            Some(mut chain) => {
                let followed = lines.try_for_each(|line| chain.follow(line));
                return Ok(followed.map(|()| Tail { chain, complete }));
            }
            None if span >= LONGEST_TAIL => {
                return Ok(Err(Broken { line: 0, reason: "no record is found there" }));
            }
            None => span *= 4,
        }
    }
}

/// Makes the file's name as durable as what will be written into it.
fn sync_directory(file: &Path) -> io::Result<()> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
impl Log {
    /// Makes every write fail, until [`Log::mend`].
    pub(super) fn fail(&mut self) -> File {
        std::mem::replace(&mut self.file, File::open("/dev/null").unwrap())
    }

    /// Ends what [`Log::fail`] began.
    pub(super) fn mend(&mut self, whole: File) {
        self.file = whole;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::verify::verify;
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const FIELDS: &str = r#"{"kind":"accepted","rule":1}"#;

    fn head(path: &Path) -> (u64, u64) {
        let bytes = std::fs::read(path).unwrap();
        let whole = bytes.strip_suffix(b"\n").expect("the last line is whole");
        let head = verify(whole.split(|byte| *byte == b'\n')).unwrap();
        (head.seq, head.torn)
    }

    fn log_of(path: &Path, records: usize) {
        let mut log = Log::open(path, NOW).unwrap();
        log.append((0..records).map(|_| (NOW, FIELDS))).unwrap();
    }

    fn add(path: &Path, bytes: &[u8]) {
        OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn a_cut_line_stays_and_is_accounted_for_wherever_the_crash_cut() {
        let directory = tempfile::tempdir().unwrap();
        let model = directory.path().join("model");
        log_of(&model, 3);
        let bytes = std::fs::read(&model).unwrap();
        let last = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for end in last..=bytes.len() {
            let path = directory.path().join(end.to_string());
            std::fs::write(&path, &bytes[..end]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            log_of(&path, 1);
            assert!(std::fs::read(&path).unwrap().starts_with(&bytes[..end]), "nothing is cut away");
            // Whole but for its line feed, the line counts.
            let expected = match end {
                end if end == last => (3 + 2, 0),
                end if end >= bytes.len() - 1 => (4 + 2, 0),
                _ => (3 + 1 + 2, 1),
            };
            assert_eq!(head(&path), expected, "cut at {end}");
        }
    }

    #[test]
    fn a_crash_while_a_cut_line_is_accounted_for_is_accounted_for_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        log_of(&path, 3);
        add(&path, b"{\"seq\":5,\"at\"");
        let cut = std::fs::read(&path).unwrap().len();
        drop(Log::open(&path, NOW).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        let torn = cut + 1 + bytes[cut + 1..].iter().position(|byte| *byte == b'\n').unwrap();
        for end in cut..=torn {
            let path = directory.path().join(end.to_string());
            std::fs::write(&path, &bytes[..end]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            log_of(&path, 1);
            assert_eq!(head(&path), (4 + 3, 1), "cut at {end}");
        }
    }

    #[test]
    fn a_long_log_is_continued_from_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        log_of(&path, 2000);
        assert!(std::fs::metadata(&path).unwrap().len() > 2 * TAIL);
        add(&path, &[b"{\"seq\":2002,".as_slice(), &vec![b'x'; usize::try_from(TAIL).unwrap()]].concat());
        log_of(&path, 2000);
        log_of(&path, 1);
        assert_eq!(head(&path), (2001 + 1 + 2001 + 2, 1));
    }

    #[test]
    fn what_a_failed_write_left_is_cut_off_because_nobody_was_told_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let mut log = Log::open(&path, NOW).unwrap();
        let whole = log.fail();
        assert!(log.append([(NOW, FIELDS)]).is_err());
        add(&path, b"{\"seq\":2,\"at");
        assert!(log.append([(NOW, FIELDS)]).is_err(), "it cannot be cut off yet");
        log.mend(whole);
        log.append([(NOW, FIELDS), (NOW, FIELDS)]).unwrap();
        assert_eq!(head(&path), (3, 0));
    }

    /// Follows the chain through files, from the oldest.
    fn follow(files: &[&Path]) -> Result<(u64, bool), Broken> {
        let mut chain = Chain::new();
        for file in files {
            chain.next_file()?;
            let bytes = std::fs::read(file).unwrap();
            let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            lines.split(|byte| *byte == b'\n').try_for_each(|line| chain.follow(line))?;
        }
        chain.end().map(|head| (head.seq, chain.base().is_some()))
    }

    #[test]
    fn i10_a_renamed_file_is_continued_in_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut log = Log::open(&at("log"), NOW).unwrap();
        log.append([(NOW, FIELDS)]).unwrap();
        std::fs::rename(at("log"), at("log.2")).unwrap();
        // Asking alone begins the file; its first line comes with the next record.
        log.append([]).unwrap();
        assert_eq!(std::fs::metadata(at("log")).unwrap().len(), 0);
        log.append([(NOW, FIELDS)]).unwrap();
        std::fs::rename(at("log"), at("log.1")).unwrap();
        // As logrotate's `create` does.
        File::create(at("log")).unwrap().set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
        log.append([(NOW, FIELDS), (NOW, FIELDS)]).unwrap();
        assert_eq!(follow(&[&at("log.2"), &at("log.1"), &at("log")]), Ok((2 + 2 + 3, false)));
        assert_eq!(follow(&[&at("log.1"), &at("log")]), Ok((7, true)));
        assert!(follow(&[&at("log.2"), &at("log")]).is_err());
        assert_eq!(log.head().seq, 7);
        assert!(matches!(Log::open(&at("log"), NOW), Err(OpenError::Held(_))));
        drop(Log::open(&at("log.1"), NOW).unwrap());
    }

    #[test]
    fn i10_a_file_that_was_renamed_while_nobody_wrote_is_continued_too() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        log_of(&at("log"), 2);
        std::fs::rename(at("log"), at("log-20260101")).unwrap();
        log_of(&at("logs"), 9);
        log_of(&at("log"), 1);
        assert_eq!(follow(&[&at("log-20260101"), &at("log")]), Ok((3 + 3, false)));

        // One that is no whole chain is evidence, and nothing to go on from, nor is what lies behind it.
        std::fs::rename(at("log"), at("log.broken")).unwrap();
        add(&at("log.broken"), b"junk\n");
        log_of(&at("log"), 1);
        assert_eq!(follow(&[&at("log")]), Ok((2, false)));
    }

    #[test]
    fn i10_a_log_that_somebody_cut_or_wrote_into_gets_no_line_until_it_is_moved_away() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut log = Log::open(&at("log"), NOW).unwrap();
        log.append([(NOW, FIELDS)]).unwrap();
        let whole = std::fs::read(at("log")).unwrap();
        let refused = |log: &mut Log, hint: &str| {
            for _ in 0..2 {
                let error = log.append([(NOW, FIELDS)]).unwrap_err().to_string();
                assert!(error.contains(hint), "{error}");
            }
        };
        // As logrotate's `copytruncate` does.
        std::fs::copy(at("log"), at("log.1")).unwrap();
        OpenOptions::new().write(true).open(at("log")).unwrap().set_len(0).unwrap();
        refused(&mut log, "copytruncate");
        assert_eq!(std::fs::metadata(at("log")).unwrap().len(), 0);
        add(&at("log"), &whole);
        log.append([(NOW, FIELDS)]).unwrap();
        add(&at("log"), b"forged\n");
        refused(&mut log, "somebody else");

        std::fs::rename(at("log"), at("log.1")).unwrap();
        std::fs::write(at("log"), "theirs\n").unwrap();
        std::fs::set_permissions(at("log"), PermissionsExt::from_mode(0o600)).unwrap();
        refused(&mut log, "not empty");
        std::fs::remove_file(at("log")).unwrap();
        symlink("/etc/hostname", at("log")).unwrap();
        refused(&mut log, "log");
        std::fs::remove_file(at("log")).unwrap();
        log.append([(NOW, FIELDS)]).unwrap();
        assert_eq!(follow(&[&at("log")]), Ok((5, true)));
        assert!(follow(&[&at("log.1")]).is_err());
    }

    #[test]
    fn a_changed_end_and_a_file_that_others_write_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        log_of(&path, 3);
        let bytes = std::fs::read(&path).unwrap();
        let changed = String::from_utf8(bytes.clone()).unwrap().replacen("\"rule\":1", "\"rule\":2", 1);
        std::fs::write(&path, changed).unwrap();
        assert!(matches!(Log::open(&path, NOW), Err(OpenError::Broken { .. })));
        for notes in ["somebody's notes\n", "{}\n", "\n\n\nx"] {
            std::fs::write(&path, notes.repeat(20_000)).unwrap();
            assert!(matches!(Log::open(&path, NOW), Err(OpenError::Broken { .. })), "{notes:?}");
            assert_eq!(std::fs::read(&path).unwrap().len(), notes.len() * 20_000, "it is left alone");
        }

        std::fs::write(&path, &bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(Log::open(&path, NOW), Err(OpenError::Exposed { mode: 0o620, .. })));
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(Log::open(&link, NOW), Err(OpenError::File { .. })));
        assert!(matches!(Log::open(directory.path(), NOW), Err(OpenError::File { .. })));
    }
}
