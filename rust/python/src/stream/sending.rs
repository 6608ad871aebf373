//! The outbound half of a stream: what nobody is before and the kernel takes goes there at once.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::time::Instant;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::call::{Call, Step, Work};
use super::descriptor::Descriptor;
use super::held::{Held, copy};
use super::invoke::{invoke, invoke_two};
use super::native::Visit;
use super::outgoing::Values;
use crate::quic::QuicStream;
use crate::tls::TlsEngine;
use crate::websocket::WebSocketCodec;

/// Sends in a row that the kernel took at once, before other tasks have their turn.
pub(super) const STREAK: u32 = 64;

/// Records of so many bytes wait for each other, about a packet: with more the peer would wait for the last of them.
const GATHER: usize = 1200;

pub(super) struct State {
    /// Our direction: nothing more may be sent.
    pub(super) ended: bool,
    /// The kernel is: `writable` follows.
    pub(super) full: bool,
    pub(super) streak: u32,
    pub(super) count: u64,
    /// Of what is accepted.
    pub(super) size: usize,
    /// What has gathered leaves at the loop's next turn.
    pub(super) due: bool,
    /// Records that have been sent since anything was taken, and what had been taken then.
    pub(super) row: u32,
    pub(super) taken: u64,
    /// When the last of them was.
    pub(super) last: Option<Instant>,
    /// What makes the frames of messages, where those are a WebSocket's.
    pub(super) codec: Option<Py<WebSocketCodec>>,
    /// Where the socket takes ciphertext, and this is all that is between.
    pub(super) cipher: Option<Py<TlsEngine>>,
    /// Where bytes go, while there is a socket.
    link: Option<Link>,
}

/// A list of Python's, as soon as somebody asks for it: most streams never have anything in theirs.
#[derive(Default)]
pub(super) struct Queue(OnceLock<Py<PyList>>);

impl Queue {
    pub(super) fn is_empty(&self, py: Python<'_>) -> bool {
        self.0.get().is_none_or(|list| list.bind(py).is_empty())
    }

    pub(super) fn list<'py>(&self, py: Python<'py>) -> &Bound<'py, PyList> {
        self.0.get_or_init(|| PyList::empty(py).unbind()).bind(py)
    }
}

struct Link {
    socket: Py<PyAny>,
    /// What they go through.
    machine: Option<Py<PyAny>>,
}

/// The same for a call: a socket, and what is before it.
pub(super) type Linked<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

/// Gives bytes to the pipeline and the socket.
#[pyclass(frozen, subclass, module = "tieline._engine.stream")]
pub(crate) struct Sending {
    #[pyo3(get, name = "_flow")]
    pub(super) flow: Py<PyAny>,
    /// Bytes that have left the pipeline and that the kernel did not take.
    pub(super) accepted: Queue,
    /// Suspended calls.
    pub(super) writers: Queue,
    /// Bytes that are accepted while the kernel is full.
    #[pyo3(get, name = "_limit")]
    limit: usize,
    /// Of plaintext that goes through the pipeline at once.
    pub(super) slice: usize,
    /// Bytes of records that wait for each other.
    pub(super) gather: usize,
    /// What makes the bytes of values, with the codec and the most bytes that they may have.
    pub(super) values: OnceLock<Values>,
    /// No subclass has a `send` of its own.
    plain: bool,
    pub(super) state: Held<State>,
}

/// One send.
pub(crate) struct Send {
    sending: Py<Sending>,
    content: Py<PyAny>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Bytes { end_of_stream: bool },
    Message,
    Value { last_message: bool },
}

impl Send {
    pub(crate) fn begin<'py>(&self, py: Python<'py>) -> PyResult<Step<'py>> {
        let sending = self.sending.bind(py);
        let content = self.content.bind(py);
        let general = match self.kind {
            Kind::Message => {
                if let Some(step) = sending.get().message(sending, content)? {
                    return Ok(step);
                }
                invoke(sending, intern!(py, "_send_message"), content)?
            }
            Kind::Value { last_message } => {
                return sending.get().value(sending, content, last_message);
            }
            Kind::Bytes { end_of_stream } => {
                if let Ok(content) = content.cast_exact::<PyBytes>()
                    && !end_of_stream
                    && let Some(step) = sending.get().direct(sending, content)?
                {
                    return Ok(step);
                }
                sending.call_method1(intern!(py, "_send"), (content, end_of_stream))?
            }
        };
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
    fn call<'py>(
        slf: &Bound<'py, Self>,
        content: Bound<'py, PyAny>,
        kind: Kind,
    ) -> PyResult<Bound<'py, PyAny>> {
        let send = Send {
            sending: slf.clone().unbind(),
            content: content.unbind(),
            kind,
        };
        Call::make(slf.py(), Work::Send(send))
    }

    /// What only other protocols have is told apart from what is nonsense.
    fn require_none(
        slf: &Bound<'_, Self>,
        others: &[(&str, Option<Bound<'_, PyAny>>)],
    ) -> PyResult<()> {
        match others.iter().find(|(_, value)| value.is_some()) {
            None => Ok(()),
            Some((name, _)) => slf
                .call_method1(intern!(slf.py(), "_unexpected"), (name,))
                .map(drop),
        }
    }

    /// Whether `send` is what is here.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether somebody is before a send that is made now, or it is other tasks' turn.
    fn is_behind(&self, py: Python<'_>) -> bool {
        let state = self.state.borrow(py);
        state.ended || state.streak + 1 >= STREAK || self.waits(py)
    }

    /// Whether something waits for the kernel, or for a socket.
    fn waits(&self, py: Python<'_>) -> bool {
        !self.accepted.is_empty(py) || !self.writers.is_empty(py)
    }

    /// Straight to the kernel, if nobody is before us and nothing is special.
    fn direct<'py>(
        &self,
        slf: &Bound<'py, Self>,
        content: &Bound<'py, PyBytes>,
    ) -> PyResult<Option<Step<'py>>> {
        let py = slf.py();
        let size = content.as_bytes().len();
        if size == 0 || self.is_behind(py) {
            return Ok(None);
        }
        let mut link = self.link(py);
        if link.is_none() && slf.getattr(intern!(py, "error"))?.is_none() {
            self.flow.call_method0(py, intern!(py, "need"))?; // on one machine that connects
            link = self.link(py);
            if self.is_behind(py) {
                return Ok(None);
            }
        }
        let Some((socket, machine)) = link else {
            return Ok(None);
        };
        let wire = match machine {
            None => content.clone(),
            Some(_) if size > self.slice => return Ok(None),
            Some(machine) => self.through(&machine, content)?,
        };
        self.deliver(slf, &socket, &wire, size).map(Some)
    }

    /// Where bytes go now. None without a socket.
    pub(super) fn link<'py>(&self, py: Python<'py>) -> Option<Linked<'py>> {
        let state = self.state.borrow(py);
        let link = state.link.as_ref()?;
        let machine = link
            .machine
            .as_ref()
            .map(|machine| machine.bind(py).clone());
        Some((link.socket.bind(py).clone(), machine))
    }

    /// What the machine makes of it.
    pub(super) fn through<'py>(
        &self,
        machine: &Bound<'py, PyAny>,
        content: &Bound<'py, PyBytes>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let py = machine.py();
        let cipher = copy(py, &self.state.borrow(py).cipher);
        match cipher.and_then(|cipher| cipher.get().seal(py, content)) {
            Some(wire) => Ok(wire),
            None => Ok(invoke(machine, intern!(py, "send"), content)?.cast_into::<PyBytes>()?),
        }
    }

    /// What a call raises that the kernel has refused.
    pub(super) fn refused(&self, slf: &Bound<'_, Self>, error: &PyErr) -> PyResult<PyErr> {
        let py = slf.py();
        let told = slf.call_method1(intern!(py, "_refused"), (error.value(py),))?;
        Ok(PyErr::from_value(told))
    }

    /// Give it to the kernel: it stands for `size` bytes.
    pub(super) fn deliver<'py>(
        &self,
        slf: &Bound<'py, Self>,
        socket: &Bound<'py, PyAny>,
        wire: &Bound<'py, PyBytes>,
        size: usize,
    ) -> PyResult<Step<'py>> {
        let py = slf.py();
        let taken = match give(socket, wire) {
            Ok(taken) => taken,
            Err(error) => return Err(self.refused(slf, &error)?),
        };
        {
            let mut state = self.state.borrow(py);
            state.count += size as u64;
            state.streak += 1;
        }
        if taken < wire.as_bytes().len() {
            let taken = taken.into_pyobject(py)?;
            let rest = invoke_two(slf, intern!(py, "_keep"), wire, &taken)?;
            return Ok(Step::Hand(rest));
        }
        Ok(Step::Done(py.None().into_bound(py)))
    }
}

/// What the kernel takes of it.
fn give(socket: &Bound<'_, PyAny>, wire: &Bound<'_, PyBytes>) -> PyResult<usize> {
    if let Ok(descriptor) = socket.cast::<Descriptor>() {
        return descriptor.get().give(descriptor, wire);
    }
    if let Ok(stream) = socket.cast::<QuicStream>() {
        return stream.get().give(stream, wire);
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
        let (own, send) = (py.get_type::<Self>(), cls.getattr(intern!(py, "send"))?);
        Ok(Sending {
            plain: send.is(own.getattr(intern!(py, "send"))?)
                || send.is(own.getattr(intern!(py, "send_message"))?)
                || send.is(own.getattr(intern!(py, "send_value"))?),
            flow,
            accepted: Queue::default(),
            writers: Queue::default(),
            limit,
            slice: limit.min(SLICE),
            gather: limit.min(GATHER),
            values: OnceLock::new(),
            state: Held::new(State {
                ended: false,
                full: false,
                streak: 0,
                count: 0,
                cipher: None,
                size: 0,
                due: false,
                row: 0,
                taken: 0,
                last: None,
                codec: None,
                link: None,
            }),
        })
    }

    /// Where bytes go from now on: a socket, and what they go through before it. Without a socket, nowhere. Whether something
    /// waits for that.
    #[pyo3(signature = (socket, machine, /))]
    fn _link(&self, py: Python<'_>, socket: Option<Py<PyAny>>, machine: Option<Py<PyAny>>) -> bool {
        let link = socket.map(|socket| Link { socket, machine });
        let before = {
            let mut state = self.state.borrow(py);
            state.full = false;
            std::mem::replace(&mut state.link, link)
        };
        drop(before);
        self.waits(py)
    }

    #[getter]
    fn _accepted<'py>(&self, py: Python<'py>) -> Bound<'py, PyList> {
        self.accepted.list(py).clone()
    }

    #[getter]
    fn _writers<'py>(&self, py: Python<'py>) -> Bound<'py, PyList> {
        self.writers.list(py).clone()
    }

    /// Whether something is accepted, or a call suspended.
    #[getter]
    fn _waits(&self, py: Python<'_>) -> bool {
        self.waits(py)
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
        let others = [
            ("last_message", last_message),
            ("metadata", metadata),
            ("type", r#type),
        ];
        Self::require_none(slf, &others)?;
        Self::call(slf, content, Kind::Bytes { end_of_stream })
    }

    #[pyo3(signature = (content, *, end_of_stream=None, last_message=None, metadata=None, r#type=None))]
    fn send_message<'py>(
        slf: &Bound<'py, Self>,
        content: Bound<'py, PyAny>,
        end_of_stream: Option<Bound<'py, PyAny>>,
        last_message: Option<Bound<'py, PyAny>>,
        metadata: Option<Bound<'py, PyAny>>,
        r#type: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let others = [
            ("end_of_stream", end_of_stream),
            ("last_message", last_message),
            ("metadata", metadata),
            ("type", r#type),
        ];
        Self::require_none(slf, &others)?;
        Self::call(slf, content, Kind::Message)
    }

    #[pyo3(signature = (content, *, last_message=false, end_of_stream=None, metadata=None, r#type=None))]
    fn send_value<'py>(
        slf: &Bound<'py, Self>,
        content: Bound<'py, PyAny>,
        last_message: bool,
        end_of_stream: Option<Bound<'py, PyAny>>,
        metadata: Option<Bound<'py, PyAny>>,
        r#type: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let others = [
            ("end_of_stream", end_of_stream),
            ("metadata", metadata),
            ("type", r#type),
        ];
        Self::require_none(slf, &others)?;
        Self::call(slf, content, Kind::Value { last_message })
    }

    /// Values are encoded by this function, and sent behind their lengths of 32 bits.
    fn _encodes(&self, codec: Py<PyAny>, encode: Py<PyAny>, limit: usize) -> PyResult<()> {
        let values = Values {
            codec,
            encode,
            limit,
        };
        let before = self.values.set(values);
        before.map_err(|_| PyRuntimeError::new_err("there is a codec already"))
    }

    /// Keep a record until there are more, if it is to wait for them.
    fn _gathers(slf: &Bound<'_, Self>, wire: &Bound<'_, PyBytes>) -> PyResult<bool> {
        match slf.get().link(slf.py()) {
            Some((socket, _)) => slf.get().gathers(slf, &socket, wire),
            None => Ok(false),
        }
    }

    #[getter]
    fn _size(&self, py: Python<'_>) -> usize {
        self.state.borrow(py).size
    }

    #[setter(_size)]
    fn set_size(&self, py: Python<'_>, value: usize) {
        self.state.borrow(py).size = value;
    }

    #[getter]
    fn _due(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).due
    }

    #[setter(_due)]
    fn set_due(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).due = value;
    }

    /// What makes the frames of messages on the next socket.
    fn _adopt(&self, py: Python<'_>, codec: Py<WebSocketCodec>) {
        let before = self.state.borrow(py).codec.replace(codec);
        drop(before);
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
        copy(py, &self.state.borrow(py).cipher)
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
        visit.call(self.accepted.0.get())?;
        visit.call(self.writers.0.get())?;
        if let Some(values) = self.values.get() {
            visit.call(&values.codec)?;
            visit.call(&values.encode)?;
        }
        self.state
            .inspect(|state| {
                visit.call(&state.codec)?;
                visit.call(&state.cipher)?;
                if let Some(link) = &state.link {
                    visit.call(&link.socket)?;
                    visit.call(&link.machine)?;
                }
                Ok(())
            })
            .unwrap_or(Ok(()))
    }
}
