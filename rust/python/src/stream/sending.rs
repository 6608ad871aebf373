//! The outbound half of a stream: what nobody is before and the kernel takes goes there at once.

use std::ffi::c_int;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::call::{Call, Step, Work};
use super::descriptor::Descriptor;
use super::held::Held;
use super::invoke::{invoke, invoke_two};
use super::native::Visit;
use crate::tls::TlsEngine;

/// Sends in a row that the kernel took at once, before other tasks have their turn.
const STREAK: u32 = 64;

struct State {
    /// Our direction: nothing more may be sent.
    ended: bool,
    /// The kernel is: `writable` follows.
    full: bool,
    streak: u32,
    count: u64,
    /// Where the socket takes ciphertext, and this is all that is between.
    cipher: Option<Py<TlsEngine>>,
}

/// Gives bytes to the pipeline and the socket.
#[pyclass(frozen, subclass, module = "tieline._engine.stream")]
pub(crate) struct Sending {
    #[pyo3(get, name = "_flow")]
    flow: Py<PyAny>,
    /// Bytes that have left the pipeline and that the kernel did not take.
    #[pyo3(get, name = "_accepted")]
    accepted: Py<PyList>,
    /// Suspended calls.
    #[pyo3(get, name = "_writers")]
    writers: Py<PyList>,
    /// Of plaintext that goes through the pipeline at once.
    slice: usize,
    /// No subclass has a `send` of its own.
    plain: bool,
    state: Held<State>,
}

/// One send.
pub(crate) struct Send {
    sending: Py<Sending>,
    content: Py<PyAny>,
    end_of_stream: bool,
}

impl Send {
    pub(crate) fn begin<'py>(&self, py: Python<'py>) -> PyResult<Step<'py>> {
        let sending = self.sending.bind(py);
        let content = self.content.bind(py);
        if let Ok(content) = content.cast_exact::<PyBytes>()
            && !self.end_of_stream
            && let Some(step) = sending.get().direct(sending, content)?
        {
            return Ok(step);
        }
        let general = sending.call_method1(intern!(py, "_send"), (content, self.end_of_stream))?;
        Ok(Step::Hand(general))
    }

    pub(crate) fn visit(&self, visit: Visit<'_>) -> c_int {
        match visit(self.sending.as_ptr()) {
            0 => visit(self.content.as_ptr()),
            result => result,
        }
    }
}

impl Sending {
    /// Whether `send` is what is here.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Straight to the kernel, if nobody is before us and nothing is special.
    fn direct<'py>(
        &self,
        slf: &Bound<'py, Self>,
        content: &Bound<'py, PyBytes>,
    ) -> PyResult<Option<Step<'py>>> {
        let py = slf.py();
        let size = content.as_bytes().len();
        {
            let state = self.state.borrow(py);
            if state.ended || state.streak + 1 >= STREAK || size == 0 {
                return Ok(None);
            }
        }
        if !self.accepted.bind(py).is_empty() || !self.writers.bind(py).is_empty() {
            return Ok(None);
        }
        let flow = self.flow.bind(py);
        let socket = flow.getattr(intern!(py, "socket"))?;
        if socket.is_none() {
            return Ok(None);
        }
        let machine = flow.getattr(intern!(py, "machine"))?;
        let wire = if machine.is_none() {
            content.clone()
        } else if size > self.slice {
            return Ok(None);
        } else {
            let cipher = self
                .state
                .borrow(py)
                .cipher
                .as_ref()
                .map(|cipher| cipher.clone_ref(py));
            match cipher.and_then(|cipher| cipher.get().seal(py, content)) {
                Some(wire) => wire,
                None => invoke(&machine, intern!(py, "send"), content)?.cast_into::<PyBytes>()?,
            }
        };
        let taken = match give(&socket, &wire) {
            Ok(taken) => taken,
            Err(error) => {
                let told = slf.call_method1(intern!(py, "_refused"), (error.value(py),))?;
                return Err(PyErr::from_value(told));
            }
        };
        {
            let mut state = self.state.borrow(py);
            state.count += size as u64;
            state.streak += 1;
        }
        if taken < wire.as_bytes().len() {
            let taken = taken.into_pyobject(py)?;
            let rest = invoke_two(slf, intern!(py, "_keep"), &wire, &taken)?;
            return Ok(Some(Step::Hand(rest)));
        }
        Ok(Some(Step::Done(py.None().into_bound(py))))
    }
}

/// What the kernel takes of it.
fn give(socket: &Bound<'_, PyAny>, wire: &Bound<'_, PyBytes>) -> PyResult<usize> {
    if let Ok(descriptor) = socket.cast::<Descriptor>() {
        return descriptor.get().give(descriptor, wire);
    }
    invoke(socket, intern!(socket.py(), "send"), wire)?.extract()
}

#[pymethods]
impl Sending {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*arguments, **_options))]
    fn new(
        cls: &Bound<'_, PyType>,
        arguments: &Bound<'_, PyTuple>,
        _options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        const SLICE: usize = 128 * 1024; // eight TLS records
        let py = cls.py();
        let flow = arguments.get_item(0)?.unbind();
        let limit: usize = arguments.get_item(1)?.extract()?;
        let send = intern!(py, "send");
        Ok(Sending {
            plain: cls.getattr(send)?.is(py.get_type::<Self>().getattr(send)?),
            flow,
            accepted: PyList::empty(py).unbind(),
            writers: PyList::empty(py).unbind(),
            slice: limit.min(SLICE),
            state: Held::new(State {
                ended: false,
                full: false,
                streak: 0,
                count: 0,
                cipher: None,
            }),
        })
    }

    #[pyo3(signature = (content, *, end_of_stream=false, last_message=None, metadata=None, r#type=None))]
    fn send<'py>(
        slf: &Bound<'py, Self>,
        content: Bound<'py, PyAny>,
        end_of_stream: bool,
        last_message: Option<Bound<'py, PyAny>>,
        metadata: Option<Bound<'py, PyAny>>,
        r#type: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // What only other protocols have is told apart from what is nonsense.
        for (name, value) in [
            ("last_message", &last_message),
            ("metadata", &metadata),
            ("type", &r#type),
        ] {
            if value.is_some() {
                return slf.call_method1(intern!(slf.py(), "_unexpected"), (name,));
            }
        }
        let send = Send {
            sending: slf.clone().unbind(),
            content: content.unbind(),
            end_of_stream,
        };
        Call::make(slf.py(), Work::Send(send))
    }

    #[getter]
    fn _slice(&self) -> usize {
        self.slice
    }

    #[getter]
    fn ended(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).ended
    }

    #[setter]
    fn set_ended(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).ended = value;
    }

    #[getter]
    fn _full(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).full
    }

    #[setter(_full)]
    fn set_full(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).full = value;
    }

    #[getter]
    fn count(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).count
    }

    #[setter]
    fn set_count(&self, py: Python<'_>, value: u64) {
        self.state.borrow(py).count = value;
    }

    #[getter]
    fn cipher(&self, py: Python<'_>) -> Option<Py<TlsEngine>> {
        self.state
            .borrow(py)
            .cipher
            .as_ref()
            .map(|cipher| cipher.clone_ref(py))
    }

    #[setter]
    fn set_cipher(&self, py: Python<'_>, cipher: Option<Py<TlsEngine>>) {
        let before = std::mem::replace(&mut self.state.borrow(py).cipher, cipher);
        drop(before);
    }

    /// Count one more send that went at once. True when it is other tasks' turn.
    fn _rests(&self, py: Python<'_>) -> bool {
        let mut state = self.state.borrow(py);
        state.streak += 1;
        if state.streak >= STREAK {
            state.streak = 0;
            return true;
        }
        false
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.flow)?;
        visit.call(&self.accepted)?;
        visit.call(&self.writers)
    }
}
