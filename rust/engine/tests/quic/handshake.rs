//! How connections begin, and how they fail to.

use std::sync::{Arc, Mutex};

use tieline_engine::quic::{
    Change, CloseReason, Config, Direction, Endpoint, EndpointError, Event, Retry, ServerId,
    Settings, Transport,
};
use tieline_engine::tls::{self, ClientAuthentication, ConfigError, Decision, Reason, Trust};

use crate::pair::*;

#[test]
fn both_sides_know_what_was_agreed() {
    let mut setup = Setup::new();
    setup.client_transport.idle_timeout = Some(ms(20_000));
    setup.server_transport.idle_timeout = None;
    setup.server_transport.maximum_bidirectional_streams = 7;
    setup.server_transport.max_datagram_frame_size = 1234;
    let leaf = match &setup.client_tls.trust {
        Trust::Certificates(roots) => roots[0].to_vec(),
        _ => unreachable!(),
    };
    let mut pair = setup.connect();
    for side in [Side::Client, Side::Server] {
        let connection = pair.peer(side).connection();
        assert!(!connection.is_handshaking() && !connection.is_closed());
        let info = connection.info().unwrap();
        assert_eq!(info.version, "TLSv1.3");
        assert_eq!(info.alpn.as_deref(), Some("test"));
        assert_eq!(info.group.as_deref(), Some("X25519MLKEM768"));
        assert!(info.cipher_suite.starts_with("TLS_AES_"));
        assert_eq!(info.server_name.as_deref(), Some(NAME));
        assert!(!info.resumed && !info.early_data_accepted);
    }
    let info = pair.client.connection().info().unwrap();
    assert_eq!(info.peer_certificates, [leaf]);
    let theirs = pair.client.connection().peer_parameters().unwrap();
    assert_eq!(theirs.idle_timeout, None);
    assert_eq!(theirs.initial_max_bidirectional_streams, 7);
    assert_eq!(theirs.max_datagram_frame_size, 1234);
    let theirs = pair.server.connection().peer_parameters().unwrap();
    assert_eq!(theirs.idle_timeout, Some(ms(20_000)));
    assert_eq!(theirs.max_datagram_frame_size, 0);
    let export = |peer: &mut Peer| peer.connection().export(b"label", b"context", 32);
    assert!(export(&mut pair.client).is_some());
    assert_eq!(export(&mut pair.client), export(&mut pair.server));
    assert_eq!(pair.client.connection().export(b"", b"", 10_000), None);
    let server = pair.server.endpoint.counters();
    assert_eq!((server.accepted, server.retried, server.refused), (1, 0, 0));
}

#[test]
fn loss_and_disorder_do_not_matter() {
    for seed in 1..20 {
        let mut setup = Setup::new();
        setup.link.loss = 200;
        setup.link.reorder = 300;
        setup.link.duplicate = 100;
        let (mut pair, config) = setup.build();
        pair.random = Random(seed);
        pair.connect(&config);
    }
}

#[test]
fn certificates_are_judged() {
    let mut setup = Setup::new();
    setup.client_tls.trust = Authority::new().trust();
    let (mut pair, config) = setup.build();
    pair.start(&config);
    pair.run_for(ms(1000));
    let Some(CloseReason::Tls(failure)) = pair.client.lost() else {
        panic!("the client fails");
    };
    assert_eq!(failure.reason, Reason::UnknownAuthority);
    assert_eq!(failure.alert.as_deref(), Some("unknown_ca"));
    assert!(!failure.received);
    let Some(CloseReason::Tls(failure)) = pair.server.lost() else {
        panic!("the server is told");
    };
    assert_eq!(failure.reason, Reason::AlertReceived);
    assert_eq!(failure.alert.as_deref(), Some("unknown_ca"));
    assert!(failure.received);
}

#[test]
fn clients_are_judged_too() {
    let authority = Authority::new();
    let client = authority.issue(params("client"));
    for (identity, good) in [(Some(&client), true), (None, false)] {
        let mut setup = Setup::new();
        setup.authentication = ClientAuthentication::Required;
        setup.server_tls.trust = authority.trust();
        if let Some(identity) = identity {
            setup.client_tls.certificate_chain = identity.chain.clone();
            setup.client_tls.private_key = Some(identity.key.clone());
        }
        let (mut pair, config) = setup.build();
        if good {
            pair.connect(&config);
            let info = pair.server.connection().info().unwrap();
            assert_eq!(info.peer_certificates, [client.leaf().to_vec()]);
            continue;
        }
        pair.start(&config);
        // The client has done its part before the server can refuse.
        pair.run_for(ms(1000));
        assert_eq!(
            pair.client
                .take(|change| matches!(change, Change::Connected).then_some(()))
                .len(),
            1
        );
        let Some(CloseReason::Tls(failure)) = pair.client.lost() else {
            panic!("the client is told");
        };
        assert_eq!(failure.alert.as_deref(), Some("certificate_required"));
        let Some(CloseReason::Tls(failure)) = pair.server.lost() else {
            panic!("the server refuses");
        };
        assert_eq!(failure.reason, Reason::CertificateRequired);
    }
}

#[test]
fn a_validator_decides() {
    type Asked = Arc<Mutex<Vec<(usize, String)>>>;
    let connect = |decide: fn() -> Decision| {
        let asked = Asked::default();
        let seen = asked.clone();
        let mut setup = Setup::new();
        setup.client_tls.trust = Trust::Validator(Arc::new(move |chain, name| {
            seen.lock().unwrap().push((chain.len(), name.to_owned()));
            decide()
        }));
        let (mut pair, config) = setup.build();
        pair.start(&config);
        pair.run_for(ms(100));
        assert_eq!(*asked.lock().unwrap(), [(1, NAME.to_owned())]);
        (pair, config)
    };
    let (mut pair, config) = connect(|| Decision::Pending(Box::new(17)));
    let decision = pair.client.connection().take_decision().unwrap();
    assert_eq!(*decision.downcast::<i32>().unwrap(), 17);
    assert!(!pair.client.connection().needs_validation());
    pair.connect(&config);
    assert!(pair.client.connection().info().unwrap().resumed);
    assert!(pair.client.connection().needs_validation());
    let (mut pair, _) = connect(|| Decision::Fail(Box::new("cause")));
    let cause = pair.client.connection().take_validator_error().unwrap();
    assert_eq!(*cause.downcast::<&str>().unwrap(), "cause");
    let Some(CloseReason::Tls(failure)) = pair.client.lost() else {
        panic!("the client refuses");
    };
    assert_eq!(failure.reason, Reason::RefusedByValidator);
}

#[test]
fn no_common_protocol() {
    let mut setup = Setup::new().large_packets();
    setup.client_tls.alpn = vec![b"other".to_vec()];
    let (mut pair, config) = setup.build();
    pair.start(&config);
    pair.run_for(ms(1000));
    let Some(Event::Refused(remote, CloseReason::Tls(failure))) = pair.server.events.pop_front()
    else {
        panic!("the server refuses");
    };
    assert_eq!(remote, pair.client.address);
    assert_eq!(failure.reason, Reason::NoCommonAlpn);
    assert_eq!(failure.expected.as_deref(), Some("test"));
    assert_eq!(failure.got.as_deref(), Some("other"));
    let Some(CloseReason::Tls(failure)) = pair.client.lost() else {
        panic!("the client is told");
    };
    assert_eq!(failure.alert.as_deref(), Some("no_application_protocol"));
    assert_eq!(pair.server.endpoint.connections(), 0);
    assert_eq!(pair.server.endpoint.counters().failed, 1);
}

#[test]
fn retry() {
    for (retry, retried) in [
        (Retry::Always, 1),
        (Retry::Never, 0),
        (Retry::Above(0), 1),
        (Retry::Above(1), 0),
    ] {
        let mut setup = Setup::new().large_packets();
        setup.server.retry = retry;
        let (mut pair, config) = setup.build();
        pair.connect(&config);
        let counters = pair.server.endpoint.counters();
        assert_eq!((counters.retried, counters.accepted), (retried, 1));
        // The client got a token for next time.
        pair.run_for(ms(100));
        pair.connect(&config);
        assert_eq!(pair.server.endpoint.counters().retried, retried);
    }
}

#[test]
fn a_token_does_not_last_for_ever() {
    let mut setup = Setup::new();
    setup.server.retry = Retry::Always;
    // Longer than a Retry token lives.
    setup.link.latency = ms(20_000);
    setup.client_transport.idle_timeout = Some(ms(600_000));
    let (mut pair, config) = setup.build();
    pair.start(&config);
    pair.run_for(ms(100_000));
    assert!(pair.server.endpoint.counters().retried > 0);
    assert_eq!(pair.server.endpoint.counters().accepted, 0);
}

#[test]
fn limits_of_connections() {
    let refused = |pair: &mut Pair| match pair.client.lost() {
        Some(CloseReason::Transport { code, received, .. }) => {
            assert_eq!((code, received), (2, true)); // CONNECTION_REFUSED
        }
        other => panic!("{other:?}"),
    };
    let mut setup = Setup::new().large_packets();
    setup.server.maximum_connections = 1;
    let (mut pair, config) = setup.build();
    pair.connect(&config);
    let (first, first_server) = (pair.client.handle, pair.server.handle);
    pair.start(&config);
    pair.run_for(ms(100));
    refused(&mut pair);
    assert_eq!(pair.server.endpoint.counters().refused, 1);
    // There is room again.
    pair.client.endpoint.release(pair.now, first);
    pair.run_for(ms(2000));
    pair.server.endpoint.release(pair.now, first_server);
    pair.run_for(ms(2000));
    assert!(pair.client.lost().is_some());
    pair.connect(&config);
    // Stopping takes nobody in, and lets those in there stay.
    pair.server.endpoint.stop();
    let stream = pair.client.open(Direction::Bidirectional);
    pair.client.write_all(stream, b"still there");
    pair.run_for(ms(100));
    assert_eq!(pair.server.accept(Direction::Bidirectional), stream);
    assert_eq!(
        pair.server.read(stream),
        Ok((b"still there".to_vec(), false))
    );
    pair.start(&config);
    pair.run_for(ms(100));
    refused(&mut pair);
    pair.client.endpoint.stop();
    let remote = pair.server.address;
    assert_eq!(
        pair.client
            .endpoint
            .connect(pair.now, &config, remote, NAME),
        Err(EndpointError::Stopping)
    );
}

#[test]
fn handshakes_under_way_are_limited() {
    let mut setup = Setup::new().large_packets();
    setup.server.maximum_handshakes = 3;
    setup.server.retry = Retry::Never;
    let (mut pair, config) = setup.build();
    pair.link.latency = ms(1);
    for _ in 0..10 {
        pair.start(&config);
    }
    pair.step();
    pair.step();
    assert_eq!(pair.server.endpoint.connections(), 3);
    assert_eq!(pair.server.endpoint.counters().refused, 7);
    pair.run_for(ms(100));
    pair.connect(&config);
}

#[test]
fn resumption() {
    let (mut pair, config) = Setup::new().build();
    pair.connect(&config);
    pair.run_for(ms(100));
    pair.connect(&config);
    for side in [Side::Client, Side::Server] {
        let info = pair.peer(side).connection().info().unwrap();
        assert!(info.resumed && !info.early_data_accepted);
        assert_eq!(info.alpn.as_deref(), Some("test"));
    }
    let mut setup = Setup::new();
    setup.client_tls.tickets = false;
    let (mut pair, config) = setup.build();
    for _ in 0..2 {
        pair.connect(&config);
        pair.run_for(ms(100));
        assert!(!pair.client.connection().info().unwrap().resumed);
    }
}

#[test]
fn what_cannot_be_made() {
    let mut settings = tls::Settings::new(Trust::Anyone);
    settings.maximum_version = Some("TLSv1.2".into());
    let error = Config::client(settings, Transport::default());
    assert!(matches!(error, Err(ConfigError::Invalid(text)) if text == "QUIC needs TLS 1.3"));
    let mut settings = tls::Settings::new(Trust::Anyone);
    settings.cipher_suites = vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".into()];
    assert!(Config::client(settings, Transport::default()).is_err());
    let mut settings = tls::Settings::new(Trust::Anyone);
    settings.maximum_version = Some("TLSv1.2".into());
    let only_old = tls::Config::client(settings).unwrap();
    let error = Config::new(only_old, Transport::default());
    assert!(matches!(error, Err(ConfigError::Invalid(text)) if text.contains("1.3")));
    for change in [
        (|transport: &mut Transport| transport.initial_mtu = 1199) as fn(&mut Transport),
        |transport| transport.maximum_mtu = 1199,
        |transport| transport.receive_window = 1 << 62,
        |transport| transport.maximum_unidirectional_streams = (1 << 60) + 1,
        |transport| transport.idle_timeout = Some(ms(0)),
        |transport| transport.keepalive = Some(ms(0)),
    ] {
        let mut transport = Transport::default();
        change(&mut transport);
        assert!(Config::client(tls::Settings::new(Trust::Anyone), transport).is_err());
    }
    let client = Config::client(tls::Settings::new(Trust::Anyone), Transport::default()).unwrap();
    let settings = Settings {
        server: Some(client.clone()),
        ..Settings::default()
    };
    assert!(matches!(
        Endpoint::new(settings),
        Err(EndpointError::Invalid(_))
    ));
    let settings = Settings {
        maximum_udp_payload: 1000,
        ..Settings::default()
    };
    assert!(Endpoint::new(settings).is_err());
    let mut endpoint = Endpoint::new(Settings::default()).unwrap();
    for (remote, name) in [
        ("127.0.0.1:0", NAME),
        ("0.0.0.0:1", NAME),
        ("127.0.0.1:1", "not a name"),
    ] {
        let remote = remote.parse().unwrap();
        let error = endpoint.connect(ms(0), &client, remote, name);
        assert!(matches!(error, Err(EndpointError::Invalid(_))), "{error:?}");
    }
    assert_eq!(endpoint.connections(), 0);
    assert_eq!(
        endpoint.connection(1).map(drop),
        Err(EndpointError::Unknown)
    );
}

#[test]
fn suites_can_be_chosen() {
    let mut setup = Setup::new();
    setup.client_tls.cipher_suites = vec!["TLS_CHACHA20_POLY1305_SHA256".into()];
    let mut pair = setup.connect();
    let info = pair.server.connection().info().unwrap();
    assert_eq!(info.cipher_suite, "TLS_CHACHA20_POLY1305_SHA256");
}

#[test]
fn connection_ids_carry_the_server() {
    let mut setup = Setup::new();
    setup.server.server_id = Some(ServerId::new(1, b"\xab\xcd\xef").unwrap());
    setup.server.retry = Retry::Always;
    let (mut pair, config) = setup.build();
    pair.log = Some(Vec::new());
    pair.connect(&config);
    for _ in 0..3 {
        let stream = pair.client.open(Direction::Unidirectional);
        pair.client.write_all(stream, b"data");
        pair.run_for(ms(100));
    }
    let log = pair.log.unwrap();
    let mut short = 0;
    for packet in &log {
        match packet.to {
            // Short headers: the connection ID stands behind the first byte.
            Side::Server if packet.data[0] & 0x80 == 0 => {
                short += 1;
                assert_eq!(packet.data[1..5], [1 << 5 | 9, 0xab, 0xcd, 0xef]);
            }
            // Long headers: flags, version, length and destination, length and source.
            Side::Client if packet.data[0] & 0x80 != 0 => {
                let source = 6 + usize::from(packet.data[5]);
                assert_eq!(packet.data[source], 10);
                assert_eq!(
                    packet.data[source + 1..source + 5],
                    [1 << 5 | 9, 0xab, 0xcd, 0xef]
                );
            }
            _ => {}
        }
    }
    assert!(short > 2);
}

#[test]
fn a_seed_repeats_what_happens() {
    let first = || {
        let (mut pair, config) = Setup::new().build();
        pair.log = Some(Vec::new());
        pair.connect(&config);
        let log = pair.log.unwrap();
        // Version and connection IDs; the rest depends on TLS.
        log[0].data[1..36].to_vec()
    };
    assert_eq!(first(), first());
}
