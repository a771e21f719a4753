//! What `call` and `sign` share: the request that the arguments describe, and the signature over it.
//!
//! What the command line says is parsed while it is read; what it names is read here. Sends nothing.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use super::client::Target;
use crate::domain::name::KeyName;
use crate::gate::scheme::{ToSign, sign};
use crate::policy::secret::Secret;

mod data;
mod headers;

pub use data::Data;
pub use headers::Headers;

/// Shortest secret, in bytes; no gateway loads a shorter one.
const SHORTEST_SECRET: usize = 16;
/// Longest message id that a gateway takes in every form.
const LONGEST_ID: usize = 128;
/// By this the gateway recognises a message that is not signed.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

#[derive(Clone, Debug, clap::Args)]
#[expect(
    missing_docs,
    reason = "clap would show the documentation of a flattened struct as the subcommand's"
)]
pub struct RequestArgs {
    /// Where to send it, such as `https://gateway.example.com:8443/promote`
    #[arg(value_name = "URL", value_parser = Target::parse)]
    pub url: Target,

    /// The body: text, `@FILE` for a file's bytes as they are, or `@-` for standard input
    #[arg(
        long,
        short = 'd',
        value_name = "TEXT|@FILE|@-",
        allow_hyphen_values = true,
        value_parser = Data::parse
    )]
    pub data: Option<Data>,

    /// The method; by default POST with a body and GET without
    #[arg(short = 'X', long = "request", value_name = "METHOD", value_parser = method)]
    pub method: Option<Method>,

    /// The message's id, such as Jenkins' `BUILD_TAG`: the gateway runs the same message once, however often it is sent. It
    /// becomes the signature's nonce, and the Idempotency-Key beside a certificate; by default a fresh one
    #[arg(long, value_name = "ID", value_parser = message_id)]
    pub message_id: Option<String>,

    #[command(flatten)]
    pub headers: Headers,
}

/// A request that is ready to be signed and sent.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Where it goes.
    pub target: Target,
    /// The method.
    pub method: Method,
    /// The headers that were given.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, if there is one; may be empty.
    pub body: Option<Vec<u8>>,
    /// The message's id, where it is not to be a fresh one.
    pub id: Option<String>,
}

/// Who signs.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The key's name in the gateway's policy.
    pub key: KeyName,
    /// The secret that it shares with us.
    pub secret: Secret,
}

impl RequestArgs {
    /// Reads what the arguments name; `stdin` is read for `--data @-` alone.
    ///
    /// # Errors
    /// When an argument is not what it should be, or a file cannot be read.
    pub fn prepare(&self, stdin: impl Read) -> anyhow::Result<Prepared> {
        let body = self.data.as_ref().map(|data| data.read(stdin)).transpose()?;
        let default = if body.is_some() { Method::POST } else { Method::GET };
        let method = self.method.clone().unwrap_or(default);
        let (target, headers) = (self.url.clone(), self.headers.as_slice().to_vec());
        Ok(Prepared { target, method, headers, body, id: self.message_id.clone() })
    }
}

impl Prepared {
    /// The same request with an `Idempotency-Key`, a fresh one where none was given: sent again, it is recognised.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn recognisable(mut self) -> anyhow::Result<Self> {
        if self.headers.iter().all(|(name, _)| *name != IDEMPOTENCY_KEY) {
            self.headers.push((IDEMPOTENCY_KEY, HeaderValue::try_from(self.nonce()?)?));
        }
        Ok(self)
    }

    /// The message's id, or a fresh one.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn nonce(&self) -> anyhow::Result<String> {
        self.id.clone().map_or_else(fresh_nonce, Ok)
    }

    /// The headers that sign this request, by name and value.
    ///
    /// # Errors
    /// When there is something in it that a signature cannot cover.
    pub fn sign(
        &self,
        signer: &Signer,
        created: Timestamp,
        nonce: &str,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        let request = ToSign {
            method: self.method.as_str(),
            authority: &self.target.authority,
            path_and_query: &self.target.path_and_query,
            headers: &self.headers,
            body: self.body.as_deref(),
        };
        sign(&request, &signer.key, &signer.secret, created, nonce).context("this request cannot be signed")
    }

    /// All headers as they are sent, with a signature where there is a signer.
    ///
    /// # Errors
    /// When the request cannot be signed.
    pub fn sent_headers(&self, signer: Option<&Signer>, created: Timestamp) -> anyhow::Result<HeaderMap> {
        let mut headers: HeaderMap = self.headers.iter().cloned().collect();
        if self.body.is_some() && !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(signer) = signer {
            for (name, value) in self.sign(signer, created, &self.nonce()?)? {
                headers.insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::try_from(value)?);
            }
        }
        Ok(headers)
    }
}

impl Signer {
    /// Reads the secret from a file: its bytes less one trailing line feed.
    ///
    /// # Errors
    /// When the file cannot be read or holds too little.
    pub fn read(key: &KeyName, path: &Path) -> anyhow::Result<Self> {
        let mut bytes =
            std::fs::read(path).with_context(|| format!("cannot read the secret file {}", path.display()))?;
        bytes.pop_if(|last| *last == b'\n');
        ensure!(
            bytes.len() >= SHORTEST_SECRET,
            "the secret in {} has fewer than {SHORTEST_SECRET} bytes; `openssl rand -base64 32` makes a good one",
            path.display()
        );
        Ok(Self { key: key.clone(), secret: Secret::new(bytes) })
    }
}

/// 128 random bits as text: a message id that nobody else has.
///
/// # Errors
/// When the system gives no randomness.
pub fn fresh_nonce() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    if random.fill(&mut bytes).is_err() {
        bail!("the system gives no random bytes, and a signature needs a fresh nonce");
    }
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn message_id(given: &str) -> Result<String, String> {
    let is_id =
        (1..=LONGEST_ID).contains(&given.len()) && given.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let is_trimmed = given.trim() == given;
    if is_id && is_trimmed {
        Ok(given.to_owned())
    } else {
        Err(format!("a message's id has 1 to {LONGEST_ID} characters of ASCII, and no space at its ends"))
    }
}

fn method(given: &str) -> Result<Method, &'static str> {
    Method::from_bytes(given.as_bytes()).map_err(|_| "a method is a word, such as POST")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        request: RequestArgs,
    }

    fn args(given: &[&str]) -> Result<RequestArgs, String> {
        let line = Line::try_parse_from([given, &["https://gw:8443/a?b"]].concat());
        line.map(|line| line.request).map_err(|error| error.to_string())
    }

    fn prepared(given: &[&str]) -> Result<Prepared, String> {
        args(given)?.prepare(&b"from stdin"[..]).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_method_follows_from_the_body_unless_it_is_given() {
        let method = |given: &[&str]| prepared(given).unwrap().method;
        assert_eq!(method(&[]), Method::GET);
        assert_eq!(method(&["-d", ""]), Method::POST);
        assert_eq!(method(&["-d", "x", "-X", "PUT"]), Method::PUT);
        assert_eq!(method(&["-X", "post"]).as_str(), "post");
    }

    #[test]
    fn arguments_that_cannot_be_sent_are_refused_with_a_hint() {
        for (given, hint) in
            [(["-X", "A B"], "such as POST"), (["-d", "@"], "@FILE"), (["-H", "x"], "a header")]
        {
            let refusal = args(&given).unwrap_err();
            assert!(refusal.contains(hint), "{refusal}");
        }
        for (url, hint) in [("http://gw/", "https://"), ("foo", "not a URL"), ("https://gw/#a", "%23")] {
            let refusal = Line::try_parse_from([url]).map(|_| ()).unwrap_err().to_string();
            assert!(refusal.contains(hint), "{refusal}");
        }
    }

    #[test]
    fn an_idempotency_key_is_the_users_or_a_fresh_one() {
        let key = |given: &[&str]| {
            let headers = prepared(given).unwrap().recognisable().unwrap().headers;
            assert_eq!(headers.len(), 1);
            headers[0].1.to_str().unwrap().to_owned()
        };
        assert_eq!(key(&["-H", "Idempotency-Key: mine"]), "mine");
        assert_ne!(key(&[]), key(&[]));
        assert!((1..=128).contains(&key(&[]).len()));
    }

    #[test]
    fn i6_a_given_id_is_the_messages_in_every_form() {
        let prepared = prepared(&["--message-id", "jenkins-promote \"web\"-7"]).unwrap();
        let signer = Signer { key: KeyName::parse("jenkins").unwrap(), secret: Secret::new(b"x".to_vec()) };
        let request = prepared.recognisable().unwrap();
        let headers = request.sent_headers(Some(&signer), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(headers[IDEMPOTENCY_KEY], "jenkins-promote \"web\"-7");
        let input = headers["signature-input"].to_str().unwrap();
        assert!(input.contains(r#"nonce="jenkins-promote \"web\"-7""#), "{input}");
        for bad in ["", " a", "a ", "é", "a\n", &"x".repeat(LONGEST_ID + 1)] {
            assert!(args(&[&format!("--message-id={bad}")]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_secret_is_the_files_bytes_less_one_line_feed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let key = KeyName::parse("jenkins").unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            Signer::read(&key, file.path()).map(|signer| signer.secret.expose().to_vec())
        };
        assert_eq!(read(b"0123456789abcdef\n\n").unwrap(), b"0123456789abcdef\n");
        assert_eq!(read(b"0123456789abcdef").unwrap(), b"0123456789abcdef");
        let refusal = read(b"0123456789abcde\n").unwrap_err().to_string();
        assert!(refusal.contains("openssl rand") && !refusal.contains("0123"), "{refusal}");
        assert!(Signer::read(&key, Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn nonces_are_fresh() {
        assert_ne!(fresh_nonce().unwrap(), fresh_nonce().unwrap());
    }

    #[test]
    fn a_body_is_json_unless_it_is_said_otherwise() {
        let sent = |given: &[&str]| {
            let headers = prepared(given).unwrap().sent_headers(None, Timestamp::UNIX_EPOCH).unwrap();
            headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(sent(&[]), None);
        assert_eq!(sent(&["-d", "{}"]).as_deref(), Some("application/json"));
        assert_eq!(sent(&["-d", "{}", "-H", "Content-Type: text/plain"]).as_deref(), Some("text/plain"));
    }
}
