//! `bitbucket`: `X-Hub-Signature: sha256=<hex>`, the HMAC of the body.
//! <https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/>
//!
//! GitHub and Gitea put an older signature of theirs into the same header, with `sha1=`: that is another scheme's, and
//! ignored.

use super::Why;
use super::body_hmac::hmac;
use super::claim::Claim;
use super::header::{self, Problem};
use crate::policy::Scheme;
use crate::policy::scheme::{Digest, Encoding};

pub(super) fn read(line: &[u8]) -> Result<Option<Claim>, Why> {
    if line.starts_with(b"sha1=") {
        return Ok(None);
    }
    let claim = hmac(line, b"sha256=", Encoding::Hex, Digest::Sha256);
    claim.map(Some).ok_or_else(|| header::why(Scheme::Bitbucket.header(), Problem::Malformed))
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
        verified(&Scheme::Bitbucket, b"Jefe", &[("X-Hub-Signature", &format!("sha256={hex}"))], body);
        refused(&Scheme::Bitbucket, b"Jefe", &[("X-Hub-Signature", hex)], body);
        refused(&Scheme::Bitbucket, b"Jefe", &[("X-Hub-Signature", "sha256=")], body);
        absent(&Scheme::Bitbucket, b"Jefe", &[("X-Hub-Signature-256", &format!("sha256={hex}"))], body);
        absent(
            &Scheme::Bitbucket,
            b"Jefe",
            &[("X-Hub-Signature", "sha1=effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")],
            body,
        );
    }
}
