//! WebSocket's frames (RFC 6455) and permessage-deflate (RFC 7692): bytes in, messages out, and the other way round.
//!
//! A [`Decoder`] is one side's receiving half, an [`Encoder`] its sending half. The handshake before them and the close
//! handshake at the end are their owner's: the halves know what may stand in a frame, not when to send one.

mod close;
mod decoder;
mod deflate;
mod encoder;
mod gathered;
mod header;
mod mask;
mod random;
mod utf8;

pub use close::{close_payload, sendable};
pub use decoder::{Decoder, Limits};
pub use deflate::Direction;
pub use encoder::{Encoder, Head};
pub use header::{CONTROL_LIMIT, HEADER_LIMIT, Opcode};

/// Which side of the connection we are: it decides who masks (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl Content<'_> {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(data) => data,
        }
    }
}

/// What was found in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message.
    Message(Content<'a>),
    /// Part of a message, while [`Decoder::set_streaming`] asks for parts.
    Piece(Content<'a>, Last),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The peer's last frame. No code is code 1005 to the application.
    Close(Option<u16>, &'a str),
}

/// Whether a piece is the last one of its message.
pub type Last = bool;

/// The peer broke a rule: the connection is failed with `code`, and nothing more is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub code: u16,
    pub message: &'static str,
    pub expected: String,
    pub got: String,
    /// Where the rule stands.
    pub section: &'static str,
}

impl Violation {
    pub(crate) fn protocol(
        message: &'static str,
        section: &'static str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self {
            code: close::PROTOCOL_ERROR,
            message,
            expected: expected.into(),
            got: got.into(),
            section,
        }
    }
}
