//! QUIC (RFC 9000, 9001, 9002, 9221) as a sans-I/O machine: quinn-proto, with the TLS of this crate.
//!
//! ```text
//!                      ┌──────────────── Endpoint ────────────────┐
//!   UDP datagrams ───▶ │ receive() ──▶ quinn-proto ──▶ Connection │ ──▶ events(), and then read(),
//!                      │                  │  ▲         Connection │     accept(), receive_datagram()
//!   UDP datagrams ◀─── │ transmit() ◀─────┘  │             ▲      │ ◀── connect(), open(), write(),
//!   timeout() ◀─────── │                     └ handle_timeout(now)│     send_datagram(), close()
//!                      └──────────────────────────────────────────┘
//! ```
//!
//! An [`Endpoint`] is what is behind one UDP socket: it makes connections, takes in others', and
//! knows whose each datagram is. Its owner feeds it with what has come, fetches what has happened
//! and what is to be sent, and calls back at `timeout()`. All of that works for all connections at
//! once; single ones are reached by their [`Handle`]. An idle connection costs no work.
//!
//! # Why quinn-proto
//!
//! noq-proto, its fork, has more to offer, but 1.4.0 ends a connection ("too many gaps in stream
//! buffer") when more than 2048 packets of one stream wait to be read: 3 MiB, or 200 kB in small
//! messages. quinn-proto 0.11.17 does the same. Its 0.11.14, and noq-proto 1.3.0, have no limit, and
//! let a peer fill our memory with frames that have gaps between them. quinn-proto 0.11.19 is right
//! in both; `tests/quic/limits.rs` tells the three of them apart.

mod close;
mod config;
mod connection;
mod datagrams;
mod early;
mod endpoint;
mod error;
mod event;
mod farewell;
mod identifiers;
mod packets;
mod parameters;
mod session;
mod streams;
mod time;

pub use close::{CloseReason, transport_error_name};
pub use config::{Config, Congestion, Qlog, Retry, Settings, Transport};
pub use connection::{Connection, Statistics};
pub use datagrams::DatagramError;
pub use endpoint::{Counters, Endpoint};
pub use error::EndpointError;
pub use event::{Change, Direction, Event, Handle};
pub use identifiers::ServerId;
pub use packets::{Incoming, Transmit};
pub use parameters::PeerParameters;
pub use streams::{Read, StreamError, stream_kind};

pub use bytes::Bytes;
