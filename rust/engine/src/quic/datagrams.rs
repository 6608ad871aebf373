//! Datagrams (RFC 9221): unreliable, and bounded in both directions.
//!
//! *Sending:* a datagram for which the queue has no room is refused, and the owner told when there
//! is. *Receiving:* when the queue is full, the oldest give way to the new. Both are counted.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn_proto::SendDatagramError;

use super::connection::Connection;

/// What a waiting datagram costs besides its bytes.
const OVERHEAD: usize = 64;

/// Why a datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramError {
    /// The peer takes none, or has not said yet.
    Unsupported,
    /// We take none ourselves, and so cannot send any.
    Disabled,
    TooLarge {
        limit: usize,
    },
    /// The queue is full; `DatagramsUnblocked` will tell.
    Full,
    /// The connection has ended.
    Closed,
}

/// The datagrams that wait to be read.
pub(super) struct Received {
    queue: VecDeque<Bytes>,
    bytes: usize,
    limit: usize,
    count: u64,
    dropped: u64,
}

impl Received {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            limit,
            count: 0,
            dropped: 0,
        }
    }

    pub(super) fn push(&mut self, datagram: Bytes) {
        self.count += 1;
        self.bytes += datagram.len() + OVERHEAD;
        self.queue.push_back(datagram);
        // The newest stays, however small the limit.
        while self.bytes > self.limit && self.queue.len() > 1 {
            self.pop();
            self.dropped += 1;
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.queue.pop_front()?;
        self.bytes -= datagram.len() + OVERHEAD;
        Some(datagram)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// What became of the datagrams that were to be sent.
pub(super) struct Sent {
    buffer: usize,
    taken: u64,
    pub(super) refused: u64,
    pub(super) unsendable: u64,
}

impl Sent {
    pub(super) fn new(buffer: usize) -> Self {
        Self {
            buffer,
            taken: 0,
            refused: 0,
            unsendable: 0,
        }
    }
}

impl Connection {
    pub fn send_datagram(&mut self, data: Bytes) -> Result<(), DatagramError> {
        if self.is_closed() {
            return Err(DatagramError::Closed);
        }
        match self.inner.datagrams().send(data, false) {
            Ok(()) => {
                self.sent.taken += 1;
                Ok(())
            }
            Err(SendDatagramError::UnsupportedByPeer) => Err(DatagramError::Unsupported),
            Err(SendDatagramError::Disabled) => Err(DatagramError::Disabled),
            Err(SendDatagramError::TooLarge) => Err(DatagramError::TooLarge {
                limit: self.maximum_datagram_size().unwrap_or(0),
            }),
            Err(SendDatagramError::Blocked(_)) => {
                self.sent.refused += 1;
                Err(DatagramError::Full)
            }
        }
    }

    /// The oldest datagram that waits.
    pub fn receive_datagram(&mut self) -> Option<Bytes> {
        self.received.pop()
    }

    /// The largest datagram that can be sent on the path as it is now. None if the peer takes none.
    pub fn maximum_datagram_size(&mut self) -> Option<usize> {
        self.inner.datagrams().max_size()
    }

    /// How many bytes of datagrams can be queued for sending.
    pub fn datagram_room(&mut self) -> usize {
        self.inner.datagrams().send_buffer_space()
    }

    /// quinn-proto drops what a shrunken path no longer carries without a word. But what was taken,
    /// is not waiting and was not sent must have been dropped.
    pub(super) fn count_unsendable(&mut self, sent: u64) {
        // The room is for one more, whose own overhead is already subtracted.
        if self.datagram_room() + size_of::<Bytes>() >= self.sent.buffer {
            self.sent.unsendable = self.sent.taken.saturating_sub(sent);
        }
    }
}
