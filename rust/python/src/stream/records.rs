//! Records of a byte stream whose heads tell their lengths.

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use super::invoke::invoke;
use super::receiving::Receiving;

const LARGEST_HEAD: usize = 16;
/// Values of more bytes are not copied out of what arrived.
const SMALL: usize = 64 * 1024;

/// Where a record's length is. More than `limit` is a fault of the peer's, which the codec knows how to put.
#[derive(FromPyObject)]
pub(crate) struct Layout {
    #[pyo3(attribute)]
    head: usize,
    /// Of the length, in the head.
    #[pyo3(attribute)]
    offset: usize,
    #[pyo3(attribute)]
    width: usize,
    #[pyo3(attribute)]
    little: bool,
    #[pyo3(attribute)]
    limit: u64,
}

pub(crate) struct Records {
    codec: Py<PyAny>,
    layout: Layout,
    /// What makes a value of what is behind the head, and its metadata; without, the codec takes the whole record.
    values: Option<(Py<PyAny>, Py<PyAny>)>,
}

impl Records {
    /// Raises ValueError if the length is not in the head, or larger than any.
    pub(super) fn new(
        codec: Py<PyAny>,
        layout: Layout,
        values: Option<(Py<PyAny>, Py<PyAny>)>,
    ) -> PyResult<Self> {
        let end = layout.offset.checked_add(layout.width);
        if layout.width > 8 || layout.head > LARGEST_HEAD || end.is_none_or(|end| end > layout.head)
        {
            return Err(PyValueError::new_err("no record is laid out like that"));
        }
        Ok(Records {
            codec,
            layout,
            values,
        })
    }

    pub(super) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.codec)?;
        if let Some((decode, metadata)) = &self.values {
            visit.call(decode)?;
            visit.call(metadata)?;
        }
        Ok(())
    }
}

/// The beginning of the inbox.
pub(super) enum First {
    /// A record of so many bytes.
    Whole(usize),
    Begun,
    Unusual,
}

impl Receiving {
    pub(super) fn first_record(&self, py: Python<'_>, records: &Records) -> First {
        let held = self.inbox.get().held.borrow(py);
        let mut state = self.state.borrow(py);
        let layout = &records.layout;
        let next = match state.next {
            Some(next) => next,
            None if state.error.is_some() => return First::Unusual,
            None if held.inbox.size() < layout.head => return First::Begun,
            None => {
                let mut head = [0; LARGEST_HEAD];
                held.inbox.peek(&mut head[..layout.head]);
                let length = &head[layout.offset..layout.offset + layout.width];
                let shift = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
                let length = match layout.little {
                    true => length.iter().rev().fold(0, shift),
                    false => length.iter().fold(0, shift),
                };
                let Some(next) = usize::try_from(length)
                    .ok()
                    .filter(|_| length <= layout.limit)
                    .and_then(|length| length.checked_add(layout.head))
                else {
                    return First::Unusual;
                };
                state.next = Some(next);
                next
            }
        };
        match held.inbox.size() >= next {
            true => First::Whole(next),
            false => First::Begun,
        }
    }

    /// Content and metadata of the record whose turn it is, if there is nothing unusual about it.
    pub(super) fn next_record<'py>(
        &self,
        slf: &Bound<'py, Self>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let py = slf.py();
        let Some(records) = self.records.get() else {
            return Ok(None);
        };
        let First::Whole(size) = self.first_record(py, records) else {
            return Ok(None);
        };
        let inbox = self.inbox.get();
        if inbox.ended(py) && inbox.size(py) == size {
            return Ok(None); // the last one
        }
        let codec = records.codec.bind(py);
        let Some((decode, metadata)) = records.values.as_ref().filter(|_| size <= SMALL) else {
            let record = inbox.remove(py, size)?;
            self.state.borrow(py).next = None;
            self.taken(slf, size)?;
            let decoded = invoke(codec, intern!(py, "decode"), &record)?.cast_into::<PyTuple>()?;
            return Ok(Some((decoded.get_item(0)?, decoded.get_item(1)?)));
        };
        let head = records.layout.head;
        inbox
            .held
            .borrow(py)
            .inbox
            .read(&mut [0; LARGEST_HEAD][..head]);
        let data = inbox.remove(py, size - head)?;
        self.state.borrow(py).next = None;
        self.taken(slf, size)?;
        match decode.bind(py).call1((data,)) {
            Ok(value) => Ok(Some((value, metadata.bind(py).clone()))),
            Err(error) if error.is_instance_of::<PyException>(py) => {
                let told = codec.call_method1(intern!(py, "undecodable"), (error.value(py),))?;
                let told = PyErr::from_value(told);
                told.set_cause(py, Some(error));
                Err(told)
            }
            Err(error) => Err(error),
        }
    }
}
