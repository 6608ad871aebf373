//! What two well-behaved sides agree on.

use std::sync::Arc;

use tieline_engine::tls::{
    CertificateDer, ClientAuthentication, Config, ConfigError, Decision, Engine, EngineError,
    Reason, Settings, Trust,
};

use crate::pair::*;

#[test]
fn both_versions_and_any_fragmentation() {
    let authority = Authority::new();
    let identity = authority.issue(params("example.com"));
    for version in ["TLSv1.2", "TLSv1.3"] {
        for size in [1, 7, 1000, usize::MAX] {
            let mut settings = Settings::new(authority.trust());
            settings.maximum_version = Some(version.into());
            let config = Config::client(settings).unwrap();
            let mut pair = Pair::new(&config, &server(&identity), "example.com");
            assert!(pair.client.is_handshaking() && pair.client.info().is_none());
            pair.pump(size);
            pair.assert_works();
            let info = pair.client.info().unwrap();
            assert_eq!(info.version, version);
            assert_eq!(info.peer_certificates, [identity.leaf().to_vec()]);
            if version == "TLSv1.3" {
                assert_eq!(info.group.as_deref(), Some("X25519MLKEM768"));
            }
            let seen = pair.server.info().unwrap();
            assert_eq!(seen.server_name.as_deref(), Some("example.com"));
            let data: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
            let sealed = send(&mut pair.client, &data);
            pair.to_server.clear();
            for piece in sealed.chunks(size) {
                pair.server.receive(piece, &mut pair.to_server).unwrap();
            }
            assert_eq!(pair.to_server, data);
        }
    }
}

#[test]
fn alpn() {
    let identity = self_signed(params("example.com"));
    let connect = |ours: &[&str], theirs: &[&str]| {
        let names = |list: &[&str]| list.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut settings = Settings::new(Trust::Anyone);
        settings.alpn = names(ours);
        let client = Config::client(settings).unwrap();
        let mut settings = with_identity(Trust::Anyone, &identity);
        settings.alpn = names(theirs);
        let server = Config::server(settings, ClientAuthentication::None).unwrap();
        Pair::connect(&client, &server)
    };
    let both = connect(&["a", "b"], &["b", "c"]);
    assert_eq!(both.client.info().unwrap().alpn.as_deref(), Some("b"));
    assert_eq!(both.server.info().unwrap().alpn.as_deref(), Some("b"));
    let mut silent = connect(&["a"], &[]);
    silent.assert_works();
    assert_eq!(silent.client.info().unwrap().alpn, None);
    connect(&[], &["a"]).assert_works();
    let none = connect(&["a", "b"], &["c"]);
    let failure = none.assert_server_failed(Reason::NoCommonAlpn, "no_application_protocol");
    assert_eq!(failure.expected.as_deref(), Some("c"));
    assert_eq!(failure.got.as_deref(), Some("a, b"));
}

#[test]
fn versions_and_suites() {
    let identity = self_signed(params("example.com"));
    let make = |minimum: Option<&str>, maximum: Option<&str>, suites: &[&str]| {
        let mut settings = Settings::new(Trust::Anyone);
        settings.minimum_version = minimum.map(Into::into);
        settings.maximum_version = maximum.map(Into::into);
        settings.cipher_suites = suites.iter().map(|&name| name.into()).collect();
        Config::client(settings)
    };
    let mut settings = with_identity(Trust::Anyone, &identity);
    settings.minimum_version = Some("TLSv1.3".into());
    let server = Config::server(settings, ClientAuthentication::None).unwrap();
    let old = make(None, Some("TLSv1.2"), &[]).unwrap();
    Pair::connect(&old, &server).assert_server_failed(Reason::NoCommonVersion, "protocol_version");

    let one = make(None, None, &["TLS_CHACHA20_POLY1305_SHA256"]).unwrap();
    let mut pair = Pair::connect(&one, &server);
    pair.assert_works();
    assert_eq!(
        pair.client.info().unwrap().cipher_suite,
        "TLS_CHACHA20_POLY1305_SHA256"
    );

    for (minimum, maximum, suite, text) in [
        (None, None, "TLS_NULL", "known are TLS_AES_256_GCM_SHA384, "),
        (
            Some("TLSv1.3"),
            Some("TLSv1.2"),
            "TLS_AES_128_GCM_SHA256",
            "above the maximum",
        ),
        (
            Some("SSLv3"),
            None,
            "TLS_AES_128_GCM_SHA256",
            "known are TLSv1.2",
        ),
        (
            None,
            Some("TLSv1.2"),
            "TLS_AES_128_GCM_SHA256",
            "fits the TLS versions",
        ),
    ] {
        let error = make(minimum, maximum, &[suite]).err().unwrap();
        assert!(
            matches!(&error, ConfigError::Invalid(said) if said.contains(text)),
            "{error}"
        );
    }
}

#[test]
fn bad_identities_are_refused() {
    let (one, other) = (self_signed(params("a")), self_signed(params("a")));
    let bad = |chain: Vec<CertificateDer<'static>>, key: Option<&[u8]>| {
        let mut settings = Settings::new(Trust::Anyone);
        settings.certificate_chain = chain;
        settings.private_key = key.map(<[u8]>::to_vec);
        Config::server(settings, ClientAuthentication::None)
            .err()
            .unwrap()
            .to_string()
    };
    assert!(bad(one.chain.clone(), Some(&other.key)).contains("does not belong"));
    assert!(bad(one.chain.clone(), Some(b"junk")).contains("PKCS#8"));
    assert!(bad(one.chain.clone(), None).contains("needs its private key"));
    assert!(bad(vec![], Some(&one.key)).contains("needs its certificate"));
    assert!(bad(vec![b"junk"[..].into()], Some(&one.key)).contains("not a DER certificate"));
    let list = |list| Config::client(Settings::new(Trust::Certificates(list))).is_err();
    assert!(list(vec![]) && list(vec![b"junk"[..].into()]));
    let config = client(Trust::Anyone);
    for name in ["", "b\u{fc}cher.example", "a b", "-"] {
        assert!(Engine::new(&config, Some(name)).is_err(), "{name}");
    }
    for name in ["example.com", "127.0.0.1", "::1", "fe80::1%eth0"] {
        assert!(Engine::new(&config, Some(name)).is_ok(), "{name}");
    }
}

#[test]
fn resumption_and_early_data() {
    let identity = self_signed(params("example.com"));
    let configs = |tickets: bool, early: bool| {
        let mut settings = Settings::new(Trust::Anyone);
        settings.early_data = true;
        let client = Config::client(settings).unwrap();
        let mut settings = with_identity(Trust::Anyone, &identity);
        (settings.tickets, settings.early_data) = (tickets, early);
        (
            client,
            Config::server(settings, ClientAuthentication::None).unwrap(),
        )
    };
    for (tickets, early) in [(false, false), (true, false), (true, true)] {
        let (client, server) = configs(tickets, early);
        let mut first = Pair::new(&client, &server, "example.com");
        assert_eq!(first.client.send_early(b"early").unwrap(), 0);
        first.pump(usize::MAX);
        first.assert_works();
        assert!(!first.client.info().unwrap().resumed);

        let mut second = Pair::new(&client, &server, "example.com");
        let data = vec![5; 100_000];
        let taken = second.client.send_early(&data).unwrap();
        assert_eq!(taken, if early { 64 * 1024 } else { 0 });
        let hello = take(&mut second.client);
        let plaintext = receive(&mut second.server, &hello).unwrap();
        assert!(second.server.is_handshaking());
        assert_eq!(plaintext, &data[..taken]);
        second.pump(usize::MAX);
        second.assert_works();
        for side in [&second.client, &second.server] {
            let info = side.info().unwrap();
            assert_eq!((info.resumed, info.early_data_accepted), (tickets, early));
        }
        let misuse = second.client.send_early(b"late");
        assert!(matches!(misuse, Err(EngineError::Misuse(_))));
    }
    // A server that has forgotten the ticket: what was sent early is lost, the handshake is not.
    let (client, server) = configs(true, true);
    Pair::connect(&client, &server).assert_works();
    let mut pair = Pair::new(&client, &configs(true, true).1, "example.com");
    assert_eq!(pair.client.send_early(b"early").unwrap(), 5);
    pair.pump(usize::MAX);
    pair.assert_works();
    assert_eq!(pair.to_server, b"up");
    assert!(!pair.client.info().unwrap().early_data_accepted);
    // Under a validator nothing leaves early.
    let mut settings = Settings::new(Trust::Validator(Arc::new(|_, _| Decision::Accept)));
    settings.early_data = true;
    let careful = Config::client(settings).unwrap();
    Pair::connect(&careful, &server).assert_works();
    let mut pair = Pair::new(&careful, &server, "example.com");
    assert_eq!(pair.client.send_early(b"early").unwrap(), 0);
}

#[test]
fn close_notify() {
    let mut pair = connected();
    let mut last = send(&mut pair.client, b"last");
    pair.client.close_notify();
    last.extend(take(&mut pair.client));
    last.extend(b"ignored");
    assert_eq!(receive(&mut pair.server, &last).unwrap(), b"last");
    assert!(pair.server.peer_closed() && !pair.client.peer_closed());
    assert_eq!(receive(&mut pair.server, b"ignored").unwrap(), b"");
    assert!(matches!(
        pair.client.sealed_len(b"x"),
        Err(EngineError::Misuse(_))
    ));
    // The other direction is still open.
    let answer = send(&mut pair.server, b"answer");
    assert_eq!(receive(&mut pair.client, &answer).unwrap(), b"answer");
    pair.server.close_notify();
    pair.pump(usize::MAX);
    assert!(pair.client.peer_closed());
    pair.client.close_notify();
    assert!(take(&mut pair.client).is_empty());
}

#[test]
fn keys_are_updated_in_both_directions() {
    let mut pair = connected();
    for _ in 0..3 {
        pair.client.update_keys().unwrap();
        pair.pump(usize::MAX);
        // The server's answer to the update goes out before what it sends next.
        let down = send(&mut pair.server, b"next");
        assert_eq!(receive(&mut pair.client, &down).unwrap(), b"next");
        pair.server.update_keys().unwrap();
        pair.client.update_keys().unwrap();
        pair.pump(1);
        pair.assert_works();
    }
    pair.client.close_notify();
    pair.pump(usize::MAX);
    assert!(pair.server.peer_closed());
    assert!(pair.client.update_keys().is_err());
}
