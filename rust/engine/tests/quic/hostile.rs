//! Damaged, truncated, forged and foreign packets.

use std::net::SocketAddr;

use std::sync::{Arc, Mutex};

use tieline_engine::quic::{CloseReason, Direction, Incoming, Retry, Settings};

use crate::attacker::{Attack, Forge};
use crate::pair::*;

fn feed(peer: &mut Peer, now: std::time::Duration, from: SocketAddr, stride: usize, data: &[u8]) {
    let incoming = Incoming {
        remote: from,
        local_ip: None,
        ecn: 2,
        stride,
        data,
    };
    peer.endpoint.receive(now, [incoming]).unwrap();
}

#[test]
fn noise() {
    let mut random = Random(17);
    let mut pair = connected();
    let from: SocketAddr = "192.0.2.1:1".parse().unwrap();
    for _ in 0..20_000 {
        let mut noise: Vec<u8> = (0..random.next(1300))
            .map(|_| random.next(256) as u8)
            .collect();
        if noise.len() > 6 && random.next(2) == 0 {
            // A long header of a version that is spoken, and any kind of packet.
            noise[0] |= 0xc0;
            noise[1..5].copy_from_slice(&[0, 0, 0, 1]);
            noise[5] = random.next(21) as u8;
        }
        let stride = random.next(1500);
        let (now, address) = (pair.now, pair.server.address);
        feed(&mut pair.server, now, from, stride, &noise);
        feed(&mut pair.client, now, address, stride, &noise);
        let mut buffer = Vec::new();
        while pair.server.endpoint.transmit(now, 1, &mut buffer).is_some() {}
        while pair.client.endpoint.transmit(now, 1, &mut buffer).is_some() {}
    }
    assert_eq!(pair.server.endpoint.connections(), 1);
    let stream = pair.client.open(Direction::Unidirectional);
    pair.client.write_all(stream, b"alive");
    pair.run_for(ms(1000));
    pair.server.accept(Direction::Unidirectional);
    assert_eq!(pair.server.read(stream), Ok((b"alive".to_vec(), false)));
}

#[test]
fn damaged_packets() {
    let mut random = Random(4711);
    for round in 0..150 {
        let mut setup = Setup::new().transport(|transport| {
            transport.max_datagram_frame_size = 65_535;
            transport.idle_timeout = Some(ms(4000));
        });
        setup.client_tls.early_data = true;
        setup.server_tls.early_data = true;
        if round % 3 == 0 {
            setup.server.retry = Retry::Always;
        }
        let (mut pair, config) = setup.build();
        pair.start(&config);
        let mut streams = Vec::new();
        for _ in 0..60 {
            let packets: Vec<_> = std::mem::take(&mut pair.flight).into_vec();
            for std::cmp::Reverse(mut packet) in packets {
                let original = packet.clone();
                match random.next(6) {
                    0 if !packet.data.is_empty() => {
                        let at = random.next(packet.data.len().min(64));
                        packet.data[at] ^= 1 << random.next(8);
                    }
                    1 => packet.data.truncate(random.next(packet.data.len() + 1)),
                    2 if !packet.data.is_empty() => {
                        let at = random.next(packet.data.len());
                        packet.data[at] = random.next(256) as u8;
                    }
                    3 => {
                        let at = random.next(packet.data.len() + 1);
                        packet.data.extend_from_within(at..);
                    }
                    _ => {}
                }
                pair.deliver(&packet);
                // The true one, too: the noise must not have done harm.
                pair.deliver(&original);
            }
            if let Ok(Some(stream)) = pair.client.connection().open(Direction::Bidirectional) {
                streams.push(stream);
            }
            for &stream in &streams {
                let _ = pair.client.connection().write(stream, &[1; 50]);
            }
            let _ = pair.client.connection().send_datagram(vec![1; 100].into());
            if pair.server.handle != 0 {
                while let Some(stream) = pair.server.connection().accept(Direction::Bidirectional) {
                    let _ = pair.server.connection().write(stream, b"hello");
                }
            }
            pair.flush();
            if pair.flight.is_empty() && !pair.step() {
                break;
            }
        }
        pair.link.latency = ms(1);
        pair.run_for(ms(100));
        let client = pair.client.lost().map(|reason| reason.to_string());
        let server = pair.server.lost().map(|reason| reason.to_string());
        assert_eq!((client, server), (None, None), "in round {round}");
    }
}

/// Frames that might be, with numbers that might be.
fn nonsense(seed: u64) -> Forge {
    let random = Mutex::new(Random(seed));
    Arc::new(move |payload: &mut [u8]| {
        let mut random = random.lock().unwrap();
        // Some packets are left alone, so that there is a state for the others to break.
        if random.next(4) > 0 {
            return;
        }
        let mut frames = Vec::new();
        for _ in 0..=random.next(3) {
            // RFC 9000, section 19; RFC 9221; the extension for the frequency of ACKs
            match random.next(40) {
                kind @ 0..=0x1e => frames.push(kind as u8),
                0x1f => frames.extend([0x40, 0xaf]),
                0x20 => frames.push(0x30),
                0x21 => frames.push(0x31),
                _ => frames.push(random.next(256) as u8),
            }
            for _ in 0..random.next(6) {
                match random.next(6) {
                    0 => frames.extend([0xff; 8]),
                    1 => frames.extend([0x7f, random.next(256) as u8]),
                    2 => frames.extend([0x80, 0, random.next(256) as u8, 0]),
                    _ => frames.push(random.next(64) as u8),
                }
            }
        }
        let length = frames.len().min(payload.len());
        payload[..length].copy_from_slice(&frames[..length]);
        if random.next(2) == 0 {
            payload[length..].fill(0); // PADDING
        }
    })
}

#[test]
fn nonsense_from_a_peer_with_keys() {
    let mut ends = 0;
    for seed in 1..400 {
        let setup = || Setup::new().transport(|transport| transport.max_datagram_frame_size = 1000);
        for mut attack in [
            Attack::on_server(setup(), nonsense(seed)),
            Attack::on_client(setup(), nonsense(seed)),
        ] {
            let mut steps = 0..300;
            while steps.next().is_some() && !attack.step() {}
            match attack.lost {
                None => {}
                // The last: it took a connection ID from us that it still uses.
                Some(
                    CloseReason::Transport { .. }
                    | CloseReason::Application { .. }
                    | CloseReason::Tls(_)
                    | CloseReason::StatelessReset,
                ) => ends += 1,
                Some(other) => panic!("{other:?} with seed {seed}"),
            }
        }
    }
    assert!(ends > 700, "{ends}");
}

#[test]
fn versions_are_negotiated() {
    let (mut pair, config) = Setup::new().build();
    let from: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let mut initial = vec![0u8; 1200];
    initial[0] = 0xc0;
    initial[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
    initial[5] = 8; // the destination's length; then its source's
    initial[14] = 8;
    initial[15..23].copy_from_slice(b"12345678");
    let (mut buffer, now) = (Vec::new(), pair.now);
    // A short one gets no answer that could be larger than it.
    feed(&mut pair.server, now, from, 1500, &initial[..100]);
    assert_eq!(pair.server.endpoint.transmit(now, 1, &mut buffer), None);
    feed(&mut pair.server, now, from, 1500, &initial);
    let transmit = pair.server.endpoint.transmit(now, 1, &mut buffer).unwrap();
    assert_eq!(transmit.remote, from);
    assert_eq!(buffer[1..5], [0; 4]);
    assert_eq!(buffer[6..14], *b"12345678");
    assert!(buffer.ends_with(&[0, 0, 0, 1]));
    // A client is told that its version is not spoken.
    pair.log = Some(Vec::new());
    pair.start(&config);
    pair.flush();
    let sent = pair.log.as_ref().unwrap()[0].data.clone();
    let destination = &sent[6..6 + usize::from(sent[5])];
    let source = &sent[7 + destination.len()..7 + destination.len() + 8];
    let mut answer = vec![0x80, 0, 0, 0, 0, 8];
    answer.extend_from_slice(source);
    answer.push(destination.len() as u8);
    answer.extend_from_slice(destination);
    answer.extend_from_slice(&[0xba, 0xba, 0xba, 0xba]);
    let address = pair.server.address;
    feed(&mut pair.client, now, address, 1500, &answer);
    pair.flush();
    assert!(matches!(
        pair.client.lost(),
        Some(CloseReason::VersionMismatch)
    ));
}

#[test]
fn a_flood_of_first_packets() {
    let mut setup = Setup::new();
    setup.server = Settings {
        maximum_handshakes: 20,
        retry: Retry::Above(10),
        ..setup.server
    };
    let (mut pair, config) = setup.build();
    pair.link.loss = 1000;
    pair.log = Some(Vec::new());
    // Each from another address, and none of them ever answers.
    for _ in 0..200 {
        pair.start(&config);
    }
    pair.flush();
    let packets = pair.log.take().unwrap();
    assert!(packets.len() >= 200);
    for (index, packet) in packets.iter().enumerate() {
        let from = SocketAddr::new([192, 0, 2, 1].into(), 1000 + index as u16);
        let now = pair.now;
        feed(&mut pair.server, now, from, 1500, &packet.data);
    }
    let counters = pair.server.endpoint.counters();
    assert_eq!(counters.accepted, 10);
    assert!(counters.retried >= 190);
    assert_eq!(pair.server.endpoint.connections(), 10);
    // They are given up after a while.
    pair.run_for(ms(60_000));
    for handle in 1..=10 {
        pair.server.endpoint.release(pair.now, handle);
    }
    pair.run_for(ms(1000));
    assert_eq!(pair.server.endpoint.connections(), 0);
}

#[test]
fn answers_do_not_pile_up() {
    let (mut pair, _) = Setup::new().build();
    let mut initial = vec![0u8; 1200];
    initial[0] = 0xc0;
    initial[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
    let from: SocketAddr = "192.0.2.1:1".parse().unwrap();
    for _ in 0..10_000 {
        let now = pair.now;
        feed(&mut pair.server, now, from, 1500, &initial);
    }
    let (mut answers, mut buffer) = (0, Vec::new());
    while pair
        .server
        .endpoint
        .transmit(pair.now, 1, &mut buffer)
        .is_some()
    {
        answers += 1;
    }
    assert_eq!(answers, 256);
}
