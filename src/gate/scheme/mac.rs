//! HMACs (RFC 2104), and how many of them one request costs.
//!
//! Knows no header. A request for which no key comes into question is charged one all the same, so that it takes the
//! time of one for which a key does.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq as _;

use crate::policy::scheme::Digest;
use crate::policy::secret::Secret;

/// What one request's signatures cost so far.
pub(super) struct Bill<'s> {
    stand_in: &'s Secret,
    macs: usize,
}

impl<'s> Bill<'s> {
    /// `stand_in` takes the place of a secret that is not there; what it verifies counts for nothing.
    pub(super) fn new(stand_in: &'s Secret) -> Self {
        Self { stand_in, macs: 0 }
    }

    /// Whether `secret` made one of these MACs over the parts, one after the other. All are compared, in constant time.
    pub(super) fn verify(
        &mut self,
        digest: Digest,
        secret: Option<&Secret>,
        parts: &[&[u8]],
        claimed: &[Vec<u8>],
    ) -> bool {
        self.macs += 1;
        let Some(made) = code(digest, secret.unwrap_or(self.stand_in), parts) else { return false };
        let same = claimed.iter().fold(false, |same, claimed| same | bool::from(made.ct_eq(claimed)));
        same & secret.is_some()
    }

    /// Whether two secrets are the same, in a time that tells neither length nor first difference.
    pub(super) fn same(&mut self, secret: &Secret, claimed: &[u8]) -> bool {
        let expected = code(Digest::Sha256, self.stand_in, &[secret.expose()]);
        expected.is_some_and(|expected| self.verify_stand_in(claimed, &expected))
    }

    fn verify_stand_in(&mut self, claimed: &[u8], expected: &[u8]) -> bool {
        self.macs += 1;
        code(Digest::Sha256, self.stand_in, &[claimed]).is_some_and(|made| made.ct_eq(expected).into())
    }

    /// Charges for one MAC over `body` where there was none.
    pub(super) fn settle(self, body: &[u8]) {
        if self.macs == 0 {
            std::hint::black_box(code(Digest::Sha256, self.stand_in, &[body]));
        }
    }
}

/// The MAC over the parts, one after the other.
pub(super) fn code(digest: Digest, secret: &Secret, parts: &[&[u8]]) -> Option<Vec<u8>> {
    match digest {
        Digest::Sha256 => of::<Hmac<Sha256>>(secret, parts),
        Digest::Sha512 => of::<Hmac<Sha512>>(secret, parts),
        Digest::Sha1 => of::<Hmac<Sha1>>(secret, parts),
    }
}

#[cfg(test)]
thread_local! {
    static MACS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many were computed on this thread.
#[cfg(test)]
pub(in super::super) fn macs() -> usize {
    MACS.get()
}

/// `None` never comes: HMAC takes a key of any length.
fn of<M: Mac + KeyInit>(secret: &Secret, parts: &[&[u8]]) -> Option<Vec<u8>> {
    #[cfg(test)]
    MACS.set(MACS.get() + 1);
    let mut mac = <M as KeyInit>::new_from_slice(secret.expose()).ok()?;
    parts.iter().for_each(|part| mac.update(part));
    Some(mac.finalize().into_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    /// RFC 4231 and RFC 2202, case 2.
    #[test]
    fn published_codes_are_computed() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (digest, expected) in [
            (Digest::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                Digest::Sha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
            (Digest::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        ] {
            let made = code(digest, &secret("Jefe"), &[b"what do ya want ", b"for nothing?"]);
            assert_eq!(made.map(hex).as_deref(), Some(expected));
        }
    }

    #[test]
    fn any_claimed_code_may_be_the_one_and_the_stand_in_makes_none() {
        let stand_in = secret("stand-in");
        let mut bill = Bill::new(&stand_in);
        let good = code(Digest::Sha256, &secret("key"), &[b"x"]).unwrap();
        let mut bad = good.clone();
        bad[31] ^= 1;
        let key = secret("key");
        assert!(bill.verify(Digest::Sha256, Some(&key), &[b"x"], &[bad.clone(), good.clone()]));
        assert!(bill.verify(Digest::Sha256, Some(&key), &[b"x"], &[good.clone(), bad.clone()]));
        assert!(!bill.verify(Digest::Sha256, Some(&key), &[b"x"], &[bad, good[..31].to_vec(), Vec::new()]));
        assert!(!bill.verify(Digest::Sha256, Some(&key), &[b"x"], &[]));
        let own = code(Digest::Sha256, &stand_in, &[b"x"]).unwrap();
        assert!(!bill.verify(Digest::Sha256, None, &[b"x"], &[own]));
        assert!(bill.same(&key, b"key") && !bill.same(&key, b"ke") && !bill.same(&key, b"kez"));
    }
}
