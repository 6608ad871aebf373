//! What a coroutine awaits: like a future of asyncio's, but a callback of the event loop may run the coroutine at once.
//!
//! A future that is completed asks the loop to run its task in the next turn, which costs a look at the selector and some
//! bookkeeping: as much as everything else that a small message needs. When bytes arrive, the loop is in a callback of ours
//! and no task is running, so the task that waits for them can just as well go on there and then. That is `resume`;
//! everything else is as with futures. asyncio lets any object be awaited that has these members (see `asyncio.isfuture`).

use std::ffi::{CStr, c_int};

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::PyMethodDef;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::held::Held;
use super::invoke::invoke_two;
use super::native::{Answer, Handle, Method, Native, Visit};

/// For one coroutine, which awaits it once.
pub(crate) struct Waiter {
    /// What a task is told by that raises nothing.
    succeeded: Py<PyAny>,
    /// The coroutine always goes on in a turn of its own.
    defers: bool,
    state: Held<State>,
}

struct State {
    /// What the task has to be told by, and in which context.
    callback: Option<(Py<PyAny>, Py<PyAny>)>,
    error: Option<Py<PyAny>>,
    done: bool,
}

impl Native for Waiter {
    const NAME: &'static CStr = c"tieline._engine.stream.Waiter";
    const DOC: &'static CStr = c"For one coroutine, which awaits it once.";
    const FUTURE: bool = true;

    fn class() -> &'static PyOnceLock<Py<PyType>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        &CLASS
    }

    fn methods() -> Vec<PyMethodDef> {
        vec![
            Done::definition(),
            SetResult::definition(),
            SetException::definition(),
            Cancel::definition(),
            Resume::definition(),
            AddDoneCallback::definition(),
            Outcome::definition(),
        ]
    }

    fn name(&self) -> &'static CStr {
        c"waiter"
    }

    /// For the task that waits: it is given the waiter, calls `result` when that is done, and throws what that raises.
    fn step<'py>(
        slf: &Bound<'py, PyAny>,
        this: &Self,
        _: &Bound<'py, PyAny>,
    ) -> PyResult<Answer<'py>> {
        let py = slf.py();
        if this.is_done(py) {
            this.outcome(py)?;
            return Ok(Answer::Return(py.None().into_bound(py)));
        }
        Ok(Answer::Yield(slf.clone()))
    }

    fn visit(&self, visit: Visit<'_>) -> c_int {
        self.state
            .inspect(|state| {
                let callback = state
                    .callback
                    .iter()
                    .flat_map(|(callback, context)| [callback, context]);
                callback
                    .chain(&state.error)
                    .chain([&self.succeeded])
                    .map(|reference| visit(reference.as_ptr()))
                    .find(|result| *result != 0)
            })
            .flatten()
            .unwrap_or(0)
    }

    fn clear(&self, py: Python<'_>) {
        let callback = self.state.borrow(py).callback.take();
        drop(callback);
    }
}

impl Waiter {
    pub(crate) fn is_done(&self, py: Python<'_>) -> bool {
        self.state.borrow(py).done
    }

    /// Raises what it was completed with, once.
    fn outcome(&self, py: Python<'_>) -> PyResult<()> {
        let error = self.state.borrow(py).error.take();
        match error {
            None => Ok(()),
            Some(error) => Err(PyErr::from_value(error.into_bound(py))),
        }
    }

    /// Complete it, and have its task run in the loop's next turn.
    pub(crate) fn complete(
        &self,
        slf: &Bound<'_, PyAny>,
        error: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        if self.is_done(py) {
            let class = asyncio(py, "InvalidStateError")?;
            return Err(PyErr::from_value(
                class.call1(("this waiter has been completed before",))?,
            ));
        }
        let callback = {
            let mut state = self.state.borrow(py);
            state.done = true;
            state.error = error;
            state.callback.take()
        };
        match callback {
            Some((callback, context)) => self.call_soon(slf, callback.bind(py), context.bind(py)),
            None => Ok(()),
        }
    }

    /// Have its task run in the loop's next turn.
    fn call_soon<'py>(
        &self,
        slf: &Bound<'py, PyAny>,
        callback: &Bound<'py, PyAny>,
        context: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = slf.py();
        let options = PyDict::new(py);
        options.set_item(intern!(py, "context"), context)?;
        let raises = self.state.borrow(py).error.is_some();
        let outcome = if raises { slf } else { self.succeeded.bind(py) };
        let event_loop = slf.getattr(intern!(py, "_loop"))?;
        let call_soon = event_loop.getattr(intern!(py, "call_soon"))?;
        call_soon
            .call((callback, outcome), Some(&options))
            .map(drop)
    }

    /// Complete it, and run its task until that waits again. Only from a callback of the loop, never from inside a task.
    pub(crate) fn resume(&self, slf: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.defers {
            return self.complete(slf, None);
        }
        let py = slf.py();
        let callback = {
            let mut state = self.state.borrow(py);
            state.done = true;
            state.callback.take()
        };
        if let Some((callback, context)) = callback {
            let (context, callback) = (context.bind(py), callback.bind(py));
            let outcome = self.succeeded.bind(py);
            invoke_two(context, intern!(py, "run"), callback, outcome)?;
        }
        Ok(())
    }
}

fn asyncio<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import(intern!(py, "asyncio"))?.getattr(name)
}

fn one<'a, 'py>(arguments: &'a [Bound<'py, PyAny>]) -> PyResult<&'a Bound<'py, PyAny>> {
    match arguments {
        [argument] => Ok(argument),
        _ => Err(PyTypeError::new_err(format!(
            "expected one argument, got {}",
            arguments.len()
        ))),
    }
}

/// The methods: a type for each, as each is a function of its own for the interpreter.
macro_rules! method {
    ($kind:ident, $name:literal, |$slf:ident, $this:ident, $arguments:ident| $body:expr) => {
        struct $kind;

        impl Method<Waiter> for $kind {
            const NAME: &'static CStr = $name;

            fn run<'py>(
                $slf: &Bound<'py, PyAny>,
                $this: &Waiter,
                $arguments: &[Bound<'py, PyAny>],
            ) -> PyResult<Bound<'py, PyAny>> {
                $body
            }
        }
    };
}

fn nothing<'py>(slf: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    Ok(slf.py().None().into_bound(slf.py()))
}

method!(Done, c"done", |slf, this, _arguments| {
    Ok(PyBool::new(slf.py(), this.is_done(slf.py()))
        .to_owned()
        .into_any())
});

method!(SetResult, c"set_result", |slf, this, arguments| {
    one(arguments)?;
    this.complete(slf, None)?;
    nothing(slf)
});

method!(SetException, c"set_exception", |slf, this, arguments| {
    this.complete(slf, Some(one(arguments)?.clone().unbind()))?;
    nothing(slf)
});

method!(Cancel, c"cancel", |slf, this, arguments| {
    let py = slf.py();
    let open = !this.is_done(py);
    if open {
        let class = asyncio(py, "CancelledError")?;
        let error = match arguments.first().filter(|message| !message.is_none()) {
            None => class.call0()?,
            Some(message) => class.call1((message,))?,
        };
        this.complete(slf, Some(error.unbind()))?;
    }
    Ok(PyBool::new(py, open).to_owned().into_any())
});

method!(Resume, c"resume", |slf, this, _arguments| {
    this.resume(slf)?;
    nothing(slf)
});

method!(
    AddDoneCallback,
    c"add_done_callback",
    |slf, this, arguments| {
        let [callback, context] = arguments else {
            return Err(PyTypeError::new_err(
                "add_done_callback(callback, *, context)",
            ));
        };
        if this.is_done(slf.py()) {
            this.call_soon(slf, callback, context)?; // completed between its making and its awaiting
            return nothing(slf);
        }
        let both = (callback.clone().unbind(), context.clone().unbind());
        let before = this.state.borrow(slf.py()).callback.replace(both);
        drop(before);
        nothing(slf)
    }
);

method!(Outcome, c"result", |slf, this, _arguments| {
    this.outcome(slf.py())?;
    nothing(slf)
});

/// Makes the waiters of one event loop.
#[pyclass(frozen, module = "tieline._engine.stream")]
pub(crate) struct Waiters {
    event_loop: Py<PyAny>,
    /// A future that has no error. asyncio asks its own for their results at once, and others by a method's name; so those of
    /// ours that raise nothing have this one to show.
    succeeded: Py<PyAny>,
    defers: bool,
}

impl Waiters {
    pub(crate) fn make(&self, py: Python<'_>) -> PyResult<Handle<Waiter>> {
        let waiter = Waiter {
            succeeded: self.succeeded.clone_ref(py),
            defers: self.defers,
            state: Held::new(State {
                callback: None,
                error: None,
                done: false,
            }),
        };
        Handle::new(py, waiter, Some(&self.event_loop))
    }
}

#[pymethods]
impl Waiters {
    #[new]
    #[pyo3(signature = (event_loop, *, defers=false))]
    fn new(event_loop: Bound<'_, PyAny>, defers: bool) -> PyResult<Self> {
        let py = event_loop.py();
        let succeeded = event_loop.call_method0(intern!(py, "create_future"))?;
        succeeded.call_method1(intern!(py, "set_result"), (py.None(),))?;
        Ok(Waiters {
            event_loop: event_loop.unbind(),
            succeeded: succeeded.unbind(),
            defers,
        })
    }

    fn __call__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.make(py)?.bind(py).clone())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.succeeded)
    }
}
