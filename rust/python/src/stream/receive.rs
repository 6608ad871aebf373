//! One receive, in its forms.

use std::ffi::{CStr, c_int};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyTuple, PyType};

use super::call::Step;
use super::invoke::pair;
use super::native::{Handle, Visit};
use super::receiving::Receiving;
use super::waiter::Waiter;

const PIECE: usize = 256 * 1024; // of an iteration: as large as one read

/// One receive.
pub(crate) struct Receive {
    pub(super) receiving: Py<Receiving>,
    pub(super) form: Form,
}

pub(super) enum Form {
    Bytes {
        minimum: usize,
        at_most: usize,
        /// Fewer are an error.
        strict: bool,
        separator: Option<Py<PyBytes>>,
        integer: Option<Py<PyAny>>,
    },
    Into {
        buffer: PyBuffer<u8>,
        /// All of it.
        strict: bool,
    },
    Piece,
    Message {
        iterating: bool,
    },
}

impl Form {
    fn minimum(&self) -> usize {
        match self {
            Form::Bytes { minimum, .. } => *minimum,
            Form::Into {
                buffer,
                strict: true,
            } => buffer.item_count(),
            Form::Into { .. } | Form::Piece | Form::Message { .. } => 1,
        }
    }

    fn separator(&self) -> Option<&Py<PyBytes>> {
        match self {
            Form::Bytes { separator, .. } => separator.as_ref(),
            _ => None,
        }
    }
}

/// The class of a received message, and the metadata of a piece in a stream and at its end.
static MESSAGE: PyOnceLock<(Py<PyType>, Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();

/// Raises TypeError if a message is no tuple of content and metadata.
#[pyfunction]
pub(crate) fn adopt_messages(
    message: Bound<'_, PyType>,
    more: Py<PyAny>,
    end: Py<PyAny>,
) -> PyResult<()> {
    let py = message.py();
    if !message.is_subclass_of::<PyTuple>()? {
        return Err(PyTypeError::new_err("a message must be a tuple"));
    }
    let _ = MESSAGE.set(py, (message.unbind(), more, end)); // the first ones stay: there is one library in a process
    Ok(())
}

fn adopted(py: Python<'_>) -> PyResult<&(Py<PyType>, Py<PyAny>, Py<PyAny>)> {
    MESSAGE
        .get(py)
        .ok_or_else(|| PyRuntimeError::new_err("adopt_messages() comes first"))
}

fn message_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    Ok(adopted(py)?.0.bind(py))
}

fn message<'py>(
    py: Python<'py>,
    content: Bound<'py, PyAny>,
    ended: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let (class, more, end) = adopted(py)?;
    let metadata = if ended { end } else { more };
    pair(class.bind(py), content, metadata.bind(py).clone())
}

impl Receive {
    pub(crate) fn begin<'py>(&self, py: Python<'py>) -> PyResult<Step<'py>> {
        let receiving = self.receiving.bind(py);
        let this = receiving.get();
        let minimum = self.form.minimum();
        if !this.has_calls(py) && self.form.separator().is_none() {
            let enough = if this.messages {
                this.is_whole(receiving)?
            } else {
                this.inbox.get().size(py) >= minimum
            };
            if enough {
                return Ok(Step::Done(self.answer(receiving)?));
            }
        }
        match this.enter(receiving, minimum, self.form.separator())? {
            Some(waiter) => Ok(Step::Wait(waiter)),
            None => Ok(Step::Done(self.finish(py)?)),
        }
    }

    /// It has waited, and it is its turn.
    pub(crate) fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let receiving = self.receiving.bind(py);
        let this = receiving.get();
        let strict = match &self.form {
            Form::Bytes {
                strict, separator, ..
            } => *strict && separator.is_none(),
            Form::Into { strict, .. } => *strict,
            _ => false,
        };
        let minimum = self.form.minimum();
        if strict && this.inbox.get().size(py) < minimum {
            let error = receiving.call_method1(intern!(py, "_incomplete"), (minimum,))?;
            return Err(PyErr::from_value(error));
        }
        self.answer(receiving)
    }

    fn answer<'py>(&self, receiving: &Bound<'py, Receiving>) -> PyResult<Bound<'py, PyAny>> {
        let py = receiving.py();
        let this = receiving.get();
        let inbox = this.inbox.get();
        match &self.form {
            Form::Bytes {
                minimum,
                at_most,
                separator,
                integer,
                ..
            } => {
                let mut at_most = *at_most;
                let mut ended = false;
                if let Some(separator) = separator {
                    at_most = this.separated(receiving, separator.bind(py), at_most)?;
                } else {
                    ended = inbox.size(py) < *minimum;
                }
                let content = inbox.remove(py, at_most)?;
                this.taken(receiving, content.as_bytes().len())?;
                match integer {
                    None => message(py, content.into_any(), ended),
                    Some(kind) => {
                        let number = kind
                            .bind(py)
                            .call_method1(intern!(py, "decode"), (content,))?;
                        message(py, number, ended)
                    }
                }
            }
            Form::Into { buffer, .. } => {
                let count = inbox.fill(py, buffer)?;
                this.taken(receiving, count)?;
                Ok(count.into_pyobject(py)?.into_any())
            }
            Form::Piece => {
                let piece = inbox.remove(py, PIECE)?;
                let count = piece.as_bytes().len();
                this.taken(receiving, count)?;
                if count == 0 {
                    return Err(PyStopAsyncIteration::new_err(()));
                }
                message(py, piece.into_any(), false)
            }
            Form::Message { iterating } => {
                if let Some(received) = this.next_message(py) {
                    this.taken(receiving, received.size)?;
                    let (content, metadata) = (received.content, received.metadata);
                    return pair(
                        message_class(py)?,
                        content.into_bound(py),
                        metadata.into_bound(py),
                    );
                }
                if let Some((content, metadata)) = this.next_record(receiving)? {
                    return pair(message_class(py)?, content, metadata);
                }
                receiving.call_method1(intern!(py, "_answer"), (*iterating,))
            }
        }
    }

    /// It raises instead of taking.
    pub(crate) fn leave(&self, py: Python<'_>, waiter: &Handle<Waiter>) -> PyResult<()> {
        let receiving = self.receiving.bind(py);
        let this = receiving.get();
        this.remove(py, waiter);
        this.turn(receiving)
    }

    pub(crate) fn visit(&self, visit: Visit<'_>) -> c_int {
        visit(self.receiving.as_ptr())
    }

    pub(crate) fn name(&self) -> &'static CStr {
        match &self.form {
            Form::Bytes { .. } | Form::Message { iterating: false } => c"receive",
            Form::Into { .. } => c"receive_into",
            Form::Piece | Form::Message { iterating: true } => c"__anext__",
        }
    }
}
