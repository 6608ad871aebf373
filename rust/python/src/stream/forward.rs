//! A method of a channel that is a call of its flow.

use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{PyTraverseError, PyVisit};

use super::receiving::Receiving;
use super::sending::Sending;
use crate::datagram::Datagrams;

/// Where the half of the flow that has the call is as it is here, the call is that half's own method, with nothing of Python's
/// in between; everywhere else, and for who asks the class, it is the function.
#[pyclass(frozen, module = "tieline._engine.stream")]
pub(crate) struct Forward {
    function: Py<PyAny>,
    half: Py<PyString>,
    name: Py<PyString>,
}

#[pymethods]
impl Forward {
    #[new]
    fn new(function: Py<PyAny>, half: Py<PyString>, name: Py<PyString>) -> Self {
        Forward {
            function,
            half,
            name,
        }
    }

    fn __get__<'py>(
        &self,
        py: Python<'py>,
        channel: Option<Bound<'py, PyAny>>,
        owner: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let function = self.function.bind(py);
        let Some(channel) = channel else {
            return Ok(function.clone());
        };
        let half = channel.getattr(&self.half)?;
        let plain = match (half.cast::<Receiving>(), half.cast::<Sending>()) {
            (Ok(receiving), _) => receiving.get().is_plain(),
            (_, Ok(sending)) => sending.get().is_plain(),
            _ => match half.cast::<Datagrams>() {
                Ok(datagrams) => datagrams.get().is_plain(),
                Err(_) => false,
            },
        };
        match plain {
            true => half.getattr(&self.name),
            false => function.call_method1("__get__", (channel, owner)),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)
    }
}
