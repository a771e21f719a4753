//! The connections of the operators' socket: who may speak through it, and how much of anything they may take.
//!
//! Is given connections; the socket and its file are `app`'s.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;

use super::answer::Answer;
use super::{Caller, Desk};
use crate::queue::operate::Repeat;

/// Connections at once; further ones wait.
pub const CONNECTIONS: usize = 32;
/// From a connection's beginning to the end of its request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// For a whole connection: it carries one request.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// Most header fields of a request.
const MOST_HEADERS: usize = 32;
/// Largest head of a request, in bytes; hyper takes no less.
const LARGEST_HEAD: usize = 8 * 1024;
/// Answers the one request of a connection.
pub async fn attend<R: Repeat>(stream: UnixStream, desk: Arc<Desk<R>>) {
    let (own, desk) = (rustix::process::geteuid().as_raw(), &*desk);
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
