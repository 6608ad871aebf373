//! Why a connection has ended.

use std::fmt;

use quinn_proto::coding::Codec;
use quinn_proto::{ConnectionError, FrameType};
use rustls::Error;

use super::parameters::variable;
use super::session::{Handshake, alert_of};
use crate::tls::Failure;

/// The one end that each connection has.
#[derive(Clone, Debug)]
pub enum CloseReason {
    /// We closed it.
    Local,
    /// The peer's application closed it.
    Application { code: u64, reason: Vec<u8> },
    /// One side found that the other had broken the protocol, or could not go on.
    Transport {
        code: u64,
        /// The type of the frame that was at fault, where one was.
        frame: Option<u64>,
        reason: String,
        /// The peer found it.
        received: bool,
    },
    /// The TLS handshake failed.
    Tls(Failure),
    /// Nothing came from the peer for as long as both sides had agreed on.
    IdleTimeout,
    /// The peer knows nothing of this connection (any more).
    StatelessReset,
    /// The server does not speak QUIC version 1.
    VersionMismatch,
    /// The engine failed inside.
    Internal(String),
}

impl CloseReason {
    /// `handshake` knows more of what TLS said.
    pub(crate) fn new(error: ConnectionError, handshake: &Handshake) -> Self {
        match error {
            ConnectionError::LocallyClosed => Self::Local,
            ConnectionError::ApplicationClosed(close) => Self::Application {
                code: close.error_code.into_inner(),
                reason: close.reason.to_vec(),
            },
            ConnectionError::TransportError(error) => {
                let code = u64::from(error.code);
                if let Some(failure) = &handshake.failure {
                    return Self::Tls(failure.clone());
                }
                Self::transport(code, error.frame, error.reason, false)
            }
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                if let Some(alert) = alert_of(code) {
                    let error = Error::AlertReceived(alert);
                    return Self::Tls(Failure::from_rustls(&error, &[], &handshake.notes));
                }
                let reason = String::from_utf8_lossy(&close.reason).into_owned();
                Self::transport(code, close.frame_type, reason, true)
            }
            ConnectionError::TimedOut => Self::IdleTimeout,
            ConnectionError::Reset => Self::StatelessReset,
            ConnectionError::VersionMismatch => Self::VersionMismatch,
            ConnectionError::CidsExhausted => Self::Internal("out of connection IDs".into()),
        }
    }

    fn transport(code: u64, frame: Option<FrameType>, reason: String, received: bool) -> Self {
        Self::Transport {
            code,
            frame: frame.and_then(frame_number),
            reason,
            received,
        }
    }
}

/// The name of a transport error code (RFC 9000, section 20.1).
pub fn transport_error_name(code: u64) -> Option<&'static str> {
    Some(match code {
        0x00 => "NO_ERROR",
        0x01 => "INTERNAL_ERROR",
        0x02 => "CONNECTION_REFUSED",
        0x03 => "FLOW_CONTROL_ERROR",
        0x04 => "STREAM_LIMIT_ERROR",
        0x05 => "STREAM_STATE_ERROR",
        0x06 => "FINAL_SIZE_ERROR",
        0x07 => "FRAME_ENCODING_ERROR",
        0x08 => "TRANSPORT_PARAMETER_ERROR",
        0x09 => "CONNECTION_ID_LIMIT_ERROR",
        0x0a => "PROTOCOL_VIOLATION",
        0x0b => "INVALID_TOKEN",
        0x0c => "APPLICATION_ERROR",
        0x0d => "CRYPTO_BUFFER_EXCEEDED",
        0x0e => "KEY_UPDATE_ERROR",
        0x0f => "AEAD_LIMIT_REACHED",
        0x10 => "NO_VIABLE_PATH",
        0x100..=0x1ff => "CRYPTO_ERROR",
        _ => return None,
    })
}

fn frame_number(frame: FrameType) -> Option<u64> {
    let mut encoded = Vec::new();
    frame.encode(&mut encoded);
    // 0 is PADDING, which is never at fault; it stands for "no frame" on the wire.
    variable(&encoded)
        .map(|(number, _)| number)
        .filter(|&number| number != 0)
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("The connection was closed here."),
            Self::Application { code, reason } => {
                write!(f, "The peer closed the connection with code {code}")?;
                if reason.is_empty() {
                    f.write_str(".")
                } else {
                    write!(f, ": {}", String::from_utf8_lossy(reason))
                }
            }
            Self::Transport {
                code,
                frame,
                reason,
                received,
            } => {
                f.write_str(if *received {
                    "The peer gave the connection up"
                } else {
                    "The peer broke the protocol"
                })?;
                match transport_error_name(*code) {
                    Some(name) => write!(f, " ({name}")?,
                    None => write!(f, " (error {code:#x}")?,
                }
                if let Some(frame) = frame {
                    write!(f, ", frame type {frame:#x}")?;
                }
                if reason.is_empty() {
                    f.write_str(").")
                } else {
                    write!(f, "): {reason}")
                }
            }
            Self::Tls(failure) => failure.fmt(f),
            Self::IdleTimeout => f.write_str("Nothing came from the peer for the idle timeout."),
            Self::StatelessReset => {
                f.write_str("The peer does not know this connection any more (stateless reset).")
            }
            Self::VersionMismatch => f.write_str("The server does not speak QUIC version 1."),
            Self::Internal(text) => write!(f, "The QUIC engine failed inside: {text}."),
        }
    }
}
