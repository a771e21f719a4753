//! Why a request got no answer, said so that the reader knows what to do next.
//!
//! Looks for TLS errors below the layers that wrap them: with TLS 1.3 a server refuses a client's certificate after the
//! handshake, and the alert only shows when the answer is read.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

/// Why a client could not be made, or a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file holds no certificates.
    #[error("{} holds no usable PEM certificate (-----BEGIN CERTIFICATE-----)", path.display())]
    NoCertificates {
        /// Which file.
        path: PathBuf,
    },
    /// The system has no certificates to trust.
    #[error(
        "this system has no CA certificates (on Debian: package ca-certificates); name the gateway's CA with --ca"
    )]
    NoSystemRoots,
    /// The client's own certificate or key cannot be used.
    #[error(
        "the client certificate cannot be used: {0}; --cert is a PEM chain, --cert-key the key of its first certificate"
    )]
    Identity(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
    /// The host name means nothing.
    #[error("cannot find the host `{host}`: {cause}")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        cause: io::Error,
    },
    /// Nobody answers there.
    #[error("cannot connect to {authority}: {cause}; is the gateway running, and is this its port?")]
    Connect {
        /// Host and port.
        authority: String,
        /// Why.
        cause: io::Error,
    },
    /// The server's certificate is not to be trusted.
    #[error("the certificate of {authority} is not trusted: {cause}; {hint}")]
    ServerCertificate {
        /// Host and port.
        authority: String,
        /// Why.
        cause: rustls::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The server ended TLS.
    #[error("{authority} ended the connection with the TLS alert {alert:?}: {hint}")]
    Alert {
        /// Host and port.
        authority: String,
        /// Its reason.
        alert: AlertDescription,
        /// What it means.
        hint: &'static str,
    },
    /// TLS failed in another way.
    #[error("no TLS with {authority}: {cause}; is this the gateway's port?")]
    Tls {
        /// Host and port.
        authority: String,
        /// Why.
        cause: io::Error,
    },
    /// The connection broke before there was an answer.
    #[error("{authority} closed the connection without an answer ({cause}); its log says why{hint}")]
    Broken {
        /// Host and port.
        authority: String,
        /// The layer below.
        cause: String,
        /// What it may mean.
        hint: &'static str,
    },
    /// A request that HTTP cannot carry.
    #[error("this request cannot be sent: {0}")]
    Unsendable(axum::http::Error),
    /// Too much came back.
    #[error("the answer is larger than {most} bytes, the most that this client reads")]
    TooLarge {
        /// The bound.
        most: usize,
    },
    /// There was no connection in time, so nothing was sent.
    #[error("no TLS connection to {authority} within {} s; is the gateway running, and is this its port?", limit.as_secs())]
    NoConnection {
        /// Host and port.
        authority: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Nothing came back in time.
    #[error("no answer from {authority} within {} s", limit.as_secs())]
    NoAnswer {
        /// Host and port.
        authority: String,
        /// How long was waited.
        limit: Duration,
    },
}

/// What a failure says about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Trying again changes nothing.
    Hopeless,
    /// Nobody listens, or not yet.
    Refused,
    /// It was not sent, for a reason that may pass.
    NotSent,
    /// It was sent, at least in part: it may have arrived.
    Unknown,
}

impl Failure {
    /// What became of the request.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match self {
            Self::Read { .. }
            | Self::NoCertificates { .. }
            | Self::NoSystemRoots
            | Self::Identity(_)
            | Self::Setup(_)
            | Self::ServerCertificate { .. }
            | Self::Alert { .. }
            | Self::Unsendable(_)
            | Self::TooLarge { .. } => Fate::Hopeless,
            Self::Connect { cause, .. } if cause.kind() == io::ErrorKind::ConnectionRefused => Fate::Refused,
            Self::Connect { .. } | Self::Resolve { .. } | Self::Tls { .. } | Self::NoConnection { .. } => {
                Fate::NotSent
            }
            Self::Broken { .. } | Self::NoAnswer { .. } => Fate::Unknown,
        }
    }
}

/// A failed TLS handshake.
pub(super) fn handshake(authority: &str, error: io::Error) -> Failure {
    match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(why)) => Failure::ServerCertificate {
            authority: authority.into(),
            hint: certificate_hint(why),
            cause: rustls::Error::InvalidCertificate(why.clone()),
        },
        Some(rustls::Error::AlertReceived(alert)) => self::alert(authority, *alert),
        Some(_) | None => Failure::Tls { authority: authority.into(), cause: error },
    }
}

/// A connection that broke under a request; `causes` are all errors that are known of it.
pub(super) fn broken(authority: &str, causes: &[&(dyn Error + 'static)], with_certificate: bool) -> Failure {
    for cause in causes {
        if let Some(rustls::Error::AlertReceived(alert)) = tls_error(*cause) {
            return self::alert(authority, *alert);
        }
    }
    let mut cause = Vec::new();
    let mut next = causes.first().copied();
    while let Some(error) = next {
        let text = error.to_string();
        // rustls explains an end without close_notify to programmers, with a link.
        cause.push(text.split(": https://").next().unwrap_or_default().to_owned());
        next = error.source();
    }
    let hint = if with_certificate {
        "; if it did not like the client certificate (expired, revoked, another CA), this is how it shows"
    } else {
        ""
    };
    Failure::Broken { authority: authority.into(), cause: cause.join(": "), hint }
}

fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut error = error;
    loop {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io::Error names as its source not what it wraps, but the source of that.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error = match wrapped {
            Some(inner) => inner,
            None => error.source()?,
        };
    }
}

fn certificate_hint(why: &CertificateError) -> &'static str {
    if matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
        "name the CA that signed it with --ca FILE (for Puppet: /etc/puppetlabs/puppet/ssl/certs/ca.pem)"
    } else if matches!(
        why,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    ) {
        "use a host name in the URL that stands in the certificate"
    } else if matches!(
        why,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    ) {
        "renew it on the gateway, or set this machine's clock"
    } else {
        "the gateway's operator must replace it"
    }
}

fn alert(authority: &str, alert: AlertDescription) -> Failure {
    let hints = [
        (AlertDescription::CertificateExpired, "it says that our client certificate has expired: renew it"),
        (
            AlertDescription::CertificateRevoked,
            "it says that our client certificate was revoked: get a new one",
        ),
        (
            AlertDescription::UnknownCA,
            "it does not know the CA of our client certificate: see `client_ca` in the gateway's policy, \
             and give the whole chain with --cert",
        ),
        (
            AlertDescription::DecryptError,
            "our client certificate was signed by another CA of the same name as one it trusts, or --cert-key is wrong",
        ),
        (AlertDescription::BadCertificate, "it could not use our client certificate"),
        (AlertDescription::UnsupportedCertificate, "our client certificate is not made for TLS clients"),
        (
            AlertDescription::CertificateUnknown,
            "it did not accept our client certificate: the gateway's log says why",
        ),
        (
            AlertDescription::CertificateRequired,
            "it demands a client certificate: give --cert and --cert-key",
        ),
        (AlertDescription::AccessDenied, "it does not let our client certificate in"),
        (AlertDescription::UnrecognisedName, "it does not go by the name in the URL"),
        (AlertDescription::ProtocolVersion, "it speaks neither TLS 1.2 nor TLS 1.3"),
    ];
    let hint = hints.iter().find(|(known, _)| *known == alert).map(|(_, hint)| *hint);
    Failure::Alert { authority: authority.into(), alert, hint: hint.unwrap_or("the gateway's log says why") }
}
