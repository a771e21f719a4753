//! Answers of the operators' socket: JSON, metrics, or the bytes that a command wrote.
//!
//! Knows nothing of what is answered.

use std::fmt::Display;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Serialize;

use crate::queue::Unavailable;

/// What the text form of `OpenMetrics` calls itself.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Status and body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Json(Vec<u8>),
    Bytes(Vec<u8>),
    /// The text form of `OpenMetrics`.
    Metrics(String),
}

#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
}

impl Answer {
    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => Self { status, body: Body::Json(bytes) },
            Err(error) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }

    pub(super) fn ok(value: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, value)
    }

    /// `{"error":"..."}`
    pub(super) fn error(status: StatusCode, error: impl Display) -> Self {
        let body = serde_json::to_vec(&Problem { error: &error.to_string() }).unwrap_or_default();
        Self { status, body: Body::Json(body) }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let (kind, bytes) = match self.body {
            Body::Json(bytes) => ("application/json", bytes),
            Body::Bytes(bytes) => ("application/octet-stream", bytes),
            Body::Metrics(text) => (METRICS, text.into_bytes()),
        };
        let mut response = Response::new(Full::new(Bytes::from(bytes)));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl From<Unavailable> for Answer {
    fn from(error: Unavailable) -> Self {
        Self::error(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}
