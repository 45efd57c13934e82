//! What a znode of a list or a policy holds: magic, format, CRC-32 and the zstd-compressed record.
//!
//! ```text
//! 0..4   b"RSFZ"
//! 4      format, 1
//! 5..9   CRC-32 (IEEE, big-endian) of all that follows
//! 9..    one zstd frame of the protobuf record
//! ```

use std::io::Read;

use prost::Message;

use crate::StoreError;

const MAGIC: &[u8; 4] = b"RSFZ";
const FORMAT: u8 = 1;
const HEADER: usize = 9;
/// zstd's default: about 500 MB/s, and lists shrink to a tenth.
const LEVEL: i32 = 3;
/// The widest window a reader accepts, as a power of two, so that a hostile frame cannot ask for more memory.
const WINDOW_LOG_MAX: u32 = 23;

/// The most that one znode may hold, in bytes. ZooKeeper's own limit is 1 MiB for a whole request.
pub(crate) const MAX_STORED: usize = 512 * 1024;
/// The most that a record may decompress to, in bytes.
pub(crate) const MAX_RECORD: usize = 8 * 1024 * 1024;

/// Encodes a record for `key`; [`StoreError::Invalid`] where it is larger than a znode or a reader allows.
pub(crate) fn encode<M: Message>(key: &str, record: &M) -> Result<Vec<u8>, StoreError> {
    let invalid = |reason: String| StoreError::Invalid {
        key: key.to_owned(),
        reason,
    };
    let plain = record.encode_to_vec();
    if plain.len() > MAX_RECORD {
        return Err(invalid(format!(
            "{} bytes are more than the {MAX_RECORD} a reader accepts",
            plain.len()
        )));
    }
    let frame = zstd::stream::encode_all(plain.as_slice(), LEVEL)
        .map_err(|error| invalid(format!("it cannot be compressed: {error}")))?;
    if HEADER + frame.len() > MAX_STORED {
        return Err(invalid(format!(
            "{} compressed bytes are more than the {MAX_STORED} one znode may hold; list fewer instances or tags",
            HEADER + frame.len()
        )));
    }
    let mut stored = Vec::with_capacity(HEADER + frame.len());
    stored.extend_from_slice(MAGIC);
    stored.push(FORMAT);
    stored.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    stored.extend_from_slice(&frame);
    Ok(stored)
}

/// Decodes what `key` holds; anything else than a whole and sound record is [`StoreError::Invalid`].
pub(crate) fn decode<M: Message + Default>(key: &str, stored: &[u8]) -> Result<M, StoreError> {
    decode_record(stored).map_err(|reason| StoreError::Invalid {
        key: key.to_owned(),
        reason,
    })
}

fn decode_record<M: Message + Default>(stored: &[u8]) -> Result<M, String> {
    let (header, frame) = stored
        .split_at_checked(HEADER)
        .ok_or("it is shorter than its header")?;
    let (magic, rest) = header.split_at(MAGIC.len());
    let (format, checksum) = rest.split_at(1);
    if magic != MAGIC {
        return Err("it does not start with RSF's magic; something else wrote it".to_owned());
    }
    if format != [FORMAT] {
        return Err(format!(
            "its format is {format:?}, this RSF reads {FORMAT}; upgrade RSF"
        ));
    }
    if frame.len() > MAX_STORED {
        return Err(format!(
            "{} compressed bytes are more than {MAX_STORED}",
            frame.len()
        ));
    }
    if checksum != crc32fast::hash(frame).to_be_bytes() {
        return Err("its checksum does not fit; it was damaged".to_owned());
    }
    M::decode(inflate(frame)?.as_slice()).map_err(|error| format!("it is no record: {error}"))
}

/// Decompresses, and stops as soon as more than [`MAX_RECORD`] bytes come out.
fn inflate(frame: &[u8]) -> Result<Vec<u8>, String> {
    let broken = |error: std::io::Error| format!("it cannot be decompressed: {error}");
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(broken)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
    let mut plain = Vec::new();
    decoder
        .take(MAX_RECORD as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(broken)?;
    if plain.len() > MAX_RECORD {
        return Err(format!("it decompresses to more than {MAX_RECORD} bytes"));
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

    fn sealed(frame: &[u8]) -> Vec<u8> {
        let mut stored = MAGIC.to_vec();
        stored.push(FORMAT);
        stored.extend_from_slice(&crc32fast::hash(frame).to_be_bytes());
        stored.extend_from_slice(frame);
        stored
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
        let bomb = sealed(&zstd::stream::encode_all(zeros, 1).unwrap());
        assert!(bomb.len() < MAX_STORED, "{} bytes", bomb.len());
        assert!(refusal(&bomb).contains("decompresses to more than"));
    }

    #[test]
    fn a_frame_that_asks_for_a_huge_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(1 << 20), &mut encoder).unwrap();
        assert!(refusal(&sealed(&encoder.finish().unwrap())).contains("cannot be decompressed"));
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
        stored[4] = 2;
        assert!(refusal(&stored).contains("upgrade RSF"));
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
            let _ = decode::<ServiceList>("list", &sealed(&noise));
            let frame = zstd::stream::encode_all(noise.as_slice(), 1).unwrap();
            let _ = decode::<ServiceList>("list", &sealed(&frame));
        }
    }
}
