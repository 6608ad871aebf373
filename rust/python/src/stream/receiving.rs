//! The inbound half of a stream: calls are answered in the order in which they were made.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::Instant;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::call::{Call, Work};
use super::held::{Held, copy};
use super::inbox::ByteInbox;
use super::messages::MessageInbox;
use super::native::Handle;
use super::receive::{Form, Receive};
use super::records::{Layout, Records};
use super::waiter::{Waiter, Waiters};
use crate::tls::{Opened, TlsEngine};
use crate::websocket::WebSocketCodec;

/// A call in the queue.
pub(super) struct Entry {
    pub(super) waiter: Handle<Waiter>,
    pub(super) minimum: usize,
    pub(super) separator: Option<Py<PyBytes>>,
}

pub(super) struct State {
    pub(super) calls: VecDeque<Entry>,
    /// The peer is being pushed back.
    pub(super) paused: bool,
    /// Of the inbox: where the first call's separator cannot begin.
    pub(super) scanned: usize,
    pub(super) count: u64,
    /// The peer has broken this direction off.
    pub(super) error: Option<Py<PyAny>>,
    /// Messages that are whole, where something below finds them.
    pub(super) whole: Option<Py<MessageInbox>>,
    /// What finds them in the bytes of a socket.
    pub(super) codec: Option<Py<WebSocketCodec>>,
    /// Calls have turns, as some are for parts of a message.
    by_turns: bool,
    /// Bytes of the first record in the inbox, as soon as that is known.
    pub(super) next: Option<usize>,
    /// When the codec was last given bytes.
    pub(super) heard: Option<Instant>,
    /// Where what the socket gives is ciphertext, and this is all that is between.
    pub(super) cipher: Option<Py<TlsEngine>>,
    /// What calls wait by, while there is a socket and nothing was closed.
    pub(super) waiters: Option<Py<Waiters>>,
}

/// Takes what arrives and hands it to the calls that wait.
#[pyclass(frozen, subclass, module = "tieline._engine.stream")]
pub(crate) struct Receiving {
    pub(super) flow: Py<PyAny>,
    pub(super) inbox: Py<ByteInbox>,
    pub(super) limit: usize,
    /// A subclass finds whole messages: what is enough, and what is taken, is its to say.
    pub(super) messages: bool,
    /// Messages are given as they are in the inbox.
    pub(super) unchanged: bool,
    /// No subclass has a `receive` of its own.
    plain: bool,
    /// How records are, where those are the messages.
    pub(super) records: OnceLock<Records>,
    pub(super) state: Held<State>,
}

/// What a class finds are messages; they are given as they are; its `receive` is ours.
const MESSAGES: u8 = 1;
const UNCHANGED: u8 = 2;
const PLAIN: u8 = 4;

fn kind(cls: &Bound<'_, PyType>) -> PyResult<u8> {
    let py = cls.py();
    let own = py.get_type::<Receiving>();
    let receive = cls.getattr(intern!(py, "receive"))?;
    let plain = receive.is(own.getattr(intern!(py, "receive"))?)
        || receive.is(own.getattr(intern!(py, "receive_message"))?);
    let messages = cls.hasattr(intern!(py, "_is_whole"))?;
    let unchanged = !cls.hasattr(intern!(py, "_changed"))?;
    let when = |holds, flag| if holds { flag } else { 0 };
    Ok(when(messages, MESSAGES) | when(unchanged, UNCHANGED) | when(plain, PLAIN))
}

impl Receiving {
    /// Read or push back, as the room says.
    pub(super) fn adjust(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.call_method0(intern!(slf.py(), "_adjust")).map(drop)
    }

    pub(crate) fn take_in(&self, slf: &Bound<'_, Self>, piece: Bound<'_, PyBytes>) -> PyResult<()> {
        let py = slf.py();
        let codec = copy(py, &self.state.borrow(py).codec);
        if let Some(codec) = codec {
            return self.decode(slf, codec.get(), &piece);
        }
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
        let cipher = copy(py, &self.state.borrow(py).cipher);
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

    fn message<'py>(slf: &Bound<'py, Self>, iterating: bool) -> PyResult<Bound<'py, PyAny>> {
        if slf.get().state.borrow(slf.py()).by_turns {
            return slf.call_method1(intern!(slf.py(), "_whole"), (iterating,));
        }
        Self::call(slf, Form::Message { iterating })
    }
}

#[pymethods]
impl Receiving {
    /// What the class can do is looked at once: to find nothing costs the interpreter an exception.
    #[classmethod]
    #[pyo3(signature = (**_options))]
    fn __init_subclass__(
        cls: &Bound<'_, PyType>,
        _options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        cls.setattr(intern!(cls.py(), "_kind"), kind(cls)?)
    }

    #[classattr]
    fn _kind() -> u8 {
        PLAIN | UNCHANGED
    }

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
        let kind: u8 = cls.getattr(intern!(py, "_kind"))?.extract()?;
        Ok(Receiving {
            messages: kind & MESSAGES != 0,
            unchanged: kind & UNCHANGED != 0,
            plain: kind & PLAIN != 0,
            flow,
            inbox: Py::new(py, ByteInbox::new())?,
            limit,
            records: OnceLock::new(),
            state: Held::new(State {
                calls: VecDeque::new(),
                paused: false,
                scanned: 0,
                count: 0,
                error: None,
                cipher: None,
                whole: None,
                codec: None,
                by_turns: false,
                next: None,
                heard: None,
                waiters: None,
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

    #[pyo3(signature = (*, exactly=None, at_least=None, at_most=None, as_=None, until=None))]
    fn receive_message<'py>(
        slf: &Bound<'py, Self>,
        exactly: Option<Bound<'py, PyAny>>,
        at_least: Option<Bound<'py, PyAny>>,
        at_most: Option<Bound<'py, PyAny>>,
        as_: Option<Bound<'py, PyAny>>,
        until: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // What only streams have is told apart from what is nonsense.
        for (name, value) in [
            ("exactly", &exactly),
            ("at_least", &at_least),
            ("at_most", &at_most),
            ("as_", &as_),
            ("until", &until),
        ] {
            if value.is_some() {
                return slf.call_method1(intern!(slf.py(), "_unexpected"), (name,));
            }
        }
        Self::message(slf, false)
    }

    fn next_piece<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        match slf.get().messages {
            true => Self::message(slf, true),
            false => Self::call(slf, Form::Piece),
        }
    }

    fn __aiter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::next_piece(slf)
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

    /// Of bytes, or of messages if there is one.
    #[getter]
    fn inbox(&self, py: Python<'_>) -> Py<PyAny> {
        match self.whole(py) {
            Some(whole) => whole.into_any(),
            None => self.inbox.clone_ref(py).into_any(),
        }
    }

    /// What calls wait by from now on: None if they may not, or not before somebody has been asked.
    #[pyo3(signature = (waiters, /))]
    fn _link(&self, py: Python<'_>, waiters: Option<Py<Waiters>>) {
        let before = std::mem::replace(&mut self.state.borrow(py).waiters, waiters);
        drop(before);
    }

    /// The same, for a socket that is new. Whether it can simply be read from: no call waits, and nothing has come before.
    #[pyo3(signature = (waiters, /))]
    fn _begin(&self, py: Python<'_>, waiters: Py<Waiters>) -> bool {
        self._link(py, Some(waiters));
        let whole = self.whole(py).is_some_and(|whole| whole.get().size(py) > 0);
        let quiet = !whole && self.inbox.get().size(py) == 0 && !self.has_calls(py);
        if quiet {
            self.state.borrow(py).paused = false;
        }
        quiet
    }

    /// Of the next socket: where its messages are, and what finds them if bytes come straight from it.
    #[pyo3(signature = (whole, codec=None))]
    fn _adopt(&self, py: Python<'_>, whole: Py<MessageInbox>, codec: Option<Py<WebSocketCodec>>) {
        let before = {
            let mut state = self.state.borrow(py);
            state.heard = None;
            let before = state.whole.replace(whole);
            (before, std::mem::replace(&mut state.codec, codec))
        };
        drop(before);
    }

    /// Messages are records, which a codec decodes.
    #[pyo3(signature = (codec, layout, decode=None, metadata=None))]
    fn _decodes(
        &self,
        codec: Py<PyAny>,
        layout: Layout,
        decode: Option<Py<PyAny>>,
        metadata: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let values = decode.zip(metadata);
        let records = Records::new(codec, layout, values)?;
        let before = self.records.set(records);
        before.map_err(|_| PyRuntimeError::new_err("there is a codec already"))
    }

    #[getter]
    fn _next(&self, py: Python<'_>) -> Option<usize> {
        self.state.borrow(py).next
    }

    #[setter(_next)]
    fn set_next(&self, py: Python<'_>, value: Option<usize>) {
        self.state.borrow(py).next = value;
    }

    /// Seconds since the codec was given bytes; None if it never was.
    #[getter]
    fn silence(&self, py: Python<'_>) -> Option<f64> {
        let heard = self.state.borrow(py).heard?;
        Some(heard.elapsed().as_secs_f64())
    }

    #[getter]
    fn _by_turns(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).by_turns
    }

    #[setter(_by_turns)]
    fn set_by_turns(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).by_turns = value;
    }

    #[getter]
    fn count(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).count
    }

    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        copy(py, &self.state.borrow(py).error)
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
        copy(py, &self.state.borrow(py).cipher)
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
        if let Some(records) = self.records.get() {
            records.visit(&visit)?;
        }
        self.state
            .inspect(|state| {
                visit.call(&state.error)?;
                visit.call(&state.waiters)?;
                visit.call(&state.whole)?;
                visit.call(&state.codec)?;
                visit.call(&state.cipher)?;
                state
                    .calls
                    .iter()
                    .try_for_each(|entry| visit.call(entry.waiter.object()))
            })
            .unwrap_or(Ok(()))
    }
}
