//! Closing a connection with an error code of the transport (RFC 9000, section 19.19).
//!
//! quinn-proto says such codes for what it has found wrong itself; whoever uses it can close with
//! an application's code only, which is no code at all (`APPLICATION_ERROR`) before the handshake
//! is done. So a farewell closes with a frame of the application's, and just before the packet is
//! sealed it puts the frame that was meant in its place. The two are equally long:
//!
//! ```text
//!   application   1d   code   length         reason, of which one byte is for nothing
//!   transport     1c   code   0     length   reason
//! ```

use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use quinn_proto::crypto::{CryptoError, PacketKey};

/// What fits into a length of one byte (RFC 9000, section 16), less the byte for nothing.
const LONGEST_REASON: usize = 62;
/// What quinn-proto makes of an application's close before 1-RTT packets.
const NO_CODE: [u8; 4] = [0x1c, 0x0c, 0, 0];

pub(crate) struct Farewell {
    said: Vec<u8>,
    meant: Vec<u8>,
    /// In place of `NO_CODE`, where there is room for one byte of code.
    early: [u8; 4],
}

impl Farewell {
    /// None if the code is none of the transport's own (RFC 9000, section 20.1).
    pub(crate) fn new(code: u64, reason: &str) -> Option<Self> {
        let (digits, early) = match code {
            0..0x40 => (vec![code as u8], [0x1c, code as u8, 0, 0]),
            0x40..0x200 => (vec![0x40 | (code >> 8) as u8, code as u8], NO_CODE),
            _ => return None,
        };
        let mut end = reason.len().min(LONGEST_REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let frame = |kind: u8, between: &[u8]| {
            let mut frame = vec![kind];
            frame.extend_from_slice(&digits);
            frame.extend_from_slice(between);
            frame.extend_from_slice(&reason.as_bytes()[..end]);
            frame
        };
        Some(Self {
            said: frame(0x1d, &[end as u8 + 1, b'.']),
            meant: frame(0x1c, &[0, end as u8]),
            early,
        })
    }

    /// The reason with which quinn-proto is to close.
    pub(crate) fn said_reason(&self) -> &[u8] {
        let code = 1 << (self.said[1] >> 6);
        &self.said[1 + code + 1..] // after the type, the code and the length of one byte
    }

    /// A connection that has ended sends nothing but acknowledgements, then this frame, and padding.
    fn put_into(&self, payload: &mut [u8]) {
        for (said, meant) in [(&self.said[..], &self.meant[..]), (&NO_CODE, &self.early)] {
            let found = payload.windows(said.len()).rposition(|part| part == said);
            if let Some(start) = found {
                payload[start..start + meant.len()].copy_from_slice(meant);
                return;
            }
        }
    }
}

/// Seals what leaves.
pub(crate) struct Sealer<Key> {
    pub(crate) key: Key,
    pub(crate) farewell: Arc<OnceLock<Farewell>>,
}

impl<Key: PacketKey> PacketKey for Sealer<Key> {
    fn encrypt(&self, packet: u64, buffer: &mut [u8], header: usize) {
        if let Some(farewell) = self.farewell.get() {
            let end = buffer.len().saturating_sub(self.key.tag_len());
            if let Some(payload) = buffer.get_mut(header..end) {
                farewell.put_into(payload);
            }
        }
        self.key.encrypt(packet, buffer, header);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.key.decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.key.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key.integrity_limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let refused = Farewell::new(2, "full").expect("a transport's code");
        assert_eq!(refused.said_reason(), b".full");
        let mut payload = *b"\x02\x01\x02\x00\x01\x1d\x02\x05.full\x00\x00";
        refused.put_into(&mut payload);
        assert_eq!(
            &payload,
            b"\x02\x01\x02\x00\x01\x1c\x02\x00\x04full\x00\x00"
        );
        let mut early = *b"\x02\x01\x02\x00\x01\x1c\x0c\x00\x00\x00\x00";
        refused.put_into(&mut early);
        assert_eq!(&early, b"\x02\x01\x02\x00\x01\x1c\x02\x00\x00\x00\x00");

        let alert = Farewell::new(0x12a, "no").expect("a transport's code");
        assert_eq!(alert.said_reason(), b".no");
        let mut payload = *b"\x1d\x41\x2a\x03.no";
        alert.put_into(&mut payload);
        assert_eq!(&payload, b"\x1c\x41\x2a\x00\x02no");
        let mut early = NO_CODE;
        alert.put_into(&mut early);
        assert_eq!(early, NO_CODE);
        let mut other = *b"\x01\x01";
        alert.put_into(&mut other);
        assert_eq!(&other, b"\x01\x01");
    }

    #[test]
    fn limits() {
        let long = Farewell::new(2, &"ä".repeat(40)).expect("a transport's code");
        assert_eq!(
            long.said_reason(),
            format!(".{}", "ä".repeat(31)).as_bytes()
        );
        assert_eq!(long.said.len(), long.meant.len());
        assert!(Farewell::new(0x1ff, "").is_some());
        assert!(Farewell::new(0x200, "").is_none());
    }
}
