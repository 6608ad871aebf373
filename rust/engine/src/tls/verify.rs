//! Who is trusted. One verifier for each way of judging, for servers and for clients.
//!
//! Whatever the way, the handshake's signature is verified: it alone shows that the peer owns the
//! certificate that it presents.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::certificate::check_dates;
use super::config::Trust;
use super::notes::{self, Opaque};

/// What a validator says about a chain.
pub enum Decision {
    Accept,
    Refuse,
    /// Refused because the validator itself went wrong; the engine keeps the cause.
    Fail(Opaque),
    /// Accepted provisionally; the engine keeps what will tell, for its owner to ask.
    Pending(Opaque),
}

/// (the chain, leaf first; the server's name, or "") -> the decision.
pub type Validator = Arc<dyn Fn(&[CertificateDer<'_>], &str) -> Decision + Send + Sync>;

/// Judges peers. `Chain` is the rustls verifier to ask about chains: one of servers or of clients.
pub(crate) struct Verifier<Chain> {
    judgement: Judgement<Chain>,
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

enum Judgement<Chain> {
    /// The chain must end at a root, or the leaf be one of `exact`.
    Chain {
        chain: Chain,
        exact: Vec<CertificateDer<'static>>,
    },
    Fingerprints(Vec<[u8; 32]>),
    Validator(Validator),
    Anyone,
}

pub(crate) type ServerVerifier = Verifier<Arc<dyn ServerCertVerifier>>;
pub(crate) type ClientVerifier = Verifier<Arc<dyn ClientCertVerifier>>;

/// No pin matches: what was presented instead.
#[derive(Debug)]
pub(crate) struct WrongFingerprint {
    pub(crate) expected: Vec<[u8; 32]>,
    pub(crate) got: [u8; 32],
}

impl fmt::Display for WrongFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate has none of the expected fingerprints")
    }
}

impl std::error::Error for WrongFingerprint {}

impl ServerVerifier {
    pub(crate) fn new(trust: Trust, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let judgement = Judgement::new(
            trust,
            || Ok(Arc::new(SystemServers(provider.clone())) as Arc<dyn ServerCertVerifier>),
            |roots| {
                WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                    .build()
                    .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
                    .map_err(|error| error.to_string())
            },
        )?;
        Ok(Self {
            judgement,
            mandatory: true,
            provider: provider.clone(),
        })
    }
}

impl ClientVerifier {
    pub(crate) fn new(
        trust: Trust,
        mandatory: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let build = |roots| {
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|error| error.to_string())
        };
        let judgement = Judgement::new(trust, || build(system_roots()?), build)?;
        Ok(Self {
            judgement,
            mandatory,
            provider: provider.clone(),
        })
    }
}

impl<Chain> Judgement<Chain> {
    fn new(
        trust: Trust,
        system: impl FnOnce() -> Result<Chain, String>,
        roots: impl FnOnce(Arc<RootCertStore>) -> Result<Chain, String>,
    ) -> Result<Self, String> {
        Ok(match trust {
            Trust::System => Self::Chain {
                chain: system()?,
                exact: Vec::new(),
            },
            Trust::Certificates(certificates) => {
                if certificates.is_empty() {
                    return Err("trust in certificates needs at least one certificate".into());
                }
                let mut store = RootCertStore::empty();
                for (index, certificate) in certificates.iter().enumerate() {
                    store.add(certificate.clone()).map_err(|_| {
                        format!("trusted certificate {} is not a DER certificate", index + 1)
                    })?;
                }
                Self::Chain {
                    chain: roots(Arc::new(store))?,
                    exact: certificates,
                }
            }
            Trust::Fingerprints(pins) if pins.is_empty() => {
                return Err("trust in fingerprints needs at least one fingerprint".into());
            }
            Trust::Fingerprints(pins) => Self::Fingerprints(pins),
            Trust::Validator(validator) => Self::Validator(validator),
            Trust::Anyone => Self::Anyone,
        })
    }

    /// Judge by everything but the chain; `ask_chain` does that.
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: Option<&ServerName<'_>>,
        now: UnixTime,
        ask_chain: impl FnOnce(&Chain) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self {
            Self::Anyone => Ok(()),
            // webpki takes no CA certificate for a leaf, and a self-signed certificate usually is
            // one. Somebody who lists the very certificate that the peer shows means it.
            Self::Chain { exact, .. } if exact.iter().any(|trusted| trusted == leaf) => {
                check_dates(leaf, now)?;
                match server_name {
                    Some(name) => verify_server_name(&ParsedCertificate::try_from(leaf)?, name),
                    None => Ok(()),
                }
            }
            Self::Chain { chain, .. } => ask_chain(chain).map_err(|error| match error {
                // A root of the right name, but another key has signed: a namesake of an authority
                // that we trust, typically one that was made anew.
                Error::InvalidCertificate(CertificateError::BadSignature) => {
                    CertificateError::UnknownIssuer.into()
                }
                other => other,
            }),
            Self::Fingerprints(pins) => {
                let mut got = [0; 32];
                got.copy_from_slice(digest(&SHA256, leaf).as_ref()); // SHA-256 has 32 bytes
                if pins.contains(&got) {
                    return Ok(());
                }
                let expected = pins.clone();
                let wrong = OtherError(Arc::new(WrongFingerprint { expected, got }));
                Err(CertificateError::Other(wrong).into())
            }
            Self::Validator(validator) => {
                let name = match server_name {
                    Some(name) => name.to_str().into_owned(),
                    None => notes::edit(|notes| notes.server_name.clone())
                        .flatten()
                        .unwrap_or_default(),
                };
                let mut chain = vec![leaf.clone()];
                chain.extend_from_slice(intermediates);
                let decision = validator(&chain, &name);
                notes::edit(|notes| notes.validator_asked = true);
                match decision {
                    Decision::Accept => Ok(()),
                    // rustls may keep tickets of this session before the answer is there. That
                    // opens no door: a resumed session has `needs_validation`, so whoever awaits
                    // this decision asks again then, and 0-RTT is off under a validator. A session
                    // that the validator refuses right away gets no tickets, its handshake fails.
                    Decision::Pending(decision) => {
                        notes::edit(|notes| notes.decision = Some(decision));
                        Ok(())
                    }
                    Decision::Refuse => {
                        Err(CertificateError::ApplicationVerificationFailure.into())
                    }
                    Decision::Fail(cause) => {
                        notes::edit(|notes| notes.validator_error = Some(cause));
                        Err(CertificateError::ApplicationVerificationFailure.into())
                    }
                }
            }
        }
    }
}

impl<Chain> Verifier<Chain> {
    fn tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signature, algorithms)
    }

    fn tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl<Chain> fmt::Debug for Verifier<Chain> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.judgement {
            Judgement::Chain { .. } => "Verifier(chain)",
            Judgement::Fingerprints(_) => "Verifier(fingerprints)",
            Judgement::Validator(_) => "Verifier(validator)",
            Judgement::Anyone => "Verifier(anyone)",
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judgement
            .judge(leaf, intermediates, Some(name), now, |chain| {
                chain
                    .verify_server_cert(leaf, intermediates, name, ocsp, now)
                    .map(drop)
            })
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// No hints: under most ways of trust there are none, and a pinned leaf's issuer is unknown.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judgement
            .judge(leaf, intermediates, None, now, |chain| {
                chain.verify_client_cert(leaf, intermediates, now).map(drop)
            })
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// The system's own judgement of servers, loaded when the first certificate comes: that reads some
/// hundred files on Linux, which a program that never uses TLS should not pay for.
#[derive(Debug)]
struct SystemServers(Arc<CryptoProvider>);

impl SystemServers {
    fn verifier(&self) -> Result<&'static rustls_platform_verifier::Verifier, Error> {
        static LOADED: OnceLock<rustls_platform_verifier::Verifier> = OnceLock::new();
        if let Some(verifier) = LOADED.get() {
            return Ok(verifier);
        }
        // A failure is not remembered: a bundle may be installed while we run.
        let verifier = rustls_platform_verifier::Verifier::new(self.0.clone())?;
        Ok(LOADED.get_or_init(|| verifier))
    }
}

impl ServerCertVerifier for SystemServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verifier()?
            .verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?
            .verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?
            .verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The system's roots, for a server that judges its clients by them.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static LOADED: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = LOADED.get() {
        return Ok(roots.clone());
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(
            "the system has no trusted certificates (is ca-certificates installed?)".into(),
        );
    }
    Ok(LOADED.get_or_init(|| Arc::new(store)).clone())
}
