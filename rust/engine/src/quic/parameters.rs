//! The peer's transport parameters (RFC 9000, section 18). quinn-proto acts on them and does not
//! show them.

use std::time::Duration;

const MAX_IDLE_TIMEOUT: u64 = 0x01;
const MAX_UDP_PAYLOAD_SIZE: u64 = 0x03;
const INITIAL_MAX_DATA: u64 = 0x04;
const INITIAL_MAX_STREAM_DATA_BIDI_LOCAL: u64 = 0x05;
const INITIAL_MAX_STREAM_DATA_BIDI_REMOTE: u64 = 0x06;
const INITIAL_MAX_STREAM_DATA_UNI: u64 = 0x07;
const INITIAL_MAX_STREAMS_BIDI: u64 = 0x08;
const INITIAL_MAX_STREAMS_UNI: u64 = 0x09;
const DISABLE_ACTIVE_MIGRATION: u64 = 0x0c;
/// RFC 9221, section 3
const MAX_DATAGRAM_FRAME_SIZE: u64 = 0x20;

/// What the peer said about itself in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerParameters {
    /// None: the peer never gives up by itself.
    pub idle_timeout: Option<Duration>,
    pub maximum_udp_payload: u64,
    pub initial_max_data: u64,
    /// For streams that the peer opens.
    pub initial_max_stream_data_local: u64,
    /// For bidirectional streams that we open.
    pub initial_max_stream_data_remote: u64,
    pub initial_max_stream_data_unidirectional: u64,
    /// How many streams we may open at first.
    pub initial_max_bidirectional_streams: u64,
    pub initial_max_unidirectional_streams: u64,
    pub migration: bool,
    /// 0: the peer takes no datagrams.
    pub max_datagram_frame_size: u64,
}

impl PeerParameters {
    /// None if malformed; quinn-proto has closed the connection for it then.
    pub(crate) fn read(encoded: &[u8]) -> Option<Self> {
        let mut parameters = Self {
            idle_timeout: None,
            maximum_udp_payload: 65_527, // RFC 9000, section 18.2
            initial_max_data: 0,
            initial_max_stream_data_local: 0,
            initial_max_stream_data_remote: 0,
            initial_max_stream_data_unidirectional: 0,
            initial_max_bidirectional_streams: 0,
            initial_max_unidirectional_streams: 0,
            migration: true,
            max_datagram_frame_size: 0,
        };
        let mut rest = encoded;
        while !rest.is_empty() {
            let (id, value, after) = parameter(rest)?;
            rest = after;
            let number = || variable(value).map(|(number, _)| number);
            match id {
                MAX_IDLE_TIMEOUT => {
                    let milliseconds = number()?;
                    parameters.idle_timeout =
                        (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
                }
                MAX_UDP_PAYLOAD_SIZE => parameters.maximum_udp_payload = number()?,
                INITIAL_MAX_DATA => parameters.initial_max_data = number()?,
                INITIAL_MAX_STREAM_DATA_BIDI_LOCAL => {
                    parameters.initial_max_stream_data_local = number()?;
                }
                INITIAL_MAX_STREAM_DATA_BIDI_REMOTE => {
                    parameters.initial_max_stream_data_remote = number()?;
                }
                INITIAL_MAX_STREAM_DATA_UNI => {
                    parameters.initial_max_stream_data_unidirectional = number()?;
                }
                INITIAL_MAX_STREAMS_BIDI => {
                    parameters.initial_max_bidirectional_streams = number()?;
                }
                INITIAL_MAX_STREAMS_UNI => {
                    parameters.initial_max_unidirectional_streams = number()?;
                }
                DISABLE_ACTIVE_MIGRATION => parameters.migration = false,
                MAX_DATAGRAM_FRAME_SIZE => parameters.max_datagram_frame_size = number()?,
                _ => {}
            }
        }
        Some(parameters)
    }
}

/// The same parameters, with another size of DATAGRAM frames where there was one.
pub(crate) fn limit_datagrams(encoded: &[u8], limit: u64) -> Vec<u8> {
    let mut result = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while !rest.is_empty() {
        let Some((id, _, after)) = parameter(rest) else {
            return encoded.to_vec();
        };
        if id == MAX_DATAGRAM_FRAME_SIZE {
            result.push(0x20);
            result.push(8);
            result.extend_from_slice(&(limit.min(MAXIMUM) | 3 << 62).to_be_bytes());
        } else {
            result.extend_from_slice(&rest[..rest.len() - after.len()]);
        }
        rest = after;
    }
    result
}

/// The largest variable-length integer.
pub(crate) const MAXIMUM: u64 = (1 << 62) - 1;

/// Split the first parameter off: (its id, its value, what follows).
fn parameter(data: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (id, rest) = variable(data)?;
    let (length, rest) = variable(rest)?;
    let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((id, value, rest))
}

/// A variable-length integer (RFC 9000, section 16), and what follows it.
pub(crate) fn variable(data: &[u8]) -> Option<(u64, &[u8])> {
    let first = *data.first()?;
    let (digits, rest) = data.split_at_checked(1 << (first >> 6))?;
    let number = digits[1..]
        .iter()
        .fold(u64::from(first & 0x3f), |number, &digit| {
            number << 8 | u64::from(digit)
        });
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_length_integers() {
        // RFC 9000, appendix A.1
        for (bytes, number) in [
            (
                &b"\xc2\x19\x7c\x5e\xff\x14\xe8\x8c"[..],
                151_288_809_941_952_652,
            ),
            (b"\x9d\x7f\x3e\x7d", 494_878_333),
            (b"\x7b\xbd", 15_293),
            (b"\x25", 37),
        ] {
            assert_eq!(variable(bytes), Some((number, &[][..])));
            assert_eq!(variable(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn datagram_size_is_replaced() {
        let encoded = b"\x01\x01\x05\x20\x02\x44\x00\x0c\x00";
        let limited = limit_datagrams(encoded, 1200);
        let parameters = PeerParameters::read(&limited).expect("well-formed");
        assert_eq!(parameters.max_datagram_frame_size, 1200);
        assert_eq!(parameters.idle_timeout, Some(Duration::from_millis(5)));
        assert!(!parameters.migration);
        assert_eq!(limit_datagrams(b"\x01\x01\x05", 1200), b"\x01\x01\x05");
        assert_eq!(PeerParameters::read(b"\x01\x05\x00"), None);
    }
}
