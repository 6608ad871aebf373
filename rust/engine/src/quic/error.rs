//! What an endpoint says when it cannot do what it was asked for.

use std::fmt;

/// Why an endpoint cannot do what it was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum EndpointError {
    /// There is no such connection (any more).
    Unknown,
    /// The endpoint is stopping.
    Stopping,
    Invalid(String),
    /// It has failed inside, which is a bug.
    Poisoned,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("there is no such QUIC connection"),
            Self::Stopping => f.write_str("the QUIC endpoint makes no more connections"),
            Self::Invalid(text) => f.write_str(text),
            Self::Poisoned => {
                f.write_str("the QUIC endpoint failed inside; this is a bug in tieline")
            }
        }
    }
}

impl std::error::Error for EndpointError {}
