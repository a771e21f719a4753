//! A policy and everything that was made from it, prepared and proven before it is used.
//!
//! `check` prepares one and throws it away; `serve` prepares one and uses it. Starts nothing and opens no database.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::ServerConfig;

use crate::clock::Clock;
use crate::listener;
use crate::policy::diagnostic::{Diagnostics, Place};
use crate::policy::{self, ClientTrust, Credentials, Examined, Policy, Purpose};
use crate::trust::server::ServerIdentity;
use crate::trust::{Trust, TrustError};

/// What one policy directory came to.
pub struct Generation {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Where to listen.
    pub addresses: Vec<SocketAddr>,
    /// The listener's TLS configuration.
    pub tls: Arc<ServerConfig>,
    /// What client certificates are held against; `None` where none is asked for.
    pub trust: Option<Arc<Trust>>,
    /// Hosts that signatures may name.
    pub authorities: Vec<String>,
}

impl Generation {
    /// Loads a policy for a process that listens, and the certificates that it names.
    ///
    /// # Errors
    /// Everything that is wrong with them, and the warnings.
    pub fn prepare(
        directory: &Path,
        purpose: Purpose,
        clock: &Clock,
    ) -> Result<(Self, Diagnostics), Diagnostics> {
        Self::prepare_as(directory, directory, purpose, clock)
    }

    /// The same, as if the policy in `directory` stood in `place`.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_as(
        directory: &Path,
        place: &Path,
        purpose: Purpose,
        clock: &Clock,
    ) -> Result<(Self, Diagnostics), Diagnostics> {
        let Examined { policy, credentials, mut found } = policy::examine_as(directory, place, purpose);
        let now = clock.now();
        let server = server_identity(&credentials, now, &mut found);
        let trust = credentials.clients.as_ref().and_then(|clients| trust_in(clients, now, &mut found));
        let verifier = match (&credentials.clients, &trust) {
            (None, _) => Some(None),
            (Some(clients), Some(trust)) => trust
                .client_verifier()
                .map_err(|error| found.error_at(place_of(&error, clients), error.to_string()))
                .ok()
                .map(Some),
            (Some(_), None) => None,
        };
        let listen = policy.as_ref().and_then(|policy| policy.listen.clone());
        let (Some(policy), Some(listen), Some(server), Some(verifier), 0) =
            (policy, listen, server, verifier, found.errors())
        else {
            return Err(found);
        };
        let tls = match listener::tls_config(&server, verifier, clock) {
            Ok(tls) => tls,
            Err(error) => {
                found.error_at(&listen.private_key.place, error.to_string());
                return Err(found);
            }
        };
        let authorities = listen.authorities.clone().unwrap_or_else(|| server.names().to_vec());
        let addresses = listen.addresses;
        let generation =
            Self { policy: Arc::new(policy), addresses, tls, trust: trust.map(Arc::new), authorities };
        Ok((generation, found))
    }
}

/// Chain and key, each looked at alone before both together, so that one that is bad hides nothing of the other.
fn server_identity(
    credentials: &Credentials,
    now: Timestamp,
    found: &mut Diagnostics,
) -> Option<ServerIdentity> {
    let certificate = credentials.certificate.as_ref().filter(|file| {
        let checked = ServerIdentity::check_chain(&file.bytes, now);
        checked.map_err(|error| found.error_at(&file.place, error.to_string())).is_ok()
    });
    let private_key = credentials.private_key.as_ref().filter(|file| {
        let checked = ServerIdentity::check_key(file.pem.expose());
        checked.map_err(|error| found.error_at(&file.place, error.to_string())).is_ok()
    });
    let (certificate, private_key) = certificate.zip(private_key)?;
    ServerIdentity::parse(&certificate.bytes, private_key.pem.expose(), now)
        .map_err(|error| found.error_at(&private_key.place, error.to_string()))
        .ok()
}

fn trust_in(clients: &ClientTrust, now: Timestamp, found: &mut Diagnostics) -> Option<Trust> {
    let crl = clients.crl.as_ref().map(|crl| crl.bytes.as_slice());
    Trust::parse(&clients.ca.bytes, crl, now)
        .map_err(|error| found.error_at(place_of(&error, clients), error.to_string()))
        .ok()
}

/// The key in `gateway.toml` that names the file which is at fault.
fn place_of<'a>(error: &TrustError, clients: &'a ClientTrust) -> &'a Place {
    let ca = &clients.ca.place;
    match error {
        TrustError::ListFile(_) | TrustError::List { .. } => {
            clients.crl.as_ref().map_or(ca, |crl| &crl.place)
        }
        TrustError::AuthorityFile(_)
        | TrustError::Authority { .. }
        | TrustError::AllRevoked
        | TrustError::Verifier(_) => ca,
    }
}
