//! The TLS engine against itself, and against hostile bytes.
#![allow(clippy::unwrap_used)]

mod handshake;
mod hostile;
#[path = "../identity/mod.rs"]
mod identity;
mod pair;
mod trust;
