//! What happens at an endpoint, for its owner to fetch.

use std::net::SocketAddr;

use super::close::CloseReason;

/// A connection of an endpoint. Handles are never used again.
pub type Handle = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Bidirectional,
    Unidirectional,
}

#[derive(Debug)]
pub enum Event {
    Connection(Handle, Change),
    /// Somebody tried to connect, and failed in the first packet: there was no connection yet.
    Refused(SocketAddr, CloseReason),
}

#[derive(Debug)]
pub enum Change {
    /// A client has begun to connect to us.
    Incoming,
    /// The server did not take the early data: every stream that we had opened is void, and the
    /// numbers of streams begin at 0 again. Comes just before `Connected`.
    EarlyDataRejected,
    /// The handshake is done.
    Connected,
    /// The peer has opened streams of this kind, for `accept`. They may already have data, about
    /// which there is no `Readable`.
    Opened(Direction),
    /// A stream has data, its end, or a reset. Comes once for each time events are fetched.
    Readable(u64),
    /// A stream takes data again.
    Writable(u64),
    /// The peer has acknowledged everything, the end of the stream too.
    Finished(u64),
    /// The peer wants nothing more on this stream.
    Stopped(u64, u64),
    /// The peer allows us to open streams of this kind, after it did not.
    Available(Direction),
    /// There are datagrams, after there were none.
    Datagrams,
    /// There is room for datagrams, after there was none.
    DatagramsUnblocked,
    /// The peer speaks from another address.
    PeerAddress(SocketAddr),
    /// The connection has ended. Comes exactly once.
    Lost(CloseReason),
    /// Nothing more will be sent, and nothing is waited for. Comes last.
    Drained,
}
