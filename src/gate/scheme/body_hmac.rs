//! `body-hmac`: the HMAC of the body in a header, in whatever form a sender has it.
//!
//! The forges' schemes are forms of it with names of their own.

use super::Why;
use super::claim::Claim;
use super::header::{self, Problem, decode};
use crate::policy::scheme::{BodyHmac, Digest, Encoding};

pub(super) fn read(line: &[u8], form: &BodyHmac) -> Result<Claim, Why> {
    hmac(line, form.prefix.as_bytes(), form.encoding, form.digest)
        .ok_or_else(|| header::why(&form.header, Problem::Malformed))
}

/// The claim that a line makes which is nothing but a prefix and an HMAC.
pub(super) fn hmac(line: &[u8], prefix: &[u8], encoding: Encoding, digest: Digest) -> Option<Claim> {
    let mac = line.strip_prefix(prefix).and_then(|text| decode(text, encoding))?;
    Some(Claim::of_body(digest, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_encoding_and_digest_are_those_of_the_key() {
        let form = |prefix: &str, encoding, digest| BodyHmac {
            header: "x-signature".into(),
            prefix: prefix.into(),
            encoding,
            digest,
        };
        let hex = form("sha512=", Encoding::Hex, Digest::Sha512);
        assert_eq!(read(b"sha512=00ff", &hex), Ok(Claim::of_body(Digest::Sha512, vec![0, 255])));
        let base64 = form("", Encoding::Base64, Digest::Sha1);
        assert_eq!(read(b"AP8=", &base64), Ok(Claim::of_body(Digest::Sha1, vec![0, 255])));
        for (line, form) in [("00ff", &hex), ("SHA512=00ff", &hex), ("sha512=AP8=", &hex), ("00F", &base64)] {
            let why = header::why("x-signature", Problem::Malformed);
            assert_eq!(read(line.as_bytes(), form), Err(why), "{line}");
        }
    }
}
