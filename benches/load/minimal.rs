//! The smallest server that the gateway's libraries make: TLS, HTTP/1.1, and 404 for everything. In a process of its own, so
//! that what it costs can be told apart.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// The argument that makes a benchmark be this server.
pub const ROLE: &str = "be-the-minimal-server";

/// One that runs; it is killed when dropped.
pub struct Minimal {
    pub child: Child,
    pub address: SocketAddr,
}

impl Minimal {
    /// Starts this same program once more.
    pub fn start(certificate: &Path, key: &Path) -> Self {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(own);
        command.arg(ROLE).args([certificate, key]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap() }
    }
}

impl Drop for Minimal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until it is killed.
pub fn serve(certificate: &str, key: &str) {
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let router = Router::new().fallback(|| async { (StatusCode::NOT_FOUND, "You shall not pass!") });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(socket).await.unwrap();
                let service = service_fn(move |request| router.clone().oneshot(request));
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
            });
        }
    });
}
