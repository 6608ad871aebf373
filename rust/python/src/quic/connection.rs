//! One connection of an endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::buffer::{PyBuffer, ReadOnlyCell};
use pyo3::exceptions::{PyBufferError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use tieline_engine::quic::{
    Bytes, Connection, DatagramError, Direction, Handle, PeerParameters, Read, StreamError,
};

use super::values::{Address, QuicParameters, QuicStatistics, address, duration};
use super::{QuicError, Shared, complain};
use crate::tls::{Input, TlsInfo, transparent};

/// Copying fewer bytes costs less than sharing them.
const SHARED_FROM: usize = 4096;
/// Bytes of a buffer that are copied at once.
const PIECE: usize = 64 * 1024;

/// One connection: its streams, its datagrams, and what is known about it.
#[pyclass(frozen, module = "tieline._engine.quic")]
pub(crate) struct QuicConnection {
    endpoint: Arc<Shared>,
    #[pyo3(get)]
    handle: Handle,
    /// Bytes of streams, as they were read and written.
    read: AtomicU64,
    written: AtomicU64,
}

impl QuicConnection {
    pub(super) fn new(endpoint: Arc<Shared>, handle: Handle) -> Self {
        Self {
            endpoint,
            handle,
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// Something was done. True if the endpoint's owner has to hear of it now.
    pub(super) fn touch(&self) -> bool {
        self.endpoint.touch()
    }

    fn with<R: Send>(
        &self,
        py: Python<'_>,
        bytes: usize,
        work: impl FnOnce(&mut Connection) -> R + Send,
    ) -> PyResult<R> {
        let handle = self.handle;
        self.endpoint
            .guarded(py, bytes, |endpoint| endpoint.connection(handle).map(work))?
            .map_err(complain)
    }

    /// What cannot change is kept until it is acknowledged, and copied only if that costs less.
    pub(super) fn write_bytes(
        &self,
        py: Python<'_>,
        stream: u64,
        bytes: &Bound<'_, PyBytes>,
    ) -> PyResult<usize> {
        let content = bytes.as_bytes();
        let taken = match content.len() {
            0 => 0,
            1..SHARED_FROM => self.stream(py, |connection| connection.write(stream, content))?,
            SHARED_FROM.. => {
                let mut shared = Bytes::from_owner(PyBackedBytes::from(bytes.clone()));
                self.stream(py, |connection| connection.write_bytes(stream, &mut shared))?
            }
        };
        self.written.fetch_add(taken as u64, Ordering::Relaxed);
        Ok(taken)
    }

    /// Piece by piece: nothing is copied that is not taken, but for the last one.
    fn write_buffer(&self, py: Python<'_>, stream: u64, buffer: &PyBuffer<u8>) -> PyResult<usize> {
        let cells = buffer
            .as_slice(py)
            .ok_or_else(|| PyBufferError::new_err("the buffer is not contiguous"))?;
        let mut taken = 0;
        for piece in cells.chunks(PIECE) {
            let mut copy: Bytes = piece.iter().map(ReadOnlyCell::get).collect();
            let count = self.stream(py, |connection| connection.write_bytes(stream, &mut copy))?;
            taken += count;
            self.written.fetch_add(count as u64, Ordering::Relaxed);
            if count < piece.len() {
                break;
            }
        }
        Ok(taken)
    }

    fn stream<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Connection) -> Result<R, StreamError> + Send,
    ) -> PyResult<R> {
        self.with(py, 0, work)?
            .map_err(|error| stream_error(py, error))
    }
}

fn direction(bidirectional: bool) -> Direction {
    if bidirectional {
        Direction::Bidirectional
    } else {
        Direction::Unidirectional
    }
}

fn quic_error(py: Python<'_>, reason: &str, code: Option<u64>, text: String) -> PyErr {
    let error = QuicError::new_err(text);
    let value = error.value(py);
    match value
        .setattr("reason", reason)
        .and_then(|()| value.setattr("code", code))
    {
        Ok(()) => error,
        Err(other) => other,
    }
}

fn stream_error(py: Python<'_>, error: StreamError) -> PyErr {
    match error {
        StreamError::Unknown => {
            let text = "there is no such stream, or this half of it is done with";
            quic_error(py, "unknown", None, text.into())
        }
        StreamError::WrongDirection => quic_error(
            py,
            "wrong_direction",
            None,
            "this stream has no such half".into(),
        ),
        StreamError::Reset(code) => {
            let text = format!("the peer has reset the stream with code {code}");
            quic_error(py, "reset", Some(code), text)
        }
        StreamError::Stopped(code) => {
            let text = format!("the peer wants nothing more on the stream, with code {code}");
            quic_error(py, "stopped", Some(code), text)
        }
        StreamError::Closed => quic_error(py, "closed", None, "the connection has ended".into()),
        StreamError::Code => PyValueError::new_err("a code is 0 to 2**62 - 1"),
    }
}

fn datagram_error(py: Python<'_>, error: DatagramError, size: usize) -> PyErr {
    let (reason, limit, text) = match error {
        DatagramError::TooLarge { limit } => {
            let text = format!("a datagram has at most {limit} bytes here, not {size}");
            ("too_large", u64::try_from(limit).ok(), text)
        }
        DatagramError::Unsupported => ("unsupported", None, "the peer takes no datagrams".into()),
        DatagramError::Disabled => {
            let text = "datagrams need a max_datagram_frame_size of our own, too";
            ("disabled", None, text.into())
        }
        DatagramError::Full => ("full", None, "there is no room for another datagram".into()),
        DatagramError::Closed => ("closed", None, "the connection has ended".into()),
    };
    quic_error(py, reason, limit, text)
}

#[pymethods]
impl QuicConnection {
    // Streams.

    /// Open a stream. None at the peer's limit.
    #[pyo3(signature = (bidirectional, /))]
    fn open(&self, py: Python<'_>, bidirectional: bool) -> PyResult<Option<u64>> {
        self.stream(py, |connection| connection.open(direction(bidirectional)))
    }

    /// Take the next stream that the peer has opened.
    #[pyo3(signature = (bidirectional, /))]
    fn accept(&self, py: Python<'_>, bidirectional: bool) -> PyResult<Option<u64>> {
        self.with(py, 0, |connection| {
            connection.accept(direction(bidirectional))
        })
    }

    /// Queue as much of `data` as there is room for, and then perhaps the end. Returns how much that was.
    #[pyo3(signature = (stream, data, /, *, end = false))]
    fn write(
        &self,
        py: Python<'_>,
        stream: u64,
        data: &Bound<'_, PyAny>,
        end: bool,
    ) -> PyResult<usize> {
        let (length, taken) = match data.cast::<PyBytes>() {
            Ok(bytes) => {
                let length = bytes.as_bytes().len();
                (length, self.write_bytes(py, stream, bytes)?)
            }
            Err(_) => {
                let buffer = PyBuffer::<u8>::get(data)?;
                (buffer.item_count(), self.write_buffer(py, stream, &buffer)?)
            }
        };
        if end && taken == length {
            self.finish(py, stream)?;
        }
        Ok(taken)
    }

    /// End our direction of a stream.
    #[pyo3(signature = (stream, /))]
    fn finish(&self, py: Python<'_>, stream: u64) -> PyResult<()> {
        self.stream(py, |connection| connection.finish(stream))
    }

    /// Give up sending.
    #[pyo3(signature = (stream, code, /))]
    fn reset(&self, py: Python<'_>, stream: u64, code: u64) -> PyResult<()> {
        self.stream(py, |connection| connection.reset(stream, code))
    }

    /// Want nothing more.
    #[pyo3(signature = (stream, code, /))]
    fn stop_sending(&self, py: Python<'_>, stream: u64, code: u64) -> PyResult<()> {
        self.stream(py, |connection| connection.stop_sending(stream, code))
    }

    /// The larger, the earlier; 0 at first.
    #[pyo3(signature = (stream, priority, /))]
    fn set_priority(&self, py: Python<'_>, stream: u64, priority: i32) -> PyResult<()> {
        self.stream(py, |connection| connection.set_priority(stream, priority))
    }

    /// What is there of a stream, up to `maximum` bytes, and whether that was the end.
    #[pyo3(signature = (stream, maximum = 65536, /))]
    pub(super) fn read<'py>(
        &self,
        py: Python<'py>,
        stream: u64,
        maximum: usize,
    ) -> PyResult<(Bound<'py, PyBytes>, bool)> {
        let mut chunks = Vec::<Bytes>::new();
        let Read { length, end } = self.stream(py, |connection| {
            connection.read(stream, maximum, &mut chunks)
        })?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        let data = PyBytes::new_with(py, length, |mut room| {
            for chunk in &chunks {
                let (head, tail) = room.split_at_mut(chunk.len());
                head.copy_from_slice(chunk);
                room = tail;
            }
            Ok(())
        })?;
        Ok((data, end))
    }

    /// Bytes that were read of streams.
    #[getter]
    fn read_count(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that streams took.
    #[getter]
    fn written_count(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    // Datagrams.

    /// Queue datagrams, in this order, until the queue is full. Returns how many were taken.
    #[pyo3(signature = (datagrams, /))]
    fn send_datagrams(&self, py: Python<'_>, datagrams: Vec<Bound<'_, PyAny>>) -> PyResult<usize> {
        let mut copies = Vec::with_capacity(datagrams.len());
        for datagram in &datagrams {
            copies.push(Bytes::copy_from_slice(Input::new(datagram)?.as_bytes()));
        }
        let (taken, error) = self.with(py, 0, |connection| {
            for (taken, datagram) in copies.iter().enumerate() {
                if let Err(error) = connection.send_datagram(datagram.clone()) {
                    return (taken, Some(error));
                }
            }
            (copies.len(), None)
        })?;
        match error {
            // What is wrong with one is told when it is the first.
            Some(error) if taken == 0 && error != DatagramError::Full => {
                Err(datagram_error(py, error, copies[0].len()))
            }
            _ => Ok(taken),
        }
    }

    /// Up to `maximum` of the datagrams that wait.
    #[pyo3(signature = (maximum = 64, /))]
    fn receive_datagrams<'py>(
        &self,
        py: Python<'py>,
        maximum: usize,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let datagrams = self.with(py, 0, |connection| {
            let next = || connection.receive_datagram();
            std::iter::from_fn(next).take(maximum).collect::<Vec<_>>()
        })?;
        let object = |datagram: &Bytes| PyBytes::new(py, datagram);
        Ok(datagrams.iter().map(object).collect())
    }

    /// The largest datagram that can be sent now. None if there can be none.
    #[getter]
    fn maximum_datagram_size(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        self.with(py, 0, Connection::maximum_datagram_size)
    }

    // The connection.

    /// Close at once.
    #[pyo3(signature = (now, code, reason = None, /))]
    fn close(&self, py: Python<'_>, now: f64, code: u64, reason: Option<Vec<u8>>) -> PyResult<()> {
        let now = duration(now)?;
        let reason = reason.unwrap_or_default();
        self.stream(py, |connection| connection.close(now, code, &reason))
    }

    /// Close at once, with an error code of the transport.
    #[pyo3(signature = (now, code, reason, /))]
    fn refuse(&self, py: Python<'_>, now: f64, code: u64, reason: &str) -> PyResult<()> {
        let now = duration(now)?;
        self.stream(py, |connection| connection.refuse(now, code, reason))
    }

    /// Nobody wants to know of this connection any more.
    #[pyo3(signature = (now, /))]
    fn release(&self, py: Python<'_>, now: f64) -> PyResult<()> {
        let (now, handle) = (duration(now)?, self.handle);
        self.endpoint
            .guarded(py, 0, |endpoint| endpoint.release(now, handle))
    }

    fn ping(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, 0, Connection::ping)
    }

    /// Change the keys of both directions, once the last change is through.
    fn update_keys(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, 0, Connection::update_keys)
    }

    /// Client: packets leave from another local address from now on.
    #[pyo3(signature = (now, /))]
    fn migrate(&self, py: Python<'_>, now: f64) -> PyResult<()> {
        let now = duration(now)?;
        self.with(py, 0, |connection| connection.migrate(now))
    }

    /// Ping the peer whenever nothing has come from it for so many seconds. None for never.
    #[pyo3(signature = (now, interval, /))]
    fn set_keepalive(&self, py: Python<'_>, now: f64, interval: Option<f64>) -> PyResult<()> {
        let (now, interval) = (duration(now)?, interval.map(duration).transpose()?);
        self.with(py, 0, |connection| connection.set_keepalive(now, interval))
    }

    #[getter]
    fn keepalive(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        let interval = self.with(py, 0, |connection| connection.keepalive())?;
        Ok(interval.map(|interval| interval.as_secs_f64()))
    }

    /// How many streams of a kind the peer may have open.
    #[pyo3(signature = (bidirectional, count, /))]
    fn set_maximum_streams(&self, py: Python<'_>, bidirectional: bool, count: u64) -> PyResult<()> {
        self.with(py, 0, |connection| {
            connection.set_maximum_streams(direction(bidirectional), count);
        })
    }

    /// How much the peer may send on all streams before it is read.
    #[pyo3(signature = (size, /))]
    fn set_receive_window(&self, py: Python<'_>, size: u64) -> PyResult<()> {
        self.with(py, 0, |connection| connection.set_receive_window(size))
    }

    /// How much is held that the peer has not acknowledged.
    #[pyo3(signature = (size, /))]
    fn set_send_window(&self, py: Python<'_>, size: u64) -> PyResult<()> {
        self.with(py, 0, |connection| connection.set_send_window(size))
    }

    /// How many streams of a kind the peer lets us open in all, and whether that is exact.
    #[pyo3(signature = (bidirectional, /))]
    fn peer_maximum_streams(
        &self,
        py: Python<'_>,
        bidirectional: bool,
    ) -> PyResult<Option<(u64, bool)>> {
        self.with(py, 0, |connection| {
            connection.peer_maximum_streams(direction(bidirectional))
        })
    }

    #[getter]
    fn handshaking(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, 0, |connection| connection.is_handshaking())
    }

    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, 0, |connection| connection.is_closed())
    }

    /// Client: a ticket allows to send before the handshake is done.
    #[getter]
    fn has_early_data(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, 0, |connection| connection.has_early_data())
    }

    #[getter]
    fn remote_address<'py>(&self, py: Python<'py>) -> PyResult<Address<'py>> {
        address(
            py,
            self.with(py, 0, |connection| connection.remote_address())?,
        )
    }

    #[getter]
    fn local_ip(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let ip = self.with(py, 0, |connection| connection.local_ip())?;
        Ok(ip.map(|ip| ip.to_string()))
    }

    /// Raises RuntimeError while handshaking.
    fn info(&self, py: Python<'_>) -> PyResult<TlsInfo> {
        match self.with(py, 0, |connection| connection.info())? {
            Some(info) => TlsInfo::new(py, info),
            None => Err(PyRuntimeError::new_err("the handshake is not done")),
        }
    }

    /// Raises RuntimeError while handshaking.
    fn parameters(&self, py: Python<'_>) -> PyResult<QuicParameters> {
        self.with(py, 0, |connection| connection.peer_parameters())?
            .map(PeerParameters::into)
            .ok_or_else(|| PyRuntimeError::new_err("the handshake is not done"))
    }

    fn statistics(&self, py: Python<'_>) -> PyResult<QuicStatistics> {
        Ok(self.with(py, 0, Connection::statistics)?.into())
    }

    /// Key material that only the two ends know. Raises RuntimeError while handshaking.
    #[pyo3(signature = (label, context, length, /))]
    fn export<'py>(
        &self,
        py: Python<'py>,
        label: &[u8],
        context: &[u8],
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.with(py, 0, |connection| {
            connection.export(label, context, length)
        })?
        .map(|material| PyBytes::new(py, &material))
        .ok_or_else(|| PyRuntimeError::new_err("there is no such key material"))
    }

    /// Take what an asynchronous validator returned and the engine has provisionally accepted.
    fn take_decision(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let decision = self.with(py, 0, Connection::take_decision)?;
        Ok(transparent(py, decision.as_ref()))
    }

    /// Take what the validator raised, if that is why the handshake failed.
    fn take_validator_error(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let error = self.with(py, 0, Connection::take_validator_error)?;
        Ok(transparent(py, error.as_ref()))
    }

    /// The handshake resumed a session, so the validator has not seen this connection's peer yet.
    #[getter]
    fn needs_validation(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, 0, |connection| connection.needs_validation())
    }
}
