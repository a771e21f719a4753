//! Why a signature proves nothing.
//! For the operator's log: the sender is told none of this.

use super::base::NoValue;
use super::digest::WrongDigest;
use super::header::Problem;
use super::rfc9421::MOST_COMPONENTS;
use crate::domain::name::KeyName;

/// Why a signature proves nothing.
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
    #[error("the label of `Signature-Input` is not a list of at most {} strings", MOST_COMPONENTS)]
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
    /// The signature's time is too far from now.
    #[error(
        "the signature's time is {seconds} s from this gateway's clock, more than the key's window: compare the clocks"
    )]
    OutsideWindow {
        /// How many seconds it lies after now; negative when it lies before.
        seconds: i64,
    },
    /// `expires` has passed.
    #[error("`expires` has passed")]
    Expired,
    /// The body did not arrive whole.
    #[error("the body did not arrive whole")]
    BodyIncomplete,
    /// There is no body, and the scheme signs nothing else.
    #[error("the scheme signs the body alone, and there is none")]
    NoBody,
    /// A header of a scheme that signs bodies will not do.
    #[error("`{header}` {problem}")]
    Header {
        /// Its name, in small letters.
        header: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// No secret of any key made the signature in this header.
    #[error("no secret of a key whose signatures stand in `{0}` made this one over this body")]
    Unmatched(String),
    /// The body is not the one that was signed.
    #[error(transparent)]
    Digest(#[from] WrongDigest),
}
