//! Signature schemes: whether a request proves that its sender holds a key's secret.
//!
//! One file a scheme. Knows no routes and no rules: it says which key signed, which headers that signature covers, and
//! how the message is recognised when it comes again. Bytes are verified as they arrived, before anything parses them.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::domain::name::KeyName;

mod authority;
mod base;
mod digest;
mod rfc9421;

pub use authority::{Authority, NotAnAuthority};
pub use base::NoValue;
pub use digest::WrongDigest;
pub use rfc9421::Verifier;
pub use rfc9421::sign::{CannotSign, ToSign, sign};

/// What a request's signature headers prove.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It carries none.
    Absent,
    /// The holder of a key's secret made it.
    Verified(Signed),
    /// It carries some that prove nothing.
    Failed(Why),
}

/// What a verified signature says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Whose secret it was made with.
    pub key: KeyName,
    /// The sender's id of the message, unique within the key; 1 to 256 bytes of printable ASCII.
    pub nonce: String,
    /// When the sender made the message; whole seconds.
    pub created: Timestamp,
    /// Until when the nonce must be remembered: no earlier than the moment from which the time window refuses it.
    pub keep_until: Timestamp,
    /// Ordinary headers that are signed, in small letters.
    pub covered: BTreeSet<String>,
}

/// Why a signature proves nothing. For the operator's log: the sender is told none of this.
///
/// Holds no secret and no MAC, and of the sender's text only names that were checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// One of the two headers is there without the other.
    #[error("there is no `{0}` header beside its companion")]
    Half(&'static str),
    /// A header that must be one line is several.
    #[error("there are several `{0}` lines")]
    SeveralLines(&'static str),
    /// A header is longer than any that an honest sender needs.
    #[error("`{0}` is too long")]
    TooLong(&'static str),
    /// A header is no structured field, or not in the one form that RFC 8941 section 4.1 serialises.
    #[error("`{0}` is not a dictionary in strict form (RFC 8941, section 4.1)")]
    Malformed(&'static str),
    /// There is not exactly one label, the same in both headers.
    #[error("`Signature-Input` and `Signature` do not hold the same single label")]
    Label,
    /// `Signature-Input` holds no list of strings, or more than the bound.
    #[error("the label of `Signature-Input` is not a list of at most {} strings", rfc9421::MOST_COMPONENTS)]
    Components,
    /// A covered component has parameters.
    #[error("a covered component has parameters")]
    ComponentParameters,
    /// A covered component is none that this gateway knows, or not in small letters.
    #[error("a covered component is unknown or not in small letters")]
    UnknownComponent,
    /// A component is covered twice.
    #[error("`{0}` is covered twice")]
    RepeatedComponent(String),
    /// A component that must be covered is not.
    #[error("`{0}` is not covered")]
    Uncovered(&'static str),
    /// A covered component has no single value in this request.
    #[error(transparent)]
    NoValue(#[from] NoValue),
    /// A signature parameter other than `alg`, `created`, `expires`, `nonce` and `keyid`.
    #[error("there is a signature parameter other than alg, created, expires, nonce and keyid")]
    UnknownParameter,
    /// A signature parameter that must be given is not.
    #[error("the signature parameter `{0}` is missing")]
    ParameterMissing(&'static str),
    /// A signature parameter has the wrong type or an impossible value.
    #[error("the signature parameter `{0}` has the wrong type, length or value")]
    ParameterInvalid(&'static str),
    /// The algorithm is not `hmac-sha256`.
    #[error("the signature parameter `alg` is not \"hmac-sha256\"")]
    Algorithm,
    /// The request target is no path.
    #[error("the request target is not a path")]
    Target,
    /// There is not exactly one `Host`, or it is no host with an optional port.
    #[error("there is not exactly one `Host` header that names a host")]
    Host,
    /// The `Host` is none that signatures may name.
    #[error("the host `{0}` is none of `listen.authorities`")]
    ForeignHost(String),
    /// The policy has no `rfc9421` key of this name.
    #[error("the policy has no rfc9421 key `{0}`")]
    UnknownKey(KeyName),
    /// No secret of the key made this signature.
    #[error("no secret of the key `{0}` made this signature over this request")]
    Mismatch(KeyName),
    /// `created` is too far from now.
    #[error(
        "`created` is {seconds} s from this gateway's clock, more than the key's window: compare the clocks"
    )]
    OutsideWindow {
        /// How many seconds `created` lies after now; negative when it lies before.
        seconds: i64,
    },
    /// `expires` has passed.
    #[error("`expires` has passed")]
    Expired,
    /// The body did not arrive whole.
    #[error("the body did not arrive whole")]
    BodyIncomplete,
    /// The body is not the one that was signed.
    #[error(transparent)]
    Digest(#[from] WrongDigest),
}
