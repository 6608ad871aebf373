//! The datagrams of one connection: those that have come and nobody has taken, the calls that wait for one, and the way out.

use std::collections::VecDeque;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::give::{Give, cost, put};
use super::inbox::{Datagram, Inbox};
use super::take::{Form, Take, adopted};
use crate::stream::{Call, Handle, Held, Waiter, Waiters, Work, copy};

/// Datagrams that may be sent, each by itself, before other tasks have their turn: the kernel hardly ever makes a sender wait.
const STREAK: usize = 64;

#[derive(Default)]
struct State {
    described: bool,
    inbox: Inbox,
    readers: VecDeque<Handle<Waiter>>,
    waiters: Option<Py<Waiters>>,
    socket: Option<Py<PyAny>>,
    remote: Option<Py<PyAny>>,
    streak: usize,
    notice: Option<Py<PyAny>>,
    ended: bool,
    activity: u64,
    received_count: u64,
    received_datagrams: u64,
    sent_count: u64,
    sent_datagrams: u64,
}

impl State {
    fn take(&mut self) -> Option<Datagram> {
        let datagram = self.inbox.take()?;
        self.received_count += datagram.size as u64;
        self.received_datagrams += 1;
        Some(datagram)
    }
}

/// Moves datagrams between a socket and the program.
#[pyclass(frozen, subclass, module = "tieline._engine.datagram")]
pub(crate) struct Datagrams {
    /// Sends that wait.
    #[pyo3(get, name = "_senders")]
    senders: Py<PyList>,
    /// No subclass has calls of its own.
    plain: bool,
    state: Held<State>,
}

impl Datagrams {
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    // Receiving

    /// Whether a call can take at once.
    pub(super) fn is_ready(&self, py: Python<'_>) -> bool {
        let state = self.state.borrow(py);
        state.readers.is_empty() && !state.inbox.is_empty()
    }

    pub(super) fn has_datagrams(&self, py: Python<'_>) -> bool {
        !self.state.borrow(py).inbox.is_empty()
    }

    pub(super) fn has_ended(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).ended
    }

    /// Queue a receive. Its waiter is done when those before it are and a datagram is there; None if none ever can be.
    pub(super) fn enter(&self, slf: &Bound<'_, Self>) -> PyResult<Option<Handle<Waiter>>> {
        let py = slf.py();
        let (first, notice, ended, homeless, waiters) = {
            let state = self.state.borrow(py);
            (
                state.readers.is_empty(),
                state.notice.is_some(),
                state.ended,
                state.socket.is_none(),
                copy(py, &state.waiters),
            )
        };
        if first && notice {
            slf.call_method0(intern!(py, "_raise_notice"))?;
        }
        if first && ended {
            return Ok(None);
        }
        if homeless {
            slf.call_method0(intern!(py, "_need"))?; // raises, unless a socket may still come
        }
        let waiters = match waiters {
            Some(waiters) => waiters,
            None => {
                let waiters = slf.call_method0(intern!(py, "_waiters"))?;
                let waiters = waiters.cast_into::<Waiters>()?.unbind(); // every driver's are made by these
                self.state.borrow(py).waiters = Some(waiters.clone_ref(py));
                waiters
            }
        };
        let waiter = waiters.get().make(py)?;
        let mut state = self.state.borrow(py);
        state.readers.push_back(waiter.clone_ref(py));
        Ok(Some(waiter))
    }

    /// The first call in the queue has its turn.
    pub(super) fn left_first(&self, py: Python<'_>) {
        let gone = self.state.borrow(py).readers.pop_front();
        drop(gone);
    }

    pub(super) fn remove(&self, py: Python<'_>, waiter: &Handle<Waiter>) {
        let left = {
            let mut state = self.state.borrow(py);
            let place = state
                .readers
                .iter()
                .position(|reader| reader.as_ptr() == waiter.as_ptr());
            place.and_then(|place| state.readers.remove(place))
        };
        drop(left);
    }

    /// The oldest datagram, for a call.
    pub(super) fn take(&self, py: Python<'_>) -> Option<Datagram> {
        self.state.borrow(py).take()
    }

    /// The oldest, but at most so many.
    pub(super) fn take_many(&self, py: Python<'_>, at_most: usize) -> Vec<Datagram> {
        let mut state = self.state.borrow(py);
        let count = at_most.min(state.inbox.len());
        (0..count).map_while(|_| state.take()).collect()
    }

    /// A call has taken: another may be the first now.
    pub(super) fn wake_next(&self, py: Python<'_>) -> PyResult<()> {
        if self.state.borrow(py).readers.is_empty() {
            return Ok(());
        }
        self.wake(py)
    }

    /// The first receive can take what is there; after the end, and with nothing left, none ever can.
    pub(super) fn wake(&self, py: Python<'_>) -> PyResult<()> {
        let waiters: Vec<Handle<Waiter>> = {
            let state = self.state.borrow(py);
            let count = match (state.inbox.is_empty(), state.ended) {
                (false, _) => 1,
                (true, true) => state.readers.len(),
                (true, false) => 0,
            };
            let first = state.readers.iter().take(count);
            first.map(|waiter| waiter.clone_ref(py)).collect()
        };
        for waiter in waiters {
            if !waiter.get(py).is_done(py) {
                waiter.get(py).complete(waiter.bind(py), None)?;
            }
        }
        Ok(())
    }

    /// What a socket has brought of one peer. The last thing that is done with it: the call that it answers may run in here.
    pub(super) fn take_in<'py>(
        &self,
        slf: &Bound<'py, Self>,
        datagrams: Vec<Bound<'py, PyBytes>>,
        metadata: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = slf.py();
        let described = self.describing(slf, metadata)?;
        let first = {
            let mut state = self.state.borrow(py);
            state.activity += datagrams.len() as u64;
            for datagram in datagrams {
                state.inbox.keep(datagram, copy(py, &described));
            }
            match state.inbox.is_empty() {
                true => None,
                false => state.readers.front().map(|first| first.clone_ref(py)),
            }
        };
        match first {
            Some(waiter) if !waiter.get(py).is_done(py) => waiter.get(py).resume(waiter.bind(py)),
            _ => Ok(()),
        }
    }

    /// The metadata of datagrams, None where nothing is ever said of them.
    fn describing(
        &self,
        slf: &Bound<'_, Self>,
        metadata: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        if !self.state.borrow(py).described {
            return Ok(None);
        }
        if metadata.is_none() {
            return Ok(Some(adopted(py)?.1.clone_ref(py)));
        }
        let metadata = slf.call_method1(intern!(py, "_describing"), (metadata,))?;
        Ok(Some(metadata.unbind()))
    }

    // Sending

    /// The socket and the peer there, None for the one it is connected to; nothing if a datagram cannot go straight there. It
    /// counts as so many more in a row.
    pub(super) fn way<'py>(
        &self,
        py: Python<'py>,
        count: usize,
    ) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        if !self.senders.bind(py).is_empty() {
            return None;
        }
        let place = self.place(py)?;
        let mut state = self.state.borrow(py);
        if state.streak >= STREAK || state.notice.is_some() {
            return None;
        }
        state.streak += count;
        Some(place)
    }

    fn place<'py>(&self, py: Python<'py>) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let state = self.state.borrow(py);
        let socket = state.socket.as_ref()?.bind(py).clone();
        let remote = match &state.remote {
            None => py.None().into_bound(py),
            Some(remote) => remote.bind(py).clone(),
        };
        Some((socket, remote))
    }

    /// The kernel has taken so many datagrams of so many bytes.
    pub(super) fn sent(&self, py: Python<'_>, count: usize, size: usize) {
        let mut state = self.state.borrow(py);
        state.sent_count += size as u64;
        state.sent_datagrams += count as u64;
        state.activity += count as u64;
    }

    /// Whether what comes for it can be given to it.
    pub(super) fn is_open(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).socket.is_some()
    }

    fn call<'py>(slf: &Bound<'py, Self>, form: Form) -> PyResult<Bound<'py, PyAny>> {
        let flow = slf.clone().unbind();
        Call::make(slf.py(), Work::Take(Take { flow, form }))
    }
}

#[pymethods]
impl Datagrams {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(
        cls: &Bound<'_, PyType>,
        _arguments: &Bound<'_, PyTuple>,
        _options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let py = cls.py();
        let base = py.get_type::<Self>();
        let mut plain = true;
        for name in ["receive", "next_piece", "send"] {
            plain &= cls.getattr(name)?.is(base.getattr(name)?);
        }
        Ok(Datagrams {
            senders: PyList::empty(py).unbind(),
            plain,
            state: Held::new(State::default()),
        })
    }

    /// Begin, with the bytes that may wait for a reader, what each datagram costs beside its own, and whether something is said
    /// of each.
    fn _begin(&self, py: Python<'_>, limit: usize, overhead: usize, described: bool) {
        let mut state = self.state.borrow(py);
        state.inbox = Inbox::new(limit, overhead);
        state.described = described;
    }

    // Called by the application

    #[pyo3(signature = (*, exactly=None, at_least=None, at_most=None, as_=None, until=None))]
    fn receive<'py>(
        slf: &Bound<'py, Self>,
        exactly: Option<Bound<'py, PyAny>>,
        at_least: Option<Bound<'py, PyAny>>,
        at_most: Option<Bound<'py, PyAny>>,
        as_: Option<Bound<'py, PyAny>>,
        until: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let others = [
            ("exactly", exactly),
            ("at_least", at_least),
            ("at_most", at_most),
            ("as_", as_),
            ("until", until),
        ];
        match others.iter().find(|(_, value)| value.is_some()) {
            Some((name, _)) => {
                slf.call_method1(intern!(slf.py(), "_unexpected"), ("receive", *name))
            }
            None => Self::call(slf, Form::One),
        }
    }

    #[pyo3(signature = (*, at_most=64))]
    fn receive_many<'py>(slf: &Bound<'py, Self>, at_most: i64) -> PyResult<Bound<'py, PyAny>> {
        match usize::try_from(at_most) {
            Ok(count) if count > 0 => Self::call(slf, Form::Many(count)),
            _ => Err(PyValueError::new_err(format!(
                "at_most must be at least 1, got {at_most}"
            ))),
        }
    }

    fn next_piece<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::call(slf, Form::Next)
    }

    fn __aiter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        match slf.get().plain {
            true => Self::call(slf, Form::Next),
            false => slf.call_method0(intern!(slf.py(), "next_piece")),
        }
    }

    #[pyo3(signature = (content, *, metadata=None, end_of_stream=None, last_message=None, r#type=None))]
    fn send<'py>(
        slf: &Bound<'py, Self>,
        content: Bound<'py, PyAny>,
        metadata: Option<Bound<'py, PyAny>>,
        end_of_stream: Option<Bound<'py, PyAny>>,
        last_message: Option<Bound<'py, PyAny>>,
        r#type: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let others = [
            ("end_of_stream", end_of_stream),
            ("last_message", last_message),
            ("type", r#type),
        ];
        if let Some((name, _)) = others.iter().find(|(_, value)| value.is_some()) {
            return slf.call_method1(intern!(slf.py(), "_unexpected"), ("send", *name));
        }
        let give = Give {
            flow: slf.clone().unbind(),
            content: content.unbind(),
            metadata: metadata.map(Bound::unbind),
            many: false,
        };
        Call::make(slf.py(), Work::Give(give))
    }

    #[pyo3(signature = (contents, *, metadata=None))]
    fn send_many<'py>(
        slf: &Bound<'py, Self>,
        contents: Py<PyAny>,
        metadata: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let give = Give {
            flow: slf.clone().unbind(),
            content: contents,
            metadata,
            many: true,
        };
        Call::make(slf.py(), Work::Give(give))
    }

    // Called by the socket

    #[pyo3(signature = (datagrams, remote, metadata=None))]
    fn received_all<'py>(
        slf: &Bound<'py, Self>,
        datagrams: Vec<Bound<'py, PyBytes>>,
        remote: &Bound<'py, PyAny>,
        metadata: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let _ = remote; // the flow's
        let metadata = metadata.unwrap_or_else(|| slf.py().None().into_bound(slf.py()));
        slf.get().take_in(slf, datagrams, &metadata)
    }

    #[pyo3(signature = (datagram, remote, metadata=None))]
    fn received<'py>(
        slf: &Bound<'py, Self>,
        datagram: Bound<'py, PyBytes>,
        remote: &Bound<'py, PyAny>,
        metadata: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let _ = remote;
        let metadata = metadata.unwrap_or_else(|| py.None().into_bound(py));
        let described = this.describing(slf, &metadata)?;
        {
            let mut state = this.state.borrow(py);
            state.activity += 1;
            state.inbox.keep(datagram, described);
        }
        this.wake(py)
    }

    // For the subclass

    /// Datagrams that nobody has taken.
    #[getter]
    fn waiting(&self, py: Python<'_>) -> usize {
        self.state.borrow(py).inbox.len()
    }

    /// What they and their overhead come to in bytes.
    #[getter]
    fn _size(&self, py: Python<'_>) -> usize {
        self.state.borrow(py).inbox.size()
    }

    /// Forget them.
    fn _clear(&self, py: Python<'_>) {
        let before = self.state.borrow(py).inbox.clear();
        drop(before);
    }

    /// What the receives await that wait.
    #[getter]
    fn _readers<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        let state = self.state.borrow(py);
        let readers = state.readers.iter();
        readers.map(|waiter| waiter.bind(py).clone()).collect()
    }

    fn _wake(&self, py: Python<'_>) -> PyResult<()> {
        self.wake(py)
    }

    #[getter]
    fn socket(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        copy(py, &self.state.borrow(py).socket)
    }

    #[setter]
    fn set_socket(&self, py: Python<'_>, socket: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut self.state.borrow(py).socket, socket);
        drop(before);
    }

    #[getter]
    fn remote(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        copy(py, &self.state.borrow(py).remote)
    }

    #[setter]
    fn set_remote(&self, py: Python<'_>, remote: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut self.state.borrow(py).remote, remote);
        drop(before);
    }

    #[getter]
    fn _notice(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        copy(py, &self.state.borrow(py).notice)
    }

    #[setter(_notice)]
    fn set_notice(&self, py: Python<'_>, notice: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut self.state.borrow(py).notice, notice);
        drop(before);
    }

    #[getter]
    fn _ended(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).ended
    }

    #[setter(_ended)]
    fn set_ended(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).ended = value;
    }

    #[getter]
    fn _streak(&self, py: Python<'_>) -> usize {
        self.state.borrow(py).streak
    }

    #[setter(_streak)]
    fn set_streak(&self, py: Python<'_>, value: usize) {
        self.state.borrow(py).streak = value;
    }

    fn _sent(&self, py: Python<'_>, datagrams: usize, size: usize) {
        self.sent(py, datagrams, size);
    }

    /// Give datagrams to the socket, or none if one is too large; how many it has taken.
    #[pyo3(signature = (datagrams, metadata=None))]
    fn _put<'py>(
        slf: &Bound<'py, Self>,
        datagrams: &Bound<'py, PyTuple>,
        metadata: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let (this, py) = (slf.get(), slf.py());
        let Some((socket, remote)) = this.place(py) else {
            return Ok(0);
        };
        this.state.borrow(py).streak += cost(datagrams.len());
        put(slf, &socket, &remote, datagrams, metadata)
    }

    #[getter]
    fn dropped(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).inbox.dropped()
    }

    #[getter]
    fn activity(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).activity
    }

    #[getter]
    fn received_count(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).received_count
    }

    #[getter]
    fn received_datagrams(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).received_datagrams
    }

    #[getter]
    fn sent_count(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).sent_count
    }

    #[getter]
    fn sent_datagrams(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).sent_datagrams
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.senders)?;
        self.state
            .inspect(|state| {
                visit.call(&state.waiters)?;
                visit.call(&state.socket)?;
                visit.call(&state.remote)?;
                visit.call(&state.notice)?;
                state.inbox.traverse(&visit)?;
                state
                    .readers
                    .iter()
                    .try_for_each(|waiter| visit.call(waiter.object()))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let before = {
            let mut state = self.state.borrow(py);
            (state.socket.take(), std::mem::take(&mut state.readers))
        };
        drop(before);
    }
}
