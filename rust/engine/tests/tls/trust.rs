//! Who is trusted, and how refusals read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, date_time_ymd};
use tieline_engine::tls::{ClientAuthentication, Config, Decision, Reason, Trust};

use crate::pair::*;

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
            params.is_ca = is_ca;
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
