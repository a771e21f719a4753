//! Which file an empty log continues: the one that a rotation has put aside while no gateway ran.
//!
//! Only looks, and only beside the log: at names that begin with the log's own, and of those at the youngest alone. Had
//! that one been changed, going on from an older file would hide it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::file::{Tail, read_tail};
use super::verify::Chain;

/// The chain of the youngest file named like `path` with something behind it, such as `audit.jsonl.1`; `None` when
/// there is none, or it is not a whole chain.
pub(super) fn find(path: &Path) -> Option<Chain> {
    let name = path.file_name()?.as_encoded_bytes();
    let is_later = |found: &Path| {
        let rest = found.file_name().and_then(|found| found.as_encoded_bytes().strip_prefix(name));
        // The log of workers in a process of their own stands beside a gate's, which may be called just `audit`.
        rest.is_some_and(|rest| {
            matches!(rest.first(), Some(b'.' | b'-')) && !rest.starts_with(b".work.jsonl")
        })
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut youngest: Option<((i64, i64), PathBuf)> = None;
    for entry in std::fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        if !is_later(&path) || !metadata.is_file() || metadata.len() == 0 {
            continue;
        }
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        if youngest.as_ref().is_none_or(|(at, _)| *at < changed) {
            youngest = Some((changed, path));
        }
    }
    let (_, path) = youngest?;
    let mut file = open(&path)?;
    let length = file.metadata().ok()?.len();
    let Tail { chain, complete } = read_tail(&mut file, length).ok()?.ok()?;
    if !complete || chain.cut().is_some() {
        return None;
    }
    tracing::info!(file = %path.display(), seq = chain.head().seq, "the audit log continues this file");
    Some(chain)
}

fn open(path: &Path) -> Option<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
}
