//! What a connection does with its streams.
//!
//! quinn-proto panics when it is asked for the half of a stream that does not exist, and miscounts
//! when something is done to a stream that was not accepted yet. So each call looks first.

use bytes::Bytes;
use quinn_proto::{
    Dir, FinishError, ReadError, ReadableError, RecvStream, SendStream, Side, StreamId, VarInt,
    WriteError,
};

use super::connection::Connection;
use super::early;
use super::event::Direction;

/// Why something cannot be done with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// There is no such stream, or this half of it is done with.
    Unknown,
    /// This stream has no such half.
    WrongDirection,
    /// The peer has given up sending, with its code.
    Reset(u64),
    /// The peer wants no more, with its code.
    Stopped(u64),
    /// The connection has ended.
    Closed,
    /// A code has 62 bits.
    Code,
}

/// What a call of `read` has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub length: usize,
    /// Nothing follows. The stream's receiving half is done with.
    pub end: bool,
}

pub(super) fn number(id: StreamId) -> u64 {
    VarInt::from(id).into_inner()
}

pub(super) fn side(dir: Dir) -> usize {
    dir as usize
}

fn code(code: u64) -> Result<VarInt, StreamError> {
    VarInt::from_u64(code).map_err(|_| StreamError::Code)
}

/// The direction of a stream, and whether a client has opened it (RFC 9000, section 2.1).
pub fn stream_kind(stream: u64) -> (Direction, bool) {
    let direction = match stream & 2 {
        0 => Direction::Bidirectional,
        _ => Direction::Unidirectional,
    };
    (direction, stream & 1 == 0)
}

impl Connection {
    /// Open a stream. None at the peer's limit; `Available` will tell.
    pub fn open(&mut self, direction: Direction) -> Result<Option<u64>, StreamError> {
        if self.is_closed() {
            return Err(StreamError::Closed);
        }
        let Some(id) = self.inner.streams().open(direction.into()) else {
            return Ok(None);
        };
        self.opened[direction as usize] = id.index() + 1;
        Ok(Some(number(id)))
    }

    /// Take the next stream that the peer has opened. Read it at once: there is no `Readable` for
    /// what it has brought already.
    pub fn accept(&mut self, direction: Direction) -> Option<u64> {
        let id = self.inner.streams().accept(direction.into())?;
        self.accepted[direction as usize] = id.index() + 1;
        Some(number(id))
    }

    /// Queue as much of `data` as there is room for. If that is not all, `Writable` will tell, or
    /// `Connected`, before which a client's connection has room for little on all its streams.
    pub fn write(&mut self, stream: u64, data: &[u8]) -> Result<usize, StreamError> {
        let data = &data[..data.len().min(self.early_room())];
        self.written(stream, data.len(), |half, done| half.write(&data[done..]))
    }

    /// The same without copying: what was taken is cut off from `data`.
    pub fn write_bytes(&mut self, stream: u64, data: &mut Bytes) -> Result<usize, StreamError> {
        let length = data.len().min(self.early_room());
        self.written(stream, length, |half, done| {
            let mut chunks = [data.slice(..length - done)];
            let written = half.write_chunks(&mut chunks)?.bytes;
            *data = data.slice(written.min(data.len())..);
            Ok(written)
        })
    }

    /// How much may still be written: what leaves before the handshake is done is limited.
    fn early_room(&self) -> usize {
        match self.early && self.is_handshaking() {
            true => early::LIMIT - self.early_count,
            false => usize::MAX,
        }
    }

    /// Write until all is done, or until there is no room: only who was refused is told of more.
    fn written(
        &mut self,
        stream: u64,
        length: usize,
        mut write: impl FnMut(&mut SendStream<'_>, usize) -> Result<usize, WriteError>,
    ) -> Result<usize, StreamError> {
        let closed = self.is_closed();
        let early = self.early && self.is_handshaking();
        let mut half = self.send_half(stream)?;
        let mut done = 0;
        loop {
            match write(&mut half, done) {
                _ if closed => return Err(StreamError::Closed),
                Ok(count) => done += count,
                Err(WriteError::Blocked) => break,
                Err(WriteError::Stopped(code)) => {
                    return Err(StreamError::Stopped(code.into_inner()));
                }
                Err(WriteError::ClosedStream) => return Err(StreamError::Unknown),
            }
            if done >= length {
                break;
            }
        }
        if early {
            self.early_count += done;
        }
        Ok(done)
    }

    /// End our direction, once everything queued is sent. `Finished` tells when the peer has it all.
    pub fn finish(&mut self, stream: u64) -> Result<(), StreamError> {
        let closed = self.is_closed();
        match self.send_half(stream)?.finish() {
            _ if closed => Err(StreamError::Closed),
            Ok(()) => Ok(()),
            Err(FinishError::Stopped(code)) => Err(StreamError::Stopped(code.into_inner())),
            Err(FinishError::ClosedStream) => Err(StreamError::Unknown),
        }
    }

    /// Give up sending: what is queued is dropped, and the peer gets the code.
    pub fn reset(&mut self, stream: u64, error: u64) -> Result<(), StreamError> {
        let error = code(error)?;
        self.send_half(stream)?
            .reset(error)
            .map_err(|_| StreamError::Unknown)
    }

    /// The larger, the earlier; 0 at first. Equals take turns.
    pub fn set_priority(&mut self, stream: u64, priority: i32) -> Result<(), StreamError> {
        self.send_half(stream)?
            .set_priority(priority)
            .map_err(|_| StreamError::Unknown)
    }

    pub fn priority(&mut self, stream: u64) -> Result<i32, StreamError> {
        self.send_half(stream)?
            .priority()
            .map_err(|_| StreamError::Unknown)
    }

    /// The peer's code, if it wants no more on this stream.
    pub fn stopped(&mut self, stream: u64) -> Result<Option<u64>, StreamError> {
        self.send_half(stream)?
            .stopped()
            .map(|code| code.map(VarInt::into_inner))
            .map_err(|_| StreamError::Unknown)
    }

    /// Append up to `maximum` bytes to `chunks`, without copying them. The peer may send as much
    /// again. Nothing if nothing is there, and `Readable` will tell. What had come before the
    /// connection's end can still be read.
    pub fn read(
        &mut self,
        stream: u64,
        maximum: usize,
        chunks: &mut Vec<Bytes>,
    ) -> Result<Read, StreamError> {
        let closed = self.is_closed();
        let mut half = self.receive_half(stream)?;
        let mut reader = match half.read(true) {
            Ok(reader) => reader,
            Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => {
                return Err(StreamError::Unknown);
            }
        };
        let mut length = 0;
        // An empty read at the end of a full one shows whether that was all.
        let result = loop {
            match reader.next(maximum - length) {
                Ok(Some(chunk)) if chunk.bytes.is_empty() => break Ok(false),
                Ok(Some(chunk)) => {
                    length += chunk.bytes.len();
                    chunks.push(chunk.bytes);
                }
                Ok(None) => break Ok(true),
                Err(ReadError::Blocked) => break Ok(false),
                Err(ReadError::Reset(code)) => break Err(StreamError::Reset(code.into_inner())),
            }
        };
        // What there is to send because of it, the endpoint finds out.
        let _ = reader.finalize();
        match result {
            Ok(end) if length > 0 || end || !closed || maximum == 0 => Ok(Read { length, end }),
            Ok(_) => Err(StreamError::Closed),
            Err(error) => Err(error),
        }
    }

    /// Want nothing more: what has come is dropped, and the peer gets the code.
    pub fn stop_sending(&mut self, stream: u64, error: u64) -> Result<(), StreamError> {
        let error = code(error)?;
        self.receive_half(stream)?
            .stop(error)
            .map_err(|_| StreamError::Unknown)
    }

    /// How many streams may still have something that the peer has not acknowledged.
    pub fn unfinished_streams(&mut self) -> usize {
        self.inner.streams().send_streams()
    }

    fn send_half(&mut self, stream: u64) -> Result<SendStream<'_>, StreamError> {
        let id = self.find(stream)?;
        if id.dir() == Dir::Uni && id.initiator() != self.inner.side() {
            return Err(StreamError::WrongDirection);
        }
        Ok(self.inner.send_stream(id))
    }

    fn receive_half(&mut self, stream: u64) -> Result<RecvStream<'_>, StreamError> {
        let id = self.find(stream)?;
        if id.dir() == Dir::Uni && id.initiator() == self.inner.side() {
            return Err(StreamError::WrongDirection);
        }
        Ok(self.inner.recv_stream(id))
    }

    fn find(&self, stream: u64) -> Result<StreamId, StreamError> {
        let (direction, by_client) = stream_kind(stream);
        let initiator = if by_client {
            Side::Client
        } else {
            Side::Server
        };
        let known = if initiator == self.inner.side() {
            self.opened
        } else {
            self.accepted
        };
        let index = stream >> 2;
        if index >= known[direction as usize] {
            return Err(StreamError::Unknown);
        }
        Ok(StreamId::new(initiator, direction.into(), index))
    }
}
