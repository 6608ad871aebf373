//! The QUIC engine against itself over a simulated network, and against hostile peers.
#![allow(clippy::unwrap_used)]

mod attacker;
mod datagrams;
mod early;
mod handshake;
mod hostile;
#[path = "../identity/mod.rs"]
mod identity;
mod lifetime;
mod limits;
mod pair;
mod paths;
mod streams;
