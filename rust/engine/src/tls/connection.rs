//! rustls' unbuffered connection, of a client or a server: the two have separate types, whose
//! states differ only in early data.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, WriteTraffic};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use super::engine::{RECORD, RECORD_OVERHEAD};

pub(crate) enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What came of showing rustls its input.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Again,
    PeerClosed,
    /// Nothing more without more input.
    Idle,
}

/// `WriteTraffic` of clients and servers alike.
pub(crate) trait Writer {
    fn encrypt(&mut self, data: &[u8], sealed: &mut [u8]) -> Result<usize, EncryptError>;
    fn close(&mut self, sealed: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Data> Writer for WriteTraffic<'_, Data> {
    fn encrypt(&mut self, data: &[u8], sealed: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::encrypt(self, data, sealed)
    }

    fn close(&mut self, sealed: &mut [u8]) -> Result<usize, EncryptError> {
        self.queue_close_notify(sealed)
    }
}

impl Connection {
    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let client = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::Client(Box::new(client)))
    }

    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let server = UnbufferedServerConnection::new(config)?;
        Ok(Self::Server(Box::new(server)))
    }

    pub(crate) fn common(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }

    /// One turn. Returns how many bytes of `input` are done with, too.
    pub(crate) fn advance(
        &mut self,
        input: &mut [u8],
        plaintext: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> (usize, Result<Step, Error>) {
        let handshaking = self.common().is_handshaking();
        match self {
            Self::Client(client) => {
                let status = client.process_tls_records(input);
                let step = status.state.and_then(|state| match state {
                    // A client that has sent its hello may send early data in this state. It is not
                    // left before the handshake is done; it keeps nothing from happening.
                    ConnectionState::TransmitTlsData(mut transmit) => {
                        if handshaking && transmit.may_encrypt_app_data().is_none() {
                            return Ok(Step::Idle);
                        }
                        transmit.done();
                        Ok(Step::Again)
                    }
                    other => absorb(other, plaintext, output),
                });
                (status.discard, step)
            }
            Self::Server(server) => {
                let status = server.process_tls_records(input);
                let step = status.state.and_then(|state| match state {
                    ConnectionState::ReadEarlyData(mut early) => {
                        while let Some(record) = early.next_record() {
                            plaintext.extend_from_slice(record?.payload);
                        }
                        Ok(Step::Again)
                    }
                    other => absorb(other, plaintext, output),
                });
                (status.discard, step)
            }
        }
    }

    /// Call `f` if application data may be sent now. `input` holds nothing new.
    pub(crate) fn write<R>(
        &mut self,
        input: &mut [u8],
        output: &mut Vec<u8>,
        f: impl FnOnce(&mut dyn Writer) -> R,
    ) -> Option<R> {
        // rustls may still wait for the word that bytes are on their way, so more than one turn.
        loop {
            let step = match self {
                Self::Client(client) => match client.process_tls_records(input).state {
                    Ok(ConnectionState::WriteTraffic(mut writer)) => return Some(f(&mut writer)),
                    Ok(other) => absorb(other, &mut Vec::new(), output),
                    Err(error) => Err(error),
                },
                Self::Server(server) => match server.process_tls_records(input).state {
                    Ok(ConnectionState::WriteTraffic(mut writer)) => return Some(f(&mut writer)),
                    Ok(other) => absorb(other, &mut Vec::new(), output),
                    Err(error) => Err(error),
                },
            };
            if step != Ok(Step::Again) {
                return None;
            }
        }
    }

    /// Queue a key update. To be called when nothing else waits.
    pub(crate) fn update_keys(&mut self, input: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Client(client) => match client.process_tls_records(input).state? {
                ConnectionState::WriteTraffic(writer) => writer.refresh_traffic_keys(),
                _ => Err(Error::HandshakeNotComplete),
            },
            Self::Server(server) => match server.process_tls_records(input).state? {
                ConnectionState::WriteTraffic(writer) => writer.refresh_traffic_keys(),
                _ => Err(Error::HandshakeNotComplete),
            },
        }
    }

    /// Encrypt early data to the end of `output`; returns how many bytes were taken.
    pub(crate) fn write_early(
        &mut self,
        input: &mut [u8],
        output: &mut Vec<u8>,
        data: &[u8],
    ) -> usize {
        let Self::Client(client) = self else {
            return 0;
        };
        // `advance` leaves a client in this state for as long as early data may be sent.
        let Ok(ConnectionState::TransmitTlsData(mut transmit)) =
            client.process_tls_records(input).state
        else {
            return 0;
        };
        let Some(mut early) = transmit.may_encrypt_early_data() else {
            return 0;
        };
        let mut taken = 0;
        for piece in data.chunks(RECORD) {
            let start = output.len();
            output.resize(start + piece.len() + RECORD_OVERHEAD, 0);
            // The limit that came with the ticket may cut the piece short; only the size of the
            // record shows by how much.
            let written = early.encrypt(piece, &mut output[start..]).unwrap_or(0);
            output.truncate(start + written);
            taken += written.saturating_sub(RECORD_OVERHEAD);
            if written < piece.len() + RECORD_OVERHEAD {
                break;
            }
        }
        taken
    }
}

/// Do what a state asks for.
fn absorb<Data>(
    state: ConnectionState<'_, '_, Data>,
    plaintext: &mut Vec<u8>,
    output: &mut Vec<u8>,
) -> Result<Step, Error> {
    match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                plaintext.extend_from_slice(record?.payload);
            }
            Ok(Step::Again)
        }
        ConnectionState::EncodeTlsData(mut encoder) => {
            let start = output.len();
            // The first try tells the size.
            if let Err(EncodeError::InsufficientSize(size)) = encoder.encode(&mut []) {
                output.resize(start + size.required_size, 0);
                let written = encoder.encode(&mut output[start..]).unwrap_or(0);
                output.truncate(start + written);
            }
            Ok(Step::Again)
        }
        ConnectionState::TransmitTlsData(transmit) => {
            transmit.done();
            Ok(Step::Again)
        }
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        _ => Ok(Step::Idle),
    }
}
