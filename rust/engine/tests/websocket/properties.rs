//! Any messages, sent in any fragments and received in any pieces, are the same messages.

use proptest::prelude::*;
use tieline_engine::websocket::{Decoder, Direction, Encoder, Opcode, Role};

use crate::pair::{Got, LIMITS, receive, received, sent};

#[derive(Clone, Debug)]
enum Sent {
    Text(Vec<String>),
    Binary(Vec<Vec<u8>>),
    Ping(Vec<u8>),
}

fn messages() -> impl Strategy<Value = Vec<Sent>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let text = prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter);
    let message = prop_oneof![
        prop::collection::vec(text, 1..5).prop_map(Sent::Text),
        prop::collection::vec(bytes(), 1..5).prop_map(Sent::Binary),
        prop::collection::vec(any::<u8>(), 0..125).prop_map(Sent::Ping),
    ];
    prop::collection::vec(message, 0..12)
}

fn deflate() -> impl Strategy<Value = Option<Direction>> {
    let direction = (9..=15_u8, any::<bool>());
    prop::option::of(direction.prop_map(|(window_bits, takeover)| Direction {
        window_bits,
        takeover,
    }))
}

fn encoded(encoder: &mut Encoder, messages: &[Sent]) -> (Vec<u8>, Vec<Got>) {
    let (mut wire, mut expected) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            Sent::Ping(data) => {
                wire.extend(sent(encoder, Opcode::Ping, data, true));
                expected.push(Got::Ping(data.clone()));
            }
            Sent::Text(pieces) => {
                for (index, piece) in pieces.iter().enumerate() {
                    let last = index + 1 == pieces.len();
                    wire.extend(sent(encoder, Opcode::Text, piece.as_bytes(), last));
                }
                expected.push(Got::Text(pieces.concat()));
            }
            Sent::Binary(pieces) => {
                for (index, piece) in pieces.iter().enumerate() {
                    let last = index + 1 == pieces.len();
                    wire.extend(sent(encoder, Opcode::Binary, piece, last));
                }
                expected.push(Got::Binary(pieces.concat()));
            }
        }
    }
    (wire, expected)
}

fn pieces<'a>(wire: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
    places.extend([0, wire.len()]);
    places.sort_unstable();
    places
        .windows(2)
        .map(|pair| &wire[pair[0]..pair[1]])
        .collect()
}

/// What was received in pieces, put together.
fn joined(got: Vec<Got>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut current = Vec::new();
    for got in got {
        match got {
            Got::Piece(data, last) => {
                current.extend(data);
                if last {
                    messages.push(std::mem::take(&mut current));
                }
            }
            Got::Text(text) => messages.push(text.into_bytes()),
            Got::Binary(data) => messages.push(data),
            _ => {}
        }
    }
    assert!(current.is_empty());
    messages
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        messages in messages(),
        deflate in deflate(),
        client in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let (sender, receiver) = match client {
            true => (Role::Client, Role::Server),
            false => (Role::Server, Role::Client),
        };
        let mut encoder = Encoder::new(sender, deflate.map(|direction| (direction, 6)), 10);
        let (wire, expected) = encoded(&mut encoder, &messages);
        let mut whole = Decoder::new(receiver, LIMITS, deflate);
        prop_assert_eq!(&received(&mut whole, &wire), &expected);
        let mut split = Decoder::new(receiver, LIMITS, deflate);
        let mut streaming = Decoder::new(receiver, LIMITS, deflate);
        streaming.set_streaming(true);
        let (mut got, mut streamed) = (Vec::new(), Vec::new());
        for piece in pieces(&wire, &cuts) {
            got.extend(received(&mut split, piece));
            streamed.extend(received(&mut streaming, piece));
        }
        prop_assert_eq!(&got, &expected);
        prop_assert_eq!(joined(streamed), joined(expected));
    }

    #[test]
    fn any_bytes_are_judged_the_same_in_any_split(
        wire in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x81_u8), Just(0x80), Just(0x82), Just(1)], 0..200),
        deflate in deflate(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let (expected, verdict) = receive(&mut Decoder::new(Role::Server, LIMITS, deflate), &wire);
        let mut split = Decoder::new(Role::Server, LIMITS, deflate);
        let (mut got, mut last) = (Vec::new(), Ok(()));
        for piece in pieces(&wire, &cuts) {
            let (more, result) = receive(&mut split, piece);
            got.extend(more);
            last = result;
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!(last.map_err(|violation| violation.code), verdict.map_err(|violation| violation.code));
    }
}
