//! The examples of RFC 6455 section 5.7 and RFC 7692 section 7.2.3, byte by byte.

use tieline_engine::websocket::{Decoder, Encoder, Opcode, Role, close_payload, sendable};

use crate::pair::{FULL, Got, LIMITS, decoder, frame, received, sent};

fn text(text: &str) -> Got {
    Got::Text(text.into())
}

#[test]
fn an_unmasked_text_message() {
    let wire = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(received(&mut decoder(Role::Client), &wire), [text("Hello")]);
    let mut server = Encoder::new(Role::Server, None, 0);
    assert_eq!(sent(&mut server, Opcode::Text, b"Hello", true), wire);
}

#[test]
fn a_masked_text_message() {
    let wire = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(received(&mut decoder(Role::Server), &wire), [text("Hello")]);
}

#[test]
fn a_fragmented_message_with_a_ping_within() {
    let mut client = decoder(Role::Client);
    assert_eq!(received(&mut client, &[0x01, 0x03, 0x48, 0x65, 0x6c]), []);
    assert!(client.is_between());
    let ping = received(&mut client, &[0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    assert_eq!(ping, [Got::Ping(b"Hello".to_vec())]);
    let rest = received(&mut client, &[0x80, 0x02, 0x6c, 0x6f]);
    assert_eq!(rest, [text("Hello")]);
    assert!(!client.is_between());
}

#[test]
fn lengths_of_16_and_64_bits() {
    for (size, head) in [
        (256, vec![0x82, 0x7e, 0x01, 0x00]),
        (65536, vec![0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let payload = vec![7; size];
        let mut wire = head;
        wire.extend(&payload);
        let mut server = Encoder::new(Role::Server, None, 0);
        assert_eq!(sent(&mut server, Opcode::Binary, &payload, true), wire);
        let got = received(&mut decoder(Role::Client), &wire);
        assert_eq!(got, [Got::Binary(payload)]);
    }
}

#[test]
fn a_client_masks_with_another_key_each_time() {
    let mut client = Encoder::new(Role::Client, None, 0);
    let wires: Vec<Vec<u8>> = (0..1000)
        .map(|_| sent(&mut client, Opcode::Binary, b"same", true))
        .collect();
    let mut keys: Vec<&[u8]> = wires.iter().map(|wire| &wire[2..6]).collect();
    keys.sort_unstable();
    keys.dedup();
    assert!(keys.len() > 990, "only {} keys", keys.len());
    for wire in &wires {
        let got = received(&mut decoder(Role::Server), wire);
        assert_eq!(got, [Got::Binary(b"same".to_vec())]);
    }
}

#[test]
fn compressed_messages() {
    let mut client = Decoder::new(Role::Client, LIMITS, Some(FULL));
    let first = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(received(&mut client, &first), [text("Hello")]);
    // Section 7.2.3.2: it refers to the message before it.
    let second = [0xc1, 0x05, 0xf2, 0x00, 0x11, 0x00, 0x00];
    assert_eq!(received(&mut client, &second), [text("Hello")]);
    // Section 7.2.3.1: in two fragments.
    let fragments = [
        0x41, 0x03, 0xf2, 0x48, 0xcd, 0x80, 0x04, 0xc9, 0xc9, 0x07, 0x00,
    ];
    assert_eq!(received(&mut client, &fragments), [text("Hello")]);
    // Section 7.2.3.3: a block without compression.
    let stored = [
        0xc1, 0x0b, 0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
    ];
    assert_eq!(received(&mut client, &stored), [text("Hello")]);
    // Section 7.2.3.5: two blocks, of which the first is also in a message of its own.
    let blocks = [
        0xc1, 0x0d, 0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
    ];
    assert_eq!(received(&mut client, &blocks), [text("Hello")]);
}

#[test]
fn a_message_flushed_by_a_final_block() {
    let mut client = Decoder::new(Role::Client, LIMITS, Some(FULL));
    let wire = [0xc1, 0x08, 0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    for _ in 0..3 {
        assert_eq!(received(&mut client, &wire), [text("Hello")]);
    }
}

#[test]
fn an_uncompressed_message_between_compressed_ones() {
    let mut client = Decoder::new(Role::Client, LIMITS, Some(FULL));
    let first = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    received(&mut client, &first);
    let plain = received(&mut client, &[0x81, 0x02, 0x48, 0x69]);
    assert_eq!(plain, [text("Hi")]);
    let second = [0xc1, 0x05, 0xf2, 0x00, 0x11, 0x00, 0x00];
    assert_eq!(received(&mut client, &second), [text("Hello")]);
}

#[test]
fn close_frames() {
    for (payload, code, reason) in [
        (vec![], None, ""),
        (vec![0x03, 0xe8], Some(1000), ""),
        (
            [&[0x0f, 0xa0], "grüße".as_bytes()].concat(),
            Some(4000),
            "grüße",
        ),
    ] {
        let mut server = decoder(Role::Server);
        let got = received(&mut server, &frame(0x88, &payload));
        assert_eq!(got, [Got::Close(code, reason.into())]);
        assert_eq!(close_payload(code, reason), Some(payload));
        // Whatever follows does not count (section 5.5.1).
        assert_eq!(received(&mut server, b"anything"), []);
    }
}

#[test]
fn codes_that_may_be_sent() {
    let sent: Vec<u16> = (0..=u16::MAX).filter(|code| sendable(*code)).collect();
    assert_eq!(sent[..4], [1000, 1001, 1002, 1003]);
    assert_eq!(
        sent[4..12],
        [1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
    );
    assert_eq!((sent[12], sent.last()), (3000, Some(&4999)));
    assert_eq!(close_payload(Some(1005), ""), None);
    assert_eq!(close_payload(None, "a reason without a code"), None);
    assert_eq!(close_payload(Some(1000), &"x".repeat(124)), None);
    assert!(close_payload(Some(1000), &"x".repeat(123)).is_some());
}
