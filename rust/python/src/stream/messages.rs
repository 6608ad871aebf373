//! Whole messages that have arrived and nobody has taken.

use std::collections::VecDeque;

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3::{PyTraverseError, PyVisit};

use super::held::Held;

/// Bytes that a kept message costs beside its content, or a peer could send empty ones without end.
pub(crate) const OVERHEAD: usize = 64;

pub(crate) struct Received {
    pub(crate) content: Py<PyAny>,
    pub(crate) metadata: Py<PyAny>,
    /// Of its content, in bytes.
    pub(crate) size: usize,
}

struct Messages {
    queue: VecDeque<Received>,
    size: usize,
    ended: bool,
    partial: Option<Py<PyBytes>>,
}

/// A queue of messages. `size` counts their bytes; `ended` says that no more will come, and `partial` holds what the peer's
/// end left unfinished.
#[pyclass(frozen, module = "tieline._engine.stream")]
pub(crate) struct MessageInbox {
    held: Held<Messages>,
}

impl MessageInbox {
    pub(crate) fn add(&self, py: Python<'_>, received: Received) {
        let mut held = self.held.borrow(py);
        held.size += received.size + OVERHEAD;
        held.queue.push_back(received);
    }

    pub(crate) fn is_empty(&self, py: Python<'_>) -> bool {
        self.held.borrow(py).queue.is_empty()
    }

    /// The first, unless it may be the very last.
    pub(crate) fn pop_unless_ended(&self, py: Python<'_>) -> Option<Received> {
        let mut held = self.held.borrow(py);
        if held.ended {
            return None;
        }
        held.pop()
    }
}

impl Messages {
    fn pop(&mut self) -> Option<Received> {
        let first = self.queue.pop_front()?;
        self.size -= first.size + OVERHEAD;
        Some(first)
    }
}

#[pymethods]
impl MessageInbox {
    #[new]
    fn new() -> Self {
        MessageInbox {
            held: Held::new(Messages {
                queue: VecDeque::new(),
                size: 0,
                ended: false,
                partial: None,
            }),
        }
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.held.borrow(py).queue.len()
    }

    #[getter]
    pub(crate) fn size(&self, py: Python<'_>) -> usize {
        self.held.borrow(py).size
    }

    #[getter]
    pub(crate) fn ended(&self, py: Python<'_>) -> bool {
        self.held.borrow(py).ended
    }

    #[setter]
    fn set_ended(&self, py: Python<'_>, value: bool) {
        self.held.borrow(py).ended = value;
    }

    #[getter]
    fn partial<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        match &self.held.borrow(py).partial {
            Some(partial) => partial.bind(py).clone(),
            None => PyBytes::new(py, b""),
        }
    }

    #[setter]
    fn set_partial(&self, py: Python<'_>, value: Py<PyBytes>) {
        let before = self.held.borrow(py).partial.replace(value);
        drop(before);
    }

    fn append(&self, py: Python<'_>, content: Py<PyAny>, metadata: Py<PyAny>, size: usize) {
        let received = Received {
            content,
            metadata,
            size,
        };
        self.add(py, received);
    }

    fn take(&self, py: Python<'_>) -> PyResult<(Py<PyAny>, Py<PyAny>, usize)> {
        let first = self.held.borrow(py).pop();
        match first {
            Some(first) => Ok((first.content, first.metadata, first.size)),
            None => Err(PyIndexError::new_err("there is no message")),
        }
    }

    fn clear(&self, py: Python<'_>) {
        let before = {
            let mut held = self.held.borrow(py);
            held.size = 0;
            (std::mem::take(&mut held.queue), held.partial.take())
        };
        drop(before);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.held
            .inspect(|held| {
                held.queue.iter().try_for_each(|received| {
                    visit.call(&received.content)?;
                    visit.call(&received.metadata)
                })
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.clear(py);
    }
}
