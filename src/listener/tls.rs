//! The TLS side of the public listener: versions, protocol, and no resumption.
//!
//! A resumed session would carry over the client certificate of the first one unverified, so that a revoked
//! certificate could resume: tickets, session ids and early data are all off.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;

use crate::clock::Clock;
use crate::trust;
use crate::trust::server::ServerIdentity;

/// What the server shows, and how it verifies what clients show; without a verifier it asks for no certificate.
/// Certificates are verified at the time that `clock` tells.
///
/// # Errors
/// When the cryptography cannot be set up.
pub fn tls_config(
    server: &ServerIdentity,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    clock: &Clock,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = trust::provider();
    // The first key exchange of a process costs tens of milliseconds; better now than in somebody's handshake.
    if let Some(group) = provider.kx_groups.first() {
        group.start()?;
    }
    let builder = ServerConfig::builder_with_details(provider, Arc::new(WallTime(clock.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(server.certified_key())));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    // All suites are good ones; but which of them is used is the gateway's to say.
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct WallTime(Clock);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since_epoch = self.0.now().duration_since(jiff::Timestamp::UNIX_EPOCH);
        std::time::Duration::try_from(since_epoch).ok().map(UnixTime::since_unix_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::mint::{Authority, Validity};

    #[test]
    fn everything_that_could_resume_is_off() {
        let clock = Clock::system();
        let validity = Validity::days(clock.now(), 1);
        let ca = Authority::new("CA", validity).unwrap();
        let own = ca.issue_server(&["localhost".to_owned()], validity).unwrap();
        let own = ServerIdentity::parse(own.certificate.as_bytes(), own.key.as_bytes(), clock.now()).unwrap();
        let config = tls_config(&own, None, &clock).unwrap();
        assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
        assert!(!config.session_storage.can_cache() && !config.ticketer.enabled());
    }
}
