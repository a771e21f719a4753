//! Requests that are signed as `bridgeward call` signs them, each a message of its own.

use std::time::SystemTime;

use axum::http::Request;
use bridgeward::domain::name::KeyName;
use bridgeward::gate::scheme::{ToSign, sign};
use bridgeward::policy::secret::Secret;
use http_body_util::Full;
use hyper::body::Bytes;

use crate::site::SECRET;

/// The key `jenkins`.
pub struct Key {
    name: KeyName,
    secret: Secret,
}

impl Key {
    pub fn jenkins() -> Self {
        let secret = Secret::new(SECRET.as_bytes().to_vec());
        Self { name: KeyName::parse("jenkins").unwrap(), secret }
    }

    /// A signed POST to `path` at `authority`.
    pub fn post(&self, authority: &str, path: &str, body: &'static str) -> Request<Full<Bytes>> {
        let (method, headers) = ("POST", &[]);
        let to_sign =
            ToSign { method, authority, path_and_query: path, headers, body: Some(body.as_bytes()) };
        let now = SystemTime::now().try_into().unwrap();
        let nonce = uuid::Uuid::now_v7().to_string();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in sign(&to_sign, &self.name, &self.secret, now, &nonce).unwrap() {
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
    }
}
