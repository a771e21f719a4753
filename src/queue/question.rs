//! What a gate may ask of workers in another process: to store what it accepted, how a job stands, and whether jobs can
//! be stored.
//!
//! There is no question that holds an argv, a lock or a limit (invariant I4). Decides nothing about what was said.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::frame::distinct;
use crate::domain::anchor::{self, Anchor};
use crate::domain::body::Body;
use crate::domain::extension::Oid;
use crate::domain::identity::{Certificate, Identity, Proofs};
use crate::domain::job::JobId;
use crate::domain::name::{KeyName, ParameterName, RouteName};
use crate::domain::parameters::{RawParameters, Value};
use crate::domain::submission::{Message, MessageId, Submission};

/// What a gate asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// To store a job.
    Submit(Box<Request>),
    /// How a job stands, if it is theirs.
    LookUp(Whose),
    /// The same once it has ended.
    AwaitEnd(Wait),
    /// Whether a job could be stored.
    Ready,
}

/// A submission, and how far the gate's audit log goes: it says there that the submission was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    route: RouteName,
    #[serde(deserialize_with = "distinct")]
    parameters: BTreeMap<ParameterName, Value>,
    #[serde(default, with = "base64_if_any")]
    body: Option<Body>,
    identity: Identity,
    proofs: Shown,
    message: Option<Id>,
    at: Timestamp,
    head: Anchor,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct One {
    /// Which.
    pub job: JobId,
}

/// One job, and who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    /// Which.
    pub job: JobId,
    /// All that one request has proven to be.
    pub by: Vec<Identity>,
}

/// One job, and for how long its end is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// Which.
    pub job: JobId,
    /// At most so long.
    pub milliseconds: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    certificate: Option<Holder>,
    key: Option<KeyName>,
    source: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holder {
    certname: String,
    #[serde(deserialize_with = "distinct")]
    extensions: BTreeMap<Oid, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Id {
    scope: String,
    id: String,
    #[serde(with = "anchor::hex")]
    digest: [u8; 32],
    created: Option<Timestamp>,
    keep_until: Timestamp,
}

impl Request {
    /// To store `submission`, which stands in the audit log up to `head`.
    #[must_use]
    pub fn new(submission: Submission, head: Anchor) -> Self {
        let Submission { route, parameters, body, identity, proofs, message, at } = submission;
        let message = match message {
            Message::Anonymous => None,
            Message::Identified(MessageId { scope, id, digest, created, keep_until }) => {
                Some(Id { scope, id, digest, created, keep_until })
            }
        };
        Self { route, parameters: parameters.0, body, identity, proofs: proofs.into(), message, at, head }
    }

    /// The submission as it was sent, and how far the gate's log goes.
    #[must_use]
    pub fn into_parts(self) -> (Submission, Anchor) {
        let Self { route, parameters, body, identity, proofs, message, at, head } = self;
        let message = match message {
            None => Message::Anonymous,
            Some(Id { scope, id, digest, created, keep_until }) => {
                Message::Identified(MessageId { scope, id, digest, created, keep_until })
            }
        };
        let parameters = RawParameters(parameters);
        (Submission { route, parameters, body, identity, proofs: proofs.into(), message, at }, head)
    }
}

impl From<Proofs> for Shown {
    fn from(Proofs { certificate, key, source }: Proofs) -> Self {
        let holder = |certificate: Arc<Certificate>| {
            let Certificate { certname, extensions } = Arc::unwrap_or_clone(certificate);
            Holder { certname, extensions }
        };
        Self { certificate: certificate.map(holder), key, source }
    }
}

impl From<Shown> for Proofs {
    fn from(Shown { certificate, key, source }: Shown) -> Self {
        let certificate =
            certificate.map(|Holder { certname, extensions }| Arc::new(Certificate { certname, extensions }));
        Self { certificate, key, source }
    }
}

/// A body as a text of the standard alphabet with padding (RFC 4648, section 4).
mod base64_if_any {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::domain::body::Body;

    pub(super) fn serialize<S: Serializer>(body: &Option<Body>, serializer: S) -> Result<S::Ok, S::Error> {
        body.as_ref().map(|body| STANDARD.encode(body.bytes())).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Body>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let read = |text| STANDARD.decode(text).map(Body::from).map_err(serde::de::Error::custom);
        text.map(read).transpose()
    }
}
