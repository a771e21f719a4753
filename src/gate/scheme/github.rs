//! `github`: `X-Hub-Signature-256: sha256=<hex>`, the HMAC of the body.
//! <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>

use super::Why;
use super::body_hmac::hmac;
use super::claim::Claim;
use super::header::{self, Problem};
use crate::policy::Scheme;
use crate::policy::scheme::{Digest, Encoding};

pub(super) fn read(line: &[u8]) -> Result<Claim, Why> {
    hmac(line, b"sha256=", Encoding::Hex, Digest::Sha256)
        .ok_or_else(|| header::why(Scheme::Github.header(), Problem::Malformed))
}

#[cfg(test)]
mod tests {
    use super::super::verifier::tests::{refused, verified};
    use super::*;

    const SECRET: &[u8] = b"It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const HEX: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn the_published_vector_is_verified() {
        let good = format!("sha256={HEX}");
        verified(&Scheme::Github, SECRET, &[("X-Hub-Signature-256", &good)], BODY);
        for bad in [
            HEX.to_owned(),
            format!("sha1={HEX}"),
            format!("sha256={}", HEX.to_uppercase()),
            format!("{good},"),
        ] {
            refused(&Scheme::Github, SECRET, &[("X-Hub-Signature-256", &bad)], BODY);
        }
        refused(&Scheme::Github, SECRET, &[("X-Hub-Signature-256", &good)], b"Hello, World?");
        refused(&Scheme::Github, b"it's a secret to everybody", &[("X-Hub-Signature-256", &good)], BODY);
    }
}
