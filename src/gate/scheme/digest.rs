//! `Content-Digest`: what binds a body to a signature (RFC 9530).
//!
//! Every sha-256 and sha-512 digest that is given must match, and one of them must be given; others prove nothing and
//! are ignored. Refuses a digest that is given twice.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sfv::visitor::{DictionaryVisitor, EntryVisitor};
use sfv::{Dictionary, KeyRef, ListEntry, Parser, Version};
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq as _;

/// Longest `Content-Digest`, in bytes; both digests together take 150.
const LONGEST: usize = 1024;

/// Why `Content-Digest` does not vouch for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongDigest {
    /// It is too long, no dictionary, or names a digest twice.
    #[error("`Content-Digest` is too long, malformed, or names a digest twice")]
    Malformed,
    /// It holds neither sha-256 nor sha-512.
    #[error("`Content-Digest` holds neither sha-256 nor sha-512")]
    Unknown,
    /// The body has another digest.
    #[error("`Content-Digest` is not the digest of the body")]
    Mismatch,
}

/// The value that vouches for `body`.
pub(super) fn of(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)))
}

/// Whether `value` vouches for `body`.
///
/// # Errors
/// When it does not.
pub(super) fn check(value: &[u8], body: &[u8]) -> Result<(), WrongDigest> {
    if value.len() > LONGEST {
        return Err(WrongDigest::Malformed);
    }
    let once = Once(Dictionary::new());
    let members = Parser::new(value)
        .with_version(Version::Rfc8941)
        .parse_dictionary_with_visitor(once)
        .map_err(|_| WrongDigest::Malformed)?;
    let sha256 = members.get("sha-256").map(|given| is(given, &Sha256::digest(body)));
    let sha512 = members.get("sha-512").map(|given| is(given, &Sha512::digest(body)));
    match (sha256, sha512) {
        (None, None) => Err(WrongDigest::Unknown),
        (Some(false), _) | (_, Some(false)) => Err(WrongDigest::Mismatch),
        (Some(true), Some(true) | None) | (None, Some(true)) => Ok(()),
    }
}

fn is(given: &ListEntry, digest: &[u8]) -> bool {
    match given {
        ListEntry::Item(item) => {
            item.bare_item.as_byte_sequence().is_some_and(|given| given.ct_eq(digest).into())
        }
        ListEntry::InnerList(_) => false,
    }
}

/// A dictionary in which no name comes twice; by itself the parser keeps the last.
struct Once(Dictionary);

#[derive(Debug, thiserror::Error)]
#[error("a name comes twice")]
struct Twice;

impl<'de> DictionaryVisitor<'de> for Once {
    type Out = Dictionary;
    type Error = Twice;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Twice> {
        if self.0.contains_key(key) {
            return Err(Twice);
        }
        DictionaryVisitor::entry(&mut self.0, key).map_err(|never| match never {})
    }

    fn finish(self) -> Result<Dictionary, Twice> {
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{\"hello\": \"world\"}";
    // RFC 9421, appendix B.2: the request's body and its digest.
    const SHA_512: &str =
        "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";
    const WRONG_512: &str =
        "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJweQ==:";

    #[test]
    fn digests_that_match_vouch() {
        let sha_256 = of(BODY);
        assert_eq!(sha_256, "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:");
        for good in [
            sha_256.clone(),
            SHA_512.into(),
            format!("{sha_256},{SHA_512}"),
            format!("md5=:AAAA:, {sha_256} , unixsum=1;x"),
        ] {
            assert_eq!(check(good.as_bytes(), BODY), Ok(()), "{good}");
        }
        assert_eq!(check(of(b"").as_bytes(), b""), Ok(()));
    }

    #[test]
    fn every_known_digest_must_match() {
        let (good, bad) = (of(BODY), of(b"another"));
        for (value, why) in [
            (bad.clone(), WrongDigest::Mismatch),
            (format!("{good}, {WRONG_512}"), WrongDigest::Mismatch),
            (format!("{bad}, {SHA_512}"), WrongDigest::Mismatch),
            (format!("{bad}, {good}"), WrongDigest::Malformed),
            (format!("{good}, {good}"), WrongDigest::Malformed),
            ("sha-256=:AAAA:".into(), WrongDigest::Mismatch),
            ("sha-256=\"x\"".into(), WrongDigest::Mismatch),
            ("sha-256=(:AAAA:)".into(), WrongDigest::Mismatch),
            ("sha-256".into(), WrongDigest::Mismatch),
            ("md5=:AAAA:".into(), WrongDigest::Unknown),
            (String::new(), WrongDigest::Unknown),
            ("SHA-256=:AAAA:".into(), WrongDigest::Malformed),
            ("sha-256=:*:".into(), WrongDigest::Malformed),
            (format!("{good}{}", " ".repeat(LONGEST)), WrongDigest::Malformed),
        ] {
            assert_eq!(check(value.as_bytes(), BODY), Err(why), "{value}");
        }
    }
}
