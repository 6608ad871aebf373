//! The inbound half of a stream: calls are answered in the order in which they were made.

use std::collections::VecDeque;

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::call::{Call, Work};
use super::held::Held;
use super::inbox::ByteInbox;
use super::native::Handle;
use super::receive::{Form, Receive};
use super::waiter::{Waiter, Waiters};
use crate::tls::{Opened, TlsEngine};

/// A call in the queue.
struct Entry {
    waiter: Handle<Waiter>,
    minimum: usize,
    separator: Option<Py<PyBytes>>,
}

struct State {
    calls: VecDeque<Entry>,
    /// The peer is being pushed back.
    paused: bool,
    /// Of the inbox: where the first call's separator cannot begin.
    scanned: usize,
    count: u64,
    /// The peer has broken this direction off.
    error: Option<Py<PyAny>>,
    /// Where what the socket gives is ciphertext, and this is all that is between.
    cipher: Option<Py<TlsEngine>>,
}

/// Takes what arrives and hands it to the calls that wait.
#[pyclass(frozen, subclass, module = "tieline._engine.stream")]
pub(crate) struct Receiving {
    flow: Py<PyAny>,
    pub(super) inbox: Py<ByteInbox>,
    limit: usize,
    /// A subclass finds whole messages: what is enough, and what is taken, is its to say.
    pub(super) messages: bool,
    /// No subclass has a `receive` of its own.
    plain: bool,
    state: Held<State>,
}

impl Receiving {
    /// Queue a call. Its waiter is done when those before it are and it can be answered; None if that is at once.
    pub(super) fn enter(
        &self,
        slf: &Bound<'_, Self>,
        minimum: usize,
        separator: Option<&Py<PyBytes>>,
    ) -> PyResult<Option<Handle<Waiter>>> {
        let py = slf.py();
        let flow = self.flow.bind(py);
        let error = self
            .state
            .borrow(py)
            .error
            .as_ref()
            .map(|error| error.clone_ref(py));
        if let Some(error) = error
            && !self.answerable(slf, minimum, separator)?
        {
            let error = slf.call_method1(intern!(py, "_raisable"), (error,))?;
            return Err(PyErr::from_value(error));
        }
        if !flow.getattr(intern!(py, "usable"))?.is_truthy()?
            && (flow.getattr(intern!(py, "closed"))?.is_truthy()?
                || !self.state.borrow(py).calls.is_empty()
                || !self.answerable(slf, minimum, separator)?)
        {
            flow.call_method0(intern!(py, "need"))?; // raises, unless a socket may still come
        }
        let waiters = flow
            .getattr(intern!(py, "waiter"))?
            .cast_into::<Waiters>()?; // every driver's are made by these
        let waiter = waiters.get().make(py)?;
        let first = {
            let mut state = self.state.borrow(py);
            state.calls.push_back(Entry {
                waiter: waiter.clone_ref(py),
                minimum,
                separator: separator.map(|separator| separator.clone_ref(py)),
            });
            state.calls.len() == 1
        };
        if first {
            self.state.borrow(py).scanned = 0;
            // One that can be answered without a separator enters only if it is not the first, or at the end.
            let now = match (self.messages, separator) {
                (true, _) | (false, Some(_)) => self.answerable(slf, minimum, separator)?,
                (false, None) => self.inbox.get().ended(py),
            };
            if now {
                return Ok(None);
            }
            if self.state.borrow(py).paused {
                self.adjust(slf)?;
            }
        }
        Ok(Some(waiter))
    }

    pub(super) fn remove(&self, py: Python<'_>, waiter: &Handle<Waiter>) {
        let left = {
            let mut state = self.state.borrow(py);
            let place = state
                .calls
                .iter()
                .position(|entry| entry.waiter.as_ptr() == waiter.as_ptr());
            place.and_then(|place| state.calls.remove(place))
        };
        drop(left);
    }

    fn answerable(
        &self,
        slf: &Bound<'_, Self>,
        minimum: usize,
        separator: Option<&Py<PyBytes>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        if self.messages {
            return slf.call_method0(intern!(py, "_answerable"))?.is_truthy();
        }
        let held = self.inbox.get().held.borrow(py);
        if held.inbox.size() >= minimum || held.ended {
            return Ok(true);
        }
        let Some(separator) = separator else {
            return Ok(false);
        };
        let mut state = self.state.borrow(py);
        let separator = separator.as_bytes(py);
        match held.inbox.find(separator, state.scanned) {
            Some(found) => {
                state.scanned = found;
                Ok(true)
            }
            None => {
                state.scanned = (held.inbox.size() + 1).saturating_sub(separator.len());
                Ok(false)
            }
        }
    }

    /// It is this call's turn: how many bytes the first separator ends. Raises if it is not there in time.
    pub(super) fn separated(
        &self,
        slf: &Bound<'_, Self>,
        separator: &Bound<'_, PyBytes>,
        at_most: usize,
    ) -> PyResult<usize> {
        let py = slf.py();
        let (end, size) = {
            let held = self.inbox.get().held.borrow(py);
            let bytes = separator.as_bytes();
            let found = held.inbox.find(bytes, self.state.borrow(py).scanned);
            (found.map(|found| found + bytes.len()), held.inbox.size())
        };
        match end {
            Some(end) if end <= at_most => Ok(end),
            None if size < at_most => {
                let error = slf.call_method1(intern!(py, "_incomplete"), (py.None(),))?;
                Err(PyErr::from_value(error))
            }
            end => {
                let error =
                    slf.call_method1(intern!(py, "_too_late"), (separator, at_most, end))?;
                Err(PyErr::from_value(error))
            }
        }
    }

    /// The call whose turn it was is done: it is the next one's.
    pub(super) fn taken(&self, slf: &Bound<'_, Self>, count: usize) -> PyResult<()> {
        let py = slf.py();
        let (gone, more, paused) = {
            let mut state = self.state.borrow(py);
            state.count += count as u64;
            let gone = state.calls.pop_front();
            (gone, !state.calls.is_empty(), state.paused)
        };
        drop(gone);
        if more {
            self.turn(slf)
        } else if paused {
            self.adjust(slf)
        } else {
            Ok(())
        }
    }

    /// Another call may be the first now: wake it if it can be answered, and read on if it needs more.
    pub(super) fn turn(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        self.state.borrow(py).scanned = 0;
        if let Some(waiter) = self.first_answerable(slf)? {
            waiter.get(py).complete(waiter.bind(py), None)?;
        }
        if self.state.borrow(py).paused {
            self.adjust(slf)?;
        }
        Ok(())
    }

    /// The waiter of the first call, if that has not been woken and can be answered.
    fn first_answerable(&self, slf: &Bound<'_, Self>) -> PyResult<Option<Handle<Waiter>>> {
        let py = slf.py();
        let (waiter, minimum, separator) = {
            let state = self.state.borrow(py);
            let Some(first) = state.calls.front() else {
                return Ok(None);
            };
            let separator = first
                .separator
                .as_ref()
                .map(|separator| separator.clone_ref(py));
            (first.waiter.clone_ref(py), first.minimum, separator)
        };
        if !waiter.get(py).is_done(py) && self.answerable(slf, minimum, separator.as_ref())? {
            return Ok(Some(waiter));
        }
        Ok(None)
    }

    /// Read or push back, as the room says.
    fn adjust(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.call_method0(intern!(slf.py(), "_adjust")).map(drop)
    }

    pub(crate) fn take_in(&self, slf: &Bound<'_, Self>, piece: Bound<'_, PyBytes>) -> PyResult<()> {
        let py = slf.py();
        let inbox = self.inbox.get();
        inbox.add(piece);
        if let Some(waiter) = self.first_answerable(slf)? {
            waiter.get(py).resume(waiter.bind(py))?;
        }
        if inbox.size(py) > self.limit {
            self.adjust(slf)?;
        }
        Ok(())
    }

    /// What a socket has read, as it came.
    pub(crate) fn feed_in(&self, slf: &Bound<'_, Self>, data: Bound<'_, PyBytes>) -> PyResult<()> {
        let py = slf.py();
        let cipher = self
            .state
            .borrow(py)
            .cipher
            .as_ref()
            .map(|cipher| cipher.clone_ref(py));
        let Some(cipher) = cipher else {
            return self.take_in(slf, data);
        };
        let flow = self.flow.bind(py);
        match cipher.get().open(py, data.as_bytes())? {
            Opened::Plaintext {
                content,
                quiet: true,
            } if content.as_bytes().is_empty() => Ok(()),
            Opened::Plaintext {
                content,
                quiet: true,
            } => self.take_in(slf, content),
            Opened::Plaintext {
                content,
                quiet: false,
            } => flow
                .call_method1(intern!(py, "opened"), (content,))
                .map(drop),
            Opened::Failed => flow
                .call_method1(intern!(py, "received"), (PyBytes::new(py, b""),))
                .map(drop),
        }
    }

    /// Whether `receive` is what is here.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    fn call<'py>(slf: &Bound<'py, Self>, form: Form) -> PyResult<Bound<'py, PyAny>> {
        let receiving = slf.clone().unbind();
        Call::make(slf.py(), Work::Receive(Receive { receiving, form }))
    }
}

#[pymethods]
impl Receiving {
    /// A subclass that has `_is_whole` finds messages.
    #[new]
    #[classmethod]
    #[pyo3(signature = (*arguments, **_options))]
    fn new(
        cls: &Bound<'_, PyType>,
        arguments: &Bound<'_, PyTuple>,
        _options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let py = cls.py();
        let flow = arguments.get_item(0)?.unbind();
        let limit = arguments.get_item(1)?.extract()?;
        let messages = cls.hasattr(intern!(py, "_is_whole"))?;
        let receive = intern!(py, "receive");
        Ok(Receiving {
            plain: cls
                .getattr(receive)?
                .is(py.get_type::<Self>().getattr(receive)?),
            flow,
            inbox: Py::new(py, ByteInbox::new())?,
            limit,
            messages,
            state: Held::new(State {
                calls: VecDeque::new(),
                paused: false,
                scanned: 0,
                count: 0,
                error: None,
                cipher: None,
            }),
        })
    }

    // Called by the application

    #[pyo3(signature = (*, exactly=None, at_least=1, at_most=65536, as_=None, until=None))]
    fn receive<'py>(
        slf: &Bound<'py, Self>,
        exactly: Option<i64>,
        at_least: i64,
        at_most: i64,
        as_: Option<Bound<'py, PyAny>>,
        until: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let plain = as_.is_none() && until.is_none();
        let (minimum, at_most) = match exactly {
            Some(exactly) if plain && exactly >= 0 && at_least == 1 && at_most == 65536 => {
                (exactly, exactly)
            }
            None if plain && 1 <= at_least && at_least <= at_most => (at_least, at_most),
            _ => {
                let options = PyDict::new(py);
                for (name, value) in [
                    ("exactly", exactly),
                    ("at_least", Some(at_least)),
                    ("at_most", Some(at_most)),
                ] {
                    options.set_item(name, value)?;
                }
                options.set_item("as_", &as_)?;
                options.set_item("until", &until)?;
                let checked = slf.call_method(intern!(py, "_checked"), (), Some(&options))?;
                checked.extract()?
            }
        };
        let separator = until
            .map(|until| until.cast_into::<PyBytes>().map(Bound::unbind))
            .transpose()?;
        let form = Form::Bytes {
            minimum: minimum as usize,
            at_most: at_most as usize,
            strict: exactly.is_some() || as_.is_some(),
            separator,
            integer: as_.map(Bound::unbind),
        };
        Self::call(slf, form)
    }

    /// Receive into a buffer that was looked at before.
    fn _receive_into<'py>(
        slf: &Bound<'py, Self>,
        buffer: PyBuffer<u8>,
        strict: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::call(slf, Form::Into { buffer, strict })
    }

    fn next_piece<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::call(slf, Form::Piece)
    }

    fn __aiter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::call(slf, Form::Piece)
    }

    fn _message<'py>(slf: &Bound<'py, Self>, iterating: bool) -> PyResult<Bound<'py, PyAny>> {
        Self::call(slf, Form::Message { iterating })
    }

    // For subclasses

    #[getter]
    fn _flow(&self, py: Python<'_>) -> Py<PyAny> {
        self.flow.clone_ref(py)
    }

    #[getter]
    fn _limit(&self) -> usize {
        self.limit
    }

    #[getter]
    fn _paused(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).paused
    }

    #[setter(_paused)]
    fn set_paused(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).paused = value;
    }

    #[getter]
    fn inbox(&self, py: Python<'_>) -> Py<ByteInbox> {
        self.inbox.clone_ref(py)
    }

    #[getter]
    fn count(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).count
    }

    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state
            .borrow(py)
            .error
            .as_ref()
            .map(|error| error.clone_ref(py))
    }

    #[setter]
    fn set_error(&self, py: Python<'_>, error: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut self.state.borrow(py).error, error);
        drop(before);
    }

    fn _taken(slf: &Bound<'_, Self>, count: usize) -> PyResult<()> {
        slf.get().taken(slf, count)
    }

    fn _turn(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().turn(slf)
    }

    /// Bytes that the first call needs, 0 without one.
    fn _needed(&self, py: Python<'_>) -> usize {
        self.state
            .borrow(py)
            .calls
            .front()
            .map_or(0, |first| first.minimum)
    }

    /// A whole message may be there: the call that it answers runs in here.
    fn _wake(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().first_answerable(slf)? {
            Some(waiter) => waiter.get(slf.py()).resume(waiter.bind(slf.py())),
            None => Ok(()),
        }
    }

    // Called by the flow

    fn arrived(slf: &Bound<'_, Self>, piece: Bound<'_, PyBytes>) -> PyResult<()> {
        slf.get().take_in(slf, piece)
    }

    fn feed(slf: &Bound<'_, Self>, data: Bound<'_, PyBytes>) -> PyResult<()> {
        slf.get().feed_in(slf, data)
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

    /// Every pending call raises; what has already arrived stays for later ones.
    fn fail(slf: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let waiters: Vec<Handle<Waiter>> = {
            let state = slf.get().state.borrow(py);
            state
                .calls
                .iter()
                .map(|entry| entry.waiter.clone_ref(py))
                .collect()
        };
        for waiter in waiters {
            if !waiter.get(py).is_done(py) {
                let error = slf.call_method1(intern!(py, "_raisable"), (error,))?;
                waiter
                    .get(py)
                    .complete(waiter.bind(py), Some(error.unbind()))?;
            }
        }
        Ok(())
    }

    /// Whether a call waits.
    #[getter]
    pub(super) fn has_calls(&self, py: Python<'_>) -> bool {
        !self.state.borrow(py).calls.is_empty()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.flow)?;
        self.state
            .inspect(|state| {
                visit.call(&state.error)?;
                state
                    .calls
                    .iter()
                    .try_for_each(|entry| visit.call(entry.waiter.object()))
            })
            .unwrap_or(Ok(()))
    }
}
