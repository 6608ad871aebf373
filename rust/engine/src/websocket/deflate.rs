//! permessage-deflate (RFC 7692): each message is a run of DEFLATE blocks whose last four bytes are left out.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What a flush ends with, and a message does without (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// At least so much room at once.
const STEP: usize = 4096;

/// What the handshake agreed on for one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Base-2 logarithm of the window, 8 to 15. A sender's is at least 9: the compressor knows no smaller one.
    pub window_bits: u8,
    /// A message may refer to those before it.
    pub takeover: bool,
}

pub(crate) struct Inflater {
    /// Its window is not made before it is needed.
    machine: Option<Decompress>,
    direction: Direction,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    TooLarge,
    Corrupt,
}

impl Inflater {
    pub(crate) fn new(direction: Direction) -> Self {
        Self {
            machine: None,
            direction,
        }
    }

    /// Append what `input` stands for to `output`, which must not grow beyond `limit`.
    pub(crate) fn inflate(
        &mut self,
        mut input: &[u8],
        output: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(), Fault> {
        let bits = self.direction.window_bits.max(9);
        let machine = self
            .machine
            .get_or_insert_with(|| Decompress::new_with_window_bits(false, bits));
        loop {
            if output.capacity() == output.len() {
                output.reserve(STEP.max(input.len()));
            }
            let (read, written) = (machine.total_in(), output.len());
            let status = machine
                .decompress_vec(input, output, FlushDecompress::Sync)
                .map_err(|_| Fault::Corrupt)?;
            input = &input[(machine.total_in() - read) as usize..];
            if output.len() > limit {
                return Err(Fault::TooLarge);
            }
            if status == Status::StreamEnd {
                // The sender flushed with a final block (section 7.2.3.5); what follows is a new run of blocks.
                machine.reset(false);
            }
            let full = output.len() == output.capacity();
            if input.is_empty() && !full {
                return Ok(());
            }
            if !full
                && status != Status::StreamEnd
                && output.len() == written
                && machine.total_in() == read
            {
                return Err(Fault::Corrupt); // it neither takes nor gives
            }
        }
    }

    /// The message is over.
    pub(crate) fn finish(&mut self, output: &mut Vec<u8>, limit: usize) -> Result<(), Fault> {
        self.inflate(&TAIL, output, limit)?;
        if !self.direction.takeover {
            self.machine = None; // its memory is worth more than the time to make it
        }
        Ok(())
    }
}

pub(crate) struct Deflater {
    machine: Option<Compress>,
    direction: Direction,
    level: Compression,
}

impl Deflater {
    /// `level` is 1 (fastest) to 9 (smallest).
    pub(crate) fn new(direction: Direction, level: u8) -> Self {
        Self {
            machine: None,
            direction,
            level: Compression::new(level.clamp(1, 9).into()),
        }
    }

    /// Append a piece of a message, compressed, to `output`.
    pub(crate) fn deflate(&mut self, mut input: &[u8], output: &mut Vec<u8>, last: bool) {
        let start = output.len();
        let (level, bits) = (self.level, self.direction.window_bits.clamp(9, 15));
        let machine = self
            .machine
            .get_or_insert_with(|| Compress::new_with_window_bits(level, false, bits));
        loop {
            if output.capacity() - output.len() < STEP {
                output.reserve(STEP.max(input.len() / 2));
            }
            let read = machine.total_in();
            // What it can refuse is a call that changes nothing, such as a flush after a flush.
            let status = machine.compress_vec(input, output, FlushCompress::Sync);
            input = &input[(machine.total_in() - read) as usize..];
            let room = output.len() < output.capacity();
            if (input.is_empty() && room) || status.is_err() {
                break;
            }
        }
        if last {
            if output[start..].ends_with(&TAIL) {
                output.truncate(output.len() - TAIL.len());
            }
            if output.len() == start {
                output.push(0); // the head of an empty block, whose rest is the tail (section 7.2.3.6)
            }
            if !self.direction.takeover {
                self.machine = None;
            }
        }
    }
}
