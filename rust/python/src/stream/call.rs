//! One call of a program that may have to wait: what `await` drives, as it drives a coroutine.
//!
//! A coroutine of Python's is entered anew for each message, and so is each function that it calls. What most calls do is
//! done here instead, in one step; what is left, rare and long, is a coroutine of Python's that the call hands over to.

use std::ffi::{CStr, CString, c_int};

use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyStopIteration, PyTypeError};
use pyo3::ffi::PyMethodDef;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use super::held::Held;
use super::invoke::{Sent, advance};
use super::native::{Answer, Handle, Method, Native, Visit, plain};
use super::receive::Receive;
use super::sending::Send;
use super::waiter::Waiter;
use crate::datagram::{Give, Take};

/// A call that is awaited once. It is what `collections.abc.Coroutine` describes.
pub(crate) struct Call {
    work: Work,
    stage: Held<Stage>,
}

pub(crate) enum Work {
    Receive(Receive),
    Send(Send),
    Take(Take),
    Give(Give),
}

enum Stage {
    Fresh,
    /// The waiter has been given to the task.
    Waiting(Handle<Waiter>),
    /// The rest is done by a coroutine of Python's.
    Handed(Py<PyAny>),
    Over,
}

/// What a call comes to at first.
pub(crate) enum Step<'py> {
    /// It is answered.
    Done(Bound<'py, PyAny>),
    /// It goes on when this is completed.
    Wait(Handle<Waiter>),
    /// A coroutine does the rest.
    Hand(Bound<'py, PyAny>),
}

impl Native for Call {
    const NAME: &'static CStr = c"tieline._engine.stream.Call";
    const DOC: &'static CStr = c"A call that is awaited once.";
    const FUTURE: bool = false;

    fn class() -> &'static PyOnceLock<Py<PyType>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        &CLASS
    }

    fn methods() -> Vec<PyMethodDef> {
        vec![
            SendValue::definition(),
            Throw::definition(),
            Close::definition(),
        ]
    }

    fn name(&self) -> &'static CStr {
        match &self.work {
            Work::Receive(receive) => receive.name(),
            Work::Take(take) => take.name(),
            Work::Give(give) => give.name(),
            Work::Send(_) => c"send",
        }
    }

    fn step<'py>(
        _: &Bound<'py, PyAny>,
        this: &Self,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<Answer<'py>> {
        let py = value.py();
        let step = match this.take_stage(py) {
            Stage::Fresh => match &this.work {
                Work::Receive(receive) => receive.begin(py)?,
                Work::Send(send) => send.begin(py)?,
                Work::Take(take) => take.begin(py)?,
                Work::Give(give) => give.begin(py)?,
            },
            Stage::Waiting(_) => match &this.work {
                Work::Receive(receive) => Step::Done(receive.finish(py)?),
                Work::Take(take) => Step::Done(take.finish(py)?),
                Work::Send(_) | Work::Give(_) => return Err(reused()), // they wait in a coroutine
            },
            Stage::Handed(coroutine) => return this.pass(coroutine, value),
            Stage::Over => return Err(reused()),
        };
        match step {
            Step::Done(result) => Ok(Answer::Return(result)),
            Step::Wait(waiter) => {
                let future = waiter.bind(py).clone();
                *this.stage.borrow(py) = Stage::Waiting(waiter);
                Ok(Answer::Yield(future))
            }
            Step::Hand(coroutine) => this.pass(coroutine.unbind(), value),
        }
    }

    fn visit(&self, visit: Visit<'_>) -> c_int {
        let result = match &self.work {
            Work::Receive(receive) => receive.visit(visit),
            Work::Send(send) => send.visit(visit),
            Work::Take(take) => take.visit(visit),
            Work::Give(give) => give.visit(visit),
        };
        if result != 0 {
            return result;
        }
        self.stage
            .inspect(|stage| match stage {
                Stage::Waiting(waiter) => visit(waiter.as_ptr()),
                Stage::Handed(coroutine) => visit(coroutine.as_ptr()),
                Stage::Fresh | Stage::Over => 0,
            })
            .unwrap_or(0)
    }

    fn clear(&self, py: Python<'_>) {
        let stage = self.take_stage(py);
        drop(stage);
    }
}

impl Call {
    pub(crate) fn make(py: Python<'_>, work: Work) -> PyResult<Bound<'_, PyAny>> {
        let stage = Held::new(Stage::Fresh);
        Ok(Handle::new(py, Call { work, stage }, None)?
            .bind(py)
            .clone())
    }

    fn take_stage(&self, py: Python<'_>) -> Stage {
        std::mem::replace(&mut *self.stage.borrow(py), Stage::Over)
    }

    /// Let the coroutine go on.
    fn pass<'py>(&self, coroutine: Py<PyAny>, value: &Bound<'py, PyAny>) -> PyResult<Answer<'py>> {
        let py = value.py();
        match advance(coroutine.bind(py), value)? {
            Sent::Yielded(future) => {
                *self.stage.borrow(py) = Stage::Handed(coroutine);
                Ok(Answer::Yield(future))
            }
            Sent::Returned(result) => Ok(Answer::Return(result)),
        }
    }

    fn passed<'py>(
        &self,
        py: Python<'py>,
        coroutine: Py<PyAny>,
        answer: PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Answer<'py>> {
        match answer {
            Ok(future) => {
                *self.stage.borrow(py) = Stage::Handed(coroutine);
                Ok(Answer::Yield(future))
            }
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => Ok(Answer::Return(
                error.value(py).getattr(intern!(py, "value"))?,
            )),
            Err(error) => Err(error),
        }
    }

    fn give_up(&self, py: Python<'_>, waiter: &Handle<Waiter>) -> PyResult<()> {
        match &self.work {
            Work::Receive(receive) => receive.leave(py, waiter),
            Work::Take(take) => take.leave(py, waiter),
            Work::Send(_) | Work::Give(_) => Ok(()),
        }
    }

    fn throw<'py>(
        &self,
        py: Python<'py>,
        arguments: &[Bound<'py, PyAny>],
    ) -> PyResult<Answer<'py>> {
        let stage = self.take_stage(py);
        if let Stage::Handed(coroutine) = stage {
            let arguments = PyTuple::new(py, arguments)?;
            let answer = coroutine
                .bind(py)
                .call_method1(intern!(py, "throw"), arguments);
            return self.passed(py, coroutine, answer);
        }
        if let Stage::Waiting(waiter) = stage {
            self.give_up(py, &waiter)?;
        }
        let error = match arguments {
            [_, value, ..] if !value.is_none() => value.clone(),
            [kind, ..] if kind.is_instance_of::<PyType>() => kind.call0()?,
            [error, ..] => error.clone(),
            [] => return Err(PyTypeError::new_err("throw(error)")),
        };
        Err(PyErr::from_value(error))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.take_stage(py) {
            Stage::Waiting(waiter) => self.give_up(py, &waiter),
            Stage::Handed(coroutine) => coroutine
                .bind(py)
                .call_method0(intern!(py, "close"))
                .map(drop),
            Stage::Fresh | Stage::Over => Ok(()),
        }
    }
}

fn reused() -> PyErr {
    PyRuntimeError::new_err("cannot reuse already awaited coroutine")
}

struct SendValue;

impl Method<Call> for SendValue {
    const NAME: &'static CStr = c"send";

    fn run<'py>(
        slf: &Bound<'py, PyAny>,
        this: &Call,
        arguments: &[Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, PyAny>> {
        let [value] = arguments else {
            return Err(PyTypeError::new_err("send(value)"));
        };
        plain(Call::step(slf, this, value)?)
    }
}

struct Throw;

impl Method<Call> for Throw {
    const NAME: &'static CStr = c"throw";

    fn run<'py>(
        slf: &Bound<'py, PyAny>,
        this: &Call,
        arguments: &[Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, PyAny>> {
        plain(this.throw(slf.py(), arguments)?)
    }
}

struct Close;

impl Method<Call> for Close {
    const NAME: &'static CStr = c"close";

    fn run<'py>(
        slf: &Bound<'py, PyAny>,
        this: &Call,
        _: &[Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, PyAny>> {
        this.close(slf.py())?;
        Ok(slf.py().None().into_bound(slf.py()))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.stage.inspect(|stage| matches!(stage, Stage::Fresh)) == Some(true) {
            Python::try_attach(|py| {
                // As for a coroutine: a forgotten `await` should not pass in silence.
                let before = PyErr::take(py);
                let name = self.name().to_string_lossy();
                let message = CString::new(format!("coroutine '{name}' was never awaited"));
                let warned = PyErr::warn(
                    py,
                    &py.get_type::<PyRuntimeWarning>(),
                    &message.unwrap_or_default(), // our names have no NUL
                    1,
                );
                if let Err(error) = warned {
                    error.write_unraisable(py, None);
                }
                if let Some(error) = before {
                    error.restore(py);
                }
            });
        }
    }
}
