//! A policy and everything that was made from it, prepared and proven before it is used.
//!
//! `check` prepares one and throws it away; `serve` prepares one and uses it, and a reload one that follows it. Starts
//! nothing and opens no database.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;

use super::succession;
use crate::clock::Clock;
use crate::domain::alarm::Alarm;
use crate::listener;
use crate::policy::diagnostic::{Diagnostics, Place};
use crate::policy::renewal::Renewal;
use crate::policy::{self, ClientTrust, Credentials, Examined, Listen, Policy, Purpose};
use crate::trust::server::ServerIdentity;
use crate::trust::{Trust, TrustError};

/// What one policy directory came to.
pub struct Generation {
    /// Where it was read.
    pub directory: PathBuf,
    /// Which process it was read for.
    pub purpose: Purpose,
    /// The policy.
    pub policy: Arc<Policy>,
    /// What the network is faced with; `None` for workers alone.
    pub listening: Option<Listening>,
}

/// What the network is faced with.
pub struct Listening {
    /// What the listener shows.
    pub server: Arc<ServerIdentity>,
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
    pub fn prepare(
        directory: &Path,
        purpose: Purpose,
        clock: &Clock,
    ) -> Result<(Self, Diagnostics), Diagnostics> {
        Self::load((directory, directory), purpose, None, clock)
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
        Self::load((directory, place), purpose, None, clock)
    }

    /// Loads the same directory anew, as what follows this one without a restart.
    ///
    /// # Errors
    /// As [`Generation::prepare`], and what only a restart can change.
    pub fn prepare_next(&self, clock: &Clock) -> Result<(Self, Diagnostics), Diagnostics> {
        Self::load((&self.directory, &self.directory), self.purpose, Some(self), clock)
    }

    fn load(
        (directory, place): (&Path, &Path),
        purpose: Purpose,
        former: Option<&Self>,
        clock: &Clock,
    ) -> Result<(Self, Diagnostics), Diagnostics> {
        let Examined { policy, credentials, mut found } = policy::examine_as(directory, place, purpose);
        let now = clock.now();
        let server = server_identity(&credentials, now, &mut found);
        let max_age = policy.as_ref().and_then(|policy| policy.listen.as_ref()?.crl_max_age);
        let former_trust = former.and_then(Self::trust);
        let trust = credentials.clients.as_ref().map(|clients| {
            let trust = trust_in(clients, max_age, former_trust.map(Arc::as_ref), now);
            let wrong = |error: &TrustError| found.error_at(place_of(error, clients), error.to_string());
            trust.map_err(|errors| errors.iter().for_each(wrong)).ok()
        });
        if let (Some(policy), Some(former)) = (&policy, former) {
            succession::refuse(&former.policy, policy, purpose, &directory.join("gateway.toml"), &mut found);
        }
        let (Some(policy), trust @ (None | Some(Some(_))), 0) = (policy, trust, found.errors()) else {
            return Err(found);
        };
        let (policy, trust) = (Arc::new(policy), trust.flatten().map(Arc::new));
        let mut generation = Self { directory: directory.to_owned(), purpose, policy, listening: None };
        let policy = Arc::clone(&generation.policy);
        if let (Some(listen), Some(server)) = (&policy.listen, server) {
            let silence = trust.as_ref().and_then(|trust| trust.silence(now));
            let crl = listen.clients.as_ref().and_then(|clients| clients.crl.as_ref());
            if let (Some(silence), Some(crl)) = (silence, crl) {
                found.warning_at(&crl.place, silence, "certificates are refused until a newer file is there");
            }
            match Listening::make(listen, Arc::new(server), trust, clock) {
                Ok(listening) => generation.listening = Some(listening),
                Err(error) => {
                    found.error_at(&listen.private_key.place, error);
                    return Err(found);
                }
            }
        }
        Ok((generation, found))
    }

    /// Where to listen; nowhere for workers alone.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.policy.listen.as_ref().map_or(&[], |listen| &listen.addresses)
    }

    /// What client certificates are held against; `None` where none is asked for.
    #[must_use]
    pub fn trust(&self) -> Option<&Arc<Trust>> {
        self.listening.as_ref()?.trust.as_ref()
    }

    /// This generation with the files that `renewal` shows. What cannot be used of them is not: certificates and lists
    /// stay as they are, and a secret verifies nothing. Says which alarms that is worth.
    ///
    /// # Errors
    /// When nothing can be made of them together.
    pub fn renew(&self, renewal: Renewal, clock: &Clock) -> Result<(Self, BTreeMap<Alarm, String>), String> {
        let Renewal { files, secrets, lost: mut alarms } = renewal;
        let (mut policy, directory) = (self.policy.with_secrets(secrets), self.directory.clone());
        let (Some(old), Some(files), Some(listen)) = (&self.listening, files, &mut policy.listen) else {
            let (policy, purpose) = (Arc::new(policy), self.purpose);
            return Ok((Self { directory, purpose, policy, listening: None }, alarms));
        };
        let now = clock.now();
        let server = files.server.and_then(|(certificate, key)| {
            let parsed = ServerIdentity::parse(&certificate.bytes, key.pem.expose(), now);
            parsed.map(|server| (certificate, key, server)).map_err(|error| error.to_string())
        });
        let server = match server {
            Ok((certificate, key, server)) => {
                (listen.certificate, listen.private_key) = (certificate, key);
                Arc::new(server)
            }
            Err(reason) => {
                alarms.insert(Alarm::Certificate, reason);
                Arc::clone(&old.server)
            }
        };
        let (max_age, former) = (listen.crl_max_age, old.trust.as_ref());
        let trust = files.clients.and_then(|clients| match (clients, former) {
            (Some(new), Some(former)) if listen.clients.as_ref().is_some_and(|old| old.is_like(&new)) => {
                Ok((Some(new), Some(Arc::clone(former))))
            }
            (Some(new), former) => {
                let trust = trust_in(&new, max_age, former.map(Arc::as_ref), now);
                let said = |errors: Vec<TrustError>| {
                    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
                };
                trust.map(|trust| (Some(new), Some(Arc::new(trust)))).map_err(said)
            }
            (None, _) => Ok((None, None)),
        });
        let trust = match trust {
            Ok((clients, trust)) => {
                listen.clients = clients;
                trust
            }
            Err(reason) => {
                alarms.insert(Alarm::Trust, reason);
                old.trust.clone()
            }
        };
        let listening = Some(Listening::make(listen, server, trust, clock)?);
        Ok((Self { directory, purpose: self.purpose, policy: Arc::new(policy), listening }, alarms))
    }
}

impl Listening {
    fn make(
        listen: &Listen,
        server: Arc<ServerIdentity>,
        trust: Option<Arc<Trust>>,
        clock: &Clock,
    ) -> Result<Self, String> {
        let verifier = trust.as_ref().map(|trust| trust.client_verifier()).transpose();
        let verifier = verifier.map_err(|error| error.to_string())?;
        let tls = listener::tls_config(&server, verifier, clock).map_err(|error| error.to_string())?;
        let authorities = listen.authorities.clone().unwrap_or_else(|| server.names().to_vec());
        Ok(Self { server, tls, trust, authorities })
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

/// The lists are believed for `max_age` from when their file was last written; a date that has not come yet is no date
/// to count from.
fn trust_in(
    clients: &ClientTrust,
    max_age: Option<Duration>,
    former: Option<&Trust>,
    now: Timestamp,
) -> Result<Trust, Vec<TrustError>> {
    let ClientTrust { ca, crl } = clients;
    let until = max_age
        .zip(crl.as_ref())
        .map(|(age, crl)| crl.modified.min(now).checked_add(age).unwrap_or(Timestamp::MAX));
    let trust = Trust::parse(&ca.bytes, crl.as_ref().map(|crl| crl.bytes.as_slice()), now)?;
    let trust = trust.believed_until(until);
    match former {
        Some(former) => trust.succeeding(former),
        None => Ok(trust),
    }
}

/// The key in `gateway.toml` that names the file which is at fault.
fn place_of<'a>(error: &TrustError, clients: &'a ClientTrust) -> &'a Place {
    let ca = &clients.ca.place;
    match error {
        TrustError::ListFile(_) | TrustError::List { .. } | TrustError::Succession { .. } => {
            clients.crl.as_ref().map_or(ca, |crl| &crl.place)
        }
        TrustError::AuthorityFile(_)
        | TrustError::Authority { .. }
        | TrustError::AllRevoked
        | TrustError::Verifier(_) => ca,
    }
}
