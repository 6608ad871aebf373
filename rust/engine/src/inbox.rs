//! What has arrived on a byte stream and nobody has taken yet.

use std::collections::VecDeque;

use memchr::memmem;

/// Pieces of this size and more are not copied to make one of two.
const MERGE_BELOW: usize = 64 * 1024;

/// A queue of bytes. Pieces are kept as they came, so that a whole one is handed on uncopied; small ones that wait behind
/// others are merged, so that a peer that sends byte by byte costs neither an object per byte nor a slow search.
pub struct Inbox<P> {
    pieces: VecDeque<Piece<P>>,
    /// Of the first piece: what was taken of it.
    offset: usize,
    size: usize,
}

enum Piece<P> {
    Whole(P),
    Merged(Vec<u8>),
}

impl<P: AsRef<[u8]>> Piece<P> {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Whole(piece) => piece.as_ref(),
            Piece::Merged(bytes) => bytes,
        }
    }
}

impl<P> Default for Inbox<P> {
    fn default() -> Self {
        Inbox {
            pieces: VecDeque::new(),
            offset: 0,
            size: 0,
        }
    }
}

impl<P: AsRef<[u8]>> Inbox<P> {
    /// Bytes that are there.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Add what has arrived. A piece that is no longer needed comes back.
    pub fn append(&mut self, piece: P) -> Option<P> {
        let bytes = piece.as_ref();
        if bytes.is_empty() {
            return Some(piece);
        }
        self.size += bytes.len();
        if let Some(Piece::Merged(merged)) = self.pieces.back_mut()
            && merged.len() + bytes.len() <= MERGE_BELOW
        {
            merged.extend_from_slice(bytes);
            return Some(piece);
        }
        // The first one is nearly always taken whole; behind it a small one begins what others may join.
        let waits = !self.pieces.is_empty();
        if waits && bytes.len() < MERGE_BELOW / 2 {
            self.pieces.push_back(Piece::Merged(bytes.to_vec()));
            return Some(piece);
        }
        self.pieces.push_back(Piece::Whole(piece));
        None
    }

    /// The first piece, if it is as it came and what `read` would give for so many bytes.
    pub fn pop_whole(&mut self, at_most: usize) -> Option<P> {
        let Some(Piece::Whole(first)) = self.pieces.front() else {
            return None;
        };
        let length = first.as_ref().len();
        if self.offset != 0 || length > at_most || (length < at_most && length < self.size) {
            return None;
        }
        self.size -= length;
        match self.pieces.pop_front() {
            Some(Piece::Whole(piece)) => Some(piece),
            _ => None,
        }
    }

    /// Take as many bytes as fit, or as there are; returns how many.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(first) = self.pieces.front() else {
                break;
            };
            let rest = &first.bytes()[self.offset..];
            let count = rest.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
            if count == rest.len() {
                self.pieces.pop_front();
                self.offset = 0;
            } else {
                self.offset += count;
            }
        }
        self.size -= filled;
        filled
    }

    /// Copy the first bytes, which stay; returns how many.
    pub fn peek(&self, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        for rest in self.rests() {
            let count = rest.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
            if filled == buffer.len() {
                break;
            }
        }
        filled
    }

    /// Where the separator begins, searching from `start`.
    pub fn find(&self, separator: &[u8], start: usize) -> Option<usize> {
        let overlap = separator.len().saturating_sub(1);
        let finder = memmem::Finder::new(separator);
        let mut tail: Vec<u8> = Vec::new(); // of the pieces before, as much as a match across the seam can need
        let mut position = 0; // of the present piece's first byte
        for rest in self.rests() {
            let end = position + rest.len();
            if end > start {
                if !tail.is_empty() {
                    let seam = position - tail.len();
                    let mut joint = tail.clone();
                    joint.extend_from_slice(&rest[..overlap.min(rest.len())]);
                    let from = start.saturating_sub(seam).min(joint.len());
                    if let Some(found) = finder.find(&joint[from..]) {
                        return Some(seam + from + found);
                    }
                }
                let from = start.saturating_sub(position);
                if let Some(found) = finder.find(&rest[from..]) {
                    return Some(position + from + found);
                }
            }
            if rest.len() >= overlap {
                tail.clear();
                tail.extend_from_slice(&rest[rest.len() - overlap..]);
            } else {
                tail.extend_from_slice(rest);
                tail.drain(..tail.len().saturating_sub(overlap));
            }
            position = end;
        }
        None
    }

    fn rests(&self) -> impl Iterator<Item = &[u8]> {
        let offset = self.offset;
        self.pieces.iter().enumerate().map(move |(number, piece)| {
            let from = if number == 0 { offset } else { 0 };
            &piece.bytes()[from..]
        })
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Inbox;
    use proptest::prelude::*;

    fn filled(parts: &[Vec<u8>]) -> (Inbox<Vec<u8>>, Vec<u8>) {
        let mut inbox = Inbox::default();
        for part in parts {
            inbox.append(part.clone());
        }
        (inbox, parts.concat())
    }

    fn take(inbox: &mut Inbox<Vec<u8>>, at_most: usize) -> Vec<u8> {
        if let Some(piece) = inbox.pop_whole(at_most) {
            return piece;
        }
        let mut buffer = vec![0; at_most.min(inbox.size())];
        assert_eq!(inbox.read(&mut buffer), buffer.len());
        buffer
    }

    proptest! {
        #[test]
        fn takes_give_back_what_came(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..12),
            sizes in prop::collection::vec(0usize..20, 0..12),
        ) {
            let (mut inbox, whole) = filled(&parts);
            let mut rest = &whole[..];
            for size in sizes {
                let (expected, after) = rest.split_at(size.min(rest.len()));
                let mut copy = vec![0; expected.len()];
                prop_assert_eq!(inbox.peek(&mut copy), expected.len());
                prop_assert_eq!(&copy[..], expected);
                prop_assert_eq!(&take(&mut inbox, size)[..], expected);
                rest = after;
                prop_assert_eq!(inbox.size(), rest.len());
            }
        }

        #[test]
        fn finds_a_separator_across_any_split(
            parts in prop::collection::vec("[ab;]{0,6}", 0..10),
            separator in prop::sample::select(vec![";", ";;", "ab;", "aa", "abab"]),
            taken in 0usize..6,
            start in 0usize..20,
        ) {
            let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.clone().into_bytes()).collect();
            let (mut inbox, whole) = filled(&parts);
            let gone = take(&mut inbox, taken).len();
            let rest = &whole[gone..];
            let start = start.min(rest.len());
            let expected = rest[start..]
                .windows(separator.len())
                .position(|window| window == separator.as_bytes())
                .map(|found| start + found);
            prop_assert_eq!(inbox.find(separator.as_bytes(), start), expected);
        }
    }

    #[test]
    fn a_whole_piece_is_handed_on_and_small_ones_are_merged() {
        let mut inbox = Inbox::default();
        let large = vec![7; 100_000];
        let place = large.as_ptr();
        inbox.append(large);
        for _ in 0..1000 {
            inbox.append(vec![1]);
        }
        assert_eq!(inbox.pieces(), 2);
        let piece = inbox.pop_whole(100_000).expect("it came whole");
        assert_eq!(piece.as_ptr(), place);
        assert_eq!(inbox.size(), 1000);
    }
}
