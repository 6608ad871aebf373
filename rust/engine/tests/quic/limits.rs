//! What a stream costs that is not read. Two faults of QUIC engines are the measure here: memory
//! that a peer can make us keep by sending frames with gaps between them (RUSTSEC-2026-0185), and
//! the cure for that which takes a slow reader for an attack.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tieline_engine::quic::{CloseReason, Direction};

use crate::attacker::Attack;
use crate::pair::*;

/// Send `total` bytes in messages of `size` each to somebody who reads only when all are there.
#[track_caller]
fn pause(window: u64, total: usize, size: usize, link: Link) {
    let mut setup = Setup::new().transport(|transport| {
        transport.stream_receive_window = window;
        transport.receive_window = window;
        transport.idle_timeout = None;
    });
    setup.link = link;
    let mut pair = setup.connect();
    let stream = pair.client.open(Direction::Unidirectional);
    let data = pattern(total);
    let mut written = 0;
    while written < total {
        let end = total.min(written + size);
        let connection = pair.client.connection();
        match connection.write(stream, &data[written..end]).unwrap() {
            0 => assert!(pair.step(), "the connection is stuck at {written}"),
            count => written += count,
        }
        // So that it leaves before the next message could join it.
        pair.run_for(Duration::from_micros(500));
        assert!(pair.server.lost().is_none(), "at {written} of {total}");
    }
    pair.client.connection().finish(stream).unwrap();
    pair.run_for(Duration::from_secs(60));
    assert!(pair.client.lost().is_none());
    assert_eq!(pair.server.accept(Direction::Unidirectional), stream);
    let (received, end) = pair.server.read(stream).unwrap();
    assert!(received == data && end);
}

#[test]
fn a_reader_may_pause_with_much_pending() {
    pause(8 << 20, 6 << 20, 64 * 1024, Link::default());
}

#[test]
fn a_reader_may_pause_with_many_small_messages_pending() {
    // Each in a packet of its own: nearly 10,000 of them.
    pause(1 << 20, 980_000, 100, Link::default());
}

#[test]
fn a_reader_may_pause_behind_a_bad_network() {
    let link = Link {
        loss: 30,
        reorder: 100,
        duplicate: 30,
        ..Link::default()
    };
    pause(8 << 20, 5 << 20, 64 * 1024, link);
    pause(1 << 20, 500_000, 100, link);
}

#[test]
fn frames_with_gaps_are_bounded() {
    let setup = Setup::new().transport(|transport| {
        // All the room that one could wish for an attack.
        transport.stream_receive_window = 1 << 30;
        transport.receive_window = 1 << 30;
    });
    let forged = Arc::new(AtomicU64::new(0));
    let count = forged.clone();
    // In place of full packets: STREAM frames of a byte each, with a byte left out between them.
    let forge = Arc::new(move |payload: &mut [u8]| {
        if payload.len() > 1000 {
            payload.fill(0); // PADDING
            for frame in payload.chunks_exact_mut(8) {
                let index = count.fetch_add(1, Ordering::Relaxed);
                let offset = (1 + 2 * index as u32) | 0x8000_0000;
                frame[0] = 0x0e; // STREAM, with an offset and a length
                frame[1] = 2;
                frame[2..6].copy_from_slice(&offset.to_be_bytes());
                frame[6] = 1;
                frame[7] = 0xaa;
            }
        }
    });
    let mut attack = Attack::on_server(setup, forge);
    for _ in 0..20_000 {
        if attack.step() {
            break;
        }
    }
    let lost = attack.lost;
    let frames = forged.load(Ordering::Relaxed);
    let Some(CloseReason::Transport {
        code,
        reason,
        received,
        ..
    }) = lost
    else {
        panic!("{frames} frames were taken, and this was the end: {lost:?}");
    };
    assert_eq!((code, received), (1, false), "{reason}");
    assert!(reason.contains("gaps"), "{reason}");
    // It takes that many to be noticed, and what they cost is thereby bounded.
    assert!((1000..5000).contains(&frames), "{frames}");
}
