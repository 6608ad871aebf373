//! TLS 1.2 and 1.3 as a sans-I/O machine: rustls, with aws-lc-rs doing the arithmetic.
//!
//! A [`Config`] is checked once and shared; an [`Engine`] is one connection.

mod certificate;
pub(crate) mod config;
mod connection;
pub(crate) mod engine;
pub(crate) mod failure;
pub(crate) mod notes;
mod verify;

pub use config::{ClientAuthentication, Config, ConfigError, Settings, Trust};
pub use engine::{Engine, EngineError, Info};
pub use failure::{Failure, Reason};
pub use notes::Opaque;
pub use verify::{Decision, Validator};

pub use rustls::pki_types::CertificateDer;
