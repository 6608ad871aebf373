//! Damaged, truncated and foreign bytes.

use tieline_engine::tls::{Engine, EngineError, Reason, Trust};

use crate::pair::*;

#[test]
fn plaintext_before_a_fault_is_delivered() {
    let mut pair = connected();
    let mut sealed = send(&mut pair.client, b"good");
    let mut bad = send(&mut pair.client, b"bad");
    bad[7] ^= 1;
    sealed.extend(bad);
    assert_eq!(receive(&mut pair.server, &sealed).unwrap(), b"good");
    assert!(pair.server.failed());
    for _ in 0..2 {
        let failure = receive(&mut pair.server, b"").unwrap_err();
        assert_eq!(failure.reason, Reason::DecryptError);
        assert_eq!(failure.alert.as_deref(), Some("bad_record_mac"));
    }
    assert!(matches!(
        pair.server.sealed_len(b"x"),
        Err(EngineError::Failed(_))
    ));
    pair.pump(usize::MAX);
    let told = pair.client_failure.unwrap();
    assert_eq!(
        (told.reason, told.alert.as_deref()),
        (Reason::AlertReceived, Some("bad_record_mac"))
    );
}

#[test]
fn truncated_records_wait() {
    let mut pair = connected();
    let sealed = send(&mut pair.client, b"whole");
    for end in 0..sealed.len() {
        assert_eq!(
            receive(&mut pair.server, &sealed[end..=end]).unwrap(),
            if end + 1 == sealed.len() {
                &b"whole"[..]
            } else {
                b""
            }
        );
        // Sending is possible in the middle of a record.
        let back = send(&mut pair.server, b"x");
        assert_eq!(receive(&mut pair.client, &back).unwrap(), b"x");
    }
}

#[test]
fn what_is_not_tls() {
    let identity = self_signed(params("example.com"));
    for (bytes, text) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"[..],
            "\"HTTP/1.1 400 Bad Request\"",
        ),
        (b"220 mail.example ESMTP\r\n", "\"220 mail.example ESMTP\""),
        (b"\x80\x2e\x01\x00\x02", "802e010002"),
    ] {
        for mut engine in [
            Engine::new(&client(Trust::Anyone), Some("example.com")).unwrap(),
            Engine::new(&server(&identity), None).unwrap(),
        ] {
            let failure = receive(&mut engine, bytes).unwrap_err();
            assert_eq!(failure.reason, Reason::NotTls);
            assert!(failure.message.contains(text), "{failure}");
        }
    }
}

/// xorshift64*: as good as needed, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below
    }
}

#[test]
fn hostile_bytes_never_panic() {
    let identity = self_signed(params("example.com"));
    let (client, server) = (client(Trust::Anyone), server(&identity));
    let mut random = Random(0x0074_6965_6c69_6e65);
    for _ in 0..3000 {
        // Half of them: noise, perhaps behind a header that promises a record.
        for mut engine in [
            Engine::new(&client, Some("example.com")).unwrap(),
            Engine::new(&server, None).unwrap(),
        ] {
            for _ in 0..4 {
                let mut noise: Vec<u8> = (0..random.next(600))
                    .map(|_| random.next(256) as u8)
                    .collect();
                if random.next(2) == 0 {
                    let length = (noise.len() as u16).to_be_bytes();
                    let header = [0x14 + random.next(4) as u8, 3, 3, length[0], length[1]];
                    noise.splice(0..0, header);
                }
                let _ = receive(&mut engine, &noise);
                take(&mut engine);
            }
        }
        // The other half: a real conversation in which bits flip and bytes are lost or doubled.
        let mut pair = Pair::new(&client, &server, "example.com");
        for _ in 0..4 {
            for (from, to) in [(0, 1), (1, 0)] {
                let sides = [&mut pair.client, &mut pair.server];
                let mut bytes = sides.into_iter().nth(from).map(take).unwrap();
                if !bytes.is_empty() && random.next(2) == 0 {
                    let at = random.next(bytes.len());
                    match random.next(4) {
                        0 => drop(bytes.remove(at)),
                        1 => bytes.insert(at, bytes[at]),
                        2 => bytes.extend_from_within(at..),
                        _ => bytes[at] ^= 1 << random.next(8),
                    }
                }
                let cut = random.next(bytes.len() + 1);
                let engine = [&mut pair.client, &mut pair.server]
                    .into_iter()
                    .nth(to)
                    .unwrap();
                for piece in [&bytes[..cut], &bytes[cut..]] {
                    let _ = receive(engine, piece);
                    let _ = engine.sealed_len(b"x");
                }
            }
        }
    }
}
