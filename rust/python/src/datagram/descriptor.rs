//! A datagram socket's descriptor: one system call for what came together or for one that leaves, and nothing of Python's
//! around it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, UdpSocket};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PySequence, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::arrival::{Arrival, receive, receive_one};
use super::departure::{self, Control};
use super::flow::Datagrams;
use super::give::Given;
use super::sharing::Sharing;
use super::towards::{Name, Towards};
use crate::polling::{Policy, note, policy};
use crate::stream::{Held, Raw, SMALL, copy, invoke_two, later, raise};

const READS: u32 = 64; // for one wake-up
/// Wake-ups with one read each, after one in which a second found nothing: that costs as much as a read.
const PATIENCE: u32 = 16;
/// Peers whose addresses are kept, so that they need not be made again.
const PEERS: usize = 256;
/// No datagram is larger, and neither are those together that came at once.
const LARGEST: usize = 64 * 1024;

thread_local! {
    /// What is read lands here, and each datagram is copied once, into bytes of its size.
    static ARRIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST].into_boxed_slice());
}

#[derive(Default)]
struct State {
    raw: Option<Raw>,
    connected: bool,
    /// The handler wants to hear what the kernel says of packets.
    told: bool,
    /// The kernel takes several at once.
    segments: bool,
    /// Its error for a datagram to that peer, behind others which it took: whoever sends the rest is told.
    refusal: Option<(Py<PyAny>, i32)>,
    handler: Option<Py<PyAny>>,
    /// Whether the kernel hands over several of one peer at once: None until several came in a row, as those that come alone
    /// are read with less effort where it does not. It cannot be asked to stop: it no longer tells of those it has put together.
    gathers: Option<bool>,
    /// Wake-ups for which one read is enough.
    single: u32,
    /// Whether the loop is to stay awake after something has come.
    busy_poll: Policy,
    peers: HashMap<SocketAddr, Py<PyAny>>,
    recent_peer: Option<(SocketAddr, Py<PyAny>)>,
    /// The way that a datagram has gone last.
    recent: Option<(Py<PyAny>, Py<Towards>)>,
}

/// What reads and writes a datagram socket that the subclass has opened.
#[pyclass(frozen, subclass, module = "tieline._engine.datagram")]
pub(crate) struct DatagramDescriptor {
    state: Held<State>,
}

/// The descriptor, for a call that does not close it.
#[expect(unsafe_code)]
pub(super) fn borrowed(raw: Raw) -> ManuallyDrop<UdpSocket> {
    // SAFETY: the subclass's socket object owns the descriptor and tells us (`_shut_down`) before it closes it, and
    // `ManuallyDrop` never closes it. Here `UdpSocket` only calls `send`, `sendto`, `recv` and `recvfrom` on it.
    unsafe {
        #[cfg(unix)]
        let socket = std::os::fd::FromRawFd::from_raw_fd(raw);
        #[cfg(windows)]
        let socket = std::os::windows::io::FromRawSocket::from_raw_socket(raw);
        ManuallyDrop::new(socket)
    }
}

/// Whether the interface's queue is full: its packets leave by themselves.
fn crowded(error: &io::Error) -> bool {
    #[cfg(unix)]
    return error.raw_os_error() == Some(libc::ENOBUFS);
    #[cfg(windows)]
    return error.raw_os_error() == Some(10055); // WSAENOBUFS
}

impl DatagramDescriptor {
    /// Give one datagram to the kernel. The subclass hears if it has no room.
    pub(super) fn give<'py>(
        &self,
        slf: &Bound<'py, Self>,
        datagram: &Bound<'py, PyBytes>,
        remote: &Bound<'py, PyAny>,
    ) -> PyResult<Given> {
        let py = slf.py();
        let limit = self.limit(slf, remote)?;
        let way = self.towards(slf, remote)?;
        let bytes = datagram.as_bytes();
        if bytes.len() > limit {
            return Ok(Given::TooLarge(limit));
        }
        let raw = self.state.borrow(py).raw;
        let result = match (raw, &way.address) {
            (Some(raw), Name::Connected) => borrowed(raw).send(bytes),
            (Some(raw), Name::Address(address)) => borrowed(raw).send_to(bytes, address),
            (None, _) | (_, Name::Other) => {
                return match invoke_two(slf, intern!(py, "send"), datagram, remote)?.is_truthy()? {
                    true => Ok(Given::Gone),
                    false => Ok(Given::Blocked),
                };
            }
        };
        match result {
            Ok(_) => Ok(Given::Gone),
            Err(error) if later(&error) || crowded(&error) => {
                slf.call_method0(intern!(py, "_wait_writable"))?;
                Ok(Given::Blocked)
            }
            Err(error) => {
                let error = raise(py, &error);
                invoke_two(slf, intern!(py, "_learn"), error.value(py), remote)?;
                Err(error)
            }
        }
    }

    /// The size that the way to a peer takes.
    pub(super) fn limit(
        &self,
        slf: &Bound<'_, Self>,
        remote: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let py = slf.py();
        match self.towards(slf, remote)?.known(py) {
            Some(limit) => Ok(limit),
            None => slf
                .call_method1(intern!(py, "maximum_size"), (remote,))?
                .extract(),
        }
    }

    /// Give several datagrams to the kernel; how many it has taken. The subclass hears if it has no room for more.
    pub(super) fn give_all<'py>(
        &self,
        slf: &Bound<'py, Self>,
        datagrams: &Bound<'py, PyTuple>,
        remote: &Bound<'py, PyAny>,
        control: &[Control],
    ) -> PyResult<usize> {
        let py = slf.py();
        let (raw, segments, refusal) = {
            let mut state = self.state.borrow(py);
            let refusal = state.refusal.take_if(|(peer, _)| peer.is(remote));
            (state.raw, state.segments, refusal)
        };
        if let Some((_, number)) = refusal {
            return Err(raise(py, &io::Error::from_raw_os_error(number)));
        }
        let raw = raw.ok_or_else(|| PyOSError::new_err("the socket is closed"))?;
        let to = match &self.towards(slf, remote)?.address {
            Name::Connected => None,
            Name::Address(address) => Some(*address),
            Name::Other => return Err(PyOSError::new_err("datagrams go to addresses of IP")),
        };
        let datagrams = plain(datagrams)?;
        let pieces: Vec<&[u8]> = datagrams
            .iter_borrowed()
            .map(|datagram| datagram.extract().map_err(PyErr::from))
            .collect::<PyResult<_>>()?;
        let size: usize = pieces.iter().map(|piece| piece.len()).sum();
        let work = || departure::send(raw, &pieces, to, control, segments);
        let departure = match size > SMALL {
            true => py.detach(work),
            false => work(),
        };
        if departure.segments != segments {
            self.state.borrow(py).segments = departure.segments;
        }
        match departure.error {
            None => {}
            Some(error) if later(&error) || crowded(&error) => {
                slf.call_method0(intern!(py, "_wait_writable"))?;
            }
            Some(error) => {
                let told = raise(py, &error);
                invoke_two(slf, intern!(py, "_learn"), told.value(py), remote)?;
                if departure.gone == 0 {
                    return Err(told);
                }
                let refusal = error.raw_os_error().unwrap_or_default(); // it is the kernel's
                let refusal = (remote.clone().unbind(), refusal);
                let before = self.state.borrow(py).refusal.replace(refusal);
                drop(before);
            }
        }
        Ok(departure.gone)
    }

    fn towards<'py>(
        &self,
        slf: &Bound<'py, Self>,
        remote: &Bound<'py, PyAny>,
    ) -> PyResult<PyRef<'py, Towards>> {
        let py = slf.py();
        let recent = match &self.state.borrow(py).recent {
            Some((peer, way)) if peer.is(remote) => Some(way.bind(py).clone()),
            _ => None,
        };
        if let Some(way) = recent {
            return Ok(way.borrow());
        }
        let way = slf.call_method1(intern!(py, "_towards"), (remote,))?;
        let way = way.cast_into::<Towards>()?;
        let recent = (remote.clone().unbind(), way.clone().unbind());
        let before = self.state.borrow(py).recent.replace(recent);
        drop(before);
        Ok(way.borrow())
    }

    /// The address of a peer, as the library has it.
    fn peer<'py>(
        &self,
        slf: &Bound<'py, Self>,
        name: Option<SocketAddr>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let Some(name) = name else {
            return Ok(py.None().into_bound(py));
        };
        let known = {
            let state = self.state.borrow(py);
            match &state.recent_peer {
                Some((recent, peer)) if *recent == name => return Ok(peer.bind(py).clone()),
                _ => state.peers.get(&name).map(|peer| peer.clone_ref(py)),
            }
        };
        let peer = match known {
            Some(peer) => peer,
            None => self.new_peer(slf, name)?,
        };
        let recent = (name, peer.clone_ref(py));
        let before = self.state.borrow(py).recent_peer.replace(recent);
        drop(before);
        Ok(peer.into_bound(py))
    }

    fn new_peer(&self, slf: &Bound<'_, Self>, name: SocketAddr) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let peer = slf.call_method1(intern!(py, "_peer"), (tuple(py, name)?,))?;
        let before = {
            let mut state = self.state.borrow(py);
            let before = match state.peers.len() {
                PEERS.. => std::mem::take(&mut state.peers),
                _ => HashMap::new(),
            };
            state.peers.insert(name, peer.clone().unbind());
            before
        };
        drop(before);
        Ok(peer.unbind())
    }

    /// Read once, and give what came to whom it is for.
    fn read(&self, slf: &Bound<'_, Self>, raw: Raw) -> PyResult<io::Result<()>> {
        let py = slf.py();
        let (named, told, gathers) = {
            let state = self.state.borrow(py);
            (
                !state.connected,
                state.told,
                state.gathers.unwrap_or_default(),
            )
        };
        let read = ARRIVED.with_borrow_mut(|buffer| {
            let arrival = match told || gathers {
                true => receive(raw, buffer, named, told)?,
                false => receive_one(raw, buffer, named)?,
            };
            let bytes = &buffer[..arrival.count];
            let pieces = if arrival.segment < arrival.count {
                let pieces = bytes.chunks(arrival.segment);
                pieces.map(|piece| PyBytes::new(py, piece)).collect()
            } else {
                vec![PyBytes::new(py, bytes)]
            };
            Ok((pieces, arrival))
        });
        match read {
            Err(error) => Ok(Err(error)),
            Ok((pieces, arrival)) => self.deliver(slf, pieces, arrival, told).map(Ok),
        }
    }

    fn deliver<'py>(
        &self,
        slf: &Bound<'py, Self>,
        pieces: Vec<Bound<'py, PyBytes>>,
        arrival: Arrival,
        told: bool,
    ) -> PyResult<()> {
        let py = slf.py();
        let busy_poll = self.state.borrow(py).busy_poll;
        note(slf, busy_poll)?;
        let peer = self.peer(slf, arrival.peer)?;
        let metadata = match told {
            true => {
                let said = arrival.said.into_iter();
                let said: Vec<_> = said
                    .map(|(level, kind, data)| (level, kind, PyBytes::new(py, &data)))
                    .collect();
                slf.call_method1(intern!(py, "_metadata"), (said,))?
            }
            false => py.None().into_bound(py),
        };
        let Some(handler) = self.handler(py) else {
            return Ok(());
        };
        let handler = handler.bind(py);
        let flow = if let Ok(flow) = handler.cast::<Datagrams>() {
            Some(flow.clone())
        } else if let Ok(sharing) = handler.cast::<Sharing>() {
            sharing.get().flow(&peer)?
        } else {
            None
        };
        match flow {
            Some(flow) => flow.get().take_in(&flow, pieces, &metadata),
            None => handler
                .call_method1(intern!(py, "received_all"), (pieces, peer, metadata))
                .map(drop),
        }
    }
}

/// The same datagrams, all of them bytes: other buffers are copied.
fn plain<'py>(datagrams: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyTuple>> {
    let py = datagrams.py();
    if datagrams
        .iter_borrowed()
        .all(|one| one.is_instance_of::<PyBytes>())
    {
        return Ok(datagrams.clone());
    }
    let pieces = datagrams
        .iter()
        .map(|datagram| match datagram.cast_into::<PyBytes>() {
            Ok(bytes) => Ok(bytes),
            Err(other) => {
                let buffer = PyBuffer::<u8>::get(&other.into_inner())?;
                Ok(PyBytes::new(py, &buffer.to_vec(py)?))
            }
        });
    PyTuple::new(py, pieces.collect::<PyResult<Vec<_>>>()?)
}

/// An address as the socket module has it.
fn tuple(py: Python<'_>, name: SocketAddr) -> PyResult<Bound<'_, PyTuple>> {
    match name {
        SocketAddr::V4(name) => (name.ip().to_string(), name.port()).into_pyobject(py),
        SocketAddr::V6(name) => (
            name.ip().to_string(),
            name.port(),
            name.flowinfo(),
            name.scope_id(),
        )
            .into_pyobject(py),
    }
}

#[pymethods]
impl DatagramDescriptor {
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(_arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> Self {
        DatagramDescriptor {
            state: Held::new(State::default()),
        }
    }

    /// Begin to use a socket. `told`: `_metadata` is to be asked what the kernel says of packets.
    fn _open(
        &self,
        py: Python<'_>,
        raw: Raw,
        connected: bool,
        told: bool,
        busy_poll: Option<f64>,
    ) -> PyResult<()> {
        let busy_poll = policy(busy_poll)?;
        let mut state = self.state.borrow(py);
        state.raw = Some(raw);
        state.connected = connected;
        state.told = told;
        state.busy_poll = busy_poll;
        Ok(())
    }

    #[pyo3(signature = (datagrams, remote=None, metadata=None, /))]
    fn send_many<'py>(
        slf: &Bound<'py, Self>,
        datagrams: &Bound<'py, PyAny>,
        remote: Option<Bound<'py, PyAny>>,
        metadata: Option<Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let remote = remote.unwrap_or_else(|| slf.py().None().into_bound(slf.py()));
        match metadata {
            None => Self::_give(slf, datagrams, &remote, Vec::new()),
            Some(metadata) => slf
                .call_method1(
                    intern!(slf.py(), "_send_described"),
                    (datagrams, remote, metadata),
                )?
                .extract(),
        }
    }

    /// Send datagrams, each with these control messages.
    fn _give<'py>(
        slf: &Bound<'py, Self>,
        datagrams: &Bound<'py, PyAny>,
        remote: &Bound<'py, PyAny>,
        control: Vec<Control>,
    ) -> PyResult<usize> {
        let datagrams = datagrams.cast::<PySequence>()?.to_tuple()?;
        slf.get().give_all(slf, &datagrams, remote, &control)
    }

    /// The socket is about to be closed.
    fn _shut_down(&self, py: Python<'_>) {
        self.state.borrow(py).raw = None;
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
    fn _segments(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).segments
    }

    #[setter(_segments)]
    fn set_segments(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).segments = value;
    }

    #[getter]
    fn _single(&self, py: Python<'_>) -> u32 {
        self.state.borrow(py).single
    }

    fn _readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let reads = match this.state.borrow(py).single {
            0 => READS,
            _ => 1,
        };
        for number in 0..reads {
            let Some(raw) = this.state.borrow(py).raw else {
                return Ok(());
            };
            let Err(error) = this.read(slf, raw)? else {
                if number > 0 && this.state.borrow(py).gathers.is_none() {
                    let gathers = slf.call_method0(intern!(py, "_gather"))?.is_truthy()?;
                    this.state.borrow(py).gathers = Some(gathers);
                }
                continue;
            };
            if !later(&error) {
                let error = raise(py, &error);
                slf.call_method1(intern!(py, "_broke"), (error.value(py),))?;
            } else if number == 1 {
                this.state.borrow(py).single = PATIENCE;
            } else if number == 0 {
                slf.call_method0(intern!(py, "_nothing"))?;
            }
            return Ok(());
        }
        let mut state = this.state.borrow(py);
        state.single = state.single.saturating_sub(1);
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .inspect(|state| {
                visit.call(&state.handler)?;
                if let Some((_, peer)) = &state.recent_peer {
                    visit.call(peer)?;
                }
                if let Some((peer, _)) = &state.refusal {
                    visit.call(peer)?;
                }
                if let Some((remote, way)) = &state.recent {
                    visit.call(remote)?;
                    visit.call(way)?;
                }
                state.peers.values().try_for_each(|peer| visit.call(peer))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let before = self.state.borrow(py).handler.take();
        drop(before);
    }
}
