//! Senders: keep-alive TLS connections.
//!
//! All of them run on one thread: the gateway under load has the other cores to itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderValue, Request, StatusCode, header};
use bridgeward::trust::mint::{Authority, Issued};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
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
        let (http, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Sender { http, authority: format!("localhost:{}", self.address.port()) }
    }
}

/// One keep-alive connection.
pub struct Sender {
    http: SendRequest<Full<Bytes>>,
    /// What the gateway is called in `Host`.
    pub authority: String,
}

impl Sender {
    /// Sends, and reads the whole answer: its status, and how long it took.
    pub async fn ask(&mut self, mut request: Request<Full<Bytes>>) -> (StatusCode, Duration) {
        request.headers_mut().insert(header::HOST, HeaderValue::try_from(&self.authority).unwrap());
        let began = Instant::now();
        self.http.ready().await.unwrap();
        let response = self.http.send_request(request).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        (status, began.elapsed())
    }
}

/// The runtime of all senders.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
