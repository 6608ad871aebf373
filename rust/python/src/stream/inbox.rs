//! Bytes that have arrived and nobody has taken.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use tieline_engine::inbox::Inbox;

use super::held::Held;

pub(crate) struct Bytes {
    pub(crate) inbox: Inbox<PyBackedBytes>,
    pub(crate) ended: bool,
}

/// A queue of bytes. `size` counts them; `ended` says that no more will come.
#[pyclass(frozen, module = "tieline._engine.stream")]
pub(crate) struct ByteInbox {
    pub(crate) held: Held<Bytes>,
}

impl ByteInbox {
    pub(crate) fn add(&self, piece: Bound<'_, PyBytes>) {
        let py = piece.py();
        let spare = self.held.borrow(py).inbox.append(piece.into());
        drop(spare);
    }

    pub(crate) fn remove<'py>(
        &self,
        py: Python<'py>,
        at_most: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let whole = self.held.borrow(py).inbox.pop_whole(at_most);
        if let Some(piece) = whole {
            return Ok((&piece).into_pyobject(py)?.cast_into::<PyBytes>()?);
        }
        let size = self.held.borrow(py).inbox.size().min(at_most);
        PyBytes::new_with(py, size, |buffer| {
            self.held.borrow(py).inbox.read(buffer);
            Ok(())
        })
    }

    /// Fill a writable buffer as far as possible.
    pub(crate) fn fill(&self, py: Python<'_>, buffer: &PyBuffer<u8>) -> PyResult<usize> {
        let size = self.held.borrow(py).inbox.size().min(buffer.item_count());
        let cells = buffer
            .as_mut_slice(py)
            .ok_or_else(|| PyBufferError::new_err("a writable buffer of bytes is needed"))?;
        let mut part = [0; 4096];
        for cells in cells[..size].chunks(part.len()) {
            self.held.borrow(py).inbox.read(&mut part[..cells.len()]);
            for (cell, byte) in cells.iter().zip(part) {
                cell.set(byte);
            }
        }
        Ok(size)
    }
}

#[pymethods]
impl ByteInbox {
    #[new]
    pub(crate) fn new() -> Self {
        ByteInbox {
            held: Held::new(Bytes {
                inbox: Inbox::default(),
                ended: false,
            }),
        }
    }

    #[getter]
    pub(crate) fn size(&self, py: Python<'_>) -> usize {
        self.held.borrow(py).inbox.size()
    }

    #[getter]
    fn pieces(&self, py: Python<'_>) -> usize {
        self.held.borrow(py).inbox.pieces()
    }

    #[getter]
    pub(crate) fn ended(&self, py: Python<'_>) -> bool {
        self.held.borrow(py).ended
    }

    #[setter]
    pub(crate) fn set_ended(&self, py: Python<'_>, value: bool) {
        self.held.borrow(py).ended = value;
    }

    fn append(&self, piece: Bound<'_, PyBytes>) {
        self.add(piece);
    }

    fn peek<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Bound<'py, PyBytes>> {
        let size = self.held.borrow(py).inbox.size().min(count);
        PyBytes::new_with(py, size, |buffer| {
            self.held.borrow(py).inbox.peek(buffer);
            Ok(())
        })
    }

    fn take<'py>(&self, py: Python<'py>, at_most: usize) -> PyResult<Bound<'py, PyBytes>> {
        self.remove(py, at_most)
    }

    fn take_into(&self, py: Python<'_>, buffer: PyBuffer<u8>) -> PyResult<usize> {
        self.fill(py, &buffer)
    }

    fn find(&self, py: Python<'_>, separator: &[u8], start: usize) -> isize {
        let found = self.held.borrow(py).inbox.find(separator, start);
        found.map_or(-1, |place| place as isize) // no object in memory is larger than isize::MAX
    }

    pub(crate) fn clear(&self, py: Python<'_>) {
        let before = std::mem::take(&mut self.held.borrow(py).inbox);
        drop(before);
    }
}
