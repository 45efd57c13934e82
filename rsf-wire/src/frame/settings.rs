//! SETTINGS: what a peer announces, checked, and what we announce.

use super::{ConnectionError, ErrorCode, MAX_31_BITS, kind, write_head};
use crate::limits::Limits;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// The settings of one SETTINGS frame; `None` where it does not name them. The last value of several counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the settings are HTTP/2's own, RFC 9113 section 6.5.2"
)]
pub struct Settings {
    pub header_table_size: Option<u32>,
    /// The least of several: what does not fit into it is forgotten, however large the table is afterwards.
    pub least_header_table_size: Option<u32>,
    pub enable_push: Option<bool>,
    pub max_concurrent_streams: Option<u32>,
    pub initial_window_size: Option<u32>,
    pub max_frame_size: Option<u32>,
}

impl Settings {
    pub(super) fn read(payload: &[u8]) -> Result<Settings, ConnectionError> {
        let (entries, []) = payload.as_chunks::<6>() else {
            return Err(ConnectionError::size("SETTINGS is no multiple of six bytes"));
        };
        let mut settings = Settings::default();
        for &[n0, n1, a, b, c, d] in entries {
            let value = u32::from_be_bytes([a, b, c, d]);
            match u16::from_be_bytes([n0, n1]) {
                HEADER_TABLE_SIZE => {
                    settings.header_table_size = Some(value);
                    let least = settings
                        .least_header_table_size
                        .map_or(value, |least| least.min(value));
                    settings.least_header_table_size = Some(least);
                }
                ENABLE_PUSH if value > 1 => {
                    return Err(ConnectionError::protocol(
                        "SETTINGS_ENABLE_PUSH is neither 0 nor 1",
                    ));
                }
                ENABLE_PUSH => settings.enable_push = Some(value == 1),
                MAX_CONCURRENT_STREAMS => settings.max_concurrent_streams = Some(value),
                INITIAL_WINDOW_SIZE if value > MAX_31_BITS => {
                    let reason = "SETTINGS_INITIAL_WINDOW_SIZE is above 2^31 - 1";
                    return Err(ConnectionError::new(ErrorCode::FLOW_CONTROL_ERROR, reason));
                }
                INITIAL_WINDOW_SIZE => settings.initial_window_size = Some(value),
                MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                    return Err(ConnectionError::protocol(
                        "SETTINGS_MAX_FRAME_SIZE is out of range",
                    ));
                }
                MAX_FRAME_SIZE => settings.max_frame_size = Some(value),
                _ => {}
            }
        }
        Ok(settings)
    }

    /// Announces `limits`. Only servers say how many streams they admit; only clients may switch push off.
    pub(crate) fn write(limits: &Limits, server: bool, out: &mut Vec<u8>) {
        let role = if server {
            (MAX_CONCURRENT_STREAMS, limits.concurrent_streams)
        } else {
            (ENABLE_PUSH, 0)
        };
        let entries = [
            role,
            (INITIAL_WINDOW_SIZE, limits.stream_window.min(MAX_31_BITS)),
            (MAX_FRAME_SIZE, limits.frame_bytes),
            (MAX_HEADER_LIST_SIZE, limits.header_list_bytes),
        ];
        write_head(out, entries.len() * 6, kind::SETTINGS, 0, 0);
        for (id, value) in entries {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused() {
        for (bytes, code) in [
            (&[0, 2, 0, 0, 0, 2][..], ErrorCode::PROTOCOL_ERROR),
            (&[0, 4, 0x80, 0, 0, 0], ErrorCode::FLOW_CONTROL_ERROR),
            (&[0, 5, 0, 0, 0x3f, 0xff], ErrorCode::PROTOCOL_ERROR),
            (&[0, 5, 1, 0, 0, 0], ErrorCode::PROTOCOL_ERROR),
            (&[0, 5, 1], ErrorCode::FRAME_SIZE_ERROR),
        ] {
            assert_eq!(Settings::read(bytes).map_err(|e| e.code), Err(code), "{bytes:?}");
        }
        assert_eq!(Settings::read(&[9, 9, 0, 0, 0, 1]), Ok(Settings::default()));
    }

    #[test]
    fn what_is_announced_is_read_back() {
        let limits = Limits {
            stream_window: 77_777,
            ..Limits::default()
        };
        let mut out = Vec::new();
        Settings::write(&limits, true, &mut out);
        let settings = Settings::read(&out[9..]).unwrap();
        assert_eq!(settings.initial_window_size, Some(77_777));
        assert_eq!(settings.max_concurrent_streams, Some(4096));
        assert_eq!(settings.enable_push, None);
    }
}
