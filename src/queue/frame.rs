//! Frames: how a gate and workers in two processes speak, one question and one answer a connection.
//!
//! A frame is its length in four bytes, the most significant first, and so many bytes of JSON. Reads strictly: unknown
//! and repeated keys are refused, and so is whatever follows the JSON. What is said stands in `question` and `answer`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Unavailable;

/// Largest answer that a gate reads, in bytes: the kept output of a job is in it, escaped.
pub(super) const LARGEST_ANSWER: usize = 1 << 30;

/// The largest question, in bytes, where a body may have `body` bytes: what is taken from body and headers may be
/// escaped, which makes up to six bytes of one, and the body itself may be there, as four bytes for three.
#[must_use]
pub const fn largest_question(body: usize) -> usize {
    body.saturating_mul(8).saturating_add(1 << 19)
}

/// Why a frame was not read.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    /// The connection ended before a whole frame.
    #[error("the connection ended within a frame: {0}")]
    Cut(#[from] io::Error),
    /// It says that it is longer than it may be.
    #[error("a frame of {said} bytes, and {largest} are the most")]
    TooLarge {
        /// What it says.
        said: usize,
        /// What is allowed.
        largest: usize,
    },
    /// It is no frame of this kind.
    #[error("not a frame: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// How long the next frame is, as it says itself.
///
/// # Errors
/// When the connection ends first, or that is more than `largest`.
pub async fn read_length(from: &mut (impl AsyncRead + Unpin), largest: usize) -> Result<usize, NotRead> {
    let said = usize::try_from(from.read_u32().await?).unwrap_or(usize::MAX);
    if said > largest { Err(NotRead::TooLarge { said, largest }) } else { Ok(said) }
}

/// The bytes of a frame of this length. Memory is taken as they arrive.
///
/// # Errors
/// When the connection ends first.
pub async fn read_bytes(from: &mut (impl AsyncRead + Unpin), length: usize) -> Result<Vec<u8>, NotRead> {
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(NotRead::Cut(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

/// What the bytes of a frame say.
///
/// # Errors
/// When they are not exactly one `T`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NotRead> {
    Ok(serde_json::from_slice(bytes)?)
}

/// A frame that says this, its length included.
///
/// # Errors
/// When it would be longer than a frame can be.
pub fn encode(said: &impl Serialize) -> Result<Vec<u8>, Unavailable> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, said)?;
    let length = u32::try_from(bytes.len() - 4)
        .map_err(|_| Unavailable(format!("{} bytes are too much for a frame", bytes.len())))?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// A map in which no key stands twice; of two, JSON readers take one or the other.
pub(super) fn distinct<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    struct Distinct<K, V>(PhantomData<(K, V)>);
    impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Visitor<'de> for Distinct<K, V> {
        type Value = BTreeMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object without repeated keys")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = access.next_entry()? {
                if map.insert(key, value).is_some() {
                    return Err(serde::de::Error::custom("a key stands twice"));
                }
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(Distinct(PhantomData))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::Place;
    use super::super::question::{Question, Request, Whose};
    use super::*;
    use crate::domain::anchor::Anchor;
    use crate::domain::body::Body;
    use crate::domain::extension::Oid;
    use crate::domain::identity::{Certificate, Identity, Proofs};
    use crate::domain::job::JobId;
    use crate::domain::name::{KeyName, ParameterName, RouteName};
    use crate::domain::parameters::{RawParameters, Value};
    use crate::domain::submission::{Message, MessageId, Submission};

    fn submissions() -> impl Strategy<Value = Submission> {
        let time =
            || (0_i64..4_000_000_000_000).prop_map(|ms| jiff::Timestamp::from_millisecond(ms).unwrap());
        let text = "\\PC{1,20}";
        let certificate = proptest::option::of((text, proptest::collection::btree_map(0_u32..9, text, 0..3)));
        let proofs =
            (certificate, proptest::bool::ANY, any::<std::net::IpAddr>()).prop_map(|(held, key, source)| {
                let certificate = held.map(|(certname, extensions)| {
                    let oid = |number| Oid::parse(&format!("1.3.6.1.4.1.34380.1.2.{number}")).unwrap();
                    let extensions =
                        extensions.into_iter().map(|(number, value)| (oid(number), value)).collect();
                    std::sync::Arc::new(Certificate { certname, extensions })
                });
                Proofs { certificate, key: key.then(|| KeyName::parse("jenkins").unwrap()), source }
            });
        let message = proptest::option::of((text, any::<[u8; 32]>(), proptest::option::of(time()), time()));
        let list = proptest::collection::vec(any::<String>(), 0..3);
        let value = prop_oneof![any::<String>().prop_map(Value::Text), list.prop_map(Value::List)];
        let parameters = proptest::collection::btree_map("[a-z]{1,5}", value, 0..4);
        let body = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100));
        (parameters, body, proofs, message, time(), text).prop_map(
            |(parameters, body, proofs, message, at, certname)| {
                let name = |(name, value): (String, Value)| (ParameterName::parse(&name).unwrap(), value);
                Submission {
                    route: RouteName::parse("kick").unwrap(),
                    parameters: RawParameters(parameters.into_iter().map(name).collect()),
                    body: body.map(Body::from),
                    identity: Identity::Certname(certname),
                    proofs,
                    message: message.map_or(Message::Anonymous, |(id, digest, created, keep_until)| {
                        Message::Identified(MessageId {
                            scope: "key:jenkins".into(),
                            id,
                            digest,
                            created,
                            keep_until,
                        })
                    }),
                    at,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_read(submission in submissions(), seq in any::<u64>(), sha256 in any::<[u8; 32]>()) {
            let head = Anchor { seq, sha256 };
            let question = Question::Submit(Box::new(Request::new(submission.clone(), head)));
            let bytes = encode(&question).unwrap();
            let length = u32::from_be_bytes(bytes[..4].try_into().unwrap());
            prop_assert_eq!(bytes.len(), 4 + usize::try_from(length).unwrap());
            match parse(&bytes[4..]).unwrap() {
                Question::Submit(request) => prop_assert_eq!(request.into_parts(), (submission, head)),
                other @ (Question::LookUp(_) | Question::AwaitEnd(_) | Question::Ready) => {
                    prop_assert!(false, "{other:?}");
                }
            }
        }

        #[test]
        fn any_bytes_are_a_question_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse::<Question>(&bytes));
        }

        #[test]
        fn a_question_with_a_part_missing_doubled_or_added_is_none(submission in submissions(), at in any::<prop::sample::Index>()) {
            let head = Anchor { seq: 1, sha256: [7; 32] };
            let bytes = encode(&Question::Submit(Box::new(Request::new(submission, head)))).unwrap();
            let json = &bytes[4..];
            let place = at.index(json.len());
            prop_assert!(parse::<Question>(&json[..place]).is_err());
            prop_assert!(parse::<Question>(&[json, &json[place..]].concat()).is_err());
            let braces: Vec<usize> = (0..json.len()).filter(|at| json[*at..].starts_with(b"\"route\":\"")).collect();
            let more = [&json[..braces[0]], b"\"more\":1,".as_slice(), &json[braces[0]..]].concat();
            prop_assert!(parse::<Question>(&more).is_err());
        }
    }

    #[test]
    fn a_map_in_which_a_key_stands_twice_is_refused() {
        let submission = Place::new().submission("kick");
        let head = Anchor { seq: 1, sha256: [0; 32] };
        let bytes = encode(&Question::Submit(Box::new(Request::new(submission, head)))).unwrap();
        let text = std::str::from_utf8(&bytes[4..]).unwrap();
        let start = text.find("\"parameters\":{").unwrap() + "\"parameters\":{".len();
        let with = |members: &str| [&text[..start], members, &text[start..]].concat();
        let comma = if text[start..].starts_with('}') { "" } else { "," };
        assert!(parse::<Question>(with(&format!("\"zz\":\"1\"{comma}")).as_bytes()).is_ok());
        let twice = with(&format!("\"zz\":\"1\",\"\\u007az\":\"2\"{comma}"));
        assert!(parse::<Question>(twice.as_bytes()).unwrap_err().to_string().contains("twice"), "{twice}");
    }

    #[tokio::test]
    async fn i7_a_frame_is_bounded_before_it_is_read_and_must_be_whole() {
        let job = JobId::new(jiff::Timestamp::UNIX_EPOCH);
        let bytes = encode(&Question::LookUp(Whose { job, by: Vec::new() })).unwrap();
        let length = bytes.len() - 4;
        let mut whole = &bytes[..];
        assert_eq!(read_length(&mut whole, length).await.unwrap(), length);
        let read = read_bytes(&mut whole, length).await.unwrap();
        assert_eq!(parse::<Question>(&read).unwrap(), Question::LookUp(Whose { job, by: Vec::new() }));
        let too_large = read_length(&mut &bytes[..], length - 1).await;
        assert!(matches!(too_large, Err(NotRead::TooLarge { said, .. }) if said == length), "{too_large:?}");
        assert!(matches!(read_length(&mut &bytes[..3], length).await, Err(NotRead::Cut(_))));
        assert!(matches!(read_bytes(&mut &bytes[4..bytes.len() - 1], length).await, Err(NotRead::Cut(_))));
    }
}
