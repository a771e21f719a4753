//! Where promotions work: a directory of the moment, or one that is kept so that the next fetch has less to bring.
//!
//! A kept directory is one process's at a time, held by a lock, and nobody else may write in it: git obeys what stands
//! there. What an unfinished promotion left is thrown away, so that no stale lock or half-written object can stay.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use tempfile::TempDir;

/// How long another promotion in the same directory is waited for.
const TURN: Duration = Duration::from_secs(600);

/// Why there is no place to work.
#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    /// The system says no.
    #[error("cannot use the work directory {}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody else could put something there.
    #[error(
        "the work directory {} belongs to somebody else, or others may write in it; git obeys what is in it, so make it \
         the own directory of the user that promotes, mode 0700",
        .0.display()
    )]
    NotOurs(PathBuf),
    /// Too many, or one that hangs.
    #[error("another promotion holds the work directory {} for more than {} s", .0.display(), TURN.as_secs())]
    Taken(PathBuf),
}

/// A directory that is this process's alone.
#[derive(Debug)]
pub(super) struct Place {
    /// The repository, made when it is not there.
    pub(super) repository: PathBuf,
    /// An empty directory.
    pub(super) scratch: PathBuf,
    unfinished: PathBuf,
    _kept: Option<File>,
    _passing: Option<TempDir>,
}

impl Place {
    /// Opens `kept`, made when it is not there, or a directory that goes with this value.
    pub(super) async fn open(kept: Option<&Path>) -> Result<Self, NoPlace> {
        let Some(kept) = kept else {
            let failed = |error| NoPlace::Io { path: std::env::temp_dir(), error };
            let passing = tempfile::Builder::new().prefix("bridgeward-promote-").tempdir().map_err(failed)?;
            let root = passing.path().to_owned();
            return Self::furnish(&root, None, Some(passing)).map_err(failed);
        };
        let failed = |error| NoPlace::Io { path: kept.to_owned(), error };
        let root = std::path::absolute(kept).map_err(failed)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed)?;
        let found = root.symlink_metadata().map_err(failed)?;
        let ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
        if !found.is_dir() || !ours {
            return Err(NoPlace::NotOurs(root));
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let lock = options.open(root.join("lock")).map_err(failed)?;
        let taking = tokio::task::spawn_blocking(move || {
            rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
                .map(|()| lock)
        });
        let taken = tokio::time::timeout(TURN, taking).await.map_err(|_| NoPlace::Taken(root.clone()))?;
        let lock = taken.map_err(io::Error::other).and_then(|lock| Ok(lock?)).map_err(failed)?;
        Self::furnish(&root, Some(lock), None).map_err(failed)
    }

    fn furnish(root: &Path, kept: Option<File>, passing: Option<TempDir>) -> io::Result<Self> {
        let (repository, scratch) = (root.join("control.git"), root.join("scratch"));
        let unfinished = root.join("unfinished");
        if unfinished.exists() {
            remove(&repository)?;
        }
        remove(&scratch)?;
        DirBuilder::new().mode(0o700).create(&scratch)?;
        File::create(&unfinished)?;
        Ok(Self { repository, scratch, unfinished, _kept: kept, _passing: passing })
    }

    /// Says that what is in the repository is whole.
    pub(super) fn finish(&self) -> io::Result<()> {
        std::fs::remove_file(&self.unfinished)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_kept_directory_is_one_promotions_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let kept = parent.path().join("a/b");
        let first = Place::open(Some(&kept)).await.unwrap();
        assert_eq!(kept.metadata().unwrap().mode() & 0o777, 0o700);
        let second = tokio::spawn(async move { Place::open(Some(&kept)).await.map(drop) });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!second.is_finished());
        first.finish().unwrap();
        drop(first);
        second.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_was_not_finished_is_thrown_away() {
        let kept = tempfile::tempdir().unwrap();
        let open = || Place::open(Some(kept.path()));
        let place = open().await.unwrap();
        std::fs::create_dir(&place.repository).unwrap();
        std::fs::write(place.scratch.join("x"), "").unwrap();
        place.finish().unwrap();
        drop(place);
        let place = open().await.unwrap();
        assert!(place.repository.exists() && !place.scratch.join("x").exists());
        drop(place);
        assert!(!open().await.unwrap().repository.exists());
    }

    #[tokio::test]
    async fn a_directory_that_others_may_write_in_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let kept = parent.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        for mode in [0o777, 0o770, 0o702] {
            std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(Place::open(Some(&kept)).await, Err(NoPlace::NotOurs(_))), "{mode:o}");
        }
        let link = parent.path().join("link");
        std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        assert!(matches!(Place::open(Some(&link)).await, Err(NoPlace::NotOurs(_))));
    }
}
