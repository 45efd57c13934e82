//! An outcome as it is stored: what a handler answered, or that nobody knows.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;

use crate::error::{REASON, framework_status};
use crate::message::Response;
use crate::metadata::Metadata;
use crate::outcome::Reason;
use crate::status::{Code, Status};
use crate::wire::Frame;
use crate::wire::headers::REPLAYED;

/// The first byte of a stored outcome.
const VERSION: u8 = 1;

/// How a claimed call ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A reply or a status, to be replayed.
    Answer(Result<Response<Frame>, Status>),
    /// An answer that was too large to keep.
    NotKept { bytes: u64, succeeded: bool },
    /// Nobody knows, and why.
    Unknown(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(enumeration = "Kind", tag = "1")]
    kind: i32,
    /// gRPC's code.
    #[prost(uint32, tag = "2")]
    code: u32,
    /// A status's message, or why the outcome is unknown.
    #[prost(string, tag = "3")]
    text: String,
    #[prost(bytes = "bytes", tag = "4")]
    details: Bytes,
    /// The reply's message.
    #[prost(bytes = "bytes", tag = "5")]
    message: Bytes,
    #[prost(message, repeated, tag = "6")]
    metadata: Vec<Pair>,
    /// Of an answer that was too large to keep.
    #[prost(uint64, tag = "7")]
    bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    /// What a version to come may write.
    Other = 0,
    Reply = 1,
    Status = 2,
    NotKept = 3,
    Unknown = 4,
}

/// What to store of an answer: `None` for one that the outcome table does not store, because the handler never ran.
pub(super) fn encode(answer: &Result<Response<Frame>, Status>, most_bytes: u64) -> Option<Bytes> {
    let record = match answer {
        Ok(response) => Record {
            kind: Kind::Reply.into(),
            message: response.get_ref().message(),
            metadata: pairs(response.metadata()),
            ..Record::default()
        },
        Err(status) => {
            let reason = status.metadata().get(REASON).and_then(Reason::from_name);
            let reason = reason.unwrap_or(Reason::Handler);
            // A reply that cannot be sent is the one refusal that comes after the handler.
            if !reason.outcome().stored && reason != Reason::TooLarge {
                return None;
            }
            Record {
                kind: Kind::Status.into(),
                code: status.code() as u32,
                text: status.message().to_owned(),
                details: Bytes::copy_from_slice(status.details()),
                metadata: pairs(status.metadata()),
                ..Record::default()
            }
        }
    };
    let bytes = record.encoded_len() as u64;
    if bytes <= most_bytes {
        return Some(write(&record));
    }
    let kept = Record {
        kind: Kind::NotKept.into(),
        code: record.code,
        bytes,
        ..Record::default()
    };
    Some(write(&kept))
}

/// What to store where nobody knows what came of the call.
pub(super) fn encode_unknown(why: &str) -> Bytes {
    let record = Record {
        kind: Kind::Unknown.into(),
        text: why.to_owned(),
        ..Record::default()
    };
    write(&record)
}

/// What was stored. What cannot be read is unknown: better than to run the handler again.
pub(super) fn decode(stored: &Bytes) -> Outcome {
    read(stored).unwrap_or_else(|| {
        Outcome::Unknown("it was stored by a version of RSF that this one cannot read".to_owned())
    })
}

fn write(record: &Record) -> Bytes {
    let mut out = Vec::with_capacity(record.encoded_len() + 1);
    out.push(VERSION);
    record.encode_raw(&mut out);
    out.into()
}

fn read(stored: &Bytes) -> Option<Outcome> {
    if stored.first() != Some(&VERSION) {
        return None;
    }
    let record = Record::decode(stored.slice(1..)).ok()?;
    let metadata = || read_pairs(&record.metadata);
    Some(match Kind::try_from(record.kind).ok()? {
        Kind::Reply => {
            let frame = Frame::from_message(&record.message).ok()?;
            let mut response = Response::from_parts(frame, metadata());
            mark(response.metadata_mut());
            Outcome::Answer(Ok(response))
        }
        Kind::Status => {
            let mut status = Status::new(Code::from_number(record.code), record.text.clone())
                .with_details(record.details.clone())
                .with_metadata(metadata());
            mark(status.metadata_mut());
            Outcome::Answer(Err(status))
        }
        Kind::NotKept => Outcome::NotKept {
            bytes: record.bytes,
            succeeded: record.code == 0,
        },
        Kind::Unknown => Outcome::Unknown(record.text),
        Kind::Other => return None,
    })
}

/// Tells the caller that its handler did not run now.
fn mark(metadata: &mut Metadata) {
    metadata.set_reserved(REPLAYED, HeaderValue::from_static("true"));
}

fn pairs(metadata: &Metadata) -> Vec<Pair> {
    let headers = metadata.raw().into_iter().flat_map(|headers| headers.iter());
    headers
        .map(|(name, value)| Pair {
            name: name.as_str().to_owned(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        })
        .collect()
}

fn read_pairs(pairs: &[Pair]) -> Metadata {
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for pair in pairs {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(pair.name.as_bytes()),
            HeaderValue::from_bytes(&pair.value),
        ) {
            headers.append(name, value);
        }
    }
    Metadata::from_headers(headers)
}

/// The answer for a duplicate of a call whose outcome is not known.
pub(super) fn unknown(why: &str) -> Status {
    framework_status(
        Reason::OutcomeUnknown,
        format!(
            "a call with this request id has begun and its outcome is not known: {why}; find out before you repeat it under another id"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &[u8]) -> Result<Response<Frame>, Status> {
        let mut response = Response::new(Frame::from_message(text).unwrap());
        response.metadata_mut().insert("shelf", "upper").unwrap();
        response.metadata_mut().insert_bin("seal-bin", &[0, 255]).unwrap();
        Ok(response)
    }

    #[test]
    fn a_reply_comes_back_with_its_metadata_and_marked() {
        let stored = encode(&reply(b"message"), 1000).unwrap();
        let Outcome::Answer(Ok(response)) = decode(&stored) else {
            panic!("no reply")
        };
        assert_eq!(&response.get_ref().message()[..], b"message");
        assert_eq!(response.metadata().get("shelf"), Some("upper"));
        assert_eq!(response.metadata().get_bin("seal-bin").unwrap(), [0, 255]);
        assert_eq!(response.metadata().get("rsf-replayed"), Some("true"));
    }

    #[test]
    fn a_status_comes_back_with_code_message_details_and_reason() {
        let told = Status::not_found("no member 7").with_details(vec![1, 2]);
        let Outcome::Answer(Err(status)) = decode(&encode(&Err(told), 1000).unwrap()) else {
            panic!("no status")
        };
        assert_eq!(
            (status.code(), status.message(), status.details()),
            (Code::NotFound, "no member 7", &[1, 2][..])
        );
        let panicked = framework_status(Reason::Panic, "it panicked");
        let Outcome::Answer(Err(status)) = decode(&encode(&Err(panicked), 1000).unwrap()) else {
            panic!("no status")
        };
        assert_eq!(status.metadata().get("rsf-reason"), Some("panic"));
    }

    #[test]
    fn what_the_table_does_not_store_is_not_stored() {
        for row in crate::outcome::TABLE {
            let stored = encode(&Err(framework_status(row.reason, "")), 1000).is_some();
            assert_eq!(
                stored,
                row.stored || row.reason == Reason::TooLarge,
                "{}",
                row.reason
            );
        }
    }

    #[test]
    fn of_a_large_reply_only_its_size_is_kept() {
        let stored = encode(&reply(&[7; 5000]), 1000).unwrap();
        assert!(stored.len() < 20);
        assert!(matches!(
            decode(&stored),
            Outcome::NotKept {
                bytes: 5000..,
                succeeded: true
            }
        ));
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let mut later = encode(&reply(b"message"), 1000).unwrap().to_vec();
        later[0] = 2;
        let unread: [&[u8]; 5] = [b"", b"\x01\xff\xff", &later, b"\x01", b"\x01\x08\x63"];
        for stored in unread {
            assert!(matches!(
                decode(&Bytes::copy_from_slice(stored)),
                Outcome::Unknown(_)
            ));
        }
        assert!(matches!(decode(&encode_unknown("why")), Outcome::Unknown(why) if why == "why"));
    }
}
