//! The TLS engine against itself, and against hostile bytes.
#![allow(clippy::unwrap_used)]

mod handshake;
mod hostile;
mod pair;
mod trust;
