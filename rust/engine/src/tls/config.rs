//! The settings of one side, checked once and shared by its connections.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, Error, KeyLog, ProtocolVersion, ServerConfig,
    SupportedProtocolVersion,
};

use super::engine::parse_server_name;
use super::notes;
use super::verify::{ClientVerifier, ServerVerifier, Validator};

/// How the peer's certificate is judged.
pub enum Trust {
    /// By the system, as its browsers do.
    System,
    /// By these roots alone; the peer's own certificate may be listed, too.
    Certificates(Vec<CertificateDer<'static>>),
    /// By the SHA-256 of the peer's certificate, and by nothing else.
    Fingerprints(Vec<[u8; 32]>),
    Validator(Validator),
    Anyone,
}

/// Whether a server asks for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    None,
    Optional,
    Required,
}

/// What both sides can set.
pub struct Settings {
    pub alpn: Vec<Vec<u8>>,
    pub trust: Trust,
    /// Our own, leaf first. May be empty for a client.
    pub certificate_chain: Vec<CertificateDer<'static>>,
    /// DER: PKCS#8, PKCS#1 or SEC1.
    pub private_key: Option<Vec<u8>>,
    /// "TLSv1.2" or "TLSv1.3"
    pub minimum_version: Option<String>,
    pub maximum_version: Option<String>,
    /// IANA names; empty for all.
    pub cipher_suites: Vec<String>,
    pub tickets: bool,
    pub early_data: bool,
    pub keylog_file: Option<PathBuf>,
}

impl Settings {
    pub fn new(trust: Trust) -> Self {
        Self {
            alpn: Vec::new(),
            trust,
            certificate_chain: Vec::new(),
            private_key: None,
            minimum_version: None,
            maximum_version: None,
            cipher_suites: Vec::new(),
            tickets: true,
            early_data: false,
            keylog_file: None,
        }
    }
}

/// Why settings were refused.
#[derive(Debug)]
pub enum ConfigError {
    Invalid(String),
    KeyLog { path: PathBuf, error: io::Error },
}

impl From<String> for ConfigError {
    fn from(text: String) -> Self {
        Self::Invalid(text)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(text) => f.write_str(text),
            Self::KeyLog { path, error } => {
                write!(f, "cannot open the key log {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Checked settings, with the session cache of the connections that share them.
#[derive(Clone)]
pub struct Config {
    pub(crate) side: Side,
    pub(crate) alpn: Arc<[Vec<u8>]>,
    pub(crate) has_validator: bool,
    /// A client's.
    tickets: Option<Arc<ClientSessionMemoryCache>>,
}

#[derive(Clone)]
pub(crate) enum Side {
    Client(Arc<ClientConfig>),
    Server(Arc<ServerConfig>),
}

/// How many servers' sessions a client remembers; rustls counts 8 tickets for each.
const CLIENT_SESSIONS: usize = 8 * 256;
/// How many sessions a server remembers that may send early data. Each takes about 1 KiB.
const SERVER_SESSIONS: usize = 4096;
/// What a server takes before the handshake is done, and holds in memory until then.
const MAXIMUM_EARLY_DATA: u32 = 64 * 1024;

impl Config {
    pub fn client(settings: Settings) -> Result<Self, ConfigError> {
        let provider = provider(&settings.cipher_suites)?;
        let has_validator = matches!(settings.trust, Trust::Validator(_));
        let verifier = ServerVerifier::new(settings.trust, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(
                settings.minimum_version.as_deref(),
                settings.maximum_version.as_deref(),
            )?)
            .map_err(no_usable_suite)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (settings.certificate_chain, settings.private_key) {
            (chain, None) if chain.is_empty() => builder.with_no_client_auth(),
            (chain, key) => {
                let key = own_key(&chain, key)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(bad_identity)?
            }
        };
        config.alpn_protocols = settings.alpn.clone();
        let tickets = settings
            .tickets
            .then(|| Arc::new(ClientSessionMemoryCache::new(CLIENT_SESSIONS)));
        config.resumption = match &tickets {
            Some(tickets) => Resumption::store(tickets.clone()),
            None => Resumption::disabled(),
        };
        // Early data leaves before a validator could be asked about a resumed session.
        config.enable_early_data = settings.early_data && settings.tickets && !has_validator;
        if let Some(path) = settings.keylog_file {
            config.key_log = Arc::new(KeyLogFile::open(&path)?);
        }
        Ok(Self {
            side: Side::Client(Arc::new(config)),
            alpn: settings.alpn.into(),
            has_validator,
            tickets,
        })
    }

    pub fn server(
        settings: Settings,
        authentication: ClientAuthentication,
    ) -> Result<Self, ConfigError> {
        let provider = provider(&settings.cipher_suites)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions(
                settings.minimum_version.as_deref(),
                settings.maximum_version.as_deref(),
            )?)
            .map_err(no_usable_suite)?;
        let asks = authentication != ClientAuthentication::None;
        let has_validator = asks && matches!(settings.trust, Trust::Validator(_));
        let builder = if asks {
            let mandatory = authentication == ClientAuthentication::Required;
            let verifier = ClientVerifier::new(settings.trust, mandatory, &provider)?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        } else {
            builder.with_no_client_auth()
        };
        let key = own_key(&settings.certificate_chain, settings.private_key)?;
        let identity = CertifiedKey::from_der(settings.certificate_chain, key, &provider)
            .map_err(bad_identity)?;
        let mut config = builder.with_cert_resolver(Arc::new(OneIdentity(Arc::new(identity))));
        config.alpn_protocols = settings.alpn.clone();
        if !settings.tickets {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else if settings.early_data && !has_validator {
            // Against replay, early data may be taken once for each ticket, so the server has to
            // remember the tickets that it gave.
            config.session_storage = ServerSessionMemoryCache::new(SERVER_SESSIONS);
            config.max_early_data_size = MAXIMUM_EARLY_DATA;
        } else {
            config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
        }
        if let Some(path) = settings.keylog_file {
            config.key_log = Arc::new(KeyLogFile::open(&path)?);
        }
        Ok(Self {
            side: Side::Server(Arc::new(config)),
            alpn: settings.alpn.into(),
            has_validator,
            tickets: None,
        })
    }

    /// Client: the next connection to this server begins without a ticket. False if none has one.
    ///
    /// A ticket can stand in the way: when a HelloRetryRequest chooses a cipher suite that no ticket
    /// of ours fits, the second ClientHello comes without any, and rustls from 0.23.46 on refuses
    /// that as a server (missing_extension).
    pub fn forget_tickets(&self, server_name: &str) -> Result<bool, String> {
        let name = parse_server_name(server_name)?;
        match &self.tickets {
            Some(tickets) => {
                while tickets.take_tls13_ticket(&name).is_some() {}
                Ok(true)
            }
            None => Ok(false),
        }
    }

    pub fn is_client(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }
}

/// "TLSv1.3"
pub(crate) fn version_name(version: ProtocolVersion) -> String {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2".into(),
        ProtocolVersion::TLSv1_3 => "TLSv1.3".into(),
        other => format!("{other:?}"),
    }
}

/// The IANA name; rustls writes TLS13_ where IANA writes TLS_.
pub(crate) fn suite_name(suite: CipherSuite) -> String {
    match suite.as_str() {
        Some(name) => name.replacen("TLS13_", "TLS_", 1),
        None => format!("0x{:04X}", u16::from(suite)),
    }
}

fn provider(suites: &[String]) -> Result<Arc<CryptoProvider>, String> {
    let mut provider = aws_lc_rs::default_provider();
    if suites.is_empty() {
        return Ok(Arc::new(provider));
    }
    let known = std::mem::take(&mut provider.cipher_suites);
    for name in suites {
        match known
            .iter()
            .find(|suite| suite_name(suite.suite()) == *name)
        {
            Some(suite) => provider.cipher_suites.push(*suite),
            None => {
                let names: Vec<_> = known
                    .iter()
                    .map(|suite| suite_name(suite.suite()))
                    .collect();
                return Err(format!(
                    "unknown cipher suite {name}; known are {}",
                    names.join(", ")
                ));
            }
        }
    }
    Ok(Arc::new(provider))
}

fn versions(
    minimum: Option<&str>,
    maximum: Option<&str>,
) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let position = |name: Option<&str>, default| match name {
        None => Ok(default),
        Some("TLSv1.2") => Ok(0),
        Some("TLSv1.3") => Ok(1),
        Some(other) => Err(format!(
            "unknown TLS version {other}; known are TLSv1.2 and TLSv1.3"
        )),
    };
    match (position(minimum, 0)?, position(maximum, 1)?) {
        (1, 0) => Err("the minimum TLS version is above the maximum".into()),
        (0, 0) => Ok(vec![&TLS12]),
        (1, 1) => Ok(vec![&TLS13]),
        _ => Ok(vec![&TLS13, &TLS12]),
    }
}

fn no_usable_suite(_: Error) -> ConfigError {
    ConfigError::Invalid("none of the cipher suites fits the TLS versions allowed".into())
}

fn own_key(
    chain: &[CertificateDer<'_>],
    key: Option<Vec<u8>>,
) -> Result<PrivateKeyDer<'static>, String> {
    let key = key.ok_or("a certificate needs its private key")?;
    if chain.is_empty() {
        return Err("a private key needs its certificate".into());
    }
    PrivateKeyDer::try_from(key)
        .map_err(|_| "the private key is not DER in PKCS#8, PKCS#1 or SEC1 form".into())
}

fn bad_identity(error: Error) -> ConfigError {
    ConfigError::Invalid(match error {
        Error::InconsistentKeys(_) => {
            "the private key does not belong to the first certificate".into()
        }
        Error::InvalidCertificate(_) => "the first certificate is not a DER certificate".into(),
        other => format!("the certificate and private key cannot be used: {other}"),
    })
}

/// A server's only certificate. Being asked for it is also how we learn what the client offered.
#[derive(Debug)]
struct OneIdentity(Arc<CertifiedKey>);

impl ResolvesServerCert for OneIdentity {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        notes::edit(|notes| {
            notes.server_name = hello.server_name().map(str::to_owned);
            notes.offered_alpn = hello.alpn().into_iter().flatten().map(printable).collect();
        });
        Some(self.0.clone())
    }
}

pub(crate) fn printable(protocol: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(protocol.as_ref()).into_owned()
}

/// Secrets in the NSS key log format, which Wireshark reads.
#[derive(Debug)]
struct KeyLogFile(Mutex<File>);

impl KeyLogFile {
    fn open(path: &Path) -> Result<Self, ConfigError> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(path) {
            Ok(file) => Ok(Self(Mutex::new(file))),
            Err(error) => Err(ConfigError::KeyLog {
                path: path.to_owned(),
                error,
            }),
        }
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        // Nobody can be told here, and a connection should not fail for its log.
        if let Ok(mut file) = self.0.lock() {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
