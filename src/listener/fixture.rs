//! A listener over real TLS on loopback, with certificates minted for each test, and its clients.
//! Not part of the program.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{Counts, Limits, Malformed, Reports, Settings, bind, serve, tls_config};
use crate::clock::Clock;
use crate::domain::identity::{Peer, Shown};
use crate::policy::tests::{GATEWAY, compile};
use crate::trust::mint::{Authority, Issued, Validity};
use crate::trust::server::ServerIdentity;
use crate::trust::{Trust, provider};

pub(super) const LONG: Duration = Duration::from_mins(1);
pub(super) const SHORT: Duration = Duration::from_millis(100);
pub(super) const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub(super) const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
pub(super) const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

pub(super) fn generous() -> Limits {
    Limits {
        connections: 64,
        connections_per_source: 64,
        connections_per_identity: 64,
        handshake: LONG,
        headers: LONG,
        idle: LONG,
        drain: LONG,
    }
}

/// Those of a policy that sets none.
pub(super) fn defaults() -> Limits {
    Limits::from(&compile(GATEWAY, &[]).unwrap().policy.limits)
}

/// A gateway under test, and the CA of its clients.
pub(super) struct Gateway {
    pub(super) ca: Authority,
    pub(super) revoked: Issued,
    pub(super) address: SocketAddr,
    settings: watch::Sender<Arc<Settings>>,
    pub(super) counts: Counts,
    pub(super) stop: CancellationToken,
    pub(super) serving: JoinHandle<()>,
    pub(super) held: Arc<Notify>,
    pub(super) arrived: mpsc::UnboundedReceiver<()>,
    pub(super) dropped: mpsc::UnboundedReceiver<()>,
    pub(super) malformed: mpsc::UnboundedReceiver<Malformed>,
}

/// A body without end that tells when it is dropped.
struct Endless(mpsc::UnboundedSender<()>);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 8192])))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

impl Gateway {
    /// Answers with what was shown; holds `/held` until told, keeps `/slow` waiting, and answers `/endless` for ever.
    pub(super) fn start(limits: Limits) -> Self {
        let clock = Clock::system();
        let validity = Validity::days(clock.now(), 2);
        let ca = Authority::new("Test CA", validity).unwrap();
        let revoked = client(&ca, "revoked.example.com");
        let crl = ca.crl(&[&revoked], validity).unwrap();
        let trust = Trust::parse(ca.pem().as_bytes(), Some(crl.as_bytes()), clock.now()).unwrap();
        let own = ca.issue_server(&["localhost".to_owned()], validity).unwrap();
        let own = ServerIdentity::parse(own.certificate.as_bytes(), own.key.as_bytes(), clock.now()).unwrap();
        let tls = tls_config(&own, Some(trust.client_verifier().unwrap()), &clock).unwrap();
        let sockets = bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let stop = CancellationToken::new();
        let held = Arc::new(Notify::new());
        let (arrival, arrived) = mpsc::unbounded_channel();
        let (drop_of_body, dropped) = mpsc::unbounded_channel();
        let hold = Arc::clone(&held);
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let (hold, arrival, drop_of_body) = (Arc::clone(&hold), arrival.clone(), drop_of_body.clone());
            async move {
                let peer = request.extensions().get::<Arc<Peer>>().unwrap();
                let mut text = match &peer.shown {
                    Shown::Verified(presented) => presented.certificate.certname.clone(),
                    Shown::Nothing => "nothing".to_owned(),
                    Shown::Unusable(why) => format!("unusable: {why}"),
                };
                let _ = arrival.send(());
                if request.uri().path() == "/held" {
                    hold.notified().await;
                } else if request.uri().path() == "/slow" {
                    sleep(SHORT * 4).await;
                } else if request.uri().path() == "/endless" {
                    return Ok::<_, Infallible>(Response::new(Body::new(Endless(drop_of_body))));
                }
                text.push('|');
                Ok(Response::new(Body::from(text)))
            }
        });
        let counts = Counts::default();
        let (report, malformed) = mpsc::unbounded_channel();
        let settings =
            watch::Sender::new(Arc::new(Settings { tls, epoch: 0, limits, trusted_proxies: Vec::new() }));
        let serving = tokio::spawn(serve(
            sockets,
            settings.subscribe(),
            clock,
            service,
            stop.clone(),
            Reports {
                counts: counts.clone(),
                malformed: Box::new(move |_, why| report.send(why).unwrap_or_default()),
            },
        ));
        Self { ca, revoked, address, settings, counts, stop, serving, held, arrived, dropped, malformed }
    }

    /// Puts other limits in force.
    pub(super) fn limit(&self, limits: Limits) {
        self.settings.send_modify(|settings| {
            let Settings { tls, epoch, trusted_proxies, .. } = &**settings;
            let (tls, trusted_proxies) = (Arc::clone(tls), trusted_proxies.clone());
            *settings = Arc::new(Settings { tls, epoch: *epoch, limits, trusted_proxies });
        });
    }

    pub(super) fn config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<&Issued>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.pem().as_bytes()).unwrap()).unwrap();
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        Arc::new(match certificate {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }

    pub(super) fn client(&self, certname: &str) -> Issued {
        client(&self.ca, certname)
    }

    pub(super) async fn connect(&self, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        self.greet(config, TcpStream::connect(self.address).await?).await
    }

    pub(super) async fn greet(
        &self,
        config: Arc<ClientConfig>,
        socket: TcpStream,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), socket).await
    }

    pub(super) async fn anonymous(&self) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect(self.config(TLS13, None)).await
    }

    /// Connects and asks, whatever goes wrong on the way.
    pub(super) async fn ask(&self, config: Arc<ClientConfig>) -> std::io::Result<String> {
        ask(&mut soon(self.connect(config)).await?, GET).await
    }
}

pub(super) fn client(ca: &Authority, certname: &str) -> Issued {
    ca.issue_client(certname, &BTreeMap::new(), Validity::days(Clock::system().now(), 1)).unwrap()
}

/// Sends `request` and reads until the answer's last byte, which is a bar in all of ours.
pub(super) async fn ask(stream: &mut TlsStream<TcpStream>, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    while !text.ends_with('|') {
        match soon(stream.read_u8()).await? {
            byte if byte.is_ascii() => text.push(char::from(byte)),
            _ => return Err(std::io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(text)
}

/// Waits for the other side to end the connection; whether it did so in order.
pub(super) async fn ended(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.is_ok()
}

/// What comes of `event`, which a test waits for in vain when something is wrong.
pub(super) async fn soon<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(LONG / 3, event).await.expect("it never happened")
}
