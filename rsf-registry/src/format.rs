//! What is stored of a list or a policy: magic, format, CRC-32 and the zstd-compressed record, in format 2 with its kind
//! and a signature. `docs/directory-format.md` has it byte by byte.
//!
//! ```text
//! 0..4   b"RSFZ"
//! 4      format: 1, or 2 for what is signed or sharded
//! 5..9   CRC-32 (IEEE, big-endian) of all that follows
//! format 2 only:
//! 9      kind: 0 list, 1 head, 2 shard
//! 10     signature: 0 none, 1 Ed25519
//! signed only:
//! 11..19 the first 8 bytes of the public key
//! 19..83 Ed25519 signature
//! the rest: one zstd frame of the protobuf record
//! ```

use std::cell::RefCell;
use std::io::Read;

use prost::Message;
use rsf_core::identity::{SigningKey, TrustedKeys};

use crate::StoreError;
use crate::directory::refusals::{Reason, Refusal};

const MAGIC: &[u8; 4] = b"RSFZ";
const PLAIN: u8 = 1;
const SEALED: u8 = 2;
/// Magic, format, checksum.
const HEADER: usize = 9;
const ED25519: u8 = 1;
const KEY_ID: usize = 8;
const SIGNATURE: usize = 64;
/// zstd's default: about 500 MB/s, and lists shrink to a tenth.
const LEVEL: i32 = 3;

thread_local! {
    /// A pump seals thousands of small lists in a row, and a context costs more than what it compresses.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

/// The widest window a reader accepts, as a power of two, so that a hostile frame cannot ask for more memory.
const WINDOW_LOG_MAX: u32 = 23;

/// The most that one znode may hold, in bytes. ZooKeeper's own limit is 1 MiB for a whole request.
pub(crate) const MAX_STORED: usize = 512 * 1024;
/// The most that a record may decompress to, in bytes.
pub(crate) const MAX_RECORD: usize = crate::limits::MAX_RECORD;

/// What a stored record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A whole list; also whatever stands in format 1.
    Whole,
    /// The head of a list in shards.
    Head,
    /// One shard.
    Shard,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Whole, Kind::Head, Kind::Shard];

    fn byte(self) -> u8 {
        self as u8
    }
}

/// Encodes a policy for `key`; [`StoreError::Invalid`] where it is larger than a znode or a reader allows.
pub(crate) fn encode<M: Message>(key: &str, record: &M) -> Result<Vec<u8>, StoreError> {
    let invalid = |reason: String| StoreError::Invalid {
        key: key.to_owned(),
        reason,
    };
    let stored = sealed(Kind::Whole, &compress(record).map_err(invalid)?, "", None);
    if stored.len() > MAX_STORED {
        return Err(invalid(format!(
            "{} compressed bytes are more than the {MAX_STORED} one znode may hold",
            stored.len()
        )));
    }
    Ok(stored)
}

/// Decodes a policy that `key` holds; anything else than a whole and sound record is [`StoreError::Invalid`].
pub(crate) fn decode<M: Message + Default>(key: &str, stored: &[u8]) -> Result<M, StoreError> {
    let record = Envelope::open(stored).and_then(|envelope| envelope.record(MAX_RECORD));
    record.map_err(|refusal| StoreError::Invalid {
        key: key.to_owned(),
        reason: refusal.to_string(),
    })
}

/// One zstd frame of a record.
pub(crate) fn compress<M: Message>(record: &M) -> Result<Vec<u8>, String> {
    let plain = record.encode_to_vec();
    if plain.len() > MAX_RECORD {
        return Err(format!(
            "{} bytes are more than the {MAX_RECORD} a reader accepts",
            plain.len()
        ));
    }
    COMPRESSOR.with_borrow_mut(|compressor| {
        let compressor = match compressor {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(LEVEL).map_err(uncompressed)?),
        };
        compressor.compress(&plain).map_err(uncompressed)
    })
}

fn uncompressed(error: std::io::Error) -> String {
    format!("it cannot be compressed: {error}")
}

/// A frame in its envelope: in format 1 where nothing asks for more, so that older readers go on reading.
pub(crate) fn sealed(kind: Kind, frame: &[u8], namespace: &str, key: Option<&SigningKey>) -> Vec<u8> {
    let mut body = Vec::with_capacity(2 + KEY_ID + SIGNATURE + frame.len());
    let format = match (kind, key) {
        (Kind::Whole, None) => PLAIN,
        (kind, None) => {
            body.extend_from_slice(&[kind.byte(), 0]);
            SEALED
        }
        (kind, Some(key)) => {
            body.extend_from_slice(&[kind.byte(), ED25519]);
            body.extend_from_slice(&key.public_bytes()[..KEY_ID]);
            body.extend_from_slice(&key.sign(&signed_text(kind, namespace, frame)));
            SEALED
        }
    };
    body.extend_from_slice(frame);
    let mut stored = Vec::with_capacity(HEADER + body.len());
    stored.extend_from_slice(MAGIC);
    stored.push(format);
    stored.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
    stored.extend_from_slice(&body);
    stored
}

/// What a signature is made over: it binds a record to its use and its namespace.
fn signed_text(kind: Kind, namespace: &str, frame: &[u8]) -> Vec<u8> {
    let mut text = b"rsf.directory.2\0".to_vec();
    text.extend_from_slice(namespace.as_bytes());
    text.extend_from_slice(&[0, kind.byte()]);
    text.extend_from_slice(frame);
    text
}

/// A stored record whose checksum fits; nothing is decompressed yet.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) kind: Kind,
    signature: Option<(&'a [u8; KEY_ID], &'a [u8; SIGNATURE])>,
    frame: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads the header. Cheap: it costs a checksum of at most [`MAX_STORED`] bytes.
    pub(crate) fn open(stored: &'a [u8]) -> Result<Self, Refusal> {
        let damaged = |text: &str| Refusal::new(Reason::Damaged, text);
        if stored.len() > MAX_STORED {
            let text = format!("{} stored bytes are more than {MAX_STORED}", stored.len());
            return Err(Refusal::new(Reason::Oversized, text));
        }
        let short = || damaged("it is shorter than its header");
        let rest = stored
            .strip_prefix(MAGIC)
            .ok_or_else(|| damaged("it does not start with RSF's magic; something else wrote it"))?;
        let (&format, rest) = rest.split_first().ok_or_else(short)?;
        if format != PLAIN && format != SEALED {
            let text = format!("its format is {format}, this RSF reads up to {SEALED}; upgrade RSF");
            return Err(Refusal::new(Reason::Format, text));
        }
        let (checksum, body) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        if *checksum != crc32fast::hash(body).to_be_bytes() {
            return Err(damaged("its checksum does not fit; it was damaged"));
        }
        if format == PLAIN {
            return Ok(Envelope {
                kind: Kind::Whole,
                signature: None,
                frame: body,
            });
        }
        let ([kind, scheme], body) = body.split_first_chunk::<2>().ok_or_else(short)?;
        let newer = |what: &str, value: u8| {
            let text = format!("its {what} {value} is not known to this RSF; upgrade RSF");
            Refusal::new(Reason::Format, text)
        };
        let known = Kind::ALL.into_iter().find(|known| known.byte() == *kind);
        let kind = known.ok_or_else(|| newer("kind", *kind))?;
        let (signature, frame) = match *scheme {
            0 => (None, body),
            ED25519 => {
                let (id, body) = body.split_first_chunk::<KEY_ID>().ok_or_else(short)?;
                let (signature, frame) = body.split_first_chunk::<SIGNATURE>().ok_or_else(short)?;
                (Some((id, signature)), frame)
            }
            other => return Err(newer("signature scheme", other)),
        };
        Ok(Envelope {
            kind,
            signature,
            frame,
        })
    }

    /// That one of `keys` signed it for `namespace`.
    pub(crate) fn verify(&self, namespace: &str, keys: &TrustedKeys) -> Result<(), Refusal> {
        let refused = |text: String| Err(Refusal::new(Reason::Signature, text));
        let Some((id, signature)) = self.signature else {
            return refused("it is not signed, and keys for lists are configured".to_owned());
        };
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = signed_text(self.kind, namespace, self.frame);
        if keys.verify_bytes(&id, &text, signature) {
            return Ok(());
        }
        let known: Vec<_> = keys.ids().collect();
        refused(format!(
            "key {id} has not signed it for namespace `{namespace}`, or is not trusted here ({})",
            known.join(", ")
        ))
    }

    /// The record, of at most `budget` bytes.
    pub(crate) fn record<M: Message + Default>(&self, budget: usize) -> Result<M, Refusal> {
        let plain = inflate(self.frame, budget)?;
        M::decode(plain.as_slice())
            .map_err(|error| Refusal::new(Reason::Damaged, format!("it is no record: {error}")))
    }
}

/// Decompresses, and stops as soon as more than `budget` bytes come out.
fn inflate(frame: &[u8], budget: usize) -> Result<Vec<u8>, Refusal> {
    let broken =
        |error: std::io::Error| Refusal::new(Reason::Damaged, format!("it cannot be decompressed: {error}"));
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(broken)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
    let mut plain = Vec::new();
    decoder
        .take(budget as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(broken)?;
    if plain.len() > budget {
        let text = format!("it decompresses to more than {budget} bytes");
        return Err(Refusal::new(Reason::Oversized, text));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{ListVersion, ListedInstance, ServiceList};

    fn list(instances: usize) -> ServiceList {
        ServiceList {
            service: "shop.v1.Stock".to_owned(),
            version: Some(ListVersion {
                epoch: 7,
                sequence: 9,
            }),
            instances: (0..instances)
                .map(|n| ListedInstance {
                    instance: format!("stock/{n}"),
                    weight: 100,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    fn plain(frame: &[u8]) -> Vec<u8> {
        sealed(Kind::Whole, frame, "", None)
    }

    fn signed(key: &SigningKey) -> Vec<u8> {
        sealed(Kind::Whole, &compress(&list(50)).unwrap(), "prod", Some(key))
    }

    fn refusal(stored: &[u8]) -> String {
        match decode::<ServiceList>("list", stored) {
            Err(StoreError::Invalid { key, reason }) if key == "list" => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_list_comes_back_as_it_was_and_small() {
        let stored = encode("list", &list(20_000)).unwrap();
        assert!(stored.len() < MAX_STORED / 4, "{} bytes", stored.len());
        assert_eq!(decode::<ServiceList>("list", &stored).unwrap(), list(20_000));
    }

    #[test]
    fn a_bomb_is_refused_without_being_inflated() {
        let zeros = std::io::repeat(0).take(64 << 20);
        let bomb = plain(&zstd::stream::encode_all(zeros, 1).unwrap());
        assert!(bomb.len() < MAX_STORED, "{} bytes", bomb.len());
        assert!(refusal(&bomb).contains("decompresses to more than"));
    }

    #[test]
    fn a_frame_that_asks_for_a_huge_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(1 << 20), &mut encoder).unwrap();
        assert!(refusal(&plain(&encoder.finish().unwrap())).contains("cannot be decompressed"));
    }

    #[test]
    fn what_does_not_fit_a_znode_is_refused_by_name() {
        let mut big = list(1);
        big.instances[0].address = (0..MAX_STORED * 2).map(|_| fastrand::alphanumeric()).collect();
        let error = encode("shop.v1.Stock", &big).unwrap_err().to_string();
        assert!(
            error.contains("shop.v1.Stock") && error.contains("compressed bytes"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_format_says_what_to_do() {
        let mut stored = encode("list", &list(1)).unwrap();
        stored[4] = 3;
        assert!(refusal(&stored).contains("upgrade RSF"));
        // In format 2 the kind and the scheme are as open to the future; the checksum is made to fit.
        for place in [9, 10] {
            let mut newer = signed(&SigningKey::from_random(&[7; 32]));
            newer[place] = 9;
            let checksum = crc32fast::hash(&newer[9..]).to_be_bytes();
            newer[5..9].copy_from_slice(&checksum);
            let refusal = Envelope::open(&newer).unwrap_err();
            assert_eq!(refusal.reason(), Reason::Format, "{refusal}");
        }
    }

    #[test]
    fn a_signature_holds_for_its_bytes_its_namespace_and_its_key() {
        let key = SigningKey::from_random(&[7; 32]);
        let trusted = TrustedKeys::from_pem(&key.public_pem().unwrap()).unwrap();
        let stored = signed(&key);
        let envelope = Envelope::open(&stored).unwrap();
        envelope.verify("prod", &trusted).unwrap();
        assert_eq!(envelope.record::<ServiceList>(MAX_RECORD).unwrap(), list(50));

        let refused = |envelope: Envelope<'_>, namespace: &str, keys: &TrustedKeys| {
            let refusal = envelope.verify(namespace, keys).unwrap_err();
            assert_eq!(refusal.reason(), Reason::Signature, "{refusal}");
        };
        refused(envelope, "test", &trusted);
        let other = SigningKey::from_random(&[8; 32]).public_pem().unwrap();
        let other = TrustedKeys::from_pem(&other).unwrap();
        refused(Envelope::open(&stored).unwrap(), "prod", &other);
        let unsigned = encode("list", &list(50)).unwrap();
        refused(Envelope::open(&unsigned).unwrap(), "prod", &trusted);
        // Its bytes under another name, and another content under its signature.
        for (place, value) in [(9, 1), (30, stored[30] ^ 1), (90, stored[90] ^ 1)] {
            let mut forged = stored.clone();
            forged[place] = value;
            let checksum = crc32fast::hash(&forged[9..]).to_be_bytes();
            forged[5..9].copy_from_slice(&checksum);
            refused(Envelope::open(&forged).unwrap(), "prod", &trusted);
        }
    }

    proptest! {
        #[test]
        fn no_flipped_bit_passes(position in any::<prop::sample::Index>(), bit in 0..8u32) {
            let mut stored = encode("list", &list(50)).unwrap();
            let at = position.index(stored.len());
            stored[at] ^= 1u8 << bit;
            prop_assert!(decode::<ServiceList>("list", &stored).is_err());
        }

        #[test]
        fn no_truncation_passes(position in any::<prop::sample::Index>()) {
            let stored = encode("list", &list(50)).unwrap();
            prop_assert!(decode::<ServiceList>("list", &stored[..position.index(stored.len())]).is_err());
        }

        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = decode::<ServiceList>("list", &noise);
            let _ = decode::<ServiceList>("list", &plain(&noise));
            let frame = zstd::stream::encode_all(noise.as_slice(), 1).unwrap();
            let _ = decode::<ServiceList>("list", &plain(&frame));
        }
    }
}
