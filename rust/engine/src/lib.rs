//! The protocol machines of tieline: bytes and time in, bytes and events out.
//!
//! Nothing here opens a socket, starts a thread or knows Python. The only outside things that are
//! read are the system's trust store and clock, and both only to judge a certificate.

pub mod inbox;
pub mod polling;
pub mod quic;
pub mod segments;
pub mod tls;
pub mod websocket;
