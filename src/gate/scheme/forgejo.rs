//! `forgejo`: the HMAC of the body in bare hexadecimal, in `X-Forgejo-Signature`.
//! <https://forgejo.org/docs/latest/user/webhooks/>
//! The same stands in `X-Gitea-Signature`, so that a key of the scheme `gitea` would do as well.

use super::Why;
use super::body_hmac::hmac;
use super::claim::Claim;
use super::header::{self, Problem};
use crate::policy::Scheme;
use crate::policy::scheme::{Digest, Encoding};

pub(super) fn read(line: &[u8]) -> Result<Claim, Why> {
    hmac(line, b"", Encoding::Hex, Digest::Sha256)
        .ok_or_else(|| header::why(Scheme::Forgejo.header(), Problem::Malformed))
}

#[cfg(test)]
mod tests {
    use super::super::verifier::tests::{absent, refused, verified};
    use super::*;

    #[test]
    fn the_hmac_of_the_body_is_verified() {
        // RFC 4231, case 2.
        let hex = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let body = b"what do ya want for nothing?";
        verified(&Scheme::Forgejo, b"Jefe", &[("X-Forgejo-Signature", hex)], body);
        for bad in [
            format!("sha256={hex}"),
            hex.to_uppercase(),
            format!("{hex}00"),
            hex[..62].to_owned(),
            String::new(),
        ] {
            refused(&Scheme::Forgejo, b"Jefe", &[("X-Forgejo-Signature", &bad)], body);
        }
        absent(&Scheme::Forgejo, b"Jefe", &[("X-Gogs-Signature", hex)], body);
    }
}
