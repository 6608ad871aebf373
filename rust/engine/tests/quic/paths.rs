//! Addresses that change, and the size of packets.

use std::net::SocketAddr;

use tieline_engine::quic::{Change, CloseReason, Direction};

use crate::pair::*;

fn moved(change: &Change) -> Option<SocketAddr> {
    match change {
        Change::PeerAddress(address) => Some(*address),
        _ => None,
    }
}

fn transfer(pair: &mut Pair, change: impl Fn(&mut Pair)) {
    let data = pattern(2_000_000);
    let stream = pair.client.open(Direction::Bidirectional);
    let (mut written, mut received, mut changed) = (0, Vec::new(), false);
    pair.run_until(|pair| {
        if written < data.len() {
            let rest = &data[written..];
            written += pair.client.connection().write(stream, rest).unwrap();
        }
        pair.server.connection().accept(Direction::Bidirectional);
        if let Ok((data, _)) = pair.server.read(stream) {
            received.extend(data);
        }
        if !changed && received.len() > data.len() / 2 {
            changed = true;
            change(pair);
        }
        received.len() == data.len()
    });
    assert!(received == data);
}

#[test]
fn a_nat_forgets() {
    let mut pair = connected();
    transfer(&mut pair, |pair| pair.client.address.set_port(4000));
    let address = pair.client.address;
    assert_eq!(pair.server.take(moved), [address]);
    assert_eq!(pair.server.connection().remote_address(), address);
    assert!(pair.client.take(moved).is_empty());
}

#[test]
fn a_client_moves() {
    let mut pair = connected();
    let other = SocketAddr::new([127, 0, 0, 2].into(), 5000);
    transfer(&mut pair, |pair| {
        pair.client.address = other;
        let now = pair.now;
        pair.client.connection().migrate(now);
    });
    assert_eq!(pair.server.take(moved), [other]);
    // And back, while nothing else is to be said.
    pair.run_for(ms(1000));
    pair.client.address = SocketAddr::new([127, 0, 0, 1].into(), 2000);
    let now = pair.now;
    pair.client.connection().migrate(now);
    pair.run_for(ms(1000));
    let address = pair.client.address;
    assert_eq!(pair.server.take(moved), [address]);
}

#[test]
fn a_server_can_forbid_it() {
    let setup = Setup::new().transport(|transport| transport.idle_timeout = Some(ms(5000)));
    let mut setup = setup;
    setup.server.migration = false;
    let mut pair = setup.connect();
    assert!(
        !pair
            .client
            .connection()
            .peer_parameters()
            .unwrap()
            .migration
    );
    pair.client.address.set_port(4000);
    let stream = pair.client.open(Direction::Unidirectional);
    pair.client.write_all(stream, b"x");
    pair.run_for(ms(20_000));
    assert!(pair.server.take(moved).is_empty());
    assert!(matches!(pair.client.lost(), Some(CloseReason::IdleTimeout)));
}

#[test]
fn the_network_is_gone() {
    let setup = Setup::new().transport(|transport| transport.idle_timeout = Some(ms(5000)));
    let mut pair = setup.connect();
    let stream = pair.client.open(Direction::Unidirectional);
    pair.client.write_all(stream, b"x");
    pair.link.loss = 1000;
    pair.run_for(ms(20_000));
    for side in [Side::Client, Side::Server] {
        assert!(matches!(
            pair.peer(side).lost(),
            Some(CloseReason::IdleTimeout)
        ));
    }
}

#[test]
fn the_path_is_measured() {
    for (mtu, expected) in [(1500, 1452), (1300, 1300), (1200, 1200)] {
        let mut setup = Setup::new();
        setup.link.mtu = mtu;
        let mut pair = setup.connect();
        transfer(&mut pair, |_| ());
        let found = usize::from(pair.client.connection().mtu());
        assert!(
            (expected - 20..=expected).contains(&found),
            "{found} of {mtu}"
        );
        assert_eq!(
            pair.client.connection().statistics().mtu,
            pair.client.connection().mtu()
        );
    }
    // Where packets may be fragmented, nothing is learnt by trying.
    let mut setup = Setup::new();
    setup.client.discover_mtu = false;
    let mut pair = setup.connect();
    transfer(&mut pair, |_| ());
    assert_eq!(pair.client.connection().mtu(), 1200);
}

#[test]
fn a_path_that_shrinks() {
    let mut pair = connected();
    transfer(&mut pair, |_| ());
    assert!(pair.client.connection().mtu() > 1400);
    pair.link.mtu = 1250;
    transfer(&mut pair, |_| ());
    assert!(pair.client.connection().mtu() <= 1250);
    assert!(pair.client.connection().statistics().black_holes > 0);
}
