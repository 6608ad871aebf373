//! `tieline._engine.websocket`. Its contract is src/tieline/_engine/websocket.pyi.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use tieline_engine::websocket::{
    Content, Decoder, Direction, Encoder, Event, Head, Limits, Opcode, Role, Violation,
    close_payload,
};

use crate::stream::{MessageInbox, Received};
use crate::tls::Input;

#[pymodule(submodule)]
pub(crate) mod websocket {
    use super::*;
    #[pymodule_export]
    use super::{WebSocketCodec, WebSocketEvent, frame};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.setattr("__name__", "tieline._engine.websocket")?;
        let failure = py.get_type::<WebSocketFailure>();
        failure.setattr("received", PyList::empty(py))?;
        failure.setattr("code", 1002)?;
        failure.setattr("expected", "")?;
        failure.setattr("got", "")?;
        failure.setattr("section", "")?;
        module.add("WebSocketFailure", failure)
    }
}

create_exception!(
    tieline._engine.websocket,
    WebSocketFailure,
    PyException,
    "The peer broke a rule. The close frame that says so is the caller's to send."
);

fn raise(received: &Bound<'_, PyList>, violation: Violation) -> PyErr {
    let py = received.py();
    let error = WebSocketFailure::new_err(violation.message);
    let value = error.value(py);
    let set = || {
        value.setattr("received", received)?;
        value.setattr("code", violation.code)?;
        value.setattr("expected", violation.expected)?;
        value.setattr("got", violation.got)?;
        value.setattr("section", violation.section)
    };
    match set() {
        Ok(()) => error,
        Err(other) => other,
    }
}

/// What was received, other than a whole message.
#[pyclass(frozen, get_all, module = "tieline._engine.websocket")]
pub(crate) struct WebSocketEvent {
    /// 8 close, 9 ping, 10 pong; 0 part of a message.
    opcode: u8,
    /// Of a ping, a pong or a part; the reason of a close.
    content: Py<PyAny>,
    /// Of a close; None if there was none.
    code: Option<u16>,
    /// This part is the message's last.
    last: bool,
}

fn content<'py>(py: Python<'py>, content: Content<'_>) -> Bound<'py, PyAny> {
    match content {
        Content::Text(text) => PyString::new(py, text).into_any(),
        Content::Binary(data) => PyBytes::new(py, data).into_any(),
    }
}

/// What one call of `receive` has found.
struct Found<'a, 'py> {
    py: Python<'py>,
    inbox: &'a MessageInbox,
    /// From the first on that is no message.
    others: Option<Bound<'py, PyList>>,
    metadata: &'a [Py<PyAny>; 2],
}

fn append(found: &mut Found<'_, '_>, event: Event<'_>) -> PyResult<()> {
    let py = found.py;
    let (opcode, what, code, last) = match event {
        Event::Message(message) => {
            let [text, binary] = found.metadata;
            let metadata = match message {
                Content::Text(_) => text,
                Content::Binary(_) => binary,
            };
            let size = message.as_bytes().len();
            let content = content(py, message);
            if let Some(others) = &found.others {
                return others.append((content, metadata, size));
            }
            let received = Received {
                content: content.unbind(),
                metadata: metadata.clone_ref(py),
                size,
            };
            found.inbox.add(py, received);
            return Ok(());
        }
        Event::Piece(piece, last) => (Opcode::Continuation, content(py, piece), None, last),
        Event::Ping(data) => (Opcode::Ping, PyBytes::new(py, data).into_any(), None, true),
        Event::Pong(data) => (Opcode::Pong, PyBytes::new(py, data).into_any(), None, true),
        Event::Close(code, reason) => {
            let reason = PyString::new(py, reason).into_any();
            (Opcode::Close, reason, code, true)
        }
    };
    let others = found.others.get_or_insert_with(|| PyList::empty(py));
    others.append(WebSocketEvent {
        opcode: opcode as u8,
        content: what.unbind(),
        code,
        last,
    })
}

struct Halves {
    decoder: Decoder,
    encoder: Encoder,
}

/// Both halves of one side.
#[pyclass(frozen, module = "tieline._engine.websocket")]
pub(crate) struct WebSocketCodec {
    halves: Mutex<Halves>,
    /// What goes with each text and with each binary message.
    metadata: [Py<PyAny>; 2],
}

#[pymethods]
impl WebSocketCodec {
    #[new]
    #[pyo3(signature = (
        text, binary, *, client, maximum_message_size, maximum_frame_size, batch, sending = None, receiving = None, level = 6,
        threshold = 0,
    ), text_signature = "(text, binary, *, client, maximum_message_size, maximum_frame_size, batch, sending=None, receiving=None, level=6, threshold=0)")]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn new(
        text: Py<PyAny>,
        binary: Py<PyAny>,
        client: bool,
        maximum_message_size: usize,
        maximum_frame_size: usize,
        batch: usize,
        sending: Option<(u8, bool)>,
        receiving: Option<(u8, bool)>,
        level: u8,
        threshold: usize,
    ) -> Self {
        let role = if client { Role::Client } else { Role::Server };
        let direction = |(window_bits, takeover)| Direction {
            window_bits,
            takeover,
        };
        let limits = Limits {
            message: maximum_message_size,
            frame: maximum_frame_size,
            batch,
        };
        let deflate = sending.map(|sending| (direction(sending), level));
        Self {
            halves: Mutex::new(Halves {
                decoder: Decoder::new(role, limits, receiving.map(direction)),
                encoder: Encoder::new(role, deflate, threshold),
            }),
            metadata: [text, binary],
        }
    }

    /// Take what arrived; messages go to the inbox, up to the first that is something else: that, and what comes behind it, is
    /// returned, messages with their metadata and size. None if there is nothing else, nor more than one call gives.
    #[pyo3(signature = (data, inbox, /))]
    fn receive<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        inbox: &Bound<'py, MessageInbox>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let data = Input::new(data)?;
        self.find(py, data.as_bytes(), inbox.get())
    }

    /// More was received than one call gives: the next call of `receive` gives more, whether or not more comes.
    #[getter]
    fn has_more(&self) -> PyResult<bool> {
        Ok(self.lock()?.decoder.has_more())
    }

    /// Part of a message or of a frame has come, and the rest has not.
    #[getter]
    fn incomplete(&self) -> PyResult<bool> {
        Ok(self.lock()?.decoder.is_between())
    }

    /// From the next call of `receive` on, give messages in parts as they come, or whole.
    #[pyo3(signature = (streaming, /))]
    fn set_streaming(&self, streaming: bool) -> PyResult<()> {
        self.lock()?.decoder.set_streaming(streaming);
        Ok(())
    }

    /// A message has been begun with `send`, and not ended.
    #[getter]
    fn unfinished(&self) -> PyResult<bool> {
        Ok(self.lock()?.encoder.is_between())
    }

    /// The frame of a message, text or binary, or of the next part of one: `last` ends it.
    #[pyo3(signature = (content, last = true, text = false, /))]
    fn send<'py>(
        &self,
        py: Python<'py>,
        content: &Bound<'py, PyAny>,
        last: bool,
        text: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut halves = self.lock()?;
        encode(py, &mut halves.encoder, content, last, text)
    }

    /// The frame of a ping (9) or pong (10) of at most 125 bytes.
    #[pyo3(signature = (opcode, data, /))]
    fn control<'py>(
        &self,
        py: Python<'py>,
        opcode: u8,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data)?;
        let data = data.as_bytes();
        let opcode = match opcode {
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(PyValueError::new_err("a control frame is a ping or a pong")),
        };
        if data.len() > 125 {
            let text = "the payload of a control frame has at most 125 bytes";
            return Err(PyValueError::new_err(text));
        }
        let mut halves = self.lock()?;
        let outgoing = halves.encoder.encode(opcode, data, true);
        PyBytes::new_with(py, outgoing.size(), |target| {
            outgoing.write(target);
            Ok(())
        })
    }

    /// The close frame.
    #[pyo3(signature = (code, reason, /))]
    fn close<'py>(
        &self,
        py: Python<'py>,
        code: Option<u16>,
        reason: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let Some(payload) = close_payload(code, reason) else {
            let text = "a close code is 1000 to 1003, 1007 to 1014 or 3000 to 4999, its reason at most 123 bytes";
            return Err(PyValueError::new_err(text));
        };
        let mut halves = self.lock()?;
        let outgoing = halves.encoder.encode(Opcode::Close, &payload, true);
        PyBytes::new_with(py, outgoing.size(), |target| {
            outgoing.write(target);
            Ok(())
        })
    }
}

impl WebSocketCodec {
    pub(crate) fn find<'py>(
        &self,
        py: Python<'py>,
        data: &[u8],
        inbox: &MessageInbox,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        self.found(py, inbox, |decoder, give| decoder.receive(data, give))
    }

    /// Read what is still to come of a large frame to where it is gathered. None if it does not come to that.
    pub(crate) fn fill(
        &self,
        py: Python<'_>,
        at_most: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize> + Send,
    ) -> PyResult<Option<io::Result<usize>>> {
        let mut halves = self.lock()?;
        let room = halves.decoder.room(at_most);
        Ok(room.map(|room| py.detach(|| read(room))))
    }

    /// What was read so counts.
    pub(crate) fn filled<'py>(
        &self,
        py: Python<'py>,
        count: usize,
        inbox: &MessageInbox,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        self.found(py, inbox, |decoder, give| decoder.filled(count, give))
    }

    fn found<'py>(
        &self,
        py: Python<'py>,
        inbox: &MessageInbox,
        receive: impl FnOnce(&mut Decoder, &mut dyn FnMut(Event<'_>)) -> Result<(), Violation>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let mut found = Found {
            py,
            inbox,
            others: None,
            metadata: &self.metadata,
        };
        let mut halves = self.lock()?;
        let mut outcome = Ok(());
        let result = receive(&mut halves.decoder, &mut |event| {
            if outcome.is_ok() {
                outcome = append(&mut found, event);
            }
        });
        outcome?;
        let list = |others: Option<_>| others.unwrap_or_else(|| PyList::empty(py));
        match result {
            Ok(()) if halves.decoder.has_more() => Ok(Some(list(found.others))),
            Ok(()) => Ok(found.others),
            Err(violation) => Err(raise(&list(found.others), violation)),
        }
    }

    /// The frame of a whole message.
    pub(crate) fn frame<'py>(&self, content: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let mut halves = self.lock()?;
        encode(content.py(), &mut halves.encoder, content, true, false)
    }

    /// What stands before a whole message of so many bytes, if the message itself follows as it is.
    pub(crate) fn head(&self, text: bool, size: usize) -> PyResult<Option<Head>> {
        let opcode = if text { Opcode::Text } else { Opcode::Binary };
        Ok(self.lock()?.encoder.head(opcode, size))
    }

    fn lock(&self) -> PyResult<MutexGuard<'_, Halves>> {
        match self.halves.try_lock() {
            Ok(halves) => Ok(halves),
            Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => Err(PyRuntimeError::new_err(
                "this WebSocket codec is in use by another thread",
            )),
        }
    }
}

fn encode<'py>(
    py: Python<'py>,
    encoder: &mut Encoder,
    content: &Bound<'py, PyAny>,
    last: bool,
    text: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut write = |opcode, data: &[u8]| {
        let outgoing = encoder.encode(opcode, data, last);
        PyBytes::new_with(py, outgoing.size(), |target| {
            outgoing.write(target);
            Ok(())
        })
    };
    match content.cast::<PyString>() {
        Ok(text) => write(Opcode::Text, text.to_str()?.as_bytes()),
        Err(_) => {
            let opcode = if text { Opcode::Text } else { Opcode::Binary };
            write(opcode, Input::new(content)?.as_bytes())
        }
    }
}

/// A whole message's frame as any server sends it, without compression.
#[pyfunction]
#[pyo3(signature = (content, /))]
fn frame<'py>(py: Python<'py>, content: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    encode(
        py,
        &mut Encoder::new(Role::Server, None, 0),
        content,
        true,
        false,
    )
}
