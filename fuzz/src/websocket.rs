//! A WebSocket client's sending half and a server's receiving one. The script sends, cuts, damages and adds to what goes between.
//!
//! Whatever it does: nothing panics, a failure stays, its code may be sent, no message is larger than the limit, and text that
//! comes out is what any other split of the same bytes gives.

use tieline_engine::websocket::{
    Content, Decoder, Direction, Encoder, Event, Limits, Opcode, Role, Violation, sendable,
};

use crate::script::{Script, damage, pattern};

const LIMITS: Limits = Limits {
    message: 20_000,
    frame: 10_000,
    batch: 30_000,
};

#[derive(Debug, Default, PartialEq)]
struct Heard {
    content: Vec<u8>,
    messages: usize,
    controls: usize,
}

impl Heard {
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Message(content) => {
                assert!(content.as_bytes().len() <= LIMITS.message, "too large");
                self.add(content, true);
            }
            Event::Piece(content, last) => self.add(content, last),
            Event::Ping(data) | Event::Pong(data) => {
                assert!(data.len() <= 125);
                self.controls += 1;
            }
            Event::Close(code, _) => {
                assert!(code.is_none_or(sendable));
                self.controls += 1;
            }
        }
    }

    fn add(&mut self, content: Content<'_>, last: bool) {
        self.content.extend(content.as_bytes());
        self.messages += usize::from(last);
    }
}

fn receive(decoder: &mut Decoder, data: &[u8], heard: &mut Heard) -> Result<(), Violation> {
    decoder.receive(data, &mut |event| heard.hear(event))?;
    while decoder.has_more() {
        decoder.receive(b"", &mut |event| heard.hear(event))?;
    }
    Ok(())
}

/// The target.
pub fn websocket(data: &[u8]) {
    let mut script = Script(data);
    let setting = script.byte().unwrap_or(0);
    let direction = (setting & 1 != 0).then_some(Direction {
        window_bits: 9 + (setting >> 1) % 7,
        takeover: setting & 0x20 != 0,
    });
    let deflate = direction.map(|direction| (direction, 1));
    let mut client = Encoder::new(Role::Client, deflate, usize::from(setting >> 6) * 50);
    let mut server = Decoder::new(Role::Server, LIMITS, direction);
    let mut heard = Heard::default();
    let (mut wire, mut everything) = (Vec::new(), Vec::new());
    let mut failure: Option<Violation> = None;
    while let Some(code) = script.byte() {
        match code % 8 {
            0 | 1 => {
                let count = if code & 8 == 0 {
                    wire.len()
                } else {
                    script.short().unwrap_or(0).min(wire.len())
                };
                let piece: Vec<u8> = wire.drain(..count).collect();
                everything.extend_from_slice(&piece);
                let result = receive(&mut server, &piece, &mut heard);
                if let Some(failure) = &failure {
                    assert_eq!(result.as_ref(), Err(failure), "a failure has gone");
                }
                if let Err(violation) = result {
                    assert!(sendable(violation.code));
                    failure = Some(violation);
                }
            }
            2 => damage(&mut script, &mut wire),
            3 => {
                let count = script.short().unwrap_or(0);
                wire.extend_from_slice(script.bytes(count));
            }
            4 => server.set_streaming(code & 8 != 0),
            kind => {
                let size = script.short().unwrap_or(0) % 12_000;
                let payload = match kind {
                    5 => pattern(0, size),
                    6 => vec![b'a'; size],
                    _ => pattern(0, size.min(125)),
                };
                let opcode = [Opcode::Binary, Opcode::Text, Opcode::Ping][usize::from(kind - 5)];
                let outgoing = client.encode(opcode, &payload, code & 8 == 0);
                let start = wire.len();
                wire.resize(start + outgoing.size(), 0);
                outgoing.write(&mut wire[start..]);
            }
        }
    }
    // The same bytes at once.
    let mut whole = Heard::default();
    let mut decoder = Decoder::new(Role::Server, LIMITS, direction);
    let result = receive(&mut decoder, &everything, &mut whole);
    // Of two faults in a message, the split decides which is found first.
    assert_eq!(result.is_err(), failure.is_some());
    assert_eq!(
        (whole.messages, whole.controls),
        (heard.messages, heard.controls)
    );
    assert!(heard.content.starts_with(&whole.content));
}
