//! Readers of many sockets: one epoll of our own tells of all but the first, and an event loop watches it as one more socket.
//!
//! One socket alone is the loop's to watch: to ask a second epoll would only take longer.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::slice;

use libc::epoll_event as Event;
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit, intern};

use super::descriptor::raise;
use super::held::Held;
use super::invoke::invoke;

/// Sockets that one turn of the loop is told of; the others are the next one's.
const AT_ONCE: usize = 256;

struct Reader {
    /// Tells it from those before it with the same descriptor, of which the kernel may have told already.
    number: u32,
    context: Py<PyAny>,
    callback: Py<PyAny>,
}

#[derive(Default)]
struct State {
    /// What the loop itself watches.
    first: Option<RawFd>,
    /// None until there is a second, and after the last.
    epoll: Option<OwnedFd>,
    readers: HashMap<RawFd, Reader>,
    last: u32,
    /// Who says that there will be more readers.
    keepers: usize,
}

impl State {
    /// The epoll, if nobody needs it any more.
    fn unused(&mut self) -> Option<OwnedFd> {
        let idle = self.keepers == 0 && self.first.is_none() && self.readers.is_empty();
        if idle { self.epoll.take() } else { None }
    }
}

/// What an event loop has as `add_reader` and `remove_reader`, at the price of a system call.
#[pyclass(frozen, module = "tieline._engine.stream")]
pub(crate) struct Epoll {
    event_loop: Py<PyAny>,
    /// As the loop does it, for one.
    single: Py<PyAny>,
    state: Held<State>,
}

#[expect(unsafe_code)]
fn create() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers, and a descriptor that it returns is new and nobody else's.
    unsafe {
        match libc::epoll_create1(libc::EPOLL_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            raw => Ok(OwnedFd::from_raw_fd(raw)),
        }
    }
}

#[expect(unsafe_code)]
fn control(epoll: &OwnedFd, operation: i32, raw: RawFd, token: u64) -> io::Result<()> {
    let mut event = Event {
        events: libc::EPOLLIN as u32,
        u64: token,
    };
    // SAFETY: the event is alive during the call, which only reads it.
    match unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, raw, &raw mut event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What has something. Does not wait.
#[expect(unsafe_code)]
fn look(epoll: RawFd, room: &mut [MaybeUninit<Event>]) -> io::Result<&[Event]> {
    // SAFETY: the kernel writes at most as many events as there is room for, and tells how many it has written.
    unsafe {
        let count = libc::epoll_wait(epoll, room.as_mut_ptr().cast(), room.len() as i32, 0);
        match usize::try_from(count) {
            Ok(count) => Ok(slice::from_raw_parts(room.as_ptr().cast(), count)),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

fn token(raw: RawFd, number: u32) -> u64 {
    u64::from(number) << 32 | u64::from(raw as u32)
}

/// That of who asks: what he has started, his tasks and variables, goes on in it.
fn context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let copy = COPY.get_or_try_init(py, || {
        let module = py.import(intern!(py, "contextvars"))?;
        let copy = module.getattr(intern!(py, "copy_context"))?;
        Ok::<_, PyErr>(copy.unbind())
    })?;
    copy.bind(py).call0()
}

impl Epoll {
    /// The reader that was told of, if it is still there.
    fn reader(&self, py: Python<'_>, told: u64) -> Option<(Py<PyAny>, Py<PyAny>)> {
        let state = self.state.borrow(py);
        let reader = state.readers.get(&(told as u32 as RawFd))?;
        let same = u64::from(reader.number) == told >> 32;
        same.then(|| (reader.context.clone_ref(py), reader.callback.clone_ref(py)))
    }

    /// Whether the loop itself is to watch it.
    fn is_first(&self, py: Python<'_>, raw: RawFd) -> bool {
        let mut state = self.state.borrow(py);
        if state.first.is_none() && state.readers.is_empty() {
            state.first = Some(raw);
        }
        state.first == Some(raw)
    }

    /// Nobody is left.
    fn close(&self, py: Python<'_>, epoll: OwnedFd) -> PyResult<()> {
        let event_loop = self.event_loop.bind(py);
        let over = event_loop.call_method0(intern!(py, "is_closed"))?;
        if !over.is_truthy()? {
            event_loop.call_method1(intern!(py, "remove_reader"), (epoll.as_raw_fd(),))?;
        }
        Ok(())
    }

    /// As an event loop does it: everything but what ends the program is told to the loop, which goes on.
    fn failed(&self, callback: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
        let py = callback.py();
        if error.is_instance_of::<PySystemExit>(py)
            || error.is_instance_of::<PyKeyboardInterrupt>(py)
        {
            return Err(error);
        }
        let details = PyDict::new(py);
        details.set_item("message", format!("Exception in reader {callback}"))?;
        details.set_item("exception", error.value(py))?;
        let handler = intern!(py, "call_exception_handler");
        self.event_loop.bind(py).call_method1(handler, (details,))?;
        Ok(())
    }
}

#[pymethods]
impl Epoll {
    #[new]
    fn new(event_loop: Py<PyAny>, single: Py<PyAny>) -> Self {
        Epoll {
            event_loop,
            single,
            state: Held::new(State::default()),
        }
    }

    /// Have a callback called whenever a descriptor can be read, or has failed; in place of the one that it had.
    pub(super) fn add_reader(
        slf: &Bound<'_, Self>,
        raw: RawFd,
        callback: Py<PyAny>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.is_first(py, raw) {
            let result = this
                .single
                .call_method1(py, intern!(py, "add_reader"), (raw, callback));
            if result.is_err() {
                this.state.borrow(py).first = None;
            }
            return result.map(drop);
        }
        let context = context(py)?.unbind();
        let absent = this.state.borrow(py).epoll.is_none();
        if absent {
            let epoll = create().map_err(|error| raise(py, &error))?;
            let ready = slf.getattr(intern!(py, "_ready"))?;
            let event_loop = this.event_loop.bind(py);
            event_loop.call_method1(intern!(py, "add_reader"), (epoll.as_raw_fd(), ready))?;
            this.state.borrow(py).epoll = Some(epoll);
        }
        // From here on nothing is called that could collect garbage, whose finalizers may remove readers, and so the epoll.
        let (before, result) = {
            let mut state = this.state.borrow(py);
            state.last = state.last.wrapping_add(1);
            let number = state.last;
            let result = match &state.epoll {
                None => Err(io::ErrorKind::NotFound.into()), // never: it was made above
                Some(epoll) => match control(epoll, libc::EPOLL_CTL_ADD, raw, token(raw, number)) {
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                        control(epoll, libc::EPOLL_CTL_MOD, raw, token(raw, number))
                    }
                    result => result,
                },
            };
            let reader = Reader {
                number,
                context,
                callback,
            };
            match result {
                Ok(()) => (state.readers.insert(raw, reader), Ok(())),
                Err(error) => (Some(reader), Err(error)),
            }
        };
        drop(before);
        result.map_err(|error| raise(py, &error))
    }

    /// Does nothing for one that is not there.
    pub(super) fn remove_reader(&self, py: Python<'_>, raw: RawFd) -> PyResult<()> {
        let (before, was_first, unused) = {
            let mut state = self.state.borrow(py);
            let before = state.readers.remove(&raw);
            if let (Some(_), Some(epoll)) = (&before, &state.epoll) {
                // One that is closed already has left by itself.
                let _ = control(epoll, libc::EPOLL_CTL_DEL, raw, 0);
            }
            let was_first = state.first.take_if(|first| *first == raw).is_some();
            (before, was_first, state.unused())
        };
        drop(before);
        if let Some(epoll) = unused {
            self.close(py, epoll)?;
        }
        if was_first {
            let name = intern!(py, "remove_reader");
            self.single.call_method1(py, name, (raw,))?;
        }
        Ok(())
    }

    /// Readers will come and go, as those of a listener's connections do: do not close the epoll in between.
    fn keep(&self, py: Python<'_>) {
        self.state.borrow(py).keepers += 1;
    }

    /// One who said `keep` is done.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let unused = {
            let mut state = self.state.borrow(py);
            state.keepers = state.keepers.saturating_sub(1);
            state.unused()
        };
        unused.map_or(Ok(()), |epoll| self.close(py, epoll))
    }

    /// The loop has seen that there is something for somebody.
    fn _ready(&self, py: Python<'_>) -> PyResult<()> {
        let epoll = match &self.state.borrow(py).epoll {
            None => return Ok(()),
            Some(epoll) => epoll.as_raw_fd(),
        };
        let mut room = [const { MaybeUninit::uninit() }; AT_ONCE];
        let found = match look(epoll, &mut room) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => &[],
            Err(error) => return Err(raise(py, &error)),
        };
        for event in found {
            let Some((context, callback)) = self.reader(py, event.u64) else {
                continue; // one of those before it has removed it
            };
            let (context, callback) = (context.bind(py), callback.bind(py));
            if let Err(error) = invoke(context, intern!(py, "run"), callback) {
                self.failed(callback, error)?;
            }
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.single)?;
        self.state
            .inspect(|state| {
                state.readers.values().try_for_each(|reader| {
                    visit.call(&reader.context)?;
                    visit.call(&reader.callback)
                })
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let before = std::mem::take(&mut self.state.borrow(py).readers);
        drop(before);
    }
}
