//! A small HTTPS client: one request on one connection, with a time limit and a bound on the answer.
//!
//! Trusts a CA file or the system's certificates, and shows a client certificate where it has one. Follows no
//! redirects, knows no proxies and no cookies, and tries nothing twice.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{HOST, HeaderMap, HeaderValue};
use axum::http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::policy::secret::Secret;

mod failure;
#[cfg(test)]
pub(super) mod fixture;
mod target;
#[cfg(test)]
mod tests;

pub use failure::{Failure, Fate};
pub use target::{NotATarget, Target};

/// Largest answer that is read, in bytes.
pub const LARGEST_ANSWER: usize = 64 * 1024 * 1024;
/// For finding the host, connecting, and the TLS handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Whom to trust to vouch for the gateway.
#[derive(Clone, Debug)]
pub enum CaSource {
    /// Every certificate of a PEM file.
    File(PathBuf),
    /// The system's certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR` count).
    System,
}

/// A client certificate.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The PEM chain, own certificate first.
    pub chain: Vec<u8>,
    /// Its private key, in PEM.
    pub key: Secret,
}

impl ClientCertificate {
    /// Reads chain and key.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, Failure> {
        Ok(Self { chain: read(chain)?, key: Secret::new(read(key)?) })
    }
}

/// Sends requests to gateways.
#[derive(Clone, Debug)]
pub struct Client {
    tls: Arc<ClientConfig>,
    with_certificate: bool,
    largest_answer: usize,
}

/// A request as it goes out; the client adds `Host`.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The method.
    pub method: &'a Method,
    /// Where it goes.
    pub target: &'a Target,
    /// All headers but `Host` and those of the body's length.
    pub headers: &'a HeaderMap,
    /// The body; may be empty.
    pub body: &'a [u8],
}

impl Client {
    /// A client that trusts `trust` and shows `identity`.
    ///
    /// # Errors
    /// When there is nothing to trust, or the certificate cannot be used.
    pub fn new(trust: &CaSource, identity: Option<&ClientCertificate>) -> Result<Self, Failure> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Failure::Setup)?
            .with_root_certificates(roots(trust)?);
        let mut tls = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&identity.chain).collect();
                let chain = chain.map_err(|error| Failure::Identity(error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(identity.key.expose())
                    .map_err(|error| Failure::Identity(format!("its key: {error}")))?;
                if chain.is_empty() {
                    return Err(Failure::Identity("there is no certificate in the chain".into()));
                }
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| Failure::Identity(error.to_string()))?
            }
        };
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls), with_certificate: identity.is_some(), largest_answer: LARGEST_ANSWER })
    }

    /// Sends one request and reads the whole answer; connecting and the rest may each take `limit`.
    ///
    /// # Errors
    /// When there is no complete answer, with the reason.
    pub async fn send(&self, request: Outgoing<'_>, limit: Duration) -> Result<Response<Bytes>, Failure> {
        let authority = || request.target.authority.clone();
        let soon = limit.min(CONNECT_LIMIT);
        let connected = tokio::time::timeout(soon, self.connect(request.target)).await;
        let stream =
            connected.map_err(|_| Failure::NoConnection { authority: authority(), limit: soon })??;
        let answered = tokio::time::timeout(limit, self.exchange(stream, request)).await;
        answered.map_err(|_| Failure::NoAnswer { authority: authority(), limit })?
    }

    async fn connect(&self, target: &Target) -> Result<TlsStream<TcpStream>, Failure> {
        let Target { host, port, authority, .. } = target;
        let resolve = |cause| Failure::Resolve { host: host.clone(), cause };
        let connect = |cause| Failure::Connect { authority: authority.clone(), cause };
        let addresses: Vec<_> =
            tokio::net::lookup_host((host.as_str(), *port)).await.map_err(resolve)?.collect();
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(connect)?;
        // Without this the request may wait for the acknowledgement of the handshake's last message.
        stream.set_nodelay(true).map_err(connect)?;
        let name = ServerName::try_from(host.clone())
            .map_err(|error| resolve(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
        let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        handshake.map_err(|error| failure::handshake(authority, error))
    }

    async fn exchange(
        &self,
        stream: TlsStream<TcpStream>,
        request: Outgoing<'_>,
    ) -> Result<Response<Bytes>, Failure> {
        let authority = &request.target.authority;
        let message = message(request)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failure::broken(authority, &[&error], self.with_certificate))?;
        // The set ends the connection when this function is done or given up.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let response = match sender.send_request(message).await {
            Ok(response) => response,
            Err(error) => {
                drop(sender);
                let ended = driver.join_next().await.and_then(Result::ok).and_then(Result::err);
                let causes: [Option<&(dyn std::error::Error + 'static)>; 2] =
                    [Some(&error), ended.as_ref().map(|ended| ended as _)];
                let causes: Vec<_> = causes.into_iter().flatten().collect();
                return Err(failure::broken(authority, &causes, self.with_certificate));
            }
        };
        let (head, body) = response.into_parts();
        match Limited::new(body, self.largest_answer).collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(Failure::TooLarge { most: self.largest_answer })
            }
            Err(error) => Err(failure::broken(authority, &[error.as_ref()], self.with_certificate)),
        }
    }
}

fn message(request: Outgoing<'_>) -> Result<Request<Full<Bytes>>, Failure> {
    let mut message = Request::builder()
        .method(request.method)
        .uri(&request.target.path_and_query)
        .body(Full::new(Bytes::copy_from_slice(request.body)))
        .map_err(Failure::Unsendable)?;
    let host = HeaderValue::try_from(&request.target.authority);
    message.headers_mut().clone_from(request.headers);
    message.headers_mut().insert(HOST, host.map_err(|error| Failure::Unsendable(error.into()))?);
    Ok(message)
}

fn roots(trust: &CaSource) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    match trust {
        CaSource::File(path) => {
            let pem = read(path)?;
            let certificates: Result<Vec<CertificateDer<'_>>, _> =
                CertificateDer::pem_slice_iter(&pem).collect();
            roots.add_parsable_certificates(certificates.unwrap_or_default());
            if roots.is_empty() {
                return Err(Failure::NoCertificates { path: path.clone() });
            }
        }
        CaSource::System => {
            // One unreadable certificate among the system's is no reason to trust none of the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Failure::NoSystemRoots);
            }
        }
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|cause| Failure::Read { path: path.into(), cause })
}
