//! The sending half.

use super::deflate::{Deflater, Direction};
use super::header::{HEADER_LIMIT, Header, Opcode};
use super::random::Keys;
use super::{Role, mask};

pub struct Encoder {
    role: Role,
    keys: Keys,
    deflater: Option<Deflater>,
    /// Messages that begin with fewer bytes than this are sent as they are.
    threshold: usize,
    /// A message has been begun, and whether it is compressed.
    begun: Option<bool>,
    compressed: Vec<u8>,
}

/// A frame that is ready to be written: its size is known.
pub struct Outgoing<'a> {
    header: Header,
    payload: &'a [u8],
    role: Role,
}

/// A header, ready to leave.
pub struct Head {
    bytes: [u8; HEADER_LIMIT],
    size: usize,
}

impl Head {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

impl Outgoing<'_> {
    /// Bytes of the frame.
    pub fn size(&self) -> usize {
        Header::size(self.payload.len(), self.role) + self.payload.len()
    }

    /// Write it to `target`, which has that size.
    pub fn write(&self, target: &mut [u8]) {
        let size = self.header.write(target, self.role);
        match self.role {
            Role::Client => mask::copy(&mut target[size..], self.payload, self.header.key),
            Role::Server => target[size..].copy_from_slice(self.payload),
        }
    }
}

impl Encoder {
    /// `deflate` is what to compress with, and at which level (1 to 9).
    pub fn new(role: Role, deflate: Option<(Direction, u8)>, threshold: usize) -> Self {
        Self {
            role,
            keys: Keys::new(),
            deflater: deflate.map(|(direction, level)| Deflater::new(direction, level)),
            threshold,
            begun: None,
            compressed: Vec::new(),
        }
    }

    /// Whether a message has been begun and not ended.
    pub fn is_between(&self) -> bool {
        self.begun.is_some()
    }

    /// The header of a whole message of so many bytes, which go behind it as they are. None if they cannot.
    pub fn head(&self, opcode: Opcode, length: usize) -> Option<Head> {
        if self.role == Role::Client || self.deflater.is_some() || self.begun.is_some() {
            return None;
        }
        let header = Header {
            opcode,
            fin: true,
            compressed: false,
            length: length as u64,
            key: [0; 4],
        };
        let mut bytes = [0; HEADER_LIMIT];
        let size = header.write(&mut bytes, self.role);
        Some(Head { bytes, size })
    }

    /// The next frame of a message, `opcode` being that of the message in each; or a control frame, with `fin`.
    pub fn encode<'a>(&'a mut self, opcode: Opcode, payload: &'a [u8], fin: bool) -> Outgoing<'a> {
        let key = match self.role {
            Role::Client => self.keys.next(),
            Role::Server => [0; 4],
        };
        if opcode.is_control() {
            return self.frame(opcode, payload, true, false, key);
        }
        let first = self.begun.is_none();
        let compressed = match self.begun {
            Some(compressed) => compressed,
            None => self.deflater.is_some() && payload.len() >= self.threshold,
        };
        self.begun = (!fin).then_some(compressed);
        let opcode = if first { opcode } else { Opcode::Continuation };
        match &mut self.deflater {
            Some(deflater) if compressed => {
                self.compressed.clear();
                self.compressed.shrink_to(64 * 1024);
                deflater.deflate(payload, &mut self.compressed, fin);
                self.frame(opcode, &self.compressed, fin, first, key)
            }
            _ => self.frame(opcode, payload, fin, false, key),
        }
    }

    fn frame<'a>(
        &self,
        opcode: Opcode,
        payload: &'a [u8],
        fin: bool,
        compressed: bool,
        key: [u8; 4],
    ) -> Outgoing<'a> {
        let length = payload.len() as u64;
        Outgoing {
            header: Header {
                opcode,
                fin,
                compressed,
                length,
                key,
            },
            payload,
            role: self.role,
        }
    }
}
