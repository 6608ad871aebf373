//! What is received, as values, and shorthands for the two halves.

use tieline_engine::websocket::{
    Content, Decoder, Direction, Encoder, Event, Limits, Opcode, Role, Violation,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Text(String),
    Binary(Vec<u8>),
    Piece(Vec<u8>, bool),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Got {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message(Content::Text(text)) => Self::Text(text.into()),
            Event::Message(Content::Binary(data)) => Self::Binary(data.into()),
            Event::Piece(content, last) => Self::Piece(content.as_bytes().into(), last),
            Event::Ping(data) => Self::Ping(data.into()),
            Event::Pong(data) => Self::Pong(data.into()),
            Event::Close(code, reason) => Self::Close(code, reason.into()),
        }
    }
}

pub(crate) const LIMITS: Limits = Limits {
    message: 1 << 20,
    frame: 1 << 20,
    batch: 1 << 30,
};
pub(crate) const FULL: Direction = Direction {
    window_bits: 15,
    takeover: true,
};

pub(crate) fn decoder(role: Role) -> Decoder {
    Decoder::new(role, LIMITS, None)
}

pub(crate) fn receive(decoder: &mut Decoder, data: &[u8]) -> (Vec<Got>, Result<(), Violation>) {
    let mut got = Vec::new();
    let result = decoder.receive(data, &mut |event| got.push(event.into()));
    (got, result)
}

/// What must go well.
pub(crate) fn received(decoder: &mut Decoder, data: &[u8]) -> Vec<Got> {
    let (got, result) = receive(decoder, data);
    result.unwrap();
    got
}

pub(crate) fn sent(encoder: &mut Encoder, opcode: Opcode, payload: &[u8], fin: bool) -> Vec<u8> {
    let outgoing = encoder.encode(opcode, payload, fin);
    let mut wire = vec![0; outgoing.size()];
    outgoing.write(&mut wire);
    wire
}

/// A frame of a client, masked with zeros: what it says can be read, and it may break any rule.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut wire = vec![first];
    match payload.len() {
        length @ 0..=125 => wire.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            wire.push(0x80 | 126);
            wire.extend((length as u16).to_be_bytes());
        }
        length => {
            wire.push(0x80 | 127);
            wire.extend((length as u64).to_be_bytes());
        }
    }
    wire.extend([0; 4]);
    wire.extend(payload);
    wire
}
