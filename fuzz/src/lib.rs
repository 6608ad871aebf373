//! Each target takes bytes as a script: what two engines do, and what happens to that on the way.
//!
//! With libFuzzer (nightly toolchain, cargo-fuzz): `cargo +nightly fuzz run --features libfuzzer quic`.
//! Without: `cargo test --release --manifest-path fuzz/Cargo.toml`, for seconds; `tests/driver.rs` says how for longer.

mod identity;
mod quic;
mod script;
mod tls;
mod websocket;

pub use quic::quic;
pub use tls::tls;
pub use websocket::websocket;
