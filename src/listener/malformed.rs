//! Why what came over a connection is no well-formed HTTP.
//!
//! A closed list, for the record alone: what the sender is told does not depend on it. Judges no bytes itself.

use std::sync::{Arc, OnceLock};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A bare line feed.
    #[error("a line ends without a carriage return")]
    LineEnd,
    /// `#` in the request line.
    #[error("the request target has a fragment")]
    Fragment,
    /// HTTP/1.1 needs one, and no version takes two.
    #[error("there is no host, or more than one")]
    Host,
    /// Not one `Content-Length` of digits alone.
    #[error("the length is given twice, or is no plain number")]
    Length,
    /// Not one `Transfer-Encoding: chunked`.
    #[error("the encoding is given twice, or is not `chunked` alone")]
    Encoding,
    /// Two ends for one body.
    #[error("a length is given beside an encoding")]
    LengthAndEncoding,
    /// `Upgrade`
    #[error("another protocol is asked for")]
    Upgrade,
    /// A size that is no plain number or has an extension, or a chunk that does not end where it says.
    #[error("a chunk is not framed plainly")]
    Chunk,
    /// A trailer, or whatever else.
    #[error("something follows the last chunk")]
    Trailer,
    /// In bytes or in lines.
    #[error("the head is too large")]
    HeadTooLarge,
    /// Whatever else the HTTP library refuses.
    #[error("it is not HTTP/1.1")]
    NotHttp,
}

/// What the framing of one connection was refused for, if it was.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<OnceLock<Malformed>>);

impl Verdict {
    /// The first refusal is the one that counts: nothing is read after it.
    pub(super) fn refuse(&self, why: Malformed) {
        self.0.get_or_init(|| why);
    }

    /// What was wrong with a connection that ended like this; `None` when it was well-formed as far as it went. What the
    /// library alone refuses is not known of a client that does not take the answer: another error is the end then.
    #[must_use]
    pub fn of(&self, ended: &hyper::Result<()>) -> Option<Malformed> {
        let of_library = || match ended {
            Err(error) if error.is_parse_too_large() => Some(Malformed::HeadTooLarge),
            Err(error) if error.is_parse() => Some(Malformed::NotHttp),
            Err(_) | Ok(()) => None,
        };
        self.0.get().copied().or_else(of_library)
    }

    /// The same, but `None` for a body that breaks behind a head that was well-formed: the service was handed that
    /// request, and answers for it.
    pub(super) fn unanswered(&self, ended: &hyper::Result<()>) -> Option<Malformed> {
        let is_of_head = |why: &Malformed| match why {
            Malformed::Chunk | Malformed::Trailer => ended.as_ref().is_err_and(hyper::Error::is_parse),
            Malformed::LineEnd
            | Malformed::Fragment
            | Malformed::Host
            | Malformed::Length
            | Malformed::Encoding
            | Malformed::LengthAndEncoding
            | Malformed::Upgrade
            | Malformed::HeadTooLarge
            | Malformed::NotHttp => true,
        };
        self.of(ended).filter(is_of_head)
    }
}
