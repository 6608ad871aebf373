//! One receive of datagrams, in its forms.

use std::ffi::{CStr, c_int};

use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple, PyType};

use super::flow::Datagrams;
use super::inbox::Datagram;
use crate::stream::{Handle, Step, Visit, Waiter, pair};

/// One receive.
pub(crate) struct Take {
    pub(super) flow: Py<Datagrams>,
    pub(super) form: Form,
}

pub(super) enum Form {
    One,
    /// One of an iteration.
    Next,
    /// What there is, but at most so many.
    Many(usize),
}

/// The class of a received message, and the metadata of a datagram of which nothing is said.
static DATAGRAM: PyOnceLock<(Py<PyType>, Py<PyAny>)> = PyOnceLock::new();

/// Raises TypeError if a message is no tuple of content and metadata.
#[pyfunction]
pub(crate) fn adopt_datagrams(message: Bound<'_, PyType>, plain: Py<PyAny>) -> PyResult<()> {
    let py = message.py();
    if !message.is_subclass_of::<PyTuple>()? {
        return Err(PyTypeError::new_err("a message must be a tuple"));
    }
    let _ = DATAGRAM.set(py, (message.unbind(), plain)); // the first ones stay: there is one library in a process
    Ok(())
}

pub(super) fn adopted(py: Python<'_>) -> PyResult<&(Py<PyType>, Py<PyAny>)> {
    DATAGRAM
        .get(py)
        .ok_or_else(|| PyRuntimeError::new_err("adopt_datagrams() comes first"))
}

fn message(py: Python<'_>, datagram: Datagram) -> PyResult<Bound<'_, PyAny>> {
    let (class, plain) = adopted(py)?;
    let metadata = datagram.metadata.unwrap_or_else(|| plain.clone_ref(py));
    let content = datagram.content.into_bound(py).into_any();
    pair(class.bind(py), content, metadata.into_bound(py))
}

impl Take {
    pub(crate) fn begin<'py>(&self, py: Python<'py>) -> PyResult<Step<'py>> {
        let flow = self.flow.bind(py);
        if flow.get().is_ready(py) {
            return Ok(Step::Done(self.answer(flow)?));
        }
        match flow.get().enter(flow)? {
            Some(waiter) => Ok(Step::Wait(waiter)),
            None => Err(self.ended(flow)?),
        }
    }

    /// It has waited, and it is its turn.
    pub(crate) fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let flow = self.flow.bind(py);
        flow.get().left_first(py);
        if flow.get().has_datagrams(py) {
            return self.answer(flow);
        }
        if flow.get().has_ended(py) {
            return Err(self.ended(flow)?);
        }
        let error = flow.call_method0(intern!(py, "_nothing"))?; // what was there has been thrown away
        Err(PyErr::from_value(error))
    }

    fn ended(&self, flow: &Bound<'_, Datagrams>) -> PyResult<PyErr> {
        match self.form {
            Form::Next => Ok(PyStopAsyncIteration::new_err(())),
            _ => Ok(PyErr::from_value(
                flow.call_method0(intern!(flow.py(), "_end_error"))?,
            )),
        }
    }

    fn answer<'py>(&self, flow: &Bound<'py, Datagrams>) -> PyResult<Bound<'py, PyAny>> {
        let py = flow.py();
        let this = flow.get();
        let Form::Many(at_most) = self.form else {
            let Some(datagram) = this.take(py) else {
                return Err(PyRuntimeError::new_err("a datagram was taken twice"));
            };
            this.wake_next(py)?;
            return message(py, datagram);
        };
        let taken = this.take_many(py, at_most);
        this.wake_next(py)?;
        let messages = taken.into_iter().map(|datagram| message(py, datagram));
        Ok(PyList::new(py, messages.collect::<PyResult<Vec<_>>>()?)?.into_any())
    }

    /// It raises instead of taking.
    pub(crate) fn leave(&self, py: Python<'_>, waiter: &Handle<Waiter>) -> PyResult<()> {
        let flow = self.flow.bind(py).get();
        flow.remove(py, waiter);
        flow.wake(py)
    }

    pub(crate) fn visit(&self, visit: Visit<'_>) -> c_int {
        visit(self.flow.as_ptr())
    }

    pub(crate) fn name(&self) -> &'static CStr {
        match self.form {
            Form::One => c"receive",
            Form::Next => c"__anext__",
            Form::Many(_) => c"receive_many",
        }
    }
}
