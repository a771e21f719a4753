//! Senders: keep-alive TLS connections, with as little HTTP on them as answers with a `content-length` need: what a sender
//! costs is taken from the gateway beside it.
//!
//! All of them run on one thread: the gateway under load has the other cores to itself.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{Method, Request, StatusCode};
use bridgeward::trust::mint::{Authority, Issued};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use memchr::memmem;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where requests go, and whom to trust there.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Target {
    pub fn new(address: SocketAddr, ca: &Authority, shows: Option<&Issued>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let tls = match shows {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
            }
        };
        Self { address, tls: Arc::new(tls) }
    }

    /// A connection on which no request has been sent.
    pub async fn greet(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await
    }

    pub async fn connect(&self) -> Sender {
        self.speak(self.greet().await.unwrap()).await
    }

    pub async fn speak(&self, stream: TlsStream<TcpStream>) -> Sender {
        Sender { stream, bytes: Vec::new(), authority: format!("localhost:{}", self.address.port()) }
    }
}

/// One keep-alive connection.
pub struct Sender {
    stream: TlsStream<TcpStream>,
    /// What is sent, and then what is received.
    bytes: Vec<u8>,
    /// What the gateway is called in `Host`.
    pub authority: String,
}

impl Sender {
    /// Sends, and reads the whole answer: its status, and how long it took.
    pub async fn ask(&mut self, request: Request<Full<Bytes>>) -> (StatusCode, Duration) {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.bytes.clear();
        write!(self.bytes, "{} {} HTTP/1.1\r\nhost: {}\r\n", parts.method, parts.uri, self.authority)
            .unwrap();
        for (name, value) in &parts.headers {
            self.bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        if parts.method != Method::GET {
            write!(self.bytes, "content-length: {}\r\n", body.len()).unwrap();
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes.extend_from_slice(&body);
        let began = Instant::now();
        self.stream.write_all(&self.bytes).await.unwrap();
        self.stream.flush().await.unwrap();
        self.bytes.clear();
        let (status, length) = loop {
            if let Some(found) = head(&self.bytes) {
                break found;
            }
            assert!(self.stream.read_buf(&mut self.bytes).await.unwrap() > 0, "no answer");
        };
        while self.bytes.len() < length {
            assert!(self.stream.read_buf(&mut self.bytes).await.unwrap() > 0, "half an answer");
        }
        assert_eq!(self.bytes.len(), length);
        (status, began.elapsed())
    }
}

/// The status of an answer, and how long all of it is, once its head is whole.
fn head(bytes: &[u8]) -> Option<(StatusCode, usize)> {
    let head = &bytes[..memmem::find(bytes, b"\r\n\r\n")?];
    let status = StatusCode::from_bytes(&bytes["HTTP/1.1 ".len()..][..3]).unwrap();
    let length =
        std::str::from_utf8(head).unwrap().lines().find_map(|line| line.strip_prefix("content-length: "));
    Some((status, head.len() + 4 + length.unwrap().parse::<usize>().unwrap()))
}

/// The runtime of all senders.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
