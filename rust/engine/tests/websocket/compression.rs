//! permessage-deflate: what it makes smaller, what it may remember, and what it may cost.

use tieline_engine::websocket::{Decoder, Direction, Encoder, Limits, Opcode, Role};

use crate::pair::{FULL, Got, LIMITS, receive, received, sent};

fn directions() -> impl Iterator<Item = Direction> {
    (8..=15).flat_map(|window_bits| {
        [true, false].map(|takeover| Direction {
            window_bits,
            takeover,
        })
    })
}

#[test]
fn messages_round_trip_with_every_agreement() {
    for direction in directions() {
        for threshold in [0, 1000] {
            let compressor = Direction {
                window_bits: direction.window_bits.max(9),
                ..direction
            };
            let mut client = Encoder::new(Role::Client, Some((compressor, 6)), threshold);
            let mut server = Decoder::new(Role::Server, LIMITS, Some(compressor));
            for size in [0, 1, 5, 64, 1000, 4096, 70_000, 5, 0] {
                let message: Vec<u8> = (0..size).map(|at: u32| ((at * at) >> 5) as u8).collect();
                let wire = sent(&mut client, Opcode::Binary, &message, true);
                let compressed = wire[0] & 0x40 != 0;
                assert_eq!(compressed, message.len() >= threshold);
                assert_eq!(received(&mut server, &wire), [Got::Binary(message)]);
            }
        }
    }
}

#[test]
fn fragments_are_one_compressed_message() {
    for takeover in [true, false] {
        let direction = Direction { takeover, ..FULL };
        let mut client = Encoder::new(Role::Client, Some((direction, 6)), 0);
        let mut server = Decoder::new(Role::Server, LIMITS, Some(direction));
        for _ in 0..3 {
            let pieces = ["grüße, ", "", "grüße, ", "grüße", ""];
            let mut wire = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let last = index + 1 == pieces.len();
                wire.extend(sent(&mut client, Opcode::Text, piece.as_bytes(), last));
            }
            assert_eq!(wire[0], 0x41, "compressed text, and more follows");
            assert_eq!(received(&mut server, &wire), [Got::Text(pieces.concat())]);
        }
    }
}

#[test]
fn takeover_makes_a_repeated_message_smaller() {
    let message: Vec<u8> = (0..2000).map(|at: u32| ((at * at) >> 3) as u8).collect();
    for takeover in [true, false] {
        let direction = Direction { takeover, ..FULL };
        let mut server = Encoder::new(Role::Server, Some((direction, 6)), 0);
        let first = sent(&mut server, Opcode::Binary, &message, true).len();
        let second = sent(&mut server, Opcode::Binary, &message, true).len();
        match takeover {
            true => assert!(second * 10 < first, "{first}, then {second}"),
            false => assert_eq!(first, second),
        }
    }
}

/// A message that is a thousand times as large as what is sent.
fn bomb(size: usize) -> Vec<u8> {
    let mut client = Encoder::new(Role::Client, Some((FULL, 9)), 0);
    sent(&mut client, Opcode::Binary, &vec![0; size], true)
}

#[test]
fn a_bomb_is_refused_when_the_limit_is_reached() {
    let mut server = Decoder::new(Role::Server, LIMITS, Some(FULL));
    let (got, result) = receive(&mut server, &bomb(64 << 20));
    assert_eq!((got, result.unwrap_err().code), (vec![], 1009));
    let exact = receive(
        &mut Decoder::new(Role::Server, LIMITS, Some(FULL)),
        &bomb(1 << 20),
    );
    assert_eq!(exact, (vec![Got::Binary(vec![0; 1 << 20])], Ok(())));
}

#[test]
fn many_messages_in_few_bytes_are_given_in_batches() {
    let limits = Limits {
        batch: 3 << 20,
        ..LIMITS
    };
    let direction = Direction {
        takeover: false,
        ..FULL
    };
    let mut server = Decoder::new(Role::Server, limits, Some(direction));
    let wire = bomb(1 << 20).repeat(20);
    let mut count = received(&mut server, &wire).len();
    assert!(count <= 4, "{count} at once");
    while server.has_more() {
        let got = received(&mut server, b"").len();
        assert!((1..=4).contains(&got));
        count += got;
    }
    assert_eq!(count, 20);
    // Empty ones count as well.
    let limits = Limits {
        batch: 1 << 16,
        ..LIMITS
    };
    let mut server = Decoder::new(Role::Server, limits, None);
    let got = received(&mut server, &[0x82, 0x80, 0, 0, 0, 0].repeat(10_000));
    assert!(got.len() < 1000 && server.has_more());
}
