//! The header of a frame (RFC 6455 section 5.2).

use super::{Role, Violation};

/// The longest header in bytes: two, eight of the length, four of the key.
pub const HEADER_LIMIT: usize = 14;
/// The longest payload of a control frame in bytes.
pub const CONTROL_LIMIT: usize = 125;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RESERVED: u8 = 0x30;
const MASKED: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    pub fn from_wire(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) opcode: Opcode,
    pub(crate) fin: bool,
    pub(crate) compressed: bool,
    pub(crate) length: u64,
    /// All zero for a frame without a mask, which comes to the same.
    pub(crate) key: [u8; 4],
}

impl Header {
    /// The header at the beginning of `data` and its size, if all of it is there.
    pub(crate) fn read(
        data: &[u8],
        receiver: Role,
        deflate: bool,
    ) -> Result<Option<(Self, usize)>, Violation> {
        let [first, second, rest @ ..] = data else {
            return Ok(None);
        };
        let (opcode, fin) = check_first(*first, deflate)?;
        let masked = second & MASKED != 0;
        let length = second & !MASKED;
        check_mask(masked, receiver)?;
        if opcode.is_control() && usize::from(length) > CONTROL_LIMIT {
            let expected = format!("at most {CONTROL_LIMIT} bytes");
            let message = "a control frame is too long";
            return Err(Violation::protocol(message, "5.5", expected, "more"));
        }
        let (length, extended) = match length {
            126 => match rest {
                [a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 2),
                _ => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), 8),
                None => return Ok(None),
            },
            length => (u64::from(length), 0),
        };
        check_length(length, extended)?;
        let (key, size) = match (masked, rest[extended..].first_chunk::<4>()) {
            (false, _) => ([0; 4], 2 + extended),
            (true, Some(key)) => (*key, 2 + extended + 4),
            (true, None) => return Ok(None),
        };
        let header = Self {
            opcode,
            fin,
            compressed: first & RSV1 != 0,
            length,
            key,
        };
        Ok(Some((header, size)))
    }

    /// Bytes of the header of a frame of `length` bytes.
    pub(crate) fn size(length: usize, sender: Role) -> usize {
        let extended = match length {
            0..=125 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        2 + extended + if sender == Role::Client { 4 } else { 0 }
    }

    /// Write the header to the beginning of `target`; returns its size.
    pub(crate) fn write(&self, target: &mut [u8], sender: Role) -> usize {
        target[0] = self.opcode as u8
            | if self.fin { FIN } else { 0 }
            | if self.compressed { RSV1 } else { 0 };
        let masked = if sender == Role::Client { MASKED } else { 0 };
        let mut size = match self.length {
            0..=125 => {
                target[1] = masked | self.length as u8;
                2
            }
            126..=0xffff => {
                target[1] = masked | 126;
                target[2..4].copy_from_slice(&(self.length as u16).to_be_bytes());
                4
            }
            _ => {
                target[1] = masked | 127;
                target[2..10].copy_from_slice(&self.length.to_be_bytes());
                10
            }
        };
        if sender == Role::Client {
            target[size..size + 4].copy_from_slice(&self.key);
            size += 4;
        }
        size
    }
}

fn check_first(first: u8, deflate: bool) -> Result<(Opcode, bool), Violation> {
    let fin = first & FIN != 0;
    let Some(opcode) = Opcode::from_wire(first & 0x0f) else {
        let got = format!("{:#x}", first & 0x0f);
        let message = "a frame has an opcode that is reserved";
        return Err(Violation::protocol(
            message,
            "5.2",
            "0, 1, 2, 8, 9 or 10",
            got,
        ));
    };
    let begins = matches!(opcode, Opcode::Text | Opcode::Binary);
    if first & RESERVED != 0 || (first & RSV1 != 0 && !(deflate && begins)) {
        let expected = if deflate {
            "RSV1 on the first frame of a message"
        } else {
            "none, as no extension was agreed on"
        };
        let got = format!("{:#05b}", first >> 4 & 7);
        let message = "a frame has reserved bits set";
        return Err(Violation::protocol(message, "5.2", expected, got));
    }
    if opcode.is_control() && !fin {
        let message = "a control frame is fragmented";
        return Err(Violation::protocol(message, "5.5", "FIN", "no FIN"));
    }
    Ok((opcode, fin))
}

fn check_mask(masked: bool, receiver: Role) -> Result<(), Violation> {
    match (receiver, masked) {
        (Role::Server, true) | (Role::Client, false) => Ok(()),
        (Role::Server, false) => Err(Violation::protocol(
            "a client's frame is not masked",
            "5.1",
            "a mask",
            "none",
        )),
        (Role::Client, true) => Err(Violation::protocol(
            "a server's frame is masked",
            "5.1",
            "no mask",
            "a mask",
        )),
    }
}

fn check_length(length: u64, extended: usize) -> Result<(), Violation> {
    let least = match extended {
        0 => 0,
        2 => 126,
        _ => 0x1_0000,
    };
    if length < least {
        let message = "a frame's length is not written as short as possible";
        let expected = format!("at least {least} in {extended} bytes");
        return Err(Violation::protocol(
            message,
            "5.2",
            expected,
            length.to_string(),
        ));
    }
    if length > i64::MAX as u64 {
        let message = "a frame's length has its highest bit set";
        let expected = format!("at most {}", i64::MAX);
        return Err(Violation::protocol(
            message,
            "5.2",
            expected,
            length.to_string(),
        ));
    }
    Ok(())
}
