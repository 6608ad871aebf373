//! Early data (0-RTT).

use tieline_engine::quic::{Change, Config, Direction};

use crate::pair::*;

/// A pair whose client has a ticket for early data.
fn with_ticket() -> (Pair, Config) {
    let mut setup = Setup::new();
    setup.client_tls.early_data = true;
    setup.server_tls.early_data = true;
    let (mut pair, config) = setup.build();
    pair.connect(&config);
    assert!(!pair.client.connection().has_early_data());
    pair.run_for(ms(100));
    (pair, config)
}

#[test]
fn early_data_saves_a_round_trip() {
    let (mut pair, config) = with_ticket();
    let began = pair.now;
    pair.start(&config);
    assert!(pair.client.connection().has_early_data());
    let stream = pair.client.open(Direction::Bidirectional);
    pair.client.write_all(stream, b"early");
    pair.client.connection().finish(stream).unwrap();
    let before = pair.server.handle;
    pair.run_until(|pair| {
        pair.server.handle != before
            && pair.server.connection().accept(Direction::Bidirectional) == Some(stream)
    });
    assert_eq!(pair.now - began, pair.link.latency);
    assert_eq!(pair.server.read(stream), Ok((b"early".to_vec(), true)));
    pair.server.write_all(stream, b"answer");
    pair.run_for(ms(100));
    assert_eq!(pair.client.read(stream), Ok((b"answer".to_vec(), false)));
    for side in [Side::Client, Side::Server] {
        let info = pair.peer(side).connection().info().unwrap();
        assert!(info.resumed && info.early_data_accepted);
    }
    let rejected = |change: &Change| matches!(change, Change::EarlyDataRejected).then_some(());
    assert!(pair.client.take(rejected).is_empty());
}

#[test]
fn each_ticket_is_good_for_once() {
    let (mut pair, config) = with_ticket();
    for _ in 0..5 {
        pair.start(&config);
        assert!(pair.client.connection().has_early_data());
        pair.run_for(ms(100));
        let info = pair.client.connection().info().unwrap();
        assert!(info.early_data_accepted);
    }
}

#[test]
fn early_data_is_rejected() {
    let (mut pair, config) = with_ticket();
    // The server starts anew and remembers no tickets, but it has the same certificate.
    let mut setup = Setup::new();
    setup.server_tls.early_data = true;
    let (mut other, _) = setup.build();
    std::mem::swap(&mut pair.server, &mut other.server);
    // The client trusts the first server's certificate alone, so the connection fails; see below.
    pair.start(&config);
    assert!(pair.client.connection().has_early_data());
    pair.run_for(ms(100));
    assert!(pair.client.lost().is_some());

    let identity = self_signed(params(NAME));
    let setup = || {
        let mut setup = Setup::new();
        setup.client_tls.trust = tieline_engine::tls::Trust::Certificates(vec![identity.leaf()]);
        setup.server_tls.certificate_chain = identity.chain.clone();
        setup.server_tls.private_key = Some(identity.key.clone());
        setup.client_tls.early_data = true;
        setup.server_tls.early_data = true;
        setup
    };
    let (mut pair, config) = setup().build();
    pair.connect(&config);
    pair.run_for(ms(100));
    let (other, _) = setup().build();
    pair.server = other.server;
    pair.client.events.clear();
    pair.start(&config);
    let streams: Vec<_> = (0..3)
        .map(|_| pair.client.open(Direction::Bidirectional))
        .collect();
    for &stream in &streams {
        pair.client.write_all(stream, b"early");
    }
    pair.run_for(ms(100));
    let mut changes = pair.client.take(|change| Some(format!("{change:?}")));
    changes.truncate(2);
    assert_eq!(changes, ["EarlyDataRejected", "Connected"]);
    let info = pair.client.connection().info().unwrap();
    assert!(!info.resumed && !info.early_data_accepted);
    assert_eq!(
        pair.server.connection().accept(Direction::Bidirectional),
        None
    );
    // The streams are void, and numbers begin at 0 again.
    assert!(pair.client.connection().write(streams[0], b"x").is_err());
    let stream = pair.client.open(Direction::Bidirectional);
    assert_eq!(stream, streams[0]);
    assert!(pair.client.connection().write(streams[1], b"x").is_err());
    pair.client.write_all(stream, b"again");
    pair.run_for(ms(100));
    assert_eq!(pair.server.accept(Direction::Bidirectional), stream);
    assert_eq!(pair.server.read(stream), Ok((b"again".to_vec(), false)));
}
