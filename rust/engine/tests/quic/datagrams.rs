//! Datagrams: sizes, queues, counts.

use tieline_engine::quic::{Bytes, Change, DatagramError};

use crate::pair::*;

fn with_datagrams(size: u64) -> Setup {
    Setup::new().transport(|transport| transport.max_datagram_frame_size = size)
}

fn receive_all(peer: &mut Peer) -> Vec<Bytes> {
    std::iter::from_fn(|| peer.connection().receive_datagram()).collect()
}

fn arrived(change: &Change) -> Option<()> {
    matches!(change, Change::Datagrams).then_some(())
}

#[test]
fn both_ways() {
    let mut pair = with_datagrams(65_535).connect();
    for side in [Side::Client, Side::Server] {
        let size = pair.peer(side).connection().maximum_datagram_size();
        assert!(size.is_some_and(|size| (1100..1452).contains(&size)));
        for index in 0..5 {
            let data = Bytes::from(vec![index; 10]);
            pair.peer(side).connection().send_datagram(data).unwrap();
        }
        pair.run_for(ms(50));
        let other = match side {
            Side::Client => &mut pair.server,
            Side::Server => &mut pair.client,
        };
        // Told once, however many came.
        assert_eq!(other.take(arrived).len(), 1);
        let received = receive_all(other);
        assert_eq!(received.len(), 5);
        assert_eq!(received[4], vec![4; 10]);
    }
    pair.run_for(ms(3000));
    // The path was measured meanwhile.
    let size = pair.client.connection().maximum_datagram_size();
    assert!(size.is_some_and(|size| size > 1350), "{size:?}");
    let statistics = pair.client.connection().statistics();
    assert_eq!(statistics.datagrams_sent, 5);
    assert_eq!(statistics.datagrams_received, 5);
    assert_eq!(statistics.datagrams_unsendable, 0);
}

#[test]
fn only_where_both_want_them() {
    let mut pair = connected();
    let send = |peer: &mut Peer| peer.connection().send_datagram(Bytes::from_static(b"x"));
    assert_eq!(send(&mut pair.client), Err(DatagramError::Disabled));
    assert_eq!(pair.client.connection().maximum_datagram_size(), None);
    let mut setup = Setup::new();
    setup.client_transport.max_datagram_frame_size = 65_535;
    let mut pair = setup.connect();
    assert_eq!(send(&mut pair.client), Err(DatagramError::Unsupported));
    let now = pair.now;
    pair.client.connection().close(now, 0, b"").unwrap();
    assert_eq!(send(&mut pair.client), Err(DatagramError::Closed));
}

#[test]
fn the_peers_limit_holds() {
    let mut setup = with_datagrams(65_535);
    setup.server_transport.max_datagram_frame_size = 100;
    let mut pair = setup.connect();
    let limit = pair.client.connection().maximum_datagram_size().unwrap();
    assert!((85..100).contains(&limit));
    let send = |pair: &mut Pair, size| {
        let data = Bytes::from(vec![7; size]);
        pair.client.connection().send_datagram(data)
    };
    assert_eq!(send(&mut pair, limit), Ok(()));
    assert_eq!(
        send(&mut pair, limit + 1),
        Err(DatagramError::TooLarge { limit })
    );
    pair.run_for(ms(50));
    assert_eq!(receive_all(&mut pair.server), [vec![7; limit]]);
    assert!(pair.server.lost().is_none());
}

#[test]
fn the_oldest_give_way() {
    let mut setup = with_datagrams(65_535);
    setup.server_transport.datagram_receive_buffer = 10_000;
    let mut pair = setup.connect();
    for index in 0..30 {
        let data = Bytes::from(vec![index; 1000]);
        pair.client.connection().send_datagram(data).unwrap();
        pair.run_for(ms(20));
    }
    let received = receive_all(&mut pair.server);
    assert_eq!(received.len(), 9);
    assert_eq!((received[0][0], received[8][0]), (21, 29));
    let statistics = pair.server.connection().statistics();
    assert_eq!(statistics.datagrams_received, 30);
    assert_eq!(statistics.datagrams_dropped, 21);
}

#[test]
fn a_full_queue_takes_no_more() {
    let mut setup = with_datagrams(65_535);
    setup.client_transport.datagram_send_buffer = 10_000;
    let mut pair = setup.connect();
    let send = |pair: &mut Pair| {
        let data = Bytes::from(vec![1; 1000]);
        pair.client.connection().send_datagram(data)
    };
    let mut taken = 0;
    while send(&mut pair) == Ok(()) {
        taken += 1;
    }
    assert_eq!(taken, 9);
    assert_eq!(send(&mut pair), Err(DatagramError::Full));
    pair.run_for(ms(50));
    let unblocked = |change: &Change| matches!(change, Change::DatagramsUnblocked).then_some(());
    assert_eq!(pair.client.take(unblocked).len(), 1);
    assert_eq!(send(&mut pair), Ok(()));
    let statistics = pair.client.connection().statistics();
    assert_eq!(statistics.datagrams_refused, 2);
    assert_eq!(receive_all(&mut pair.server).len(), 9);
}
