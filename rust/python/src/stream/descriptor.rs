//! A stream socket's descriptor: one system call for one message, read or written, and nothing of Python's around it.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::ManuallyDrop;
use std::net::TcpStream;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::held::{Held, copy};
use super::invoke::invoke;
use super::readers;
use super::receiving::Receiving;
use crate::polling::{Policy, note, policy};

/// Reads and writes of up to so many bytes are made here: they take less time than giving the interpreter's lock away and
/// getting it back. Larger ones are the socket module's, which lets other threads run meanwhile.
pub(crate) const SMALL: usize = 32 * 1024;
/// What one read takes of a large message.
const LARGEST: usize = 1024 * 1024;

thread_local! {
    /// What is read lands here and is copied once, into bytes of its size.
    static ARRIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; SMALL].into_boxed_slice());
}

#[cfg(unix)]
pub(crate) type Raw = std::os::fd::RawFd;
#[cfg(windows)]
pub(crate) type Raw = std::os::windows::io::RawSocket;

/// A socket that is open.
struct Open {
    raw: Raw,
    /// The socket module's, which moves large pieces, and closes it.
    sock: Py<PyAny>,
    /// What tells that there is something to read.
    readers: Py<PyAny>,
}

struct State {
    /// None before it is opened and after it is closed.
    open: Option<Open>,
    /// It is told when there is something to read.
    reading: bool,
    /// The loop tells when there is room, and is to be told before the socket is closed.
    writing: bool,
    /// The peer has ended its direction.
    ended: bool,
    /// What the system told when the connection was made, until it is asked for.
    told: Option<Py<PyBytes>>,
    handler: Option<Py<PyAny>>,
    /// Takes what arrives, instead of the handler.
    sink: Option<Py<Receiving>>,
    /// Bytes that the next read has room for; one that is as large, or smaller than `little`, changes that.
    size: usize,
    little: usize,
    /// To be told of each piece.
    watched: bool,
    /// Whether the loop is to stay awake after something has come.
    busy_poll: Policy,
}

/// What reads, writes, watches and closes a stream socket that the subclass has opened.
#[pyclass(frozen, subclass, weakref, module = "tieline._engine.stream")]
pub(crate) struct Descriptor {
    state: Held<State>,
}

/// The descriptor, for a call that does not close it.
#[expect(unsafe_code)]
fn stream(raw: Raw) -> ManuallyDrop<TcpStream> {
    // SAFETY: the socket object, which owns the descriptor, is ours and closed in `close` only, which forgets the descriptor
    // before, and `ManuallyDrop` never closes it. `TcpStream` only calls `recv` and `send` on it, which is right for every
    // stream socket.
    unsafe {
        #[cfg(unix)]
        let stream = std::os::fd::FromRawFd::from_raw_fd(raw);
        #[cfg(windows)]
        let stream = std::os::windows::io::FromRawSocket::from_raw_socket(raw);
        ManuallyDrop::new(stream)
    }
}

pub(crate) fn raise(py: Python<'_>, error: &io::Error) -> PyErr {
    let number = error.raw_os_error().unwrap_or_default();
    let text = py
        .import(intern!(py, "os"))
        .and_then(|os| os.call_method1(intern!(py, "strerror"), (number,)));
    match text {
        Ok(text) => PyOSError::new_err((number, text.unbind())), // of the subclass that belongs to the number
        Err(error) => error,
    }
}

pub(crate) fn later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl Descriptor {
    /// What the kernel takes of it now. The subclass hears if that is not everything.
    pub(crate) fn give(&self, slf: &Bound<'_, Self>, data: &Bound<'_, PyBytes>) -> PyResult<usize> {
        let py = slf.py();
        let bytes = data.as_bytes();
        if bytes.len() > SMALL {
            return self.give_large(slf, data);
        }
        let raw = self.raw(py).ok_or_else(closed)?;
        let count = match (&*stream(raw)).write(bytes) {
            Ok(count) => count,
            Err(error) if later(&error) => 0,
            Err(error) => return Err(raise(py, &error)),
        };
        if count < bytes.len() {
            slf.call_method0(intern!(py, "_wait_writable"))?;
        }
        Ok(count)
    }

    /// The same of two pieces that lie apart, the second of which is large.
    pub(crate) fn give_both(
        &self,
        slf: &Bound<'_, Self>,
        head: &[u8],
        data: &[u8],
    ) -> PyResult<usize> {
        let py = slf.py();
        let raw = self.raw(py).ok_or_else(closed)?;
        let pieces = [IoSlice::new(head), IoSlice::new(data)];
        let count = match py.detach(|| (&*stream(raw)).write_vectored(&pieces)) {
            Ok(count) => count,
            Err(error) if later(&error) => 0,
            Err(error) => return Err(raise(py, &error)),
        };
        if count < head.len() + data.len() {
            slf.call_method0(intern!(py, "_wait_writable"))?;
        }
        Ok(count)
    }

    fn give_large(&self, slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let py = slf.py();
        let sock = self.sock(py).ok_or_else(closed)?;
        let count = match invoke(sock.bind(py), intern!(py, "send"), data) {
            Ok(count) => count.extract()?,
            Err(error) if blocked(py, &error) => 0,
            Err(error) => return Err(error),
        };
        if count < data.len()? {
            slf.call_method0(intern!(py, "_wait_writable"))?;
        }
        Ok(count)
    }

    /// Read, and hand on what came.
    fn read_once(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (size, little, watched, busy_poll) = {
            let state = self.state.borrow(py);
            (state.size, state.little, state.watched, state.busy_poll)
        };
        if size > SMALL && self.read_on(slf, watched)? {
            return Ok(());
        }
        let data = match self.read(py, size) {
            Ok(None) => return Ok(()),
            Ok(Some(data)) => data,
            Err(error) if error.is_instance_of::<PyOSError>(py) => {
                slf.call_method1(intern!(py, "_fail"), (error.value(py),))?;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        note(slf, busy_poll)?;
        let count = data.as_bytes().len();
        if count == size || count < little {
            slf.call_method1(intern!(py, "_resize"), (count,))?;
        }
        if count == 0 {
            return self.ended_by_peer(slf);
        }
        if watched {
            slf.call_method0(intern!(py, "_arrived"))?;
        }
        let (sink, handler) = {
            let state = self.state.borrow(py);
            match &state.sink {
                Some(sink) => (Some(sink.clone_ref(py)), None),
                None => (None, copy(py, &state.handler)),
            }
        };
        if let Some(sink) = sink {
            sink.get().feed_in(sink.bind(py), data)?;
        } else if let Some(handler) = handler {
            invoke(handler.bind(py), intern!(py, "received"), &data)?;
        }
        Ok(())
    }

    /// Read what is still to come of a large message to where it is gathered. False if it does not come to that.
    fn read_on(&self, slf: &Bound<'_, Self>, watched: bool) -> PyResult<bool> {
        let py = slf.py();
        let (sink, raw, busy_poll) = {
            let state = self.state.borrow(py);
            match (&state.sink, &state.open) {
                (Some(sink), Some(open)) => (sink.clone_ref(py), open.raw, state.busy_poll),
                _ => return Ok(false),
            }
        };
        let receiving = sink.get();
        let Some(outcome) = receiving.fill(py, LARGEST, |room| (&*stream(raw)).read(room))? else {
            return Ok(false);
        };
        match outcome {
            Ok(0) => self.ended_by_peer(slf)?,
            Ok(count) => {
                note(slf, busy_poll)?;
                if watched {
                    slf.call_method0(intern!(py, "_arrived"))?;
                }
                receiving.filled(sink.bind(py), count)?;
            }
            Err(error) if later(&error) => {}
            Err(error) => {
                let error = raise(py, &error);
                slf.call_method1(intern!(py, "_fail"), (error.value(py),))?;
            }
        }
        Ok(true)
    }

    fn ended_by_peer(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        self.state.borrow(py).ended = true;
        self.unwatch(py)?;
        let handler = copy(py, &self.state.borrow(py).handler);
        if let Some(handler) = handler {
            handler.call_method0(py, intern!(py, "received_end"))?;
        }
        Ok(())
    }

    fn watch(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (raw, readers) = {
            let mut state = self.state.borrow(py);
            match &state.open {
                Some(open) if !state.reading && !state.ended => {
                    let found = (open.raw, open.readers.clone_ref(py));
                    state.reading = true;
                    found
                }
                _ => return Ok(()),
            }
        };
        readers::add(
            readers.bind(py),
            raw,
            slf.getattr(intern!(py, "_readable"))?,
        )
    }

    fn unwatch(&self, py: Python<'_>) -> PyResult<()> {
        let (raw, readers) = {
            let mut state = self.state.borrow(py);
            match &state.open {
                Some(open) if state.reading => {
                    let found = (open.raw, open.readers.clone_ref(py));
                    state.reading = false;
                    found
                }
                _ => return Ok(()),
            }
        };
        readers::remove(readers.bind(py), raw)
    }

    fn raw(&self, py: Python<'_>) -> Option<Raw> {
        self.state.borrow(py).open.as_ref().map(|open| open.raw)
    }

    fn sock(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.state.borrow(py);
        state.open.as_ref().map(|open| open.sock.clone_ref(py))
    }

    /// What has arrived; None if that is nothing yet.
    fn read<'py>(&self, py: Python<'py>, size: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if size > SMALL {
            let sock = self.sock(py).ok_or_else(closed)?;
            let size = size.into_pyobject(py)?;
            return match invoke(sock.bind(py), intern!(py, "recv"), &size) {
                Ok(data) => Ok(Some(data.cast_into::<PyBytes>()?)),
                Err(error) if blocked(py, &error) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let raw = self.raw(py).ok_or_else(closed)?;
        ARRIVED.with_borrow_mut(|buffer| match (&*stream(raw)).read(&mut buffer[..size]) {
            Ok(count) => Ok(Some(PyBytes::new(py, &buffer[..count]))),
            Err(error) if later(&error) => Ok(None),
            Err(error) => Err(raise(py, &error)),
        })
    }
}

/// Whether there is something to read that is not the end.
fn is_readable(raw: Raw) -> bool {
    matches!(stream(raw).peek(&mut [0]), Ok(1))
}

fn closed() -> PyErr {
    PyOSError::new_err("the socket is closed")
}

fn blocked(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<pyo3::exceptions::PyBlockingIOError>(py)
        || error.is_instance_of::<pyo3::exceptions::PyInterruptedError>(py)
}

#[pymethods]
impl Descriptor {
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(_arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> Self {
        Descriptor {
            state: Held::new(State {
                open: None,
                reading: false,
                writing: false,
                ended: false,
                told: None,
                handler: None,
                sink: None,
                size: 0,
                little: 0,
                watched: false,
                busy_poll: Policy::Adaptive,
            }),
        }
    }

    /// Begin to use a socket, which is ours to close.
    #[expect(clippy::too_many_arguments)] // each is a fact of the socket
    fn _open(
        &self,
        py: Python<'_>,
        raw: Raw,
        sock: Py<PyAny>,
        readers: Py<PyAny>,
        size: usize,
        watched: bool,
        busy_poll: Option<f64>,
    ) -> PyResult<()> {
        let busy_poll = policy(busy_poll)?;
        let before = {
            let mut state = self.state.borrow(py);
            state.size = size;
            state.watched = watched;
            state.busy_poll = busy_poll;
            state.open.replace(Open { raw, sock, readers })
        };
        drop(before);
        Ok(())
    }

    /// Read what comes, until `pause`.
    fn resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().watch(slf)
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        self.unwatch(py)
    }

    /// Read what has come meanwhile, and not only when the loop has looked.
    fn look(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().state.borrow(slf.py()).reading {
            return slf.get().read_once(slf);
        }
        Ok(())
    }

    /// Idempotent.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.unwatch(py)?;
        let (open, writing) = {
            let mut state = this.state.borrow(py);
            (state.open.take(), std::mem::take(&mut state.writing))
        };
        let Some(open) = open else {
            return Ok(());
        };
        if writing {
            slf.call_method1(intern!(py, "_unwritable"), (open.raw,))?;
        }
        open.sock.call_method0(py, intern!(py, "close")).map(drop)
    }

    /// End our direction and close, which is one: what was sent arrives, and then our end.
    fn finish(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close(slf)
    }

    /// Whether the kernel holds bytes that nobody has read. Before a close only: to look takes a pending error away.
    fn unread(&self, py: Python<'_>) -> bool {
        let ended = self.state.borrow(py).ended;
        !ended && self.raw(py).is_some_and(is_readable)
    }

    /// Whether the connection is made: on one machine it is when `connect` returns. Not where the system does not tell.
    fn _look_made(&self, py: Python<'_>) -> bool {
        let told = self.raw(py).and_then(|raw| system::information(py, raw));
        let made = told
            .as_ref()
            .is_some_and(|told| told.as_bytes().first() == Some(&system::ESTABLISHED));
        if made {
            self.state.borrow(py).told = told.map(Bound::unbind);
        }
        made
    }

    /// What the system has counted, as it tells it; None if it does not.
    fn counters<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let (told, raw) = {
            let mut state = self.state.borrow(py);
            (state.told.take(), state.open.as_ref()?.raw)
        };
        match told {
            Some(told) => Some(told.into_bound(py)),
            None => system::information(py, raw),
        }
    }

    #[getter]
    fn _writing(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).writing
    }

    #[setter(_writing)]
    fn set_writing(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).writing = value;
    }

    #[getter]
    fn _closed(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).open.is_none()
    }

    #[getter]
    fn handler(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        copy(py, &self.state.borrow(py).handler)
    }

    #[setter]
    fn set_handler(&self, py: Python<'_>, handler: Py<PyAny>) {
        let before = self.state.borrow(py).handler.replace(handler);
        drop(before);
    }

    #[getter]
    fn sink(&self, py: Python<'_>) -> Option<Py<Receiving>> {
        copy(py, &self.state.borrow(py).sink)
    }

    #[setter]
    fn set_sink(&self, py: Python<'_>, sink: Option<Py<Receiving>>) {
        let before = std::mem::replace(&mut self.state.borrow(py).sink, sink);
        drop(before);
    }

    #[getter]
    fn _size(&self, py: Python<'_>) -> usize {
        self.state.borrow(py).size
    }

    /// Of the next read, and of one that makes the one after it smaller.
    fn _expect(&self, py: Python<'_>, size: usize, little: usize) {
        let mut state = self.state.borrow(py);
        state.size = size;
        state.little = little;
    }

    fn _readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().read_once(slf)
    }

    #[pyo3(signature = (data, /))]
    fn send(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        match data.cast_exact::<PyBytes>() {
            Ok(bytes) => slf.get().give(slf, bytes),
            Err(_) => slf.get().give_large(slf, data),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .inspect(|state| {
                if let Some(open) = &state.open {
                    visit.call(&open.sock)?;
                    visit.call(&open.readers)?;
                }
                visit.call(&state.handler)?;
                visit.call(&state.sink)
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let before = {
            let mut state = self.state.borrow(py);
            (state.handler.take(), state.sink.take())
        };
        drop(before);
    }
}

#[cfg(target_os = "linux")]
mod system {
    use super::*;

    /// `tcpi_state`, the first byte: net/tcp_states.h.
    pub(super) const ESTABLISHED: u8 = 1;
    /// As far as anybody reads it: include/uapi/linux/tcp.h up to `tcpi_bytes_retrans`.
    const SIZE: usize = 216;

    /// `TCP_INFO`; None for a socket of something else.
    #[expect(unsafe_code)]
    pub(super) fn information(py: Python<'_>, raw: Raw) -> Option<Bound<'_, PyBytes>> {
        let mut room = [0u8; SIZE];
        let mut size = SIZE as libc::socklen_t;
        // SAFETY: the kernel writes at most as many bytes as it is told there are, and tells how many it has written.
        let result = unsafe {
            libc::getsockopt(
                raw,
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                room.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let told = room.get(..size as usize).filter(|_| result == 0)?;
        Some(PyBytes::new(py, told))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;

    pub(super) const ESTABLISHED: u8 = 1;

    pub(super) fn information(_: Python<'_>, _: Raw) -> Option<Bound<'_, PyBytes>> {
        None
    }
}
