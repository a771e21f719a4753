//! The Unix socket itself: its file, who may speak through it, and how much of anything they may take.
//!
//! A socket file that nobody listens on any more is replaced; one that somebody listens on is an error. The file is
//! removed at the end, unless another process has put its own in its place.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::{Caller, Desk};
use crate::queue::operate::Repeat;

/// Connections at once; further ones wait.
const CONNECTIONS: usize = 32;
/// From a connection's beginning to the end of its request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// For a whole connection: it carries one request.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// Most header fields of a request.
const MOST_HEADERS: usize = 32;
/// Largest head of a request, in bytes; hyper takes no less.
const LARGEST_HEAD: usize = 8 * 1024;
/// How long open connections are waited for at the end.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Pause after a connection that could not be accepted, such as for want of descriptors.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// A socket that is listened on; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    place: (u64, u64),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens on it.
    #[error(
        "another process listens on {}: stop it first, or choose another `[admin] socket`", .0.display()
    )]
    Live(PathBuf),
    /// Something else has the name.
    #[error("{} is there and is not a socket: choose another `[admin] socket`", .0.display())]
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

impl Socket {
    /// Listens on `path`, for this user and root alone. Needs a tokio runtime.
    ///
    /// # Errors
    /// When another process listens there, or the file cannot be made.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
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
        // The umask of `serve` has seen to that already; whoever connects in between is asked for its user anyway.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(system)?;
        let metadata = std::fs::symlink_metadata(path).map_err(system)?;
        Ok(Self { listener, path: path.to_owned(), place: (metadata.dev(), metadata.ino()) })
    }

    /// Answers until `end`.
    pub async fn serve<R: Repeat>(self, desk: Desk<R>, end: CancellationToken) {
        let desk = Arc::new(desk);
        let own = rustix::process::geteuid().as_raw();
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        let mut open = JoinSet::new();
        loop {
            let next = async {
                let turn = Arc::clone(&turns).acquire_owned().await;
                (turn, self.listener.accept().await)
            };
            let (turn, accepted) = tokio::select! {
                () = end.cancelled() => break,
                next = next => next,
            };
            while open.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    let desk = Arc::clone(&desk);
                    open.spawn(async move {
                        let _turn = turn;
                        attend(stream, own, &desk).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the operators' socket cannot accept a connection");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
        // Whoever is not answered by then sees the connection close, as at the end of the process.
        let all = async { while open.join_next().await.is_some() {} };
        drop(tokio::time::timeout(LAST_ANSWERS_WITHIN, all).await);
    }
}

impl Drop for Socket {
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

/// Answers the one request of a connection.
async fn attend<R: Repeat>(stream: UnixStream, own: u32, desk: &Desk<R>) {
    let uid = match stream.peer_cred() {
        Ok(credentials) => credentials.uid(),
        Err(error) => {
            tracing::warn!(%error, "a connection to the operators' socket was closed: nobody knows whose it is");
            return;
        }
    };
    let is_operator = uid == 0 || uid == own;
    if !is_operator {
        tracing::warn!(
            uid,
            "a user that is neither root nor the gateway's own spoke to the operators' socket"
        );
    }
    let requests = service_fn(|request: Request<Incoming>| async move {
        let answer = if is_operator {
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
            desk.answer(Caller { uid }, request.method(), path, query).await
        } else {
            let why = format!("user {uid} may not: ask root, or the user that the gateway runs as");
            Answer::error(StatusCode::FORBIDDEN, why)
        };
        Ok::<_, Infallible>(answer.into_response())
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), requests);
    match tokio::time::timeout(ANSWERED_WITHIN, pin!(connection)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(uid, %error, "a connection to the operators' socket broke"),
        Err(_) => tracing::debug!(uid, "a connection to the operators' socket took too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_file_is_replaced_a_live_one_and_a_foreign_one_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(Socket::bind(&path), Err(SocketError::Live(_))));
        drop(first);
        assert!(!path.exists(), "removed at the end");

        // What `kill -9` leaves behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = Socket::bind(&path).unwrap();

        // Somebody else's file is not removed.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "notes").unwrap();
        drop(second);
        assert!(matches!(Socket::bind(&path), Err(SocketError::Kind(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"notes");
        let nowhere = directory.path().join("none/admin.sock");
        assert!(Socket::bind(&nowhere).unwrap_err().to_string().contains("directory must be there"));
    }
}
