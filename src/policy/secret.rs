//! Secret bytes: zeroized when dropped, and without a way to print them.
//! Compares and signs nothing.

use secrecy::{ExposeSecret, SecretSlice};
use subtle::ConstantTimeEq;

/// Fewest bytes of a shared secret.
pub const FEWEST_BYTES: usize = 16;
/// Fewest bytes that are not worth a warning: what HMAC-SHA-256 can make use of (RFC 2104, section 3).
pub const ENOUGH_BYTES: usize = 32;

/// The bytes of a shared secret or private key.
#[derive(Clone)]
pub struct Secret(SecretSlice<u8>);

/// A secret that could be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret has fewer than {FEWEST_BYTES} bytes: write 32 random ones, such as `openssl rand -hex 32`"
)]
pub struct TooShort;

impl Secret {
    /// Takes bytes in; the caller's copy is the caller's to wipe.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(SecretSlice::from(bytes))
    }

    /// Copies bytes that the caller wipes.
    pub(super) fn copy(bytes: &[u8]) -> Self {
        // `to_vec` allocates exactly: boxing the copy then moves nothing and leaves nothing behind.
        Self::new(bytes.to_vec())
    }

    /// A shared secret from its file's bytes, less one trailing line feed.
    pub(super) fn shared(file: &[u8]) -> Result<Self, TooShort> {
        Self::of(Self::without_line_feed(file))
    }

    /// Copies a shared secret's bytes, if they are enough.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, TooShort> {
        if bytes.len() < FEWEST_BYTES { Err(TooShort) } else { Ok(Self::copy(bytes)) }
    }

    pub(super) fn without_line_feed(file: &[u8]) -> &[u8] {
        file.strip_suffix(b"\n").unwrap_or(file)
    }

    /// The bytes, for the one computation that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// Whether a better secret would be stronger.
    pub(super) fn is_weak(&self) -> bool {
        self.expose().len() < ENOUGH_BYTES
    }

    /// Compares in a time that depends on the lengths alone.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_line_feed_is_not_part_of_a_secret() {
        for (file, secret) in [
            (&b"0123456789abcdef\n"[..], &b"0123456789abcdef"[..]),
            (b"0123456789abcdef", b"0123456789abcdef"),
            (b"0123456789abcdef\n\n", b"0123456789abcdef\n"),
            (b"0123456789abcdef\r\n", b"0123456789abcdef\r"),
            (b"\n0123456789abcdef\0", b"\n0123456789abcdef\0"),
        ] {
            assert_eq!(Secret::shared(file).map(|read| read.expose().to_vec()), Ok(secret.to_vec()));
        }
    }

    #[test]
    fn short_secrets_are_refused_and_middling_ones_are_weak() {
        assert_eq!(Secret::shared(&[b'x'; FEWEST_BYTES - 1]).map(drop), Err(TooShort));
        assert_eq!(Secret::shared(b"0123456789abcde\n").map(drop), Err(TooShort));
        assert_eq!(Secret::shared(&[b'x'; ENOUGH_BYTES - 1]).map(|secret| secret.is_weak()), Ok(true));
        assert_eq!(Secret::shared(&[b'x'; ENOUGH_BYTES]).map(|secret| secret.is_weak()), Ok(false));
    }

    #[test]
    fn i8_secrets_stay_secret_in_debug() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2hunter2".to_vec())), "Secret");
    }

    #[test]
    fn secrets_are_compared_by_their_bytes() {
        let one = Secret::new(vec![1; 32]);
        assert!(one.is_same(&Secret::new(vec![1; 32])));
        assert!(!one.is_same(&Secret::new(vec![1; 33])));
        assert!(!one.is_same(&Secret::new(vec![2; 32])));
    }
}
