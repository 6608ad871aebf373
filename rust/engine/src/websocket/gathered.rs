//! Content of a message that comes in pieces, in room that is kept for the next one.

use std::cell::Cell;

use super::mask;

/// Larger messages pay for an allocation each time.
pub(crate) const SPARE_LIMIT: usize = 4 * 1024 * 1024;

thread_local! {
    /// One for each thread instead of one for each connection, most of which are idle.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes at the beginning of room that stays as it is behind them, so that it can be read into without being cleared.
#[derive(Default)]
pub(crate) struct Gathered {
    room: Vec<u8>,
    size: usize,
}

impl Gathered {
    pub(crate) fn len(&self) -> usize {
        self.size
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room[..self.size]
    }

    /// Use what the last message has left, if there is no room yet.
    pub(crate) fn begin(&mut self) {
        if self.room.capacity() == 0 {
            self.room = SPARE.take();
        }
    }

    /// Forget the content, and leave the room to the next message.
    pub(crate) fn end(&mut self) {
        self.size = 0;
        let room = std::mem::take(&mut self.room);
        if room.capacity() <= SPARE_LIMIT {
            SPARE.set(room);
        }
    }

    /// Have room for so many bytes more.
    pub(crate) fn reserve(&mut self, count: usize) {
        let wanted = self.size + count;
        self.room.reserve(wanted.saturating_sub(self.room.len()));
    }

    pub(crate) fn append(&mut self, data: &[u8]) {
        let (over, behind) = data.split_at(data.len().min(self.room.len() - self.size));
        self.room[self.size..self.size + over.len()].copy_from_slice(over);
        self.room.extend_from_slice(behind);
        self.size += data.len();
    }

    /// Masked or unmasked, in pieces that stay in the processor's nearest cache between both steps.
    pub(crate) fn append_masked(&mut self, data: &[u8], key: [u8; 4]) {
        const PIECE: usize = 8 * 1024; // a multiple of the key's length
        self.reserve(data.len());
        for piece in data.chunks(PIECE) {
            let start = self.size;
            self.append(piece);
            mask::apply(&mut self.room[start..self.size], key);
        }
    }

    /// Room behind the content, of that size, to be read into.
    pub(crate) fn spare(&mut self, count: usize) -> &mut [u8] {
        let end = self.size + count;
        if self.room.len() < end {
            self.room.resize(end, 0);
        }
        &mut self.room[self.size..end]
    }

    /// So many bytes of the spare room are content now, as `key` has masked it.
    pub(crate) fn filled(&mut self, count: usize, key: [u8; 4]) {
        let start = self.size;
        self.size = self.room.len().min(start + count);
        if key != [0; 4] {
            mask::apply(&mut self.room[start..self.size], key);
        }
    }

    /// The content, for who appends to it.
    pub(crate) fn with<R>(&mut self, work: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        self.room.truncate(self.size);
        let result = work(&mut self.room);
        self.size = self.room.len();
        result
    }

    /// Remove so many bytes at the beginning.
    pub(crate) fn remove(&mut self, count: usize) {
        self.room.drain(..count);
        self.size -= count;
    }
}
