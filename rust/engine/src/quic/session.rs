//! The TLS of a QUIC connection: rustls, behind the interface that quinn-proto has for it.
//!
//! quinn-proto brings such a session of its own. Ours also keeps what that one forgets: the cipher
//! suite and group, rustls' own error with what the verifier noted about it, and the peer's
//! transport parameters as they came. A [`Handshake`] holds that, and is shared with the
//! connection, because a session that fails at once is dropped together with its connection.

use std::any::Any;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::BytesMut;
use quinn_proto::crypto::{
    self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::ServerName;
use rustls::quic::{
    ClientConnection, Connection, KeyChange, Secrets, ServerConnection, Suite, Version,
};
use rustls::{AlertDescription, ClientConfig, ServerConfig};

use super::farewell::{Farewell, Sealer};
use super::parameters::{self, PeerParameters};
use crate::tls::failure::alert_name;
use crate::tls::notes::{Notes, with_notes};
use crate::tls::{Failure, Info};

/// QUIC version 1 (RFC 9000). quinn-proto also knows drafts, which nobody speaks any more.
pub(crate) const VERSION_1: u32 = 1;

/// RFC 9001, section 5.8
const RETRY_KEY: [u8; 16] = [
    0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e,
];
const RETRY_NONCE: [u8; 12] = [
    0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb,
];
const TAG: usize = 16;

/// What a handshake has brought so far.
#[derive(Default)]
pub(crate) struct Handshake {
    pub(crate) notes: Notes,
    pub(crate) failure: Option<Failure>,
    /// None before the handshake is done.
    pub(crate) info: Option<Info>,
    pub(crate) parameters: Option<PeerParameters>,
    /// How many keys were made after the first ones.
    pub(crate) key_updates: u64,
}

#[derive(Clone, Default)]
pub(crate) struct Shared {
    handshake: Arc<Mutex<Handshake>>,
    /// How the connection ends, if it is by an error code of the transport.
    pub(crate) farewell: Arc<OnceLock<Farewell>>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Handshake> {
        self.handshake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn sealer<Key: PacketKey + 'static>(&self, key: Key) -> Box<dyn PacketKey> {
        Box::new(Sealer {
            key,
            farewell: self.farewell.clone(),
        })
    }

    fn keys(&self, keys: rustls::quic::Keys) -> Keys {
        Keys {
            header: KeyPair {
                local: Box::new(keys.local.header),
                remote: Box::new(keys.remote.header),
            },
            packet: KeyPair {
                local: self.sealer(keys.local.packet),
                remote: Box::new(keys.remote.packet),
            },
        }
    }
}

/// One connection's way to a session, of either side.
pub(crate) struct Maker<Config> {
    pub(crate) config: Arc<Config>,
    /// A client's: whom it connects to.
    pub(crate) name: Option<ServerName<'static>>,
    pub(crate) alpn: Arc<[Vec<u8>]>,
    /// The size of DATAGRAM frames that we announce. quinn-proto announces the size of its buffer.
    pub(crate) datagrams: Option<u64>,
    pub(crate) shared: Shared,
}

impl<Config> Maker<Config> {
    fn session(&self, connection: Result<Connection, rustls::Error>) -> Session {
        let (connection, error) = match connection {
            Ok(connection) => (Some(connection), None),
            Err(error) => (None, Some(error)),
        };
        if let Some(error) = error {
            let failure = Failure::from_rustls(&error, &self.alpn, &Notes::default());
            self.shared.lock().failure = Some(failure);
        }
        Session {
            connection,
            next: None,
            alpn: self.alpn.clone(),
            name: self.name.as_ref().map(|name| name.to_str().into_owned()),
            shared: self.shared.clone(),
        }
    }

    fn encode(&self, parameters: &TransportParameters) -> Vec<u8> {
        let mut encoded = Vec::new();
        parameters.write(&mut encoded);
        match self.datagrams {
            Some(limit) => parameters::limit_datagrams(&encoded, limit),
            None => encoded,
        }
    }
}

impl crypto::ClientConfig for Maker<ClientConfig> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        if version != VERSION_1 {
            return Err(ConnectError::UnsupportedVersion);
        }
        let Some(name) = self.name.clone() else {
            return Err(ConnectError::InvalidServerName(server_name.to_owned()));
        };
        let encoded = self.encode(parameters);
        let client = ClientConnection::new(self.config.clone(), Version::V1, name, encoded);
        Ok(Box::new(self.session(client.map(Connection::Client))))
    }
}

impl crypto::ServerConfig for Maker<ServerConfig> {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        match version {
            VERSION_1 => initial_keys(id, Side::Server, &self.shared).ok_or(UnsupportedVersion),
            _ => Err(UnsupportedVersion),
        }
    }

    fn retry_tag(&self, _: u32, original: &ConnectionId, packet: &[u8]) -> [u8; TAG] {
        // Without a tag, clients drop the packet. It takes a broken AES to get there.
        retry_tag(original, &[packet]).unwrap_or_default()
    }

    fn start_session(
        self: Arc<Self>,
        _: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        let encoded = self.encode(parameters);
        let server = ServerConnection::new(self.config.clone(), Version::V1, encoded);
        Box::new(self.session(server.map(Connection::Server)))
    }
}

struct Session {
    /// None if rustls did not take its configuration.
    connection: Option<Connection>,
    next: Option<Secrets>,
    alpn: Arc<[Vec<u8>]>,
    name: Option<String>,
    shared: Shared,
}

impl Session {
    /// Keep what has become known.
    fn note(&self, handshake: &mut Handshake) {
        let Some(connection) = &self.connection else {
            return;
        };
        if handshake.info.is_some() || connection.is_handshaking() {
            return;
        }
        let early = match connection {
            Connection::Client(client) => client.is_early_data_accepted(),
            // A server has these keys if it took the client's early data.
            Connection::Server(server) => server.zero_rtt_keys().is_some(),
        };
        let name = self.name.as_ref().or(handshake.notes.server_name.as_ref());
        handshake.info = Info::new(connection, name.cloned(), early);
        handshake.parameters = connection
            .quic_transport_parameters()
            .and_then(PeerParameters::read);
    }
}

impl crypto::Session for Session {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        initial_keys(id, side, &self.shared).unwrap_or_else(no_keys)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.connection.as_ref()?.zero_rtt_keys()?;
        Some((Box::new(keys.header), Box::new(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        match self.connection.as_ref()? {
            Connection::Client(client) => Some(client.is_early_data_accepted()),
            Connection::Server(_) => None,
        }
    }

    fn is_handshaking(&self) -> bool {
        self.connection
            .as_ref()
            .is_none_or(|connection| connection.is_handshaking())
    }

    /// Never says that there is `handshake_data`: ours is in the shared handshake.
    fn read_handshake(&mut self, data: &[u8]) -> Result<bool, TransportError> {
        let Some(connection) = &mut self.connection else {
            return Err(error(TransportErrorCode::INTERNAL_ERROR, "no TLS"));
        };
        // A validator may run now, and must not find the handshake locked.
        let mut notes = std::mem::take(&mut self.shared.lock().notes);
        let result = with_notes(&mut notes, || connection.read_hs(data));
        let alert = connection.alert();
        let mut handshake = self.shared.lock();
        handshake.notes = notes;
        let Err(problem) = result else {
            self.note(&mut handshake);
            return Ok(false);
        };
        let mut failure = Failure::from_rustls(&problem, &self.alpn, &handshake.notes);
        failure.alert = alert.map(alert_name);
        handshake.failure = Some(failure);
        Err(match alert {
            Some(alert) => error(
                TransportErrorCode::crypto(alert.into()),
                &problem.to_string(),
            ),
            None => error(
                TransportErrorCode::PROTOCOL_VIOLATION,
                &format!("TLS: {problem}"),
            ),
        })
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(connection) = &self.connection else {
            return Ok(None);
        };
        let side = match connection {
            Connection::Client(_) => Side::Client,
            Connection::Server(_) => Side::Server,
        };
        match connection.quic_transport_parameters() {
            None => Ok(None),
            Some(encoded) => match TransportParameters::read(side, &mut Cursor::new(encoded)) {
                Ok(parameters) => Ok(Some(parameters)),
                Err(error) => Err(error.into()),
            },
        }
    }

    fn write_handshake(&mut self, output: &mut Vec<u8>) -> Option<Keys> {
        let change = self.connection.as_mut()?.write_hs(output);
        self.note(&mut self.shared.lock());
        let keys = match change? {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                self.next = Some(next);
                keys
            }
        };
        Some(self.shared.keys(keys))
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        self.shared.lock().key_updates += 1;
        Some(KeyPair {
            local: self.shared.sealer(keys.local),
            remote: Box::new(keys.remote),
        })
    }

    fn is_valid_retry(&self, original: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((token, tag)) = payload.split_last_chunk::<TAG>() else {
            return false;
        };
        retry_tag(original, &[header, token])
            .is_some_and(|expected| verify_slices_are_equal(&expected, tag).is_ok())
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let connection = self.connection.as_ref().ok_or(ExportKeyingMaterialError)?;
        connection
            .export_keying_material(output, label, Some(context))
            .map(drop)
            .map_err(|_| ExportKeyingMaterialError)
    }
}

fn error(code: TransportErrorCode, reason: &str) -> TransportError {
    TransportError {
        code,
        frame: None,
        reason: reason.to_owned(),
    }
}

/// The name of the TLS alert in a CONNECTION_CLOSE (RFC 9001, section 4.8).
pub(crate) fn alert_of(code: u64) -> Option<AlertDescription> {
    match code {
        0x100..=0x1ff => Some(AlertDescription::from((code & 0xff) as u8)),
        _ => None,
    }
}

/// Whatever suites a configuration allows, Initial packets have this one (RFC 9001, section 5.2).
fn initial_keys(id: &ConnectionId, side: Side, shared: &Shared) -> Option<Keys> {
    let suite: Suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
    Some(shared.keys(suite.keys(id, side.into(), Version::V1)))
}

fn retry_tag(original: &ConnectionId, packet: &[&[u8]]) -> Option<[u8; TAG]> {
    let mut pseudo_packet = vec![u8::try_from(original.len()).ok()?];
    pseudo_packet.extend_from_slice(original);
    for part in packet {
        pseudo_packet.extend_from_slice(part);
    }
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &RETRY_KEY).ok()?);
    let nonce = Nonce::assume_unique_for_key(RETRY_NONCE);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(&pseudo_packet), &mut [])
        .ok()?;
    tag.as_ref().try_into().ok()
}

/// Is this datagram a Retry packet (RFC 9000, section 17.2.5)?
pub(crate) fn is_retry(datagram: &[u8]) -> bool {
    matches!(datagram, [first, 0, 0, 0, 1, ..] if first & 0xb0 == 0xb0)
}

/// Was this Retry packet made by somebody who has seen the first packet, which went to `original`?
pub(crate) fn is_genuine_retry(original: &ConnectionId, packet: &[u8]) -> bool {
    let Some((packet, tag)) = packet.split_last_chunk::<TAG>() else {
        return false;
    };
    retry_tag(original, &[packet])
        .is_some_and(|expected| verify_slices_are_equal(&expected, tag).is_ok())
}

/// Keys for a library that was built without AES: nothing can be read with them.
struct NoKey;

fn no_keys() -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(NoKey),
            remote: Box::new(NoKey),
        },
        packet: KeyPair {
            local: Box::new(NoKey),
            remote: Box::new(NoKey),
        },
    }
}

impl HeaderKey for NoKey {
    fn decrypt(&self, _: usize, _: &mut [u8]) {}

    fn encrypt(&self, _: usize, _: &mut [u8]) {}

    fn sample_size(&self) -> usize {
        TAG
    }
}

impl PacketKey for NoKey {
    fn encrypt(&self, _: u64, _: &mut [u8], _: usize) {}

    fn decrypt(&self, _: u64, _: &[u8], _: &mut BytesMut) -> Result<(), CryptoError> {
        Err(CryptoError)
    }

    fn tag_len(&self) -> usize {
        TAG
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}
