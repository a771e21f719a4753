//! A captured request: the bytes of an HTTP/1.1 head and body, read as the listener reads them from a connection.
//!
//! Answers nothing, and takes the first request of a file alone.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use anyhow::{Context as _, bail};
use axum::body::Body;
use axum::http::request::Parts;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::io::AsyncWriteExt as _;

use crate::listener::{Verdict, converse};

/// How often the connection is given its turn before its end is shown to it: all of it is in memory, so that a request
/// which is whole has been read long before.
const TURNS: usize = 10_000;

/// The first request in `bytes`, with its body.
///
/// # Errors
/// When the listener would not take it for one, or it is not whole.
pub(super) fn read(bytes: Vec<u8>) -> anyhow::Result<(Parts, Vec<u8>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(converse_with(bytes))
}

async fn converse_with(bytes: Vec<u8>) -> anyhow::Result<(Parts, Vec<u8>)> {
    let caught = Rc::new(RefCell::new(None));
    let service = service_fn(|request: Request<Incoming>| {
        let caught = Rc::clone(&caught);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await;
            caught.borrow_mut().get_or_insert((parts, body.map(|body| body.to_bytes().to_vec())));
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    });
    let (mut ours, theirs) = tokio::io::duplex(bytes.len().max(64));
    ours.write_all(&bytes).await?;
    let verdict = Verdict::default();
    let connection = converse(theirs, service, verdict.clone());
    let end = async {
        for _ in 0..TURNS {
            if caught.borrow().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // What was answered is not read; without its other end, the connection is over.
        drop(ours);
    };
    let (ended, ()) = tokio::join!(connection, end);
    let malformed = verdict.of(&ended);
    match (caught.take(), ended) {
        (Some((parts, body)), _) => Ok((parts, body.context("the body is shorter than the head says")?)),
        (None, Err(error)) => {
            let why = malformed.map_or_else(|| error.to_string(), |malformed| malformed.to_string());
            bail!("it is not the HTTP/1.1 that the gateway takes: {why}")
        }
        (None, Ok(())) => bail!("the head does not end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> anyhow::Result<(Parts, Vec<u8>)> {
        read(text.as_bytes().to_vec())
    }

    #[test]
    fn a_request_is_read_with_its_body() {
        let long = "x".repeat(100_000);
        for (text, body) in [
            ("POST /a?b HTTP/1.1\r\nhost: h\r\nContent-Length: 2\r\n\r\n{}".to_owned(), "{}".to_owned()),
            ("POST /a?b HTTP/1.1\r\nhost: h\r\nContent-Length: 2\r\n\r\n{}\n".to_owned(), "{}".to_owned()),
            ("POST /a?b HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n".to_owned(), "{}".to_owned()),
            (format!("POST /a?b HTTP/1.1\r\nhost: h\r\nContent-Length: 100000\r\n\r\n{long}"), long),
            ("POST /a?b HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(), String::new()),
        ] {
            let (parts, read) = read_text(&text).unwrap();
            assert_eq!((parts.method.as_str(), parts.uri.to_string().as_str()), ("POST", "/a?b"));
            assert_eq!(read, body.as_bytes());
            assert_eq!(parts.headers["host"], "h");
        }
    }

    #[test]
    fn what_is_no_whole_request_is_refused() {
        for text in [
            "",
            "POST",
            "POST /a HTTP/1.1\r\nhost: h\r\n",
            "POST /a HTTP/1.1\r\nhost: h\r\nContent-Length: 3\r\n\r\n{}",
            "GET / HTTP/9\r\n\r\n",
            "this is no request\r\n\r\n",
        ] {
            assert!(read_text(text).is_err(), "{text:?}");
        }
    }
}
