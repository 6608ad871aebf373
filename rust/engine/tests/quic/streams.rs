//! Streams: data, ends, limits, flow control.

use tieline_engine::quic::{
    Bytes, Change, CloseReason, Direction, Direction::*, Read, StreamError, stream_kind,
};

use crate::pair::*;

fn readable(change: &Change) -> Option<u64> {
    match change {
        Change::Readable(stream) => Some(*stream),
        _ => None,
    }
}

#[test]
fn both_ways_on_one_stream() {
    let mut pair = connected();
    let stream = pair.client.open(Bidirectional);
    assert_eq!(stream_kind(stream), (Bidirectional, true));
    pair.client.write_all(stream, b"question");
    pair.client.connection().finish(stream).unwrap();
    pair.run_for(ms(50));
    let opened = |change: &Change| match change {
        Change::Opened(direction) => Some(*direction),
        _ => None,
    };
    assert_eq!(pair.server.take(opened), [Bidirectional]);
    assert_eq!(pair.server.accept(Bidirectional), stream);
    // The end comes along with the last byte.
    assert_eq!(
        pair.server.read_some(stream, 3),
        Ok((b"que".to_vec(), false))
    );
    assert_eq!(
        pair.server.read_some(stream, 5),
        Ok((b"stion".to_vec(), true))
    );
    assert_eq!(pair.server.read(stream), Err(StreamError::Unknown));
    let mut answer = Bytes::from_static(b"answer");
    let connection = pair.server.connection();
    assert_eq!(connection.write_bytes(stream, &mut answer), Ok(6));
    assert!(answer.is_empty());
    pair.run_for(ms(50));
    assert_eq!(pair.client.take(readable), [stream]);
    assert_eq!(pair.client.read(stream), Ok((b"answer".to_vec(), false)));
    assert_eq!(pair.client.read(stream), Ok((vec![], false)));
    pair.server.connection().finish(stream).unwrap();
    pair.run_for(ms(100));
    assert_eq!(pair.client.read(stream), Ok((vec![], true)));
    for side in [Side::Client, Side::Server] {
        let peer = pair.peer(side);
        let finished = peer.take(|change| match change {
            Change::Finished(stream) => Some(*stream),
            _ => None,
        });
        assert_eq!(finished, [stream]);
        assert_eq!(peer.connection().unfinished_streams(), 0);
        assert_eq!(
            peer.connection().write(stream, b"x"),
            Err(StreamError::Unknown)
        );
        assert_eq!(peer.connection().finish(stream), Err(StreamError::Unknown));
    }
}

#[test]
fn many_streams_at_once() {
    const STREAMS: usize = 1000;
    let mut setup = Setup::new();
    setup.link.loss = 20;
    setup.link.reorder = 50;
    setup.link.duplicate = 20;
    let mut pair = setup.connect();
    let data: Vec<Vec<u8>> = (0..STREAMS).map(|index| pattern(index * 7 + 1)).collect();
    let (mut opened, mut received, mut back) = (Vec::new(), vec![vec![]; STREAMS], 0);
    let mut accepted = Vec::new();
    let mut most = 0;
    pair.run_until(|pair| {
        while opened.len() < STREAMS {
            let Ok(Some(stream)) = pair.client.connection().open(Bidirectional) else {
                break;
            };
            pair.client.write_all(stream, &data[opened.len()]);
            pair.client.connection().finish(stream).unwrap();
            opened.push(stream);
        }
        while let Some(stream) = pair.server.connection().accept(Bidirectional) {
            accepted.push(stream);
        }
        most = most.max(accepted.len());
        accepted.retain(|&stream| {
            let (data, end) = pair.server.read(stream).unwrap();
            received[(stream / 4) as usize].extend(data);
            if end {
                // Backwards it goes.
                let mut reply = received[(stream / 4) as usize].clone();
                reply.reverse();
                pair.server.write_all(stream, &reply);
                pair.server.connection().finish(stream).unwrap();
            }
            !end
        });
        for stream in pair.client.take(readable) {
            let (mut data_back, end) = pair.client.read_some(stream, usize::MAX).unwrap();
            if end {
                // All of it came at once, or its last piece did.
                data_back.reverse();
                assert!(data[(stream / 4) as usize].starts_with(&data_back));
                back += 1;
            }
        }
        back == STREAMS
    });
    assert_eq!(received, data);
    assert!(most <= 100);
    assert!(
        pair.server
            .connection()
            .peer_maximum_streams(Bidirectional)
            .unwrap()
            .0
            >= 100
    );
    let (limit, exact) = pair
        .client
        .connection()
        .peer_maximum_streams(Bidirectional)
        .unwrap();
    assert!(limit >= STREAMS as u64 && !exact);
}

#[test]
fn opening_waits_at_the_limit() {
    let setup = Setup::new().transport(|transport| {
        transport.maximum_bidirectional_streams = 2;
        transport.maximum_unidirectional_streams = 0;
    });
    let mut pair = setup.connect();
    let available = |change: &Change| match change {
        Change::Available(direction) => Some(*direction),
        _ => None,
    };
    let limit = |pair: &mut Pair, direction: Direction| {
        pair.client.connection().peer_maximum_streams(direction)
    };
    assert_eq!(limit(&mut pair, Bidirectional), Some((2, true)));
    assert_eq!(limit(&mut pair, Unidirectional), Some((0, true)));
    assert_eq!(pair.client.connection().open(Unidirectional), Ok(None));
    let (one, two) = (
        pair.client.open(Bidirectional),
        pair.client.open(Bidirectional),
    );
    assert_eq!((one, two), (0, 4));
    assert_eq!(pair.client.connection().open(Bidirectional), Ok(None));
    assert!(pair.client.take(available).is_empty());
    pair.client.connection().finish(one).unwrap();
    pair.run_for(ms(100));
    assert_eq!(pair.server.accept(Bidirectional), one);
    assert_eq!(pair.server.read(one), Ok((vec![], true)));
    pair.server.connection().finish(one).unwrap();
    pair.run_for(ms(100));
    assert_eq!(pair.client.read(one), Ok((vec![], true)));
    pair.run_for(ms(100));
    assert_eq!(pair.client.take(available), [Bidirectional]);
    assert_eq!(limit(&mut pair, Bidirectional), Some((3, false)));
    assert_eq!(pair.client.open(Bidirectional), 8);
    // At run time, too.
    pair.server
        .connection()
        .set_maximum_streams(Unidirectional, 1);
    pair.run_for(ms(100));
    assert_eq!(pair.client.take(available), [Unidirectional]);
    assert_eq!(pair.client.open(Unidirectional), 2);
}

#[test]
fn credit_follows_the_reader() {
    let setup = Setup::new().transport(|transport| {
        transport.stream_receive_window = 100_000;
        transport.receive_window = 150_000;
    });
    let mut pair = setup.connect();
    let data = pattern(1_000_000);
    let streams = [
        pair.client.open(Unidirectional),
        pair.client.open(Unidirectional),
    ];
    let mut written = [0, 0];
    let mut write = |pair: &mut Pair| {
        pair.run_for(ms(1000));
        for (stream, written) in streams.iter().zip(&mut written) {
            while *written < data.len() {
                let connection = pair.client.connection();
                match connection.write(*stream, &data[*written..]).unwrap() {
                    0 => break,
                    count => *written += count,
                }
            }
        }
        pair.run_for(ms(1000));
        written
    };
    for _ in 0..5 {
        // Whoever does not read gets no more than the windows.
        assert_eq!(write(&mut pair), [100_000, 50_000]);
    }
    assert_eq!(pair.server.accept(Unidirectional), streams[0]);
    assert_eq!(pair.server.accept(Unidirectional), streams[1]);
    assert_eq!(
        pair.server.read_some(streams[0], 60_000).unwrap().0.len(),
        60_000
    );
    let written = write(&mut pair);
    assert_eq!(written[0] + written[1], 210_000);
    assert!(written[0] <= 160_000);
    let mut received = [vec![], vec![]];
    received[0].resize(60_000, 0);
    received[0].copy_from_slice(&data[..60_000]);
    for _ in 0..100 {
        for (stream, received) in streams.iter().zip(&mut received) {
            received.extend(pair.server.read(*stream).unwrap().0);
        }
        if write(&mut pair) == [data.len(); 2] {
            break;
        }
    }
    pair.run_for(ms(1000));
    for (stream, mut received) in streams.into_iter().zip(received) {
        received.extend(pair.server.read(stream).unwrap().0);
        assert!(received == data);
    }
}

#[test]
fn our_send_buffer_is_bounded() {
    let setup = Setup::new().transport(|transport| {
        transport.send_window = 10_000;
    });
    let mut pair = setup.connect();
    let stream = pair.client.open(Unidirectional);
    let connection = pair.client.connection();
    assert_eq!(connection.write(stream, &pattern(50_000)), Ok(10_000));
    pair.run_for(ms(100));
    let writable = |change: &Change| match change {
        Change::Writable(stream) => Some(*stream),
        _ => None,
    };
    assert_eq!(pair.client.take(writable), [stream]);
    let mut data = Bytes::from(pattern(50_000));
    let connection = pair.client.connection();
    assert_eq!(connection.write_bytes(stream, &mut data), Ok(10_000));
    assert_eq!(data, pattern(50_000)[10_000..]);
    assert_eq!(connection.write_bytes(stream, &mut data), Ok(0));
    pair.run_for(ms(100));
    assert_eq!(pair.client.take(writable), [stream]);
}

#[test]
fn giving_up() {
    let mut pair = connected();
    let stream = pair.client.open(Bidirectional);
    pair.client.write_all(stream, b"half a");
    pair.run_for(ms(50));
    pair.server.accept(Bidirectional);
    // Both at once.
    pair.client.connection().reset(stream, 42).unwrap();
    pair.server.connection().stop_sending(stream, 1).unwrap();
    pair.run_for(ms(50));
    let stream = pair.client.open(Bidirectional);
    pair.client.write_all(stream, b"half a");
    pair.run_for(ms(50));
    pair.server.accept(Bidirectional);
    pair.client
        .connection()
        .reset(stream, (1 << 62) - 1)
        .unwrap();
    pair.run_for(ms(50));
    assert_eq!(
        pair.server.read(stream),
        Err(StreamError::Reset((1 << 62) - 1))
    );
    assert_eq!(pair.server.read(stream), Err(StreamError::Unknown));
    assert_eq!(
        pair.client.connection().reset(stream, 1 << 62),
        Err(StreamError::Code)
    );
    // The other direction goes on, until the client wants no more of it.
    pair.server.write_all(stream, b"still");
    pair.run_for(ms(50));
    assert_eq!(pair.client.read(stream), Ok((b"still".to_vec(), false)));
    pair.client.connection().stop_sending(stream, 17).unwrap();
    assert_eq!(pair.client.read(stream), Err(StreamError::Unknown));
    pair.run_for(ms(50));
    let stopped = pair.server.take(|change| match change {
        Change::Stopped(stream, code) => Some((*stream, *code)),
        _ => None,
    });
    assert_eq!(stopped.last(), Some(&(stream, 17)));
    assert_eq!(
        pair.server.connection().write(stream, b"x"),
        Err(StreamError::Stopped(17))
    );
    assert_eq!(pair.server.connection().stopped(stream), Ok(Some(17)));
    pair.server.connection().reset(stream, 18).unwrap();
    pair.run_for(ms(100));
}

#[test]
fn wrong_streams_are_refused() {
    let mut pair = connected();
    let ours = pair.client.open(Unidirectional);
    pair.client.write_all(ours, b"x");
    pair.run_for(ms(50));
    // Not accepted yet.
    assert_eq!(pair.server.read(ours), Err(StreamError::Unknown));
    assert_eq!(pair.server.accept(Unidirectional), ours);
    let client = pair.client.connection();
    let mut chunks = Vec::new();
    assert_eq!(
        client.read(ours, 1, &mut chunks),
        Err(StreamError::WrongDirection)
    );
    assert_eq!(
        client.stop_sending(ours, 0),
        Err(StreamError::WrongDirection)
    );
    let server = pair.server.connection();
    assert_eq!(server.write(ours, b"x"), Err(StreamError::WrongDirection));
    assert_eq!(server.finish(ours), Err(StreamError::WrongDirection));
    assert_eq!(server.reset(ours, 0), Err(StreamError::WrongDirection));
    assert_eq!(
        server.set_priority(ours, 0),
        Err(StreamError::WrongDirection)
    );
    for stream in [0, 1, 3, 4, 5, 6, 7, 1 << 40, u64::MAX] {
        for connection in [pair.client.connection(), pair.server.connection()] {
            assert_eq!(connection.write(stream, b"x"), Err(StreamError::Unknown));
            assert_eq!(connection.finish(stream), Err(StreamError::Unknown));
            assert_eq!(connection.reset(stream, 0), Err(StreamError::Unknown));
            assert_eq!(connection.priority(stream), Err(StreamError::Unknown));
            assert_eq!(connection.stopped(stream), Err(StreamError::Unknown));
            assert_eq!(
                connection.read(stream, 1, &mut chunks),
                Err(StreamError::Unknown)
            );
            assert_eq!(
                connection.stop_sending(stream, 0),
                Err(StreamError::Unknown)
            );
        }
    }
}

#[test]
fn the_important_first() {
    let setup = Setup::new().transport(|transport| transport.send_window = 1 << 20);
    let mut pair = setup.connect();
    let data = pattern(200_000);
    let streams: Vec<_> = (0..3).map(|_| pair.client.open(Unidirectional)).collect();
    for (stream, priority) in streams.iter().zip([-5, 0, 5]) {
        let connection = pair.client.connection();
        connection.set_priority(*stream, priority).unwrap();
        assert_eq!(connection.priority(*stream), Ok(priority));
        pair.client.write_all(*stream, &data);
        pair.client.connection().finish(*stream).unwrap();
    }
    let mut order = Vec::new();
    let mut accepted = Vec::new();
    pair.run_until(|pair| {
        while let Some(stream) = pair.server.connection().accept(Unidirectional) {
            accepted.push(stream);
        }
        accepted.retain(|&stream| {
            let (_, end) = pair.server.read(stream).unwrap();
            if end {
                order.push(stream);
            }
            !end
        });
        order.len() == 3
    });
    assert_eq!(order, [streams[2], streams[1], streams[0]]);
}

#[test]
fn bulk_over_bad_networks() {
    let data = pattern(3_000_000);
    for (seed, loss, reorder, duplicate, offload) in [
        (1, 0, 0, 0, true),
        (2, 10, 0, 0, false),
        (3, 50, 100, 50, false),
        (4, 50, 100, 50, true),
    ] {
        let mut setup = Setup::new();
        setup.link = Link {
            loss,
            reorder,
            duplicate,
            offload,
            ..Link::default()
        };
        let mut pair = setup.connect();
        pair.random = Random(seed);
        let stream = pair.client.open(Bidirectional);
        let (mut written, mut received, mut ended) = (0, Vec::new(), false);
        pair.run_until(|pair| {
            if written < data.len() {
                let rest = &data[written..];
                written += pair.client.connection().write(stream, rest).unwrap();
                if written == data.len() {
                    pair.client.connection().finish(stream).unwrap();
                }
            }
            let server = pair.server.connection();
            server.accept(Bidirectional);
            let mut chunks = Vec::new();
            match server.read(stream, usize::MAX, &mut chunks) {
                Ok(Read { end, .. }) => {
                    ended = end;
                    received.extend(chunks.concat());
                }
                Err(error) => assert_eq!(error, StreamError::Unknown), // not accepted yet
            }
            ended
        });
        assert!(received == data);
        let statistics = pair.client.connection().statistics();
        assert_eq!(statistics.packets_lost > 0, loss > 0, "{statistics:?}");
        assert!(statistics.rtt >= ms(10) && statistics.minimum_rtt >= ms(10));
    }
}

#[test]
fn what_came_before_the_end_can_be_read() {
    let mut pair = connected();
    let stream = pair.client.open(Unidirectional);
    pair.client.write_all(stream, b"last words");
    pair.run_for(ms(50));
    pair.server.accept(Unidirectional);
    let now = pair.now;
    pair.client.connection().close(now, 7, b"bye").unwrap();
    pair.run_for(ms(50));
    assert!(matches!(
        pair.server.lost(),
        Some(CloseReason::Application { code: 7, .. })
    ));
    assert_eq!(
        pair.server.read(stream),
        Ok((b"last words".to_vec(), false))
    );
    assert_eq!(pair.server.read(stream), Err(StreamError::Closed));
    let server = pair.server.connection();
    assert_eq!(server.open(Bidirectional), Err(StreamError::Closed));
    let client = pair.client.connection();
    assert_eq!(client.write(stream, b"x"), Err(StreamError::Closed));
    assert_eq!(client.finish(stream), Err(StreamError::Closed));
}
