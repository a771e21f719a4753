//! Files that hold jobs: `wait_while_exists`, such as the lock that Puppet's agent takes for a run.
//!
//! Looks once a second, and only while a job that is next in line waits for a file; claims and starts nothing. A file that
//! cannot be looked at holds, and one that names a process that is gone does not.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use tokio::sync::mpsc;

use crate::queue::sqlite::Store;

/// From one look at a file to the next.
const EVERY: Duration = Duration::from_secs(1);

/// Files that were seen to be gone and nobody has acted upon; one more is looked at again.
pub(super) const FILES_AT_ONCE: usize = 64;

/// A file with a pid is not longer than this.
const LONGEST_PID: u64 = 32;

/// Tells `freed` which files no longer hold the jobs that wait for them, until it is dropped.
pub(super) async fn watch(store: Store, freed: mpsc::Sender<PathBuf>) {
    let mut told = BTreeSet::new();
    loop {
        let held = store.held_unlike(None).await;
        let files = store.held_by().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "it cannot be told which files hold jobs; it is tried again");
            Vec::new()
        });
        told.retain(|file| files.contains(file));
        for file in files {
            if look(&file, &mut told).await {
                continue;
            }
            told.remove(&file);
            // A worker without room does not listen; it is told again.
            let _ = freed.try_send(file);
        }
        tokio::select! {
            _ = store.held_unlike(Some(held)) => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Whether the file holds, on a thread that may block: it may be on a file system that hangs. Operators are told once.
async fn look(file: &Path, told: &mut BTreeSet<PathBuf>) -> bool {
    let looked = tokio::task::spawn_blocking({
        let file = file.to_owned();
        move || holds(&file)
    });
    let held = looked.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let mut is_news = || told.insert(file.to_owned());
    match held {
        Ok(false) => false,
        Ok(true) => {
            if is_news() {
                tracing::info!(file = %file.display(), "jobs wait while this file exists");
            }
            true
        }
        Err(error) => {
            if is_news() {
                tracing::warn!(
                    file = %file.display(), %error,
                    "jobs wait, because it cannot be told whether this file exists"
                );
            }
            true
        }
    }
}

/// Whether the file is there, and does not name a process that is gone.
fn holds(file: &Path) -> io::Result<bool> {
    // A pipe without a writer must not block.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    if !opened.metadata()?.is_file() {
        return Ok(true);
    }
    opened.take(LONGEST_PID + 1).read_to_end(&mut text)?;
    Ok(pid(&text).is_none_or(is_alive))
}

/// The pid that is all of a file's text.
fn pid(text: &[u8]) -> Option<Pid> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok().and_then(Pid::from_raw) } else { None }
}

fn is_alive(pid: Pid) -> bool {
    match test_kill_process(pid) {
        Err(Errno::SRCH) => false,
        // Of another user; or whatever else, when in doubt.
        Ok(()) | Err(_) => !is_zombie(pid),
    }
}

/// Whether the process has ended, and only its parent has not noticed.
fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_unless_it_names_a_process_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent_catalog_run.lock");
        assert!(!holds(&file).unwrap(), "it is not there");
        // Above the kernel's greatest pid.
        let gone = "4194305";
        for (text, expected) in [
            ("", true),
            ("locked\n", true),
            (&std::process::id().to_string(), true),
            (&format!("{}\n", std::process::id()), true),
            ("1", true),
            (gone, false),
            (&format!(" {gone} \n"), false),
            (&format!("{gone} x"), true),
            (&format!("-{gone}"), true),
            (&format!("+{gone}"), true),
            ("0", true),
            ("99999999999999999999", true),
            (&" ".repeat(40), true),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(holds(&file).unwrap(), expected, "{text:?}");
        }
        assert!(holds(directory.path()).unwrap(), "a directory is there, too");
        assert!(holds(&file.join("below")).is_err(), "in doubt, it holds");
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_holds_without_blocking() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(holds(&pipe).unwrap());
    }
}
