//! How connections end, and what keeps them alive.

use std::time::Duration;

use tieline_engine::quic::{
    Change, CloseReason, Direction, Endpoint, EndpointError, Event, Settings, StreamError,
};

use crate::pair::*;

fn drained(change: &Change) -> Option<()> {
    matches!(change, Change::Drained).then_some(())
}

#[test]
fn applications_close() {
    for side in [Side::Client, Side::Server] {
        let mut pair = connected();
        let now = pair.now;
        let connection = pair.peer(side).connection();
        assert_eq!(
            connection.close(now, 1 << 62, b"no such code"),
            Err(StreamError::Code)
        );
        connection.close(now, 4711, b"enough").unwrap();
        connection.close(now, 4712, b"not the first").unwrap();
        pair.run_until(|pair| {
            pair.client.endpoint.timeout().is_none() && pair.server.endpoint.timeout().is_none()
        });
        let (closer, other) = match side {
            Side::Client => (&mut pair.client, &mut pair.server),
            Side::Server => (&mut pair.server, &mut pair.client),
        };
        assert!(matches!(closer.lost(), Some(CloseReason::Local)));
        let reason = other.lost().unwrap();
        assert_eq!(
            reason.to_string(),
            "The peer closed the connection with code 4711: enough"
        );
        let CloseReason::Application { code, reason } = reason else {
            panic!("{reason:?}");
        };
        assert_eq!((code, &reason[..]), (4711, &b"enough"[..]));
        for side in [Side::Client, Side::Server] {
            let peer = pair.peer(side);
            assert_eq!(peer.take(drained).len(), 1);
            assert_eq!(peer.endpoint.connections(), 1);
            peer.endpoint.release(now, peer.handle);
            assert_eq!(peer.endpoint.timeout(), None);
            assert_eq!(peer.endpoint.connections(), 0);
            assert_eq!(
                peer.endpoint.connection(peer.handle).map(drop),
                Err(EndpointError::Unknown)
            );
        }
    }
}

#[test]
fn refusing_with_a_code_of_the_transport() {
    for side in [Side::Client, Side::Server] {
        for code in [0x02, 0x12a] {
            let mut pair = connected();
            let now = pair.now;
            let connection = pair.peer(side).connection();
            assert_eq!(connection.refuse(now, 0x200, ""), Err(StreamError::Code));
            connection.refuse(now, code, "not today").unwrap();
            connection.refuse(now, 0, "not the first").unwrap();
            pair.run_for(ms(500));
            let (closer, other) = match side {
                Side::Client => (&mut pair.client, &mut pair.server),
                Side::Server => (&mut pair.server, &mut pair.client),
            };
            assert!(matches!(closer.lost(), Some(CloseReason::Local)));
            match other.lost().unwrap() {
                CloseReason::Transport { code, reason, .. } => {
                    assert_eq!((code, reason.as_str()), (2, "not today"));
                }
                CloseReason::Tls(failure) => {
                    assert_eq!(failure.alert.as_deref(), Some("bad_certificate"));
                    assert!(failure.received && code == 0x12a);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn only_so_many_more_are_admitted() {
    let (mut pair, config) = Setup::new().build();
    pair.server.endpoint.admit_at_most(Some(1));
    pair.connect(&config);
    pair.start(&config);
    pair.run_for(ms(500));
    let Some(CloseReason::Transport { code, .. }) = pair.client.lost() else {
        panic!("the client is told");
    };
    assert_eq!(code, 2);
    assert!(pair.server.endpoint.counters().refused > 0); // for each packet of its first flight
    pair.server.endpoint.admit_at_most(None);
    pair.connect(&config);
}

#[test]
fn closing_during_the_handshake() {
    let mut setup = Setup::new();
    setup.server.maximum_handshakes = 1;
    let (mut pair, config) = setup.build();
    pair.start(&config);
    pair.step();
    let now = pair.now;
    pair.server.connection().close(now, 5, b"secret").unwrap();
    pair.run_for(ms(500));
    // RFC 9000, section 10.2.3: an application's reasons are told to nobody before the handshake is done.
    let Some(CloseReason::Transport { code, reason, .. }) = pair.client.lost() else {
        panic!("the client is told");
    };
    assert_eq!((code, reason.as_str()), (0xc, ""));
    // That handshake is over, so there may be another.
    pair.connect(&config);
}

#[test]
fn released_connections_are_forgotten() {
    let (mut pair, config) = Setup::new().build();
    for _ in 0..50 {
        pair.connect(&config);
        let (client, server) = (pair.client.handle, pair.server.handle);
        pair.client.endpoint.release(pair.now, client);
        pair.run_for(ms(30));
        pair.server.endpoint.release(pair.now, server);
    }
    pair.run_for(ms(10_000));
    assert_eq!(pair.client.endpoint.connections(), 0);
    assert_eq!(pair.server.endpoint.connections(), 0);
    assert_eq!(pair.client.endpoint.timeout(), None);
    // Handles are not used again.
    assert_eq!(pair.client.handle, 50);
}

#[test]
fn silence_ends_a_connection() {
    let setup = Setup::new().transport(|transport| transport.idle_timeout = Some(ms(3000)));
    let mut pair = setup.connect();
    pair.run_for(ms(2000));
    assert!(pair.client.lost().is_none());
    let began = pair.now;
    pair.run_until(|pair| pair.client.endpoint.timeout().is_none());
    assert!(pair.now - began <= ms(1200));
    pair.run_for(ms(500));
    for side in [Side::Client, Side::Server] {
        assert!(matches!(
            pair.peer(side).lost(),
            Some(CloseReason::IdleTimeout)
        ));
        assert_eq!(pair.peer(side).take(drained).len(), 1);
    }
}

#[test]
fn the_shorter_idle_timeout_counts() {
    let mut setup = Setup::new();
    setup.client_transport.idle_timeout = None;
    setup.server_transport.idle_timeout = Some(ms(1000));
    let mut pair = setup.connect();
    pair.run_for(ms(1500));
    assert!(matches!(pair.client.lost(), Some(CloseReason::IdleTimeout)));
}

#[test]
fn nobody_there() {
    let (mut pair, config) = Setup::new().build();
    pair.link.loss = 1000;
    pair.start(&config);
    pair.flush();
    pair.run_until(|pair| pair.client.endpoint.timeout().is_none());
    assert!(matches!(pair.client.lost(), Some(CloseReason::IdleTimeout)));
    assert!((ms(29_000)..ms(40_000)).contains(&pair.now));
}

#[test]
fn keepalive() {
    let setup = Setup::new().transport(|transport| transport.idle_timeout = Some(ms(3000)));
    let mut pair = setup.connect();
    pair.run_for(ms(1000));
    let now = pair.now;
    let client = pair.client.connection();
    assert_eq!(client.keepalive(), None);
    client.set_keepalive(now, Some(ms(1000)));
    assert_eq!(client.keepalive(), Some(ms(1000)));
    pair.run_for(ms(1000)); // what was under way
    let before = (pair.client.sent, pair.server.sent);
    pair.run_for(ms(60_000));
    assert!(pair.client.lost().is_none() && pair.server.lost().is_none());
    let pings = pair.client.sent - before.0;
    assert!((50..=120).contains(&pings), "{pings}");
    let now = pair.now;
    pair.client.connection().set_keepalive(now, None);
    pair.run_for(ms(5000));
    assert!(matches!(pair.client.lost(), Some(CloseReason::IdleTimeout)));
    // From the start, and on the server's side.
    let mut setup = Setup::new().transport(|transport| transport.idle_timeout = Some(ms(3000)));
    setup.server_transport.keepalive = Some(ms(500));
    let mut pair = setup.connect();
    pair.run_for(ms(60_000));
    assert!(pair.client.lost().is_none());
    // No ping is needed while there is traffic.
    let stream = pair.client.open(Direction::Unidirectional);
    let before = pair.server.connection().statistics().packets_sent;
    for _ in 0..100 {
        pair.client.write_all(stream, b"x");
        pair.run_for(ms(100));
    }
    let sent = pair.server.connection().statistics().packets_sent - before;
    assert!(sent <= 130, "{sent}");
}

#[test]
fn a_server_that_lost_its_memory() {
    let mut setup = Setup::new();
    setup.server.reset_key = Some([9; 32]);
    let mut pair = setup.connect();
    pair.run_for(ms(1000));
    let mut setup = Setup::new();
    setup.server.reset_key = Some([9; 32]);
    let (mut other, _) = setup.build();
    std::mem::swap(&mut pair.server, &mut other.server);
    let stream = pair.client.open(Direction::Unidirectional);
    pair.client.write_all(stream, &pattern(1000));
    pair.run_for(ms(100));
    assert!(matches!(
        pair.client.lost(),
        Some(CloseReason::StatelessReset)
    ));
    assert_eq!(pair.client.take(drained).len(), 1);
}

#[test]
fn keys_change() {
    let mut pair = connected();
    let stream = pair.client.open(Direction::Bidirectional);
    pair.client.write_all(stream, b"x");
    pair.run_for(ms(100));
    pair.server.accept(Direction::Bidirectional);
    for round in 0..10 {
        for side in [Side::Client, Side::Server] {
            pair.peer(side).connection().update_keys();
            pair.peer(side).write_all(stream, &[round]);
            pair.run_for(Duration::from_secs(2));
        }
    }
    assert_eq!(pair.server.read(stream).unwrap().0.len(), 11);
    assert_eq!(pair.client.read(stream).unwrap().0.len(), 10);
}

#[test]
fn a_key_change_waits_for_the_last_one() {
    let mut pair = connected();
    let stream = pair.client.open(Direction::Bidirectional);
    pair.run_for(ms(100)); // until the handshake is confirmed
    for round in 1..4 {
        // The second of three is still wanted when the third is asked for: that is one wish.
        for _ in 0..3 {
            pair.client.connection().update_keys();
            pair.client.write_all(stream, b"x");
            pair.run_for(ms(1));
        }
        assert_eq!(pair.client.connection().key_updates(), 2 * round - 1);
        for _ in 0..20 {
            pair.client.write_all(stream, b"x");
            pair.run_for(ms(100));
        }
        for side in [Side::Client, Side::Server] {
            assert_eq!(pair.peer(side).connection().key_updates(), 2 * round);
        }
    }
    pair.server.accept(Direction::Bidirectional);
    assert_eq!(pair.server.read(stream).unwrap().0.len(), 69);
}

#[test]
fn early_wishes_for_a_key_change() {
    let (mut pair, config) = Setup::new().build();
    pair.start(&config);
    pair.client.connection().update_keys();
    pair.run_for(ms(500));
    assert_eq!(pair.client.connection().key_updates(), 1);
    assert!(pair.client.lost().is_none());
}

#[test]
fn a_poisoned_endpoint_refuses_everything() {
    let mut pair = connected();
    let (now, handle) = (pair.now, pair.client.handle);
    let endpoint = &mut pair.client.endpoint;
    assert!(endpoint.peek(handle).is_some() && !endpoint.is_poisoned());
    endpoint.poison();
    endpoint.poison();
    assert!(endpoint.is_poisoned());
    let mut events = Vec::new();
    endpoint.events(&mut events);
    let [Event::Connection(lost, Change::Lost(reason))] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(*lost, handle);
    assert!(matches!(reason, CloseReason::Internal(_)));
    assert_eq!(endpoint.timeout(), None);
    assert_eq!(endpoint.transmit(now, 1, &mut Vec::new()), None);
    assert_eq!(endpoint.receive(now, []), Err(EndpointError::Poisoned));
    assert_eq!(endpoint.handle_timeout(now), Err(EndpointError::Poisoned));
    assert_eq!(
        endpoint.connection(handle).map(drop),
        Err(EndpointError::Poisoned)
    );
    endpoint.release(now, handle);
}

#[test]
fn an_endpoint_alone_is_quiet() {
    let mut endpoint = Endpoint::new(Settings::default()).unwrap();
    assert_eq!(endpoint.timeout(), None);
    assert_eq!(endpoint.transmit(ms(1), 1, &mut Vec::new()), None);
    // The largest of all times, and back.
    endpoint.handle_timeout(Duration::MAX).unwrap();
    endpoint.handle_timeout(Duration::ZERO).unwrap();
    endpoint.release(ms(0), 17);
}
