//! Why TLS failed, in words that the owner of a connection can act on.

use std::fmt;

use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible,
    PeerMisbehaved,
};

use super::certificate::iso;
use super::config::{hex, printable};
use super::notes::Notes;
use super::verify::WrongFingerprint;

/// A stable word for each kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Expired,
    NotYetValid,
    WrongName,
    UnknownAuthority,
    Revoked,
    WrongPurpose,
    BadCertificate,
    WrongFingerprint,
    RefusedByValidator,
    CertificateRequired,
    NoCommonAlpn,
    NoCommonVersion,
    NoCommonCipher,
    AlertReceived,
    NotTls,
    ProtocolViolation,
    RecordTooLarge,
    DecryptError,
    Internal,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongName => "wrong_name",
            Self::UnknownAuthority => "unknown_authority",
            Self::Revoked => "revoked",
            Self::WrongPurpose => "wrong_purpose",
            Self::BadCertificate => "bad_certificate",
            Self::WrongFingerprint => "wrong_fingerprint",
            Self::RefusedByValidator => "refused_by_validator",
            Self::CertificateRequired => "certificate_required",
            Self::NoCommonAlpn => "no_common_alpn",
            Self::NoCommonVersion => "no_common_version",
            Self::NoCommonCipher => "no_common_cipher",
            Self::AlertReceived => "alert_received",
            Self::NotTls => "not_tls",
            Self::ProtocolViolation => "protocol_violation",
            Self::RecordTooLarge => "record_too_large",
            Self::DecryptError => "decrypt_error",
            Self::Internal => "internal",
        }
    }
}

/// The handshake or a record failed; nothing further can be sent or received.
#[derive(Clone, Debug)]
pub struct Failure {
    pub reason: Reason,
    /// The TLS name of the alert that was received, or is sent to the peer.
    pub alert: Option<String>,
    /// The peer sent the alert.
    pub received: bool,
    pub expected: Option<String>,
    pub got: Option<String>,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            alert: None,
            received: false,
            expected: None,
            got: None,
            message: message.into(),
        }
    }

    fn between(mut self, expected: impl Into<String>, got: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self.got = Some(got.into());
        self
    }

    /// The first bytes on the connection were no TLS record.
    pub(crate) fn not_tls(first: &[u8]) -> Self {
        let first = &first[..first.len().min(32)];
        let readable = first
            .iter()
            .all(|byte| matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~'));
        let got = if readable {
            let line = first.split(|byte| matches!(byte, b'\r' | b'\n')).next();
            format!("\"{}\"", printable(line.unwrap_or_default()))
        } else {
            format!("the bytes {}", hex(&first[..first.len().min(8)]))
        };
        let message = format!(
            "The peer does not speak TLS: it began with {got}. Is this the right port, and does it \
             expect TLS from the first byte?"
        );
        Self::new(Reason::NotTls, message).between("a TLS record", got)
    }

    /// `our_alpn` and `notes` say what we offered and what the peer did.
    pub(crate) fn from_rustls(error: &Error, our_alpn: &[Vec<u8>], notes: &Notes) -> Self {
        match error {
            Error::AlertReceived(alert) => {
                let name = alert_name(*alert);
                let message = match explanation(*alert) {
                    Some(text) => format!("The peer sent the TLS alert {name}: {text}."),
                    None => format!("The peer sent the TLS alert {name}."),
                };
                Self {
                    alert: Some(name),
                    received: true,
                    ..Self::new(Reason::AlertReceived, message)
                }
            }
            Error::InvalidCertificate(error) => Self::from_certificate(error, notes),
            Error::NoCertificatesPresented => Self::new(
                Reason::CertificateRequired,
                "The peer presented no certificate, and one is required.",
            ),
            Error::NoApplicationProtocol => {
                let ours = list(our_alpn.iter().map(printable));
                let theirs = list(notes.offered_alpn.iter().cloned());
                let message = format!(
                    "The peer offers none of our application protocols: it offers {theirs}, we speak {ours}."
                );
                Self::new(Reason::NoCommonAlpn, message).between(ours, theirs)
            }
            Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
                Self::new(
                    Reason::NoCommonAlpn,
                    "The peer selected an application protocol that we had not offered.",
                )
            }
            Error::PeerIncompatible(what) => Self::from_incompatible(what),
            Error::PeerMisbehaved(
                PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported,
            ) => Self::new(
                Reason::NoCommonVersion,
                "Somebody between us and the peer tried to downgrade the connection to TLS 1.2.",
            ),
            Error::PeerSentOversizedRecord
            | Error::InvalidMessage(InvalidMessage::MessageTooLarge) => Self::new(
                Reason::RecordTooLarge,
                "The peer sent a TLS record that is larger than TLS allows.",
            ),
            Error::DecryptError => Self::new(
                Reason::DecryptError,
                "A TLS record could not be decrypted: it was damaged, forged or out of order.",
            ),
            Error::InvalidMessage(what) => {
                Self::violation("sent a malformed TLS message", words(what))
            }
            Error::PeerMisbehaved(what) => Self::violation("broke the TLS protocol", words(what)),
            Error::InappropriateMessage { got_type, .. } => {
                Self::violation("sent a TLS message out of turn", words(got_type))
            }
            Error::InappropriateHandshakeMessage { got_type, .. } => {
                Self::violation("sent a TLS handshake message out of turn", words(got_type))
            }
            // This is how the system's trust store reports that it is missing.
            Error::General(text) => Self::new(Reason::Internal, sentence(text)),
            other => Self::new(Reason::Internal, sentence(&other.to_string())),
        }
    }

    fn violation(what: &str, detail: String) -> Self {
        Self::new(
            Reason::ProtocolViolation,
            format!("The peer {what} ({detail})."),
        )
    }

    fn from_certificate(error: &CertificateError, notes: &Notes) -> Self {
        use CertificateError as E;
        match error {
            E::ExpiredContext { time, not_after } => {
                let (end, now) = (iso(*not_after), iso(*time));
                let message = format!("The peer's certificate expired on {end}; it is {now} now.");
                Self::new(Reason::Expired, message).between(format!("valid at {now}"), end)
            }
            E::Expired => Self::new(Reason::Expired, "The peer's certificate has expired."),
            E::NotValidYetContext { time, not_before } => {
                let (start, now) = (iso(*not_before), iso(*time));
                let message = format!(
                    "The peer's certificate is valid only from {start} on; it is {now} now. Is the clock right?"
                );
                Self::new(Reason::NotYetValid, message).between(format!("valid at {now}"), start)
            }
            E::NotValidYet => Self::new(
                Reason::NotYetValid,
                "The peer's certificate is not valid yet.",
            ),
            E::NotValidForNameContext {
                expected,
                presented,
            } => {
                let expected = expected.to_str().into_owned();
                let names = list(presented.iter().map(|name| bare_name(name)));
                let message = format!("The peer's certificate is for {names}, not for {expected}.");
                Self::new(Reason::WrongName, message).between(expected, names)
            }
            E::NotValidForName => Self::new(
                Reason::WrongName,
                "The peer's certificate is for another name.",
            ),
            // The second: a trusted authority has the issuer's name, but its key cannot have made the signature. Every
            // development machine has such a namesake: Debian trusts its own self-signed "localhost".
            E::UnknownIssuer | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                Self::new(
                    Reason::UnknownAuthority,
                    "The peer's certificate was not issued by an authority that we trust.",
                )
            }
            E::Revoked => Self::new(Reason::Revoked, "The peer's certificate has been revoked."),
            E::UnknownRevocationStatus
            | E::ExpiredRevocationList
            | E::ExpiredRevocationListContext { .. }
            | E::InvalidOcspResponse => Self::new(
                Reason::Revoked,
                "Whether the peer's certificate has been revoked could not be found out.",
            ),
            E::InvalidPurposeContext {
                required,
                presented,
            } => {
                let (expected, got) = (
                    required.to_string(),
                    list(presented.iter().map(ToString::to_string)),
                );
                let message = format!(
                    "The peer's certificate is not made for {expected}; its purposes are {got}."
                );
                Self::new(Reason::WrongPurpose, message).between(expected, got)
            }
            E::InvalidPurpose => Self::new(
                Reason::WrongPurpose,
                "The peer's certificate is made for another purpose.",
            ),
            E::ApplicationVerificationFailure => Self::new(
                Reason::RefusedByValidator,
                if notes.validator_error.is_some() {
                    "The validator of certificates raised an exception."
                } else {
                    "The validator refused the peer's certificate."
                },
            ),
            E::BadEncoding => Self::new(
                Reason::BadCertificate,
                "The peer's certificate is not correctly encoded.",
            ),
            E::UnhandledCriticalExtension => Self::new(
                Reason::BadCertificate,
                "The peer's certificate has a critical extension that we do not know.",
            ),
            E::BadSignature => Self::new(
                Reason::BadCertificate,
                "A signature in the peer's certificates or handshake is wrong.",
            ),
            E::UnsupportedSignatureAlgorithmContext { .. } => Self::new(
                Reason::BadCertificate,
                "The peer's certificate is signed with an algorithm that we do not support.",
            ),
            E::Other(OtherError(other)) => match other.downcast_ref::<WrongFingerprint>() {
                Some(wrong) => {
                    let expected = list(wrong.expected.iter().map(|pin| hex(pin)));
                    let got = hex(&wrong.got);
                    let message = format!(
                        "The peer's certificate has the SHA-256 fingerprint {got}, which is not an expected one."
                    );
                    Self::new(Reason::WrongFingerprint, message).between(expected, got)
                }
                None => Self::bad_certificate(&chain_of(other.as_ref())),
            },
            other => Self::bad_certificate(&words(other)),
        }
    }

    fn bad_certificate(detail: &str) -> Self {
        // webpki's word for a CA certificate in the leaf's place.
        if detail.contains("CaUsedAsEndEntity") {
            return Self::new(
                Reason::UnknownAuthority,
                "The peer's own certificate is that of an authority, and is not among those trusted.",
            );
        }
        Self::new(
            Reason::BadCertificate,
            format!("The peer's certificate is not acceptable ({detail})."),
        )
    }

    fn from_incompatible(what: &PeerIncompatible) -> Self {
        use PeerIncompatible as P;
        match what {
            P::ServerDoesNotSupportTls12Or13
            | P::ServerTlsVersionIsDisabledByOurConfig
            | P::SupportedVersionsExtensionRequired
            | P::Tls12NotOffered
            | P::Tls12NotOfferedOrEnabled
            | P::Tls13RequiredForQuic => Self::new(
                Reason::NoCommonVersion,
                "We and the peer have no TLS version in common.",
            ),
            P::NoCipherSuitesInCommon => Self::new(
                Reason::NoCommonCipher,
                "We and the peer have no cipher suite in common.",
            ),
            P::NoKxGroupsInCommon
            | P::KeyShareExtensionRequired
            | P::NamedGroupsExtensionRequired => Self::new(
                Reason::NoCommonCipher,
                "We and the peer have no key exchange group in common.",
            ),
            P::NoSignatureSchemesInCommon | P::NoCertificateRequestSignatureSchemesInCommon => {
                Self::new(
                    Reason::NoCommonCipher,
                    "We and the peer have no signature scheme in common for the certificate used.",
                )
            }
            other => Self::violation("lacks a TLS feature that we require", words(other)),
        }
    }
}

/// The alert that rustls sends for this error, where it was encrypted and cannot be read.
pub(crate) fn alert_for(error: &Error) -> Option<AlertDescription> {
    Some(match error {
        Error::InvalidCertificate(error) => error.clone().into(),
        Error::InvalidMessage(error) => (*error).into(),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::PeerMisbehaved(_) => AlertDescription::IllegalParameter,
        Error::PeerIncompatible(_) => AlertDescription::HandshakeFailure,
        _ => return None,
    })
}

/// RFC 8446 writes bad_record_mac where rustls writes BadRecordMac.
pub(crate) fn alert_name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "unknown_ca".into(),
        AlertDescription::UnrecognisedName => "unrecognized_name".into(),
        AlertDescription::UnknownPSKIdentity => "unknown_psk_identity".into(),
        AlertDescription::Unknown(number) => format!("alert_{number}"),
        named => snake(named.as_str().unwrap_or("unknown")),
    }
}

fn snake(camel: &str) -> String {
    let mut snake = String::new();
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn explanation(alert: AlertDescription) -> Option<&'static str> {
    use AlertDescription as A;
    Some(match alert {
        A::HandshakeFailure => "it found no acceptable set of parameters",
        A::ProtocolVersion => "it does not speak a TLS version that we allow",
        A::NoApplicationProtocol => "it speaks none of the application protocols that we offer",
        A::UnknownCA => "it does not trust the authority of our certificate",
        A::CertificateExpired => "our certificate has expired or is not valid yet",
        A::CertificateRevoked => "our certificate has been revoked",
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate => {
            "it does not accept our certificate"
        }
        A::CertificateRequired => "it requires a certificate from us",
        A::AccessDenied => "it denies us access",
        A::UnrecognisedName => "it does not serve the name that we asked for",
        A::BadRecordMac | A::DecryptError => "it could not decrypt or verify what we sent",
        A::InsufficientSecurity => "it requires stronger parameters",
        A::InternalError => "it had an internal error",
        _ => return None,
    })
}

/// `EarlyDataOfferedTwice` or `MissingData("X")` -> "early data offered twice", "missing data".
fn words(what: &impl fmt::Debug) -> String {
    let text = format!("{what:?}");
    let name: String = text
        .chars()
        .take_while(|letter| letter.is_ascii_alphanumeric())
        .collect();
    snake(&name).replace('_', " ")
}

/// webpki writes its names as `DnsName("example.com")`.
fn bare_name(name: &str) -> String {
    let inside = name.split_once('(').map_or(name, |(_, rest)| rest);
    inside
        .trim_matches(|c| matches!(c, '"' | '(' | ')'))
        .to_owned()
}

fn list(items: impl Iterator<Item = String>) -> String {
    let text = items.collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        "nothing".into()
    } else {
        text
    }
}

fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

fn sentence(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_ascii_uppercase(), letters.as_str()),
        None => "TLS failed inside.".into(),
    }
}
