//! How a key signs, and what its secret files hold.
//! The words of the language and their defaults; computes no signature, which is the gate's.

use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::secret::{Secret, TooShort};

/// How long message ids are kept where no time window limits how long a message is good for.
const REMEMBER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How a key signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP Message Signatures (RFC 9421) with `hmac-sha256`: the whole request is signed.
    Rfc9421,
    /// Standard Webhooks 1.0, which GitLab's signing tokens are too.
    StandardWebhooks,
    /// GitHub's `X-Hub-Signature-256`.
    Github,
    /// Bitbucket's `X-Hub-Signature`.
    Bitbucket,
    /// Gitea's `X-Gitea-Signature`.
    Gitea,
    /// Forgejo's `X-Forgejo-Signature`.
    Forgejo,
    /// `Stripe-Signature`.
    Stripe,
    /// Slack's `X-Slack-Signature` and `X-Slack-Request-Timestamp`.
    Slack,
    /// An HMAC of the body in a header.
    BodyHmac(BodyHmac),
    /// `X-Gitlab-Token`: the secret itself.
    GitlabToken,
}

/// Where the HMAC of a body stands, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyHmac {
    /// The header's name, in small letters.
    pub header: String,
    /// What stands before the HMAC.
    pub prefix: String,
    /// How the HMAC is written.
    pub encoding: Encoding,
    /// Of which hash function it is.
    pub digest: Digest,
}

/// How bytes are written in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Hexadecimal, in small letters.
    Hex,
    /// Base64 with padding (RFC 4648, section 4).
    Base64,
}

/// The hash function of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// SHA-1, for senders that know nothing better. As an HMAC it is not broken.
    Sha1,
}

/// A file that holds no secret of its scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotASecret {
    /// Too few bytes.
    #[error(transparent)]
    Short(#[from] TooShort),
    /// No base64 where the scheme asks for it.
    #[error("the secret is not base64, with or without `whsec_` before it, as Standard Webhooks have it")]
    NotBase64,
}

impl Scheme {
    /// The header that the signature stands in, in small letters. Keys with the same one are told apart by trying all of
    /// them, but for `rfc9421`, whose signatures name their key.
    #[must_use]
    pub fn header(&self) -> &str {
        match self {
            Self::Rfc9421 => "signature",
            Self::StandardWebhooks => "webhook-signature",
            Self::Github => "x-hub-signature-256",
            Self::Bitbucket => "x-hub-signature",
            Self::Gitea => "x-gitea-signature",
            Self::Forgejo => "x-forgejo-signature",
            Self::Stripe => "stripe-signature",
            Self::Slack => "x-slack-signature",
            Self::BodyHmac(form) => &form.header,
            Self::GitlabToken => "x-gitlab-token",
        }
    }

    /// Whether method, path and query are signed; otherwise the body is, at most with an id and a time.
    #[must_use]
    pub fn signs_requests(&self) -> bool {
        match self {
            Self::Rfc9421 => true,
            Self::StandardWebhooks
            | Self::Github
            | Self::Bitbucket
            | Self::Gitea
            | Self::Forgejo
            | Self::Stripe
            | Self::Slack
            | Self::BodyHmac(_)
            | Self::GitlabToken => false,
        }
    }

    /// Whether a message carries its own id: then no other can be taken from its body.
    #[must_use]
    pub fn numbers_messages(&self) -> bool {
        match self {
            Self::Rfc9421 | Self::StandardWebhooks => true,
            Self::Github
            | Self::Bitbucket
            | Self::Gitea
            | Self::Forgejo
            | Self::Stripe
            | Self::Slack
            | Self::BodyHmac(_)
            | Self::GitlabToken => false,
        }
    }

    /// Whether a message says when it was made, which `window` is about.
    #[must_use]
    pub fn tells_the_time(&self) -> bool {
        match self {
            Self::Rfc9421 | Self::StandardWebhooks | Self::Stripe | Self::Slack => true,
            Self::Github
            | Self::Bitbucket
            | Self::Gitea
            | Self::Forgejo
            | Self::BodyHmac(_)
            | Self::GitlabToken => false,
        }
    }

    /// Whether it is that of a forge, whose pushes are larger than what others send.
    pub(super) fn is_a_forges(&self) -> bool {
        match self {
            Self::Github | Self::Bitbucket | Self::Gitea | Self::Forgejo | Self::GitlabToken => true,
            Self::Rfc9421 | Self::StandardWebhooks | Self::Stripe | Self::Slack | Self::BodyHmac(_) => false,
        }
    }

    /// How long message ids are kept when the key does not say.
    pub(super) fn remember(&self, window: Duration) -> Duration {
        match self {
            Self::Rfc9421 => window * 2,
            Self::StandardWebhooks
            | Self::Github
            | Self::Bitbucket
            | Self::Gitea
            | Self::Forgejo
            | Self::Stripe
            | Self::Slack
            | Self::BodyHmac(_)
            | Self::GitlabToken => REMEMBER,
        }
    }

    /// The secret that a file's bytes hold, for this scheme.
    ///
    /// # Errors
    /// When they are too few, or not written as the scheme demands.
    pub fn secret(&self, file: &[u8]) -> Result<Secret, NotASecret> {
        match self {
            Self::StandardWebhooks => webhook_secret(file),
            Self::Rfc9421
            | Self::Github
            | Self::Bitbucket
            | Self::Gitea
            | Self::Forgejo
            | Self::Stripe
            | Self::Slack
            | Self::BodyHmac(_)
            | Self::GitlabToken => Ok(Secret::shared(file)?),
        }
    }
}

/// Standard Webhooks 1.0, "Signature scheme": `whsec_` and base64, of which some senders show only the latter.
fn webhook_secret(file: &[u8]) -> Result<Secret, NotASecret> {
    let base64 = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = Secret::without_line_feed(file);
    let text = text.strip_prefix(b"whsec_").unwrap_or(text);
    let decoded = base64.decode(text).map(Zeroizing::new).map_err(|_| NotASecret::NotBase64)?;
    Ok(Secret::of(&decoded)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_secret_is_decoded_and_measured_after_that() {
        let read = |file: &[u8]| Scheme::StandardWebhooks.secret(file).map(|secret| secret.expose().to_vec());
        let bytes = b"0123456789abcdefghij".to_vec();
        for file in [
            "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWo=\n",
            "MDEyMzQ1Njc4OWFiY2RlZmdoaWo=",
            "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWo",
        ] {
            assert_eq!(read(file.as_bytes()), Ok(bytes.clone()), "{file}");
        }
        assert_eq!(read(b"whsec_MDEyMzQ1Njc4OWFiY2Rl"), Err(TooShort.into()), "15 bytes, of 20 characters");
        for file in [
            "whsec_not base64 at all",
            "WHSEC_MDEyMzQ1Njc4OWFiY2RlZmdoaWo=",
            "MDEyMzQ1Njc4OWFiY2RlZmdoaWo=\n\n",
        ] {
            assert_eq!(read(file.as_bytes()), Err(NotASecret::NotBase64), "{file}");
        }
        assert_eq!(
            Scheme::Stripe.secret(b"whsec_test_secret\n").map(|s| s.expose().to_vec()),
            Ok(b"whsec_test_secret".to_vec())
        );
    }
}
