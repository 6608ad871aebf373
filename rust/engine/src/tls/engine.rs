//! One connection's TLS.
//!
//! ```text
//!                   ┌───────────── Engine ─────────────┐
//!   ciphertext ───▶ │ incoming ──▶ rustls, in place ─┐ │
//!                   │ (what no record ends)          └─┼──▶ plaintext
//!                   │                 │  ▲ notes        │
//!                   │                 ▼  │ (handshake)  │
//!   ciphertext ◀─── │ output ◀── handshake, alerts      │
//!          ▲        └──────────────────────────────────┘
//!          └─ seal() ◀──────────────────────────────────── plaintext
//! ```
//!
//! rustls' unbuffered interface is a loop: show it the ciphertext, do what the state that comes
//! back says, drop the bytes that it is done with, again. `process` is that loop. When it ends,
//! rustls holds nothing back: what it wanted to send lies in `output`, and `incoming` is the
//! beginning of one record, or of one handshake message, whose size rustls limits.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::unbuffered::{EncryptError, InsufficientSizeError};
use rustls::{AlertDescription, CommonState, Error, HandshakeKind};

use super::config::{Config, Side, printable, suite_name, version_name};
use super::connection::{Connection, Step, Writer};
use super::failure::{Failure, Reason, alert_for, alert_name};
use super::notes::{Notes, Opaque, with_notes};

/// A buffer that grew beyond this is given back when it is empty, so that idle connections are small.
const KEPT_CAPACITY: usize = 32 * 1024;
/// The plaintext of one record at most.
pub(crate) const RECORD: usize = 16 * 1024;
/// TLS 1.3: header, content type and tag.
pub(crate) const RECORD_OVERHEAD: usize = 5 + 1 + 16;
/// TLS 1.3: an encrypted EndOfEarlyData, which is a handshake header without a body.
const END_OF_EARLY_DATA: usize = RECORD_OVERHEAD + 4;

/// The machine refused to do something.
#[derive(Debug)]
pub enum EngineError {
    /// The connection has failed.
    Failed(Failure),
    /// The caller may not do this now.
    Misuse(&'static str),
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What the handshake agreed on.
#[derive(Clone, Debug)]
pub struct Info {
    pub version: String,
    pub cipher_suite: String,
    pub group: Option<String>,
    pub alpn: Option<String>,
    pub server_name: Option<String>,
    pub peer_certificates: Vec<Vec<u8>>,
    pub resumed: bool,
    pub early_data_accepted: bool,
}

impl Info {
    /// None while handshaking.
    pub(crate) fn new(
        common: &CommonState,
        server_name: Option<String>,
        early_data_accepted: bool,
    ) -> Option<Self> {
        let (Some(version), Some(suite), false) = (
            common.protocol_version(),
            common.negotiated_cipher_suite(),
            common.is_handshaking(),
        ) else {
            return None;
        };
        let certificates = common.peer_certificates().unwrap_or_default();
        Some(Self {
            version: version_name(version),
            cipher_suite: suite_name(suite.suite()),
            group: common.negotiated_key_exchange_group().map(|group| {
                match group.name().as_str() {
                    Some(name) => name.to_owned(),
                    None => format!("0x{:04X}", u16::from(group.name())),
                }
            }),
            alpn: common.alpn_protocol().map(printable),
            server_name,
            peer_certificates: certificates.iter().map(|der| der.to_vec()).collect(),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            early_data_accepted,
        })
    }
}

pub struct Engine {
    connection: Connection,
    alpn: Arc<[Vec<u8>]>,
    has_validator: bool,
    server_name: Option<String>,
    incoming: Vec<u8>,
    output: Vec<u8>,
    notes: Notes,
    failure: Option<Failure>,
    /// A whole record has come, so the peer does speak TLS.
    heard_tls: bool,
    early_data_accepted: bool,
    peer_closed: bool,
    closed: bool,
}

impl Engine {
    /// A client needs the server's name (or address), a server must not have one.
    pub fn new(config: &Config, server_name: Option<&str>) -> Result<Self, String> {
        let connection = match (&config.side, server_name) {
            (Side::Client(config), Some(name)) => {
                Connection::client(config.clone(), parse_server_name(name)?)
            }
            (Side::Server(config), None) => Connection::server(config.clone()),
            (Side::Client(_), None) => return Err("a TLS client needs a server name".into()),
            (Side::Server(_), Some(_)) => return Err("a TLS server takes no server name".into()),
        }
        .map_err(|error| error.to_string())?;
        let mut engine = Self {
            connection,
            alpn: config.alpn.clone(),
            has_validator: config.has_validator,
            server_name: server_name.map(str::to_owned),
            incoming: Vec::new(),
            output: Vec::new(),
            notes: Notes::default(),
            failure: None,
            heard_tls: false,
            early_data_accepted: false,
            peer_closed: false,
            closed: false,
        };
        // Brings the ClientHello into `output`.
        engine
            .process(&mut Vec::new())
            .map_err(|failure| failure.message)?;
        Ok(engine)
    }

    /// Take ciphertext and append the plaintext that it completes to `plaintext`.
    ///
    /// If plaintext came before a fault, it is delivered and the fault reported by the next call,
    /// so nothing that was received is lost; `failed` tells.
    pub fn receive(&mut self, data: &[u8], plaintext: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.peer_closed {
            return Ok(()); // RFC 8446, section 6.1: ignored
        }
        self.incoming.extend_from_slice(data);
        let before = plaintext.len();
        match self.process(plaintext) {
            Err(failure) if plaintext.len() == before => Err(failure),
            _ => Ok(()),
        }
    }

    /// How many bytes `seal` will write for `data`.
    pub fn sealed_len(&mut self, data: &[u8]) -> Result<usize, EngineError> {
        self.flush();
        let waiting = self.output.len();
        // The attempt may queue a key update in rustls, and has counted that.
        Ok(waiting + self.encrypt(data, &mut [])?)
    }

    /// Write everything that waits, and then the records of `data`, into `sealed`, which must have
    /// the length that `sealed_len` said. Returns how much of it was used: all.
    pub fn seal(&mut self, data: &[u8], sealed: &mut [u8]) -> Result<usize, EngineError> {
        self.flush();
        let waiting = self.output.len();
        let Some((head, tail)) = sealed.split_at_mut_checked(waiting) else {
            return Err(EngineError::Misuse(
                "the buffer is too small for what waits",
            ));
        };
        let used = self.encrypt(data, tail)?;
        if used > tail.len() {
            return Err(EngineError::Misuse(
                "the buffer is too small for the records",
            ));
        }
        head.copy_from_slice(&self.output);
        self.output.clear();
        trim(&mut self.output);
        Ok(waiting + used)
    }

    /// Encrypt into `sealed`. Returns the bytes used, or, if there is too little room, the bytes
    /// needed.
    fn encrypt(&mut self, data: &[u8], sealed: &mut [u8]) -> Result<usize, EngineError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone().into());
        }
        if self.closed {
            return Err(EngineError::Misuse("send() after close_notify()"));
        }
        if self.is_handshaking() {
            return Err(EngineError::Misuse("send() before the handshake is done"));
        }
        match self.with_writer(|writer| writer.encrypt(data, sealed)) {
            Some(
                Ok(size)
                | Err(EncryptError::InsufficientSize(InsufficientSizeError {
                    required_size: size,
                })),
            ) => Ok(size),
            Some(Err(EncryptError::EncryptExhausted)) => {
                let text = "So much was sent on this connection that its TLS keys are used up.";
                let failure = Failure::new(Reason::Internal, text);
                self.failure = Some(failure.clone());
                self.flush();
                Err(failure.into())
            }
            None => Err(EngineError::Misuse("send() on a closed connection")),
        }
    }

    /// Take the bytes that wait for the peer.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    pub fn clear_output(&mut self) {
        self.output.clear();
        trim(&mut self.output);
    }

    /// Client: queue 0-RTT data. Returns how many bytes were taken.
    pub fn send_early(&mut self, data: &[u8]) -> Result<usize, EngineError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone().into());
        }
        if !self.is_handshaking() {
            return Err(EngineError::Misuse("send_early() after the handshake"));
        }
        if matches!(self.connection, Connection::Server(_)) {
            return Err(EngineError::Misuse("send_early() on a server"));
        }
        Ok(self
            .connection
            .write_early(&mut self.incoming, &mut self.output, data))
    }

    /// TLS 1.3: change the keys of both directions (RFC 8446, section 4.6.3). rustls does so by
    /// itself before they wear out.
    pub fn update_keys(&mut self) -> Result<(), EngineError> {
        if self.is_handshaking() || self.closed || self.failed() {
            return Err(EngineError::Misuse(
                "update_keys() outside of the conversation",
            ));
        }
        self.with_writer(|_| ()); // what waited is out of the way
        let result = self.connection.update_keys(&mut self.incoming);
        self.flush();
        result.map_err(|_| EngineError::Misuse("update_keys() needs TLS 1.3"))
    }

    /// End our direction; the alert is in `output`. Before the handshake is done TLS has no way to
    /// say it.
    pub fn close_notify(&mut self) {
        if self.failure.is_some() || self.closed {
            return;
        }
        self.closed = true;
        // Without room the alert is queued all the same, behind what waits already.
        self.with_writer(|writer| writer.close(&mut []).ok());
        self.flush();
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.common().is_handshaking()
    }

    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The next call reports a failure, or the last one did.
    pub fn failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Refuse everything from now on, because of a fault in ourselves.
    pub fn poison(&mut self) {
        self.incoming.clear();
        self.output.clear();
        self.failure = Some(Failure::new(
            Reason::Internal,
            "The TLS engine failed inside; this is a bug in tieline.",
        ));
    }

    /// What a validator gave that will decide later.
    pub fn decision(&self) -> Option<&Opaque> {
        self.notes.decision.as_ref()
    }

    pub fn validator_error(&self) -> Option<&Opaque> {
        self.notes.validator_error.as_ref()
    }

    /// A session was resumed, for whose peer the validator has not been asked in this handshake.
    pub fn needs_validation(&self) -> bool {
        let common = self.connection.common();
        self.has_validator
            && !self.is_handshaking()
            && !self.notes.validator_asked
            && common.handshake_kind() == Some(HandshakeKind::Resumed)
            && common
                .peer_certificates()
                .is_some_and(|chain| !chain.is_empty())
    }

    /// None while handshaking.
    pub fn info(&self) -> Option<Info> {
        let name = self
            .server_name
            .as_ref()
            .or(self.notes.server_name.as_ref());
        Info::new(
            self.connection.common(),
            name.cloned(),
            self.early_data_accepted,
        )
    }

    /// Run rustls over `incoming` until it wants more.
    fn process(&mut self, plaintext: &mut Vec<u8>) -> Result<(), Failure> {
        // Certificates are judged during the handshake alone, so only then notes are needed.
        let (done, result) = if self.is_handshaking() {
            let mut notes = std::mem::take(&mut self.notes);
            let result = with_notes(&mut notes, || self.run(plaintext));
            self.notes = notes;
            result
        } else {
            self.run(plaintext)
        };
        let result = result.map_err(|error| {
            let failure = self.fail(&error, done);
            self.failure = Some(failure.clone());
            failure
        });
        if result.is_err() || self.peer_closed || done == self.incoming.len() {
            self.incoming.clear();
            trim(&mut self.incoming);
        } else if done > 0 {
            self.incoming.drain(..done);
        }
        result
    }

    /// Returns how many bytes of `incoming` are done with.
    fn run(&mut self, plaintext: &mut Vec<u8>) -> (usize, Result<(), Error>) {
        let mut done = 0;
        loop {
            let handshaking = self.is_handshaking();
            let before = plaintext.len();
            let output_before = self.output.len();
            let input = &mut self.incoming[done..];
            let (discard, step) = self.connection.advance(input, plaintext, &mut self.output);
            done += discard;
            self.heard_tls |= discard > 0;
            if handshaking {
                self.notice_early_data(plaintext.len() > before, output_before);
            }
            match step {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Idle) => return (done, Ok(())),
                Err(error) => return (done, Err(error)),
            }
        }
    }

    /// rustls' unbuffered connections do not say whether early data was accepted, but the
    /// handshake shows it. A server has accepted what it reads before the handshake is done. A
    /// client ends its early data by EndOfEarlyData if, and only if, the server accepted it (RFC
    /// 8446, section 4.5), and no other record of its handshake is as small.
    fn notice_early_data(&mut self, plaintext_came: bool, output_before: usize) {
        self.early_data_accepted |= match &self.connection {
            Connection::Server(_) => plaintext_came && self.is_handshaking(),
            Connection::Client(_) => {
                let record = &self.output[output_before..];
                self.heard_tls && record.len() == END_OF_EARLY_DATA && record[0] == 0x17
            }
        };
    }

    /// Move what rustls wants to send into `output`, without reading anything.
    fn flush(&mut self) {
        // As long as something is sendable, rustls does not look at its input.
        while self.connection.common().wants_write() {
            let (_, step) = self
                .connection
                .advance(&mut [], &mut Vec::new(), &mut self.output);
            if step != Ok(Step::Again) {
                return;
            }
        }
    }

    /// Turn rustls' error into ours, with the alert in `output` and by its name.
    fn fail(&mut self, error: &Error, done: usize) -> Failure {
        let first = &self.incoming[done..];
        let is_record = matches!(first, [0x14..=0x17, 0x03, ..]);
        let mut failure = match error {
            Error::InvalidMessage(_) if !self.heard_tls && !is_record => Failure::not_tls(first),
            error => Failure::from_rustls(error, &self.alpn, &self.notes),
        };
        let start = self.output.len();
        self.flush();
        if !failure.received && self.output.len() > start {
            // An alert that is not encrypted says itself what it is.
            failure.alert = match self.output[start..] {
                [0x15, 3, _, 0, 2, _, description] => Some(AlertDescription::from(description)),
                _ => alert_for(error),
            }
            .map(alert_name);
        }
        failure
    }

    /// Call `f` if application data may be sent now.
    fn with_writer<R>(&mut self, f: impl FnOnce(&mut dyn Writer) -> R) -> Option<R> {
        self.connection
            .write(&mut self.incoming, &mut self.output, f)
    }
}

fn trim(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_CAPACITY {
        *buffer = Vec::new();
    }
}

pub(crate) fn parse_server_name(name: &str) -> Result<ServerName<'static>, String> {
    // A zone, as in fe80::1%eth0, is our business alone; certificates know nothing of it.
    let host = match name.split_once('%') {
        Some((address, _)) if address.contains(':') => address,
        _ => name,
    };
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{name:?} is neither a host name in ASCII nor an IP address"))
}
