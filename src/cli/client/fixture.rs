//! A TLS server for tests: certificates minted on the spot, and answers by a closure.
//! Not part of the program.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::http::request::Parts;
use axum::http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::ClientCertificate;
use crate::policy::secret::Secret;

/// With this status the server hangs up without an answer.
pub(in crate::cli) const HANG_UP: u16 = 444;

/// A CA that signs for tests.
pub(in crate::cli) struct Ca {
    pub(in crate::cli) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Seen {
    pub(in crate::cli) head: Parts,
    pub(in crate::cli) body: Vec<u8>,
}

/// A running server.
pub(in crate::cli) struct Server {
    pub(in crate::cli) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Ca {
    pub(in crate::cli) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key for `name`, in PEM.
    pub(in crate::cli) fn issue(&self, name: &str, expired: bool) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(7));
        if expired {
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub(in crate::cli) fn client(&self, expired: bool) -> ClientCertificate {
        let (chain, key) = self.issue("client", expired);
        ClientCertificate { chain: chain.into_bytes(), key: Secret::new(key.into_bytes()) }
    }

    /// A revocation list with the serial number of everything that is issued here.
    fn crl(&self) -> CertificateRevocationListDer<'static> {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(7),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2999, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().clone()
    }

    /// A server's settings; `clients` (and whether they are revoked) makes client certificates necessary.
    pub(in crate::cli) fn server(
        &self,
        name: &str,
        expired: bool,
        clients: Option<(&Self, bool)>,
    ) -> ServerConfig {
        let (chain, key) = self.issue(name, expired);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some((ca, revoked)) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .with_crls(revoked.then(|| ca.crl()));
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        builder.with_single_cert(vec![chain], key).unwrap()
    }
}

impl Server {
    /// Serves until the runtime ends; `answer` is told how many requests came before.
    pub(in crate::cli) async fn start(
        tls: ServerConfig,
        answer: impl Fn(usize, &Seen) -> Response<String> + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls, answer)
    }

    pub(in crate::cli) fn start_on(
        listener: TcpListener,
        tls: ServerConfig,
        answer: impl Fn(usize, &Seen) -> Response<String> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, acceptor) = (Arc::new(answer), TlsAcceptor::from(Arc::new(tls)));
        let record = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, record) = (acceptor.clone(), Arc::clone(&answer), Arc::clone(&record));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (answer, record) = (Arc::clone(&answer), Arc::clone(&record));
                        async move {
                            let (head, body) = request.into_parts();
                            let body =
                                body.collect().await.map_err(std::io::Error::other)?.to_bytes().to_vec();
                            let mut record = record.lock().unwrap();
                            let now_seen = Seen { head, body };
                            let response = answer(record.len(), &now_seen);
                            record.push(now_seen);
                            if response.status() == HANG_UP {
                                return Err(std::io::Error::other("hung up"));
                            }
                            let response = response.map(|text| Full::new(Bytes::from(text)));
                            Ok(response)
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, seen }
    }

    pub(in crate::cli) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub(in crate::cli) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}
