//! What becomes of requests, in few words: what is counted by, and never what a stranger chose.
//!
//! Closed sets, so that counting takes the same room whatever is sent.

/// What became of a request of somebody who is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A job was made.
    Accepted,
    /// The same message came before.
    Duplicate,
    /// It joined an equal job that waits.
    Coalesced,
    /// A condition of its route does not hold.
    Ignored,
    /// More often than its route takes.
    TooOften,
    /// The body is too large, too slow, or not what the route takes.
    Body,
    /// A parameter is missing or not valid.
    Parameter,
    /// A header is not valid.
    Header,
    /// Its message id was used for something else.
    Conflict,
    /// It could not be stored.
    NotStored,
}

/// Why somebody who is allowed nothing was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// What came is no well-formed HTTP.
    Malformed,
    /// No route has the path.
    UnknownPath,
    /// The path's routes have other methods.
    WrongMethod,
    /// The request target is in absolute form.
    AbsoluteForm,
    /// A signature that was shown proves nothing.
    Signature,
    /// Nothing was shown.
    NothingProven,
    /// No rule of the route holds for what was proven.
    NotAllowed,
    /// A header that the route uses is not covered by the signature.
    HeaderNotCovered,
    /// The certificate has been revoked, or does not stand for another reason.
    CertificateNotStanding,
    /// The message is older than what is remembered.
    Forgotten,
    /// There is no such job for whoever asks.
    NoSuchJob,
    /// The queue could not be asked for a job.
    QueueUnavailable,
    /// The listener did not say who is connected.
    NoPeer,
    /// More requests than one source, or one certificate, may send.
    TooManyRequests,
    /// The bodies of all requests together are too large.
    BodiesTooLarge,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Of somebody who is allowed nothing.
    Stranger(Stranger),
    /// Of somebody who is allowed, and is told.
    Told(Outcome),
}

impl Outcome {
    /// All of them, as they are declared.
    pub const ALL: [Self; 10] = [
        Self::Accepted,
        Self::Duplicate,
        Self::Coalesced,
        Self::Ignored,
        Self::TooOften,
        Self::Body,
        Self::Parameter,
        Self::Header,
        Self::Conflict,
        Self::NotStored,
    ];

    /// The word for it, as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Coalesced => "coalesced",
            Self::Ignored => "ignored",
            Self::TooOften => "too_often",
            Self::Body => "body",
            Self::Parameter => "parameter",
            Self::Header => "header",
            Self::Conflict => "conflict",
            Self::NotStored => "not_stored",
        }
    }
}

impl Stranger {
    /// All of them, as they are declared.
    pub const ALL: [Self; 15] = [
        Self::Malformed,
        Self::UnknownPath,
        Self::WrongMethod,
        Self::AbsoluteForm,
        Self::Signature,
        Self::NothingProven,
        Self::NotAllowed,
        Self::HeaderNotCovered,
        Self::CertificateNotStanding,
        Self::Forgotten,
        Self::NoSuchJob,
        Self::QueueUnavailable,
        Self::NoPeer,
        Self::TooManyRequests,
        Self::BodiesTooLarge,
    ];

    /// The word for it, as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownPath => "unknown_path",
            Self::WrongMethod => "wrong_method",
            Self::AbsoluteForm => "absolute_form",
            Self::Signature => "signature",
            Self::NothingProven => "nothing_proven",
            Self::NotAllowed => "not_allowed",
            Self::HeaderNotCovered => "header_not_covered",
            Self::CertificateNotStanding => "certificate_not_standing",
            Self::Forgotten => "forgotten",
            Self::NoSuchJob => "no_such_job",
            Self::QueueUnavailable => "queue_unavailable",
            Self::NoPeer => "no_peer",
            Self::TooManyRequests => "too_many_requests",
            Self::BodiesTooLarge => "bodies_too_large",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_stand_in_their_places() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
        for (place, stranger) in Stranger::ALL.into_iter().enumerate() {
            assert_eq!(stranger as usize, place);
        }
    }
}
