//! What `call` and `sign` share: the request that the arguments describe, and the signature over it.
//!
//! Refuses headers that the client or the signature sets itself. Sends nothing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

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

/// Largest body that is sent, in bytes.
pub const LARGEST_BODY: u64 = 64 * 1024 * 1024;
/// Shortest secret, in bytes; no gateway loads a shorter one.
const SHORTEST_SECRET: usize = 16;

/// Headers that follow from the rest of the request.
const SET_BY_US: [HeaderName; 8] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("signature"),
    HeaderName::from_static("signature-input"),
];

#[derive(Clone, Debug, clap::Args)]
#[expect(
    missing_docs,
    reason = "clap would show the documentation of a flattened struct as the subcommand's"
)]
pub struct RequestArgs {
    /// Where to send it, such as `https://gateway.example.com:8443/promote`
    #[arg(value_name = "URL")]
    pub url: String,

    /// The body: text, `@FILE` for a file's bytes as they are, or `@-` for standard input
    #[arg(long, short = 'd', value_name = "TEXT|@FILE|@-", allow_hyphen_values = true)]
    pub data: Option<String>,

    /// The method; by default POST with a body and GET without
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    pub method: Option<String>,

    /// A header, `'Name: value'`; may be given several times. Where the request is signed, it is signed too
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
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
        let target = Target::parse(&self.url).with_context(|| format!("cannot call `{}`", self.url))?;
        let body = self.data.as_deref().map(|data| read_data(data, stdin)).transpose()?;
        let default = if body.is_some() { Method::POST } else { Method::GET };
        let method = match &self.method {
            Some(method) => Method::from_bytes(method.as_bytes())
                .with_context(|| format!("`{method}` is not a method, such as POST"))?,
            None => default,
        };
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for given in &self.headers {
            let (name, value) = parse_header(given)?;
            ensure!(
                !SET_BY_US.contains(&name),
                "the header `{name}` is set by this command itself: leave it out"
            );
            ensure!(headers.iter().all(|(known, _)| *known != name), "the header `{name}` is given twice");
            headers.push((name, value));
        }
        Ok(Prepared { target, method, headers, body })
    }
}

impl Prepared {
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
            for (name, value) in self.sign(signer, created, &fresh_nonce()?)? {
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

fn read_data(data: &str, stdin: impl Read) -> anyhow::Result<Vec<u8>> {
    let (what, bytes) = match data.strip_prefix('@') {
        None => return Ok(data.as_bytes().to_vec()),
        Some("") => bail!("`--data @` names no file: write `@FILE`, or `@-` for standard input"),
        Some("-") => ("standard input".to_owned(), read_bounded(stdin)),
        Some(path) => {
            let path = PathBuf::from(path);
            (path.display().to_string(), File::open(&path).and_then(read_bounded))
        }
    };
    let bytes = bytes.with_context(|| format!("cannot read the body from {what}"))?;
    ensure!(
        u64::try_from(bytes.len()).is_ok_and(|length| length <= LARGEST_BODY),
        "the body from {what} is larger than {} MiB",
        LARGEST_BODY / 1024 / 1024
    );
    Ok(bytes)
}

fn read_bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LARGEST_BODY + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_header(given: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let hint = || format!("`{given}` is not a header, such as 'X-GitHub-Event: push'");
    let (name, value) = given.split_once(':').with_context(hint)?;
    let name = HeaderName::from_bytes(name.as_bytes()).with_context(hint)?;
    let value = HeaderValue::from_str(value.trim_matches([' ', '\t'])).with_context(hint)?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn args() -> RequestArgs {
        RequestArgs { url: "https://gw:8443/a?b".into(), data: None, method: None, headers: Vec::new() }
    }

    fn prepared(args: &RequestArgs) -> Result<Prepared, String> {
        args.prepare(&b"from stdin"[..]).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_method_follows_from_the_body_unless_it_is_given() {
        let with = |data: Option<&str>, method: Option<&str>| {
            let args = RequestArgs { data: data.map(Into::into), method: method.map(Into::into), ..args() };
            prepared(&args).unwrap().method
        };
        assert_eq!(with(None, None), Method::GET);
        assert_eq!(with(Some(""), None), Method::POST);
        assert_eq!(with(Some("x"), Some("PUT")), Method::PUT);
        assert_eq!(with(None, Some("post")).as_str(), "post");
    }

    #[test]
    fn data_is_text_a_file_or_standard_input_to_the_byte() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"\xff\n").unwrap();
        let at_file = format!("@{}", file.path().display());
        for (data, bytes) in [("{}", &b"{}"[..]), ("-1", b"-1"), (&at_file, b"\xff\n"), ("@-", b"from stdin")]
        {
            let prepared = prepared(&RequestArgs { data: Some(data.into()), ..args() }).unwrap();
            assert_eq!(prepared.body.as_deref(), Some(bytes), "{data}");
        }
    }

    #[test]
    fn arguments_that_cannot_be_sent_are_refused_with_a_hint() {
        let header = |given: &str| RequestArgs { headers: vec![given.into()], ..args() };
        for (args, hint) in [
            (RequestArgs { url: "http://gw/".into(), ..args() }, "https://"),
            (RequestArgs { method: Some("A B".into()), ..args() }, "such as POST"),
            (RequestArgs { data: Some("@".into()), ..args() }, "@FILE"),
            (RequestArgs { data: Some("@/nonexistent/body".into()), ..args() }, "/nonexistent/body"),
            (header("no colon"), "X-GitHub-Event: push"),
            (header("a b: c"), "X-GitHub-Event: push"),
            (header("a: \u{1}"), "X-GitHub-Event: push"),
            (header("Host: other"), "leave it out"),
            (header("Signature: x"), "leave it out"),
            (header("Content-Digest: x"), "leave it out"),
            (RequestArgs { headers: vec!["X-A: 1".into(), "x-a: 2".into()], ..args() }, "twice"),
        ] {
            let refusal = prepared(&args).unwrap_err();
            assert!(refusal.contains(hint), "{refusal}");
        }
    }

    #[test]
    fn a_body_without_bound_is_not_read_to_its_end() {
        let args = RequestArgs { data: Some("@-".into()), ..args() };
        let refusal = args.prepare(std::io::repeat(b'x')).unwrap_err();
        assert!(refusal.to_string().contains("larger than 64 MiB"), "{refusal}");
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
        let sent = |data: Option<&str>, headers: &[&str]| {
            let headers = headers.iter().map(ToString::to_string).collect();
            let args = RequestArgs { data: data.map(Into::into), headers, ..args() };
            let headers = prepared(&args).unwrap().sent_headers(None, Timestamp::UNIX_EPOCH).unwrap();
            headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(sent(None, &[]), None);
        assert_eq!(sent(Some("{}"), &[]).as_deref(), Some("application/json"));
        assert_eq!(sent(Some("{}"), &["Content-Type: text/plain"]).as_deref(), Some("text/plain"));
    }
}
