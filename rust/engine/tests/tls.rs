//! Two engines in memory, and hostile bytes against each of them.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tieline_engine::tls::{
    CertificateDer, ClientAuthentication, Config, ConfigError, Decision, Engine, EngineError,
    Failure, Reason, Settings, Trust,
};

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Identity {
    fn leaf(&self) -> CertificateDer<'static> {
        self.chain[0].clone()
    }

    fn pin(&self) -> [u8; 32] {
        digest(&SHA256, &self.chain[0]).as_ref().try_into().unwrap()
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn issue(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }

    fn trust(&self) -> Trust {
        Trust::Certificates(vec![self.certificate.clone()])
    }
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

fn self_signed(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    Identity {
        chain: vec![params.self_signed(&key).unwrap().der().clone()],
        key: key.serialize_der(),
    }
}

fn with_identity(trust: Trust, identity: &Identity) -> Settings {
    let mut settings = Settings::new(trust);
    settings.certificate_chain = identity.chain.clone();
    settings.private_key = Some(identity.key.clone());
    settings
}

fn server(identity: &Identity) -> Config {
    let settings = with_identity(Trust::Anyone, identity);
    Config::server(settings, ClientAuthentication::None).unwrap()
}

fn client(trust: Trust) -> Config {
    Config::client(Settings::new(trust)).unwrap()
}

/// Each side, with the failure that ended it and the plaintext that it got.
struct Pair {
    client: Engine,
    server: Engine,
    client_failure: Option<Failure>,
    server_failure: Option<Failure>,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
}

impl Pair {
    fn new(client: &Config, server: &Config, name: &str) -> Self {
        Self {
            client: Engine::new(client, Some(name)).unwrap(),
            server: Engine::new(server, None).unwrap(),
            client_failure: None,
            server_failure: None,
            to_client: Vec::new(),
            to_server: Vec::new(),
        }
    }

    /// Carry bytes both ways, `size` at once, until nothing moves.
    fn pump(&mut self, size: usize) {
        loop {
            let (up, down) = (take(&mut self.client), take(&mut self.server));
            if up.is_empty() && down.is_empty() {
                return;
            }
            for piece in up.chunks(size) {
                let result = self.server.receive(piece, &mut self.to_server);
                self.server_failure = self.server_failure.take().or(result.err());
            }
            for piece in down.chunks(size) {
                let result = self.client.receive(piece, &mut self.to_client);
                self.client_failure = self.client_failure.take().or(result.err());
            }
        }
    }

    fn connect(client: &Config, server: &Config) -> Self {
        let mut pair = Self::new(client, server, "example.com");
        pair.pump(usize::MAX);
        pair
    }

    fn assert_works(&mut self) {
        assert_eq!(self.client_failure.as_ref().map(|f| &f.message), None);
        assert_eq!(self.server_failure.as_ref().map(|f| &f.message), None);
        let up = send(&mut self.client, b"up");
        self.server.receive(&up, &mut self.to_server).unwrap();
        let down = send(&mut self.server, b"down");
        self.client.receive(&down, &mut self.to_client).unwrap();
        assert!(self.to_server.ends_with(b"up") && self.to_client.ends_with(b"down"));
    }

    #[track_caller]
    fn assert_client_failed(&self, reason: Reason, alert: &str) -> &Failure {
        let failure = self.client_failure.as_ref().expect("the client fails");
        assert_eq!(failure.reason, reason, "{failure}");
        assert_eq!(failure.alert.as_deref(), Some(alert), "{failure}");
        assert!(!failure.received);
        let told = self.server_failure.as_ref().expect("the server is told");
        assert_eq!(told.reason, Reason::AlertReceived);
        assert_eq!(told.alert.as_deref(), Some(alert));
        assert!(told.received);
        failure
    }

    #[track_caller]
    fn assert_server_failed(&self, reason: Reason, alert: &str) -> &Failure {
        let failure = self.server_failure.as_ref().expect("the server fails");
        assert_eq!(failure.reason, reason, "{failure}");
        assert_eq!(failure.alert.as_deref(), Some(alert), "{failure}");
        let told = self.client_failure.as_ref().expect("the client is told");
        assert_eq!(told.alert.as_deref(), Some(alert));
        failure
    }
}

fn take(engine: &mut Engine) -> Vec<u8> {
    let output = engine.output().to_vec();
    engine.clear_output();
    output
}

fn send(engine: &mut Engine, data: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; engine.sealed_len(data).unwrap()];
    let used = engine.seal(data, &mut sealed).unwrap();
    assert_eq!(used, sealed.len());
    sealed
}

fn receive(engine: &mut Engine, data: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut plaintext = Vec::new();
    engine.receive(data, &mut plaintext).map(|()| plaintext)
}

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
fn trust_in_roots() {
    let authority = Authority::new();
    let good = authority.issue(params("example.com"));
    Pair::connect(&client(authority.trust()), &server(&good)).assert_works();

    let stranger = Pair::connect(&client(Authority::new().trust()), &server(&good));
    stranger.assert_client_failed(Reason::UnknownAuthority, "unknown_ca");

    let other = authority.issue(params("other.example"));
    let wrong = Pair::connect(&client(authority.trust()), &server(&other));
    let failure = wrong.assert_client_failed(Reason::WrongName, "bad_certificate");
    assert_eq!(failure.expected.as_deref(), Some("example.com"));
    assert_eq!(failure.got.as_deref(), Some("other.example"));

    let mut old = params("example.com");
    (old.not_before, old.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
    let expired = Pair::connect(&client(authority.trust()), &server(&authority.issue(old)));
    let failure = expired.assert_client_failed(Reason::Expired, "certificate_expired");
    assert_eq!(failure.got.as_deref(), Some("2020-01-01T00:00:00Z"));

    let mut new = params("example.com");
    (new.not_before, new.not_after) = (date_time_ymd(2999, 1, 1), date_time_ymd(3000, 1, 1));
    let early = Pair::connect(&client(authority.trust()), &server(&authority.issue(new)));
    early.assert_client_failed(Reason::NotYetValid, "certificate_expired");

    let mut purpose = params("example.com");
    purpose.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let wrong = Pair::connect(
        &client(authority.trust()),
        &server(&authority.issue(purpose)),
    );
    wrong.assert_client_failed(Reason::WrongPurpose, "unsupported_certificate");

    let system = Pair::connect(&client(Trust::System), &server(&good));
    assert!(system.client_failure.is_some());
}

#[test]
fn a_listed_leaf_is_trusted_even_if_it_is_a_ca() {
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let make = |name, not_after| {
            let mut params = params(name);
            params.is_ca = is_ca.clone();
            params.not_after = date_time_ymd(not_after, 1, 1);
            self_signed(params)
        };
        let connect = |identity: &Identity| {
            let trust = Trust::Certificates(vec![identity.leaf()]);
            Pair::connect(&client(trust), &server(identity))
        };
        connect(&make("example.com", 2999)).assert_works();
        connect(&make("other.example", 2999))
            .assert_client_failed(Reason::WrongName, "bad_certificate");
        connect(&make("example.com", 2020))
            .assert_client_failed(Reason::Expired, "certificate_expired");
    }
    let ca = {
        let mut params = params("example.com");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self_signed(params)
    };
    Pair::connect(&client(Authority::new().trust()), &server(&ca))
        .assert_client_failed(Reason::UnknownAuthority, "certificate_unknown");
}

#[test]
fn trust_in_fingerprints() {
    let mut old = params("other.example");
    old.not_after = date_time_ymd(2020, 1, 1);
    let identity = self_signed(old);
    let pins = |pin| client(Trust::Fingerprints(vec![[7; 32], pin]));
    Pair::connect(&pins(identity.pin()), &server(&identity)).assert_works();
    let pair = Pair::connect(&pins([8; 32]), &server(&identity));
    let failure = pair.assert_client_failed(Reason::WrongFingerprint, "certificate_unknown");
    let hex: String = identity.pin().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(failure.got, Some(hex));
}

#[test]
fn validators() {
    let identity = self_signed(params("other.example"));
    let leaf = identity.leaf();
    let asks = Arc::new(AtomicUsize::new(0));
    let counter = asks.clone();
    let config = client(Trust::Validator(Arc::new(move |chain, name| {
        assert_eq!((chain[0].as_ref(), name), (leaf.as_ref(), "example.com"));
        match counter.fetch_add(1, Ordering::Relaxed) {
            0 => Decision::Refuse,
            1 => Decision::Fail(Box::new("oops")),
            2 => Decision::Pending(Box::new("later")),
            _ => Decision::Accept,
        }
    })));
    let server = server(&identity);
    let refused = Pair::connect(&config, &server);
    refused.assert_client_failed(Reason::RefusedByValidator, "access_denied");
    assert!(refused.client.validator_error().is_none());

    let failed = Pair::connect(&config, &server);
    failed.assert_client_failed(Reason::RefusedByValidator, "access_denied");
    let cause = failed.client.validator_error().unwrap();
    assert_eq!(cause.downcast_ref(), Some(&"oops"));

    let mut pending = Pair::connect(&config, &server);
    pending.assert_works();
    let decision = pending.client.decision().unwrap();
    assert_eq!(decision.downcast_ref(), Some(&"later"));
    assert!(!pending.client.needs_validation());

    // Resumed: nobody was asked, and the caller is told so.
    let mut resumed = Pair::connect(&config, &server);
    resumed.assert_works();
    assert_eq!(asks.load(Ordering::Relaxed), 3);
    let info = resumed.client.info().unwrap();
    assert!(info.resumed && resumed.client.needs_validation());
    assert_eq!(info.peer_certificates, [identity.leaf().to_vec()]);
}

#[test]
fn client_certificates() {
    let authority = Authority::new();
    let identity = authority.issue(params("example.com"));
    let own = authority.issue(params("client"));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let make_server = |authentication, trust| {
            let mut settings = with_identity(trust, &identity);
            settings.maximum_version = Some(version.into());
            Config::server(settings, authentication).unwrap()
        };
        let anonymous = client(Trust::Anyone);
        let named = Config::client(with_identity(Trust::Anyone, &own)).unwrap();
        use ClientAuthentication::{None, Optional, Required};

        let server = make_server(Required, authority.trust());
        for resumed in [false, true] {
            let mut pair = Pair::connect(&named, &server);
            pair.assert_works();
            let info = pair.server.info().unwrap();
            assert_eq!(
                info.peer_certificates,
                own.chain.iter().map(|c| c.to_vec()).collect::<Vec<_>>()
            );
            assert_eq!(info.resumed, resumed);
        }
        Pair::connect(&anonymous, &server)
            .assert_server_failed(Reason::CertificateRequired, "certificate_required");

        let server = make_server(Required, Authority::new().trust());
        Pair::connect(&named, &server).assert_server_failed(Reason::UnknownAuthority, "unknown_ca");

        let server = make_server(Optional, authority.trust());
        Pair::connect(&anonymous, &server).assert_works();
        let server = make_server(None, Trust::Anyone);
        Pair::connect(&named, &server).assert_works();
        let server = make_server(Required, Trust::Fingerprints(vec![own.pin()]));
        Pair::connect(&named, &server).assert_works();

        let ask = Trust::Validator(Arc::new(|_, name| {
            if name == "example.com" {
                Decision::Accept
            } else {
                Decision::Refuse
            }
        }));
        let server = make_server(Required, ask);
        Pair::connect(&named, &server).assert_works();
        let mut other = Pair::new(&named, &server, "10.0.0.1");
        other.pump(usize::MAX);
        other.assert_server_failed(Reason::RefusedByValidator, "access_denied");
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

fn connected() -> Pair {
    let identity = self_signed(params("example.com"));
    let mut pair = Pair::connect(&client(Trust::Anyone), &server(&identity));
    pair.assert_works();
    pair
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
    let mut random = Random(0x7469_656c_696e_65);
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
