//! The policy: file text in, proven values out.
//!
//! [`load`] reads a directory (`gateway.toml`, `routes/<name>.toml`), and either gives a [`Policy`] in which nothing
//! invalid can be represented, or every error at once. It starts nothing, parses no certificates and keeps no state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::domain::name::{KeyName, RouteName};

pub mod argv;
mod compile;
pub mod condition;
mod decode;
pub mod diagnostic;
mod directory;
mod exposure;
mod files;
mod in_force;
mod nearest;
pub mod opening;
pub mod output;
pub mod parameter;
pub mod renewal;
pub mod restrictions;
mod rights;
pub mod route;
pub mod rule;
pub mod scheme;
pub mod secret;
pub mod units;

pub use files::{Files, Purpose, User};
pub use in_force::InForce;
pub use rights::Caller;
pub use scheme::Scheme;

use diagnostic::{Diagnostics, Place};
use renewal::SecretFile;
use route::Route;
use secret::Secret;

/// All that one policy directory says.
#[derive(Clone, Debug)]
pub struct Policy {
    /// SHA-256 of `gateway.toml` and of all routes with their names, in hexadecimal digits.
    pub hash: String,
    /// `[listen]`; `None` where it is read for workers alone.
    pub listen: Option<Listen>,
    /// `[admin]`
    pub admin: Admin,
    /// `[queue]`
    pub queue: Queue,
    /// `[audit]`
    pub audit: Audit,
    /// `[limits]`
    pub limits: Limits,
    /// `[keys.<name>]`; none where it is read for workers alone.
    pub keys: BTreeMap<KeyName, Key>,
    /// Where the secrets of all keys stand.
    secret_files: Vec<SecretFile>,
    /// `routes/<name>.toml`
    pub routes: BTreeMap<RouteName, Arc<Route>>,
}

impl Policy {
    /// The first route whose commands this process cannot run, because it cannot become their user, and that user.
    #[must_use]
    pub fn unattainable(&self) -> Option<(&RouteName, &str)> {
        self.routes.iter().find_map(|(name, route)| {
            let user = route.run.restrictions.user.as_ref().filter(|user| !user.attainable)?;
            Some((name, user.name.as_str()))
        })
    }
}

/// A policy, and what is worth a look although it can be used.
#[derive(Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// Warnings only.
    pub warnings: Diagnostics,
}

/// `[listen]`
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where to accept connections; at least one.
    pub addresses: Vec<SocketAddr>,
    /// The server's certificate chain.
    pub certificate: Arc<PemFile>,
    /// The private key of that chain's first certificate.
    pub private_key: Arc<PrivateKeyFile>,
    /// What client certificates are verified against; without it none is asked for.
    pub clients: Option<ClientTrust>,
    /// How old the file of revocation lists may be; then certificates are refused.
    pub crl_max_age: Option<Duration>,
    /// Networks whose PROXY protocol header, version 2, is required and believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Hosts that signatures may name; `None`: the names in the server's certificate.
    pub authorities: Option<Vec<String>>,
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    /// The operators' socket, absolute; without it there is none.
    pub socket: Option<PathBuf>,
    /// The same for workers that are a process of their own.
    pub work_socket: Option<PathBuf>,
}

/// What client certificates are verified against.
#[derive(Clone, Debug)]
pub struct ClientTrust {
    /// Every certificate in it is an anchor.
    pub ca: Arc<PemFile>,
    /// Revocation lists; `None` only with `revocation = "off"`, or in [`Credentials`] when they could not be read.
    pub crl: Option<Arc<PemFile>>,
}

impl ClientTrust {
    /// Whether both are the same, and equally old.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let lists = match (&self.crl, &other.crl) {
            (Some(one), Some(other)) => one.bytes == other.bytes && one.modified == other.modified,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        lists && self.ca.bytes == other.ca.bytes
    }
}

/// The certificates and keys that a policy names, as far as they could be read, whatever else is wrong with it.
#[derive(Debug, Default)]
pub struct Credentials {
    /// `listen.certificate`
    pub certificate: Option<Arc<PemFile>>,
    /// `listen.private_key`
    pub private_key: Option<Arc<PrivateKeyFile>>,
    /// `listen.client_ca` and `listen.client_crl`
    pub clients: Option<ClientTrust>,
}

/// What a policy directory came to, good or bad.
#[derive(Debug)]
pub struct Examined {
    /// The policy; `None` when there was an error.
    pub policy: Option<Policy>,
    /// What can be looked at even without a policy.
    pub credentials: Credentials,
    /// All errors and warnings.
    pub found: Diagnostics,
}

/// A public file that passed the permission check, not yet parsed.
#[derive(Debug)]
pub struct PemFile {
    /// Where it was read, absolute.
    pub path: PathBuf,
    /// Where the policy names it.
    pub place: Place,
    /// What stood in it.
    pub bytes: Vec<u8>,
    /// When it was last written, as its file system says; may lie in the future.
    pub modified: Timestamp,
}

/// A private key's file that passed the permission check, not yet parsed.
#[derive(Debug)]
pub struct PrivateKeyFile {
    /// Where it was read, absolute.
    pub path: PathBuf,
    /// Where the policy names it.
    pub place: Place,
    /// The PEM text.
    pub pem: Secret,
}

/// `[queue]`
#[derive(Clone, Debug)]
pub struct Queue {
    /// The SQLite database, absolute.
    pub file: PathBuf,
    /// How long finished jobs are kept.
    pub keep: Duration,
    /// How many bytes of output finished jobs keep together.
    pub keep_bytes: usize,
    /// Where a gate of its own process submits, absolute; there where the policy is read for a part of a gateway.
    pub socket: Option<PathBuf>,
    /// Who may submit there; without it root and the workers' own user.
    pub gate_user: Option<User>,
}

/// `[audit]`
#[derive(Clone, Debug)]
pub struct Audit {
    /// The audit log, absolute.
    pub file: PathBuf,
}

impl Audit {
    /// The log of workers that are a process of their own: `<stem>.work.jsonl` beside [`Audit::file`].
    #[must_use]
    pub fn work_file(&self) -> PathBuf {
        self.file.with_extension("work.jsonl")
    }
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest body, in bytes.
    pub body: usize,
    /// All buffered bodies together, in bytes.
    pub bodies: usize,
    /// Connections at once.
    pub connections: NonZeroUsize,
    /// Connections at once from one source without a verified certificate.
    pub connections_per_source: NonZeroUsize,
    /// Requests from one source without a verified certificate.
    pub requests_per_source: Rate,
    /// Connections at once with one verified certname.
    pub connections_per_identity: NonZeroUsize,
    /// Requests with one verified certname.
    pub requests_per_identity: Rate,
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From a request's first byte to the end of its head.
    pub headers: Duration,
    /// For the whole body.
    pub request: Duration,
    /// How long a connection may do nothing.
    pub idle: Duration,
    /// Waiting jobs.
    pub jobs: usize,
    /// Commands at once, all routes.
    pub running: NonZeroUsize,
    /// Longest wait for a result.
    pub wait: Duration,
    /// Waits for results at once.
    pub waiting: usize,
    /// Refusals written down one by one.
    pub refusals_logged: Rate,
}

/// So many per period, with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many in each period.
    pub limit: NonZeroU32,
    /// The period.
    pub period: Duration,
    /// How many at once after a pause.
    pub burst: NonZeroU32,
}

/// `[keys.<name>]`
#[derive(Clone, Debug)]
pub struct Key {
    /// The name; for `rfc9421` also the `keyid`.
    pub name: KeyName,
    /// How it signs.
    pub scheme: Scheme,
    /// Any of them verifies; at least one.
    pub secrets: Vec<Secret>,
    /// How far the time of a signature may be from now, either way; of no meaning where there is none.
    pub window: Duration,
    /// How long message ids are kept.
    pub remember: Duration,
    /// Where in a JSON body the message id stands: the tokens of a JSON pointer. `None`: it is the body's digest, or what
    /// the scheme says.
    pub id: Option<Vec<String>>,
}

/// Reads, checks and compiles the policy in `directory` for this purpose, and keeps what can be used of a bad one.
#[must_use]
pub fn examine(directory: &Path, purpose: Purpose) -> Examined {
    examine_as(directory, directory, purpose)
}

/// As [`examine`], but as if the directory were `place`: relative paths start from there, and findings name it. This is
/// how a policy is tried before it replaces the one in `place`.
#[must_use]
pub fn examine_as(directory: &Path, place: &Path, purpose: Purpose) -> Examined {
    let caller = Caller::current();
    let (mut texts, mut found) = directory::read(directory, &caller);
    if place != directory {
        texts.stand_in(place, &caller, &mut found);
    }
    compile::compile(&texts, &Files::For(purpose, Box::new(Files::Disk(caller))), found)
}

/// As [`examine`], for those who have no use for a bad policy.
///
/// # Errors
/// All errors that were found, with the warnings, each with its file, line and column.
pub fn load(directory: &Path, purpose: Purpose) -> Result<Loaded, Diagnostics> {
    finish(examine(directory, purpose))
}

/// As [`load`], for the text of `gateway.toml` and the names and texts of route files, as if they stood in `/policy`.
/// With [`Files::Memory`] it touches nothing outside its arguments.
///
/// # Errors
/// As [`load`].
pub fn compile_text(gateway: &str, routes: &[(&str, &str)], files: &Files) -> Result<Loaded, Diagnostics> {
    let texts = directory::in_memory(Path::new("/policy"), gateway, routes);
    finish(compile::compile(&texts, files, Diagnostics::default()))
}

fn finish(examined: Examined) -> Result<Loaded, Diagnostics> {
    let Examined { policy, found, .. } = examined;
    match policy {
        Some(policy) => Ok(Loaded { policy, warnings: found }),
        None => Err(found),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use super::*;

    /// The smallest `gateway.toml` with a key and client certificates.
    pub(crate) const GATEWAY: &str = r#"
        [listen]
        certificate = "certs/server.pem"
        private_key = "certs/server.key"
        client_ca = "certs/ca.pem"
        client_crl = "certs/crl.pem"
        [queue]
        file = "/var/lib/bridgeward/queue.db"
        [audit]
        file = "/var/log/bridgeward/audit.jsonl"
        [keys.jenkins]
        scheme = "rfc9421"
        secrets = ["secrets/jenkins"]
    "#;

    /// A route that is fine.
    pub(crate) const ROUTE: &str = r#"
        method = "POST"
        path = "/promote"
        [[allow]]
        key = ["jenkins"]
        [run]
        steps = [["/bin/a", "x"]]
    "#;

    /// The files that they name, and a few more.
    pub(crate) static FILES: LazyLock<BTreeMap<PathBuf, Vec<u8>>> = LazyLock::new(|| {
        let file = |path: &str, bytes: &[u8]| (PathBuf::from(path), bytes.to_vec());
        BTreeMap::from([
            file("/policy/certs/server.pem", b"server"),
            file("/policy/certs/server.key", b"key"),
            file("/policy/certs/ca.pem", b"ca"),
            file("/policy/certs/crl.pem", b"crl"),
            file("/policy/secrets/jenkins", b"0123456789abcdef0123456789abcdef\n"),
            file("/policy/secrets/other", b"fedcba9876543210fedcba9876543210"),
            file("/policy/secrets/third", b"the third secret, of 32 bytes or more"),
            file("/policy/secrets/whsec", b"whsec_dGhlIHdlYmhvb2tzIHNlY3JldCwgb2YgMzIgYnl0ZXM=\n"),
            file("/policy/secrets/middling", b"fedcba9876543210"),
            file("/policy/secrets/short", b"0123456789abcde\n"),
            file("/bin/a", b""),
            file("/bin/b", b""),
            file("/bin/bash", b""),
        ])
    });

    pub(crate) fn compile(gateway: &str, routes: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
        compile_text(gateway, routes, &Files::Memory(FILES.clone()))
    }

    /// All that is found, errors and warnings, in the order of the text.
    pub(crate) fn findings(gateway: &str, routes: &[(&str, &str)]) -> Vec<String> {
        let found = match compile(gateway, routes) {
            Ok(loaded) => loaded.warnings,
            Err(found) => found,
        };
        found.messages().map(str::to_owned).collect()
    }
}
