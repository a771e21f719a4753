//! A Unix socket's file: made at the start, for those who may speak through it, and removed at the end.
//!
//! A file that nobody listens on any more is replaced; one that somebody listens on is an error. The file is left alone
//! at the end when another process has put its own in its place. Who is at the other end of a connection is asked by
//! whoever serves it: the file's mode alone lets nobody in.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::policy::User;

/// How long open connections are waited for at the end.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Pause after a connection that could not be accepted, such as for want of descriptors.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// A file of a socket; removed when this is dropped.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Device and inode.
    place: (u64, u64),
}

/// A socket that is listened on.
#[derive(Debug)]
pub(super) struct Bound {
    listener: UnixListener,
    file: File,
}

/// A socket that is served until it is closed.
pub(super) struct Served {
    task: JoinHandle<()>,
    end: CancellationToken,
    _file: File,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens on it.
    #[error("another process listens on {}: stop it first, or choose another file", .0.display())]
    Live(PathBuf),
    /// Something else has the name.
    #[error("{} is there and is not a socket: choose another file", .0.display())]
    Kind(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {}: {source}; its directory must be there, and this process must be able to write in it",
            path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Bound {
    /// Listens on `path`, for this user and root alone. Needs a tokio runtime.
    ///
    /// # Errors
    /// When another process listens there, or the file cannot be made.
    pub(super) fn own(path: &Path) -> Result<Self, SocketError> {
        let system = |source| SocketError::System { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system(error)),
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(SocketError::Kind(path.to_owned()));
            }
            Ok(_) if is_live(path).map_err(system)? => return Err(SocketError::Live(path.to_owned())),
            Ok(_) => std::fs::remove_file(path).map_err(system)?,
        }
        let listener = UnixListener::bind(path).map_err(system)?;
        // The process's umask has seen to that already; whoever connects in between is asked for its user anyway.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(system)?;
        let metadata = std::fs::symlink_metadata(path).map_err(system)?;
        let file = File { path: path.to_owned(), place: (metadata.dev(), metadata.ino()) };
        Ok(Self { listener, file })
    }

    /// As [`Bound::own`], for that user, too: by its group where this process may give the file away, else by a mode that
    /// keeps nobody from connecting.
    ///
    /// # Errors
    /// As [`Bound::own`].
    pub(super) fn shared(path: &Path, with: Option<&User>) -> Result<Self, SocketError> {
        let bound = Self::own(path)?;
        let Some(user) = with.filter(|user| user.uid != rustix::process::geteuid().as_raw()) else {
            return Ok(bound);
        };
        let system = |source| SocketError::System { path: path.to_owned(), source };
        let given = std::os::unix::fs::lchown(path, None, Some(user.gid));
        let mode = if given.is_ok() { 0o660 } else { 0o666 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(system)?;
        Ok(bound)
    }

    /// Lets `attend` answer each connection until the socket is closed; beyond so many at once they wait.
    pub(super) fn serve<A, F>(self, at_once: usize, attend: A) -> Served
    where
        A: Fn(UnixStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (Self { listener, file }, end) = (self, CancellationToken::new());
        let ended = end.clone();
        let task = tokio::spawn(async move {
            accept(&listener, at_once, attend, &ended).await;
        });
        Served { task, end, _file: file }
    }
}

async fn accept<A, F>(listener: &UnixListener, at_once: usize, attend: A, end: &CancellationToken)
where
    A: Fn(UnixStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let turns = Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS)));
    let mut open = JoinSet::new();
    loop {
        let next = async {
            let turn = Arc::clone(&turns).acquire_owned().await;
            (turn, listener.accept().await)
        };
        let (turn, accepted) = tokio::select! {
            () = end.cancelled() => break,
            next = next => next,
        };
        while open.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let attended = attend(stream);
                open.spawn(async move {
                    let _turn = turn;
                    attended.await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a socket cannot accept a connection");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
    // Whoever is not answered by then sees the connection close, as at the end of the process.
    let all = async { while open.join_next().await.is_some() {} };
    drop(tokio::time::timeout(LAST_ANSWERS_WITHIN, all).await);
}

impl Served {
    /// Returns when it has ended by itself.
    pub(super) async fn ended(&mut self) {
        super::tell((&mut self.task).await);
    }

    /// Answers whoever was let in, and ends.
    pub(super) async fn close(self) {
        self.end.cancel();
        super::finish(self.task).await;
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let is_ours = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino()) == self.place;
        if std::fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // A file that stays is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether somebody listens on a socket file. A full queue of connections is somebody, too.
fn is_live(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_file_is_replaced_a_live_one_and_a_foreign_one_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let first = Bound::own(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(Bound::own(&path), Err(SocketError::Live(_))));
        drop(first);
        assert!(!path.exists(), "removed at the end");

        // What `kill -9` leaves behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = Bound::own(&path).unwrap();

        // Somebody else's file is not removed.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "notes").unwrap();
        drop(second);
        assert!(matches!(Bound::own(&path), Err(SocketError::Kind(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"notes");
        let nobody = User { name: "nobody".into(), uid: 65534, gid: 65534 };
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        let shared = directory.path().join("queue.sock");
        let bound = Bound::shared(&shared, Some(&nobody)).unwrap();
        assert!(matches!(mode(&shared), 0o660 | 0o666), "{:o}", mode(&shared));
        drop(bound);
        let _bound = Bound::shared(&shared, None).unwrap();
        assert_eq!(mode(&shared), 0o600);
        let nowhere = directory.path().join("none/admin.sock");
        assert!(Bound::own(&nowhere).unwrap_err().to_string().contains("directory must be there"));
    }
}
