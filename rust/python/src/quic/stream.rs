//! A stream of a connection as a socket: the way of what comes for it, and of what it takes, without Python.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::QuicError;
use super::connection::QuicConnection;
use crate::stream::{Held, Receiving, copy, invoke};

/// Bytes that are taken from the engine at once.
const LARGEST_READ: usize = 256 * 1024;

#[derive(Default)]
struct State {
    reading: bool,
    closed: bool,
    /// Nothing more is to be had from the engine.
    ended: bool,
    /// There may be something to read.
    news: bool,
    /// Nothing more is taken: the subclass knows why.
    refuses: bool,
    handler: Option<Py<PyAny>>,
    /// Takes what arrives, instead of the handler.
    sink: Option<Py<Receiving>>,
}

/// What reads and writes a stream for the subclass.
#[pyclass(frozen, subclass, module = "tieline._engine.quic")]
pub(crate) struct QuicStream {
    #[pyo3(get, name = "_session")]
    session: Py<PyAny>,
    #[pyo3(get, name = "_connection")]
    connection: Py<QuicConnection>,
    #[pyo3(get)]
    number: u64,
    state: Held<State>,
}

impl QuicStream {
    /// What the engine takes of it now.
    pub(crate) fn give(&self, slf: &Bound<'_, Self>, data: &Bound<'_, PyBytes>) -> PyResult<usize> {
        let py = slf.py();
        let refuses = self.state.borrow(py).refuses;
        if !refuses {
            let connection = self.connection.get();
            match connection.write_bytes(py, self.number, data) {
                Ok(taken) => {
                    if connection.touch() {
                        let endpoint = self.session.bind(py).getattr(intern!(py, "endpoint"))?;
                        endpoint.call_method1(intern!(py, "touched"), (0,))?;
                    }
                    return Ok(taken);
                }
                Err(error) if error.is_instance_of::<QuicError>(py) => {}
                Err(error) => return Err(error),
            }
        }
        // Which says why.
        invoke(slf, intern!(py, "send"), data)?.extract()
    }

    /// Who takes what comes, if it is wanted.
    fn taker(&self, py: Python<'_>) -> Option<Taker> {
        let state = self.state.borrow(py);
        if !state.reading || state.closed || state.ended {
            return None;
        }
        let handler = state.handler.as_ref()?;
        Some(match &state.sink {
            Some(sink) => Taker::Sink(sink.clone_ref(py)),
            None => Taker::Handler(handler.clone_ref(py)),
        })
    }
}

enum Taker {
    Sink(Py<Receiving>),
    Handler(Py<PyAny>),
}

#[pymethods]
impl QuicStream {
    #[new]
    #[pyo3(signature = (session, number, *_arguments, **_options))]
    fn new(
        session: &Bound<'_, PyAny>,
        number: u64,
        _arguments: &Bound<'_, PyTuple>,
        _options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let connection = session.getattr(intern!(session.py(), "connection"))?;
        Ok(QuicStream {
            session: session.clone().unbind(),
            connection: connection.cast_into::<QuicConnection>()?.unbind(),
            number,
            state: Held::new(State::default()),
        })
    }

    /// Something has come.
    pub(super) fn readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        this.state.borrow(py).news = true;
        while let Some(taker) = this.taker(py) {
            let (data, ended) = match this.connection.get().read(py, this.number, LARGEST_READ) {
                Ok(read) => read,
                Err(error) if error.is_instance_of::<QuicError>(py) => {
                    return slf
                        .call_method1(intern!(py, "_unreadable"), (error.value(py),))
                        .map(drop);
                }
                Err(error) => return Err(error),
            };
            let length = data.as_bytes().len();
            {
                let mut state = this.state.borrow(py);
                state.ended = ended;
                state.news = ended || length == LARGEST_READ; // before the program runs, which may find out that there is more
            }
            if length > 0 {
                match taker {
                    Taker::Sink(sink) => sink.get().feed_in(sink.bind(py), data)?,
                    Taker::Handler(handler) => {
                        invoke(handler.bind(py), intern!(py, "received"), &data).map(drop)?;
                    }
                }
            }
            if ended {
                return slf.call_method0(intern!(py, "_ended_by_peer")).map(drop);
            }
            if length < LARGEST_READ {
                break;
            }
        }
        Ok(())
    }

    #[getter]
    fn handler(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        copy(py, &self.state.borrow(py).handler)
    }

    #[setter]
    fn set_handler(&self, py: Python<'_>, handler: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut self.state.borrow(py).handler, handler);
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
    fn _reading(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).reading
    }

    #[setter(_reading)]
    fn set_reading(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).reading = value;
    }

    #[getter]
    fn _closed(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).closed
    }

    #[setter(_closed)]
    fn set_closed(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).closed = value;
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
    fn _news(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).news
    }

    #[setter(_news)]
    fn set_news(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).news = value;
    }

    #[getter]
    fn _refuses(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).refuses
    }

    #[setter(_refuses)]
    fn set_refuses(&self, py: Python<'_>, value: bool) {
        self.state.borrow(py).refuses = value;
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.session)?;
        visit.call(&self.connection)?;
        self.state
            .inspect(|state| {
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
