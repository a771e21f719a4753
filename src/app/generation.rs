//! A policy and everything that was made from it, prepared and proven before it is used.
//!
//! `check` prepares one and throws it away; `serve` prepares one and uses it. Starts nothing and opens no database.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::clock::Clock;
use crate::listener;
use crate::policy::diagnostic::Diagnostics;
use crate::policy::{self, Loaded, Policy};
use crate::trust::Trust;
use crate::trust::server::ServerIdentity;

/// What one policy directory came to.
pub struct Generation {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The listener's TLS configuration.
    pub tls: Arc<ServerConfig>,
    /// What client certificates are held against; `None` where none is asked for.
    pub trust: Option<Arc<Trust>>,
    /// Hosts that signatures may name.
    pub authorities: Vec<String>,
}

impl Generation {
    /// Loads a policy and the certificates that it names.
    ///
    /// # Errors
    /// Everything that is wrong with them, and the warnings.
    pub fn prepare(directory: &Path, clock: &Clock) -> Result<(Self, Diagnostics), Diagnostics> {
        let Loaded { policy, warnings } = policy::load(directory)?;
        let mut found = Diagnostics::default();
        let listen = &policy.listen;
        let now = clock.now();
        let server = ServerIdentity::parse(&listen.certificate.bytes, listen.private_key.pem.expose(), now)
            .map_err(|error| found.error_in_file(&listen.certificate.path, error.to_string()))
            .ok();
        let trust = listen.clients.as_ref().and_then(|clients| {
            let crl = clients.crl.as_ref().map(|crl| crl.bytes.as_slice());
            let parsed = Trust::parse(&clients.ca.bytes, crl, now);
            // Which of the two files is meant stands in the error.
            parsed.map_err(|error| found.error_in_file(&clients.ca.path, error.to_string())).ok()
        });
        let verifier = match (&listen.clients, &trust) {
            (None, _) => Some(None),
            (Some(clients), Some(trust)) => trust
                .client_verifier()
                .map_err(|error| found.error_in_file(&clients.ca.path, error.to_string()))
                .ok()
                .map(Some),
            (Some(_), None) => None,
        };
        let tls = match (&server, verifier) {
            (Some(server), Some(verifier)) => listener::tls_config(server, verifier, clock)
                .map_err(|error| found.error_in_file(&listen.private_key.path, error.to_string()))
                .ok(),
            (None, _) | (_, None) => None,
        };
        let (Some(server), Some(tls), 0) = (server, tls, found.errors()) else {
            found.merge(warnings);
            return Err(found);
        };
        let authorities = listen.authorities.clone().unwrap_or_else(|| server.names().to_vec());
        let generation = Self { policy: Arc::new(policy), tls, trust: trust.map(Arc::new), authorities };
        Ok((generation, warnings))
    }
}
