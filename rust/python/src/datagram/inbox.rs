//! Datagrams that have come and that nobody has taken.

use std::collections::VecDeque;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3::{PyTraverseError, PyVisit};

pub(super) struct Datagram {
    pub(super) content: Py<PyBytes>,
    /// Only where something is said of datagrams.
    pub(super) metadata: Option<Py<PyAny>>,
    pub(super) size: usize,
}

#[derive(Default)]
pub(super) struct Inbox {
    queue: VecDeque<Datagram>,
    /// Bytes that may wait for a reader, and what each datagram costs beside its content.
    limit: usize,
    overhead: usize,
    size: usize,
    dropped: u64,
}

impl Inbox {
    pub(super) fn new(limit: usize, overhead: usize) -> Self {
        Inbox {
            limit,
            overhead,
            ..Inbox::default()
        }
    }

    /// Keep one for the calls, or drop it if too much waits for them.
    pub(super) fn keep(&mut self, content: Bound<'_, PyBytes>, metadata: Option<Py<PyAny>>) {
        let size = content.as_bytes().len();
        let cost = size + self.overhead;
        if self.size + cost > self.limit && !self.queue.is_empty() {
            self.dropped += 1;
            return;
        }
        self.size += cost;
        self.queue.push_back(Datagram {
            content: content.unbind(),
            metadata,
            size,
        });
    }

    /// The oldest.
    pub(super) fn take(&mut self) -> Option<Datagram> {
        let datagram = self.queue.pop_front()?;
        self.size -= datagram.size + self.overhead;
        Some(datagram)
    }

    /// All of them, which the caller drops when nothing is borrowed.
    pub(super) fn clear(&mut self) -> VecDeque<Datagram> {
        self.size = 0;
        std::mem::take(&mut self.queue)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// What they and their overhead come to in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let metadata = self.queue.iter().map(|datagram| &datagram.metadata);
        metadata
            .into_iter()
            .try_for_each(|metadata| visit.call(metadata))
    }
}
