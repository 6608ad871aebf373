//! Every rule that a peer can break, the close code that answers it, and what it costs.

use tieline_engine::websocket::{Decoder, Limits, Role};

use crate::pair::{FULL, Got, LIMITS, decoder, frame, receive, received};

fn broken(wire: &[u8]) -> u16 {
    let mut server = decoder(Role::Server);
    let (_, result) = receive(&mut server, wire);
    let violation = result.expect_err("it must be refused");
    assert!(!violation.message.is_empty() && !violation.expected.is_empty());
    // It stays, whatever comes.
    let again = receive(&mut server, &frame(0x82, b"fine"));
    assert_eq!(again, (vec![], Err(violation.clone())));
    violation.code
}

#[test]
fn frames_that_no_rule_allows() {
    for (wire, why) in [
        (frame(0xa1, b""), "RSV2"),
        (frame(0x91, b""), "RSV3"),
        (frame(0xc1, b""), "RSV1 without an extension"),
        (frame(0x83, b""), "opcode 3"),
        (frame(0x87, b""), "opcode 7"),
        (frame(0x8b, b""), "opcode 11"),
        (frame(0x8f, b""), "opcode 15"),
        (frame(0x09, b""), "a ping in fragments"),
        (frame(0x08, b""), "a close frame in fragments"),
        (frame(0x89, &[0; 126]), "a long ping"),
        (frame(0x88, &[0x03]), "half a close code"),
        (frame(0x80, b""), "a continuation of nothing"),
        (
            [frame(0x01, b"a"), frame(0x81, b"b")].concat(),
            "a message within another",
        ),
        (
            [frame(0x01, b"a"), frame(0x02, b"b")].concat(),
            "the same, in fragments",
        ),
        (vec![0x81, 0x00], "no mask"),
        (vec![0x82, 0xfe, 0, 125], "7 bits would do"),
        (
            vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            "16 bits would do",
        ),
        (
            vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
            "the highest bit",
        ),
    ] {
        assert_eq!(broken(&wire), 1002, "{why}");
    }
    for code in [
        0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
    ] {
        assert_eq!(broken(&frame(0x88, &code.to_be_bytes())), 1002, "{code}");
    }
}

#[test]
fn a_client_takes_no_mask() {
    let (_, result) = receive(&mut decoder(Role::Client), &frame(0x82, b"x"));
    assert_eq!(result.unwrap_err().code, 1002);
}

#[test]
fn compression_only_where_it_may_be() {
    for wire in [
        frame(0xc9, b""),                                      // a ping
        [frame(0x41, b"\x00"), frame(0xc0, b"\x00")].concat(), // a continuation
    ] {
        let mut server = Decoder::new(Role::Server, LIMITS, Some(FULL));
        assert_eq!(receive(&mut server, &wire).1.unwrap_err().code, 1002);
    }
    for payload in [&b"\xff\xff\xff"[..], b"\xf2\x00\x11\x00\x00"] {
        let mut server = Decoder::new(Role::Server, LIMITS, Some(FULL));
        let (_, result) = receive(&mut server, &frame(0xc2, payload));
        assert_eq!(result.unwrap_err().code, 1007);
    }
}

#[test]
fn text_is_refused_with_the_byte_that_makes_it_none() {
    for (good, bad) in [
        (&b"abc"[..], 0xff_u8),
        (b"\xf4", 0x90), // beyond U+10FFFF
        (b"\xed", 0xa0), // a surrogate
        (b"\xe0", 0x80), // longer than needed
        (b"\xce\xba\xe1\xbd", 0x20),
    ] {
        let mut server = decoder(Role::Server);
        let mut wire = frame(0x01, &[b'x'; 100]);
        wire.truncate(6); // the header
        wire.extend(good);
        assert_eq!(received(&mut server, &wire), []);
        let (_, result) = receive(&mut server, &[bad]);
        assert_eq!(result.unwrap_err().code, 1007, "{good:?}");
    }
    assert_eq!(broken(&frame(0x81, b"\xe2\x82")), 1007); // a character whose end is missing
    assert_eq!(
        broken(&[frame(0x01, b"\xe2"), frame(0x80, b"\x82")].concat()),
        1007
    );
    assert_eq!(broken(&frame(0x88, b"\x03\xe8\xff")), 1007);
}

#[test]
fn what_came_before_a_fault_is_given() {
    let wire = [frame(0x82, b"good"), frame(0x83, b"")].concat();
    let (got, result) = receive(&mut decoder(Role::Server), &wire);
    assert_eq!(got, [Got::Binary(b"good".to_vec())]);
    assert_eq!(result.unwrap_err().code, 1002);
}

#[test]
fn sizes_are_refused_before_the_content_comes() {
    let limits = Limits {
        message: 1000,
        frame: 600,
        ..LIMITS
    };
    let mut server = Decoder::new(Role::Server, limits, None);
    let (_, result) = receive(&mut server, &frame(0x82, &[0; 601])[..8]);
    assert_eq!(result.unwrap_err().code, 1009);
    let mut server = Decoder::new(Role::Server, limits, None);
    received(&mut server, &frame(0x02, &[0; 600]));
    let (_, result) = receive(&mut server, &frame(0x80, &[0; 401])[..8]);
    let violation = result.unwrap_err();
    assert_eq!((violation.code, &*violation.got), (1009, "1001"));
    // A length that nobody has is refused at once, too.
    assert_eq!(
        broken(&[
            0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0
        ]),
        1009
    );
    let mut server = Decoder::new(Role::Server, limits, None);
    received(&mut server, &frame(0x02, &[0; 600]));
    let got = received(&mut server, &frame(0x80, &[0; 400]));
    assert_eq!(got, [Got::Binary(vec![0; 1000])]);
}
