//! What is still to come of a large frame may be read to where it is gathered: it is the same as when it is given.

use tieline_engine::websocket::{Decoder, Direction, Encoder, Opcode, Role};

use crate::pair::{FULL, Got, LIMITS, decoder, received, sent};

const CHUNK: usize = 256 * 1024;

fn encoder(receiver: Role) -> Encoder {
    let sender = match receiver {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    };
    Encoder::new(sender, None, 0)
}

/// Give the first bytes, and have the rest read into the room wherever there is some, so much at a time.
fn read(decoder: &mut Decoder, wire: &[u8], at_once: usize) -> (Vec<Got>, usize) {
    let (first, mut rest) = wire.split_at(wire.len().min(CHUNK));
    let mut got = received(decoder, first);
    let mut read_into_room = 0;
    while !rest.is_empty() {
        let Some(room) = decoder.room(at_once) else {
            got.extend(received(decoder, rest));
            break;
        };
        let count = room.len().min(rest.len());
        room[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        read_into_room += count;
        let filled = decoder.filled(count, &mut |event| got.push(event.into()));
        filled.unwrap();
    }
    (got, read_into_room)
}

#[test]
fn it_is_the_same() {
    let text = "ä€𝄞x".repeat(90_000);
    let binary: Vec<u8> = (0..900_001_u32).map(|at| at as u8).collect();
    for role in [Role::Client, Role::Server] {
        let mut encoder = encoder(role);
        let mut decoder = decoder(role);
        for at_once in [33_331, 100_000, 1 << 20] {
            for (opcode, payload) in [
                (Opcode::Text, text.as_bytes()),
                (Opcode::Binary, &binary[..]),
            ] {
                let mut wire = sent(&mut encoder, opcode, payload, true);
                wire.extend(sent(&mut encoder, Opcode::Text, b"behind", true));
                let (got, read_into_room) = read(&mut decoder, &wire, at_once);
                let expected = match opcode {
                    Opcode::Text => Got::Text(text.clone()),
                    _ => Got::Binary(binary.clone()),
                };
                assert_eq!(got, [expected, Got::Text("behind".into())]);
                assert!(read_into_room > payload.len() - 2 * CHUNK);
            }
        }
    }
}

#[test]
fn a_fragment_has_room_as_well() {
    let mut encoder = encoder(Role::Server);
    let mut decoder = decoder(Role::Server);
    let part = vec![7; 500_000];
    let mut wire = sent(&mut encoder, Opcode::Binary, &part, false);
    wire.extend(sent(&mut encoder, Opcode::Binary, &part, true));
    let (got, read_into_room) = read(&mut decoder, &wire, 1 << 20);
    assert_eq!(got, [Got::Binary([part.clone(), part].concat())]);
    assert!(read_into_room > 0);
}

#[test]
fn a_peer_gets_no_room_for_what_it_only_announces() {
    let mut decoder = decoder(Role::Client);
    let wire = sent(
        &mut encoder(Role::Client),
        Opcode::Binary,
        &vec![0; LIMITS.message],
        true,
    );
    assert!(received(&mut decoder, &wire[..100]).is_empty());
    assert_eq!(decoder.room(1 << 30).unwrap().len(), CHUNK);
}

#[test]
fn text_that_is_none_is_found_there() {
    let mut decoder = decoder(Role::Server);
    let mut text = vec![b'x'; 800_000];
    text[500_000] = 0xff;
    let wire = sent(&mut encoder(Role::Server), Opcode::Text, &text, true);
    received(&mut decoder, &wire[..CHUNK]);
    let room = decoder.room(1 << 20).unwrap();
    let count = room.len();
    room.copy_from_slice(&wire[CHUNK..CHUNK + count]);
    let violation = decoder
        .filled(count, &mut |_| panic!("no message"))
        .unwrap_err();
    assert_eq!(violation.code, 1007);
    assert!(decoder.room(1 << 20).is_none());
}

#[test]
fn there_is_none_for_what_is_not_simply_gathered() {
    let large = vec![1; 1 << 19];
    let mut streaming = decoder(Role::Client);
    streaming.set_streaming(true);
    let wire = sent(&mut encoder(Role::Client), Opcode::Binary, &large, true);
    received(&mut streaming, &wire[..100]);
    assert!(streaming.room(1 << 20).is_none());

    let random: Vec<u8> = (0..1_u32 << 19).map(|at| (at * at / 7) as u8).collect();
    let mut encoder = Encoder::new(Role::Server, Some((FULL, 1)), 0);
    let mut compressed = Decoder::new(Role::Client, LIMITS, Some(Direction { ..FULL }));
    let wire = sent(&mut encoder, Opcode::Binary, &random, true);
    received(&mut compressed, &wire[..100]);
    assert!(compressed.room(1 << 20).is_none());

    let mut idle = decoder(Role::Client);
    assert!(idle.room(1 << 20).is_none());
    idle.filled(10, &mut |_| panic!("no message")).unwrap();
}

#[test]
fn a_head_is_the_beginning_of_the_frame() {
    let mut server = encoder(Role::Client);
    for size in [0, 125, 126, 65_535, 65_536] {
        let head = server.head(Opcode::Text, size).unwrap();
        let frame = sent(&mut server, Opcode::Text, &vec![b'x'; size], true);
        assert_eq!(head.as_bytes(), &frame[..frame.len() - size]);
    }
    sent(&mut server, Opcode::Text, b"begun", false);
    assert!(server.head(Opcode::Text, 1).is_none());
    assert!(encoder(Role::Server).head(Opcode::Text, 1).is_none()); // a client masks
    let deflating = Encoder::new(Role::Server, Some((FULL, 6)), 0);
    assert!(deflating.head(Opcode::Text, 1).is_none());
}
