//! One request to the operators' socket, and its answer.
//!
//! Says what to do when nobody listens there, or when it is not open to this user.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::printable::printable;
use axum::http::header::HOST;
use axum::http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// For one answer; the gateway takes no longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// Largest answer, in bytes: the kept output of a job is in it, escaped.
const LARGEST_ANSWER: usize = 1 << 30;

/// Speaks to one socket.
pub(in crate::cli) struct Client {
    socket: PathBuf,
}

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Refused {
    #[error(
        "no gateway listens on {}: it must run, and name this file as `socket` under `[admin]` in gateway.toml; \
         --socket or --policy name another",
        .0.display()
    )]
    Nobody(PathBuf),
    #[error(
        "{} is not open to this user: ask as root, or as the user that the gateway runs as",
        .0.display()
    )]
    Closed(PathBuf),
    #[error("{}: {cause}", socket.display())]
    Broken { socket: PathBuf, cause: Box<dyn std::error::Error + Send + Sync> },
    #[error("{0}")]
    Said(String),
}

#[derive(Deserialize)]
struct Problem {
    error: String,
}

impl Client {
    pub(in crate::cli) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The body of the answer, when it is one of success.
    pub(in crate::cli) async fn ask(&self, method: Method, path: &str) -> Result<Bytes, Refused> {
        let broken = |cause: Box<dyn std::error::Error + Send + Sync>| Refused::Broken {
            socket: self.socket.clone(),
            cause,
        };
        let answered = tokio::time::timeout(ANSWER_WITHIN, self.exchange(method, path));
        let (status, body) = answered.await.map_err(|_| broken("the gateway does not answer".into()))??;
        if status.is_success() {
            return Ok(body);
        }
        Err(match serde_json::from_slice::<Problem>(&body) {
            // Whoever listens on the socket may be of another user.
            Ok(problem) => Refused::Said(printable(&problem.error, true)),
            Err(_) => broken(format!("this is not a gateway's socket: it answers {status}").into()),
        })
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), Refused> {
        let socket = || self.socket.clone();
        let broken = |error: hyper::Error| Refused::Broken { socket: socket(), cause: error.into() };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let kind = error.kind();
            if kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused {
                Refused::Nobody(socket())
            } else if kind == io::ErrorKind::PermissionDenied {
                Refused::Closed(socket())
            } else {
                Refused::Broken { socket: socket(), cause: error.into() }
            }
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // The set ends the connection when this function is done or given up.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() =
            path.parse().map_err(|error| Refused::Broken { socket: socket(), cause: Box::new(error) })?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("bridgeward"));
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await;
        let body = body.map_err(|cause| Refused::Broken { socket: socket(), cause })?;
        Ok((head.status, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn what_is_said_at_the_socket_does_not_act_upon_a_terminal() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let body = r#"{"error":"a\u001b[2J\nb"}"#;
        let answer = async {
            let mut stream = listener.accept().await.unwrap().0;
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            let head = format!("HTTP/1.1 422 No\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        };
        let client = Client::new(socket);
        let (said, ()) = tokio::join!(client.ask(Method::POST, "/reload"), answer);
        assert_eq!(said.unwrap_err().to_string(), "a\\u{1b}[2J\nb");
    }
}
