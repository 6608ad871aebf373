//! A listener's socket, which many flows share.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::flow::Datagrams;
use crate::stream::Held;

/// Flows that share a socket, by their peers.
#[pyclass(frozen, subclass, module = "tieline._engine.datagram")]
pub(crate) struct Sharing {
    #[pyo3(get)]
    flows: Py<PyDict>,
    deaf: Held<bool>,
}

impl Sharing {
    /// Who takes what comes of a peer; where nobody does, the handler decides.
    pub(super) fn flow<'py>(
        &self,
        peer: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Datagrams>>> {
        let py = peer.py();
        if *self.deaf.borrow(py) {
            return Ok(None);
        }
        let Some(flow) = self.flows.bind(py).get_item(peer)? else {
            return Ok(None);
        };
        let flow = flow.cast_into::<Datagrams>()?;
        let open = flow.get().is_open(py);
        Ok(open.then_some(flow))
    }
}

#[pymethods]
impl Sharing {
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(
        py: Python<'_>,
        _arguments: &Bound<'_, PyTuple>,
        _options: Option<&Bound<'_, PyDict>>,
    ) -> Self {
        Sharing {
            flows: PyDict::new(py).unbind(),
            deaf: Held::new(false),
        }
    }

    /// The flows take nothing any more.
    #[getter]
    fn deaf(&self, py: Python<'_>) -> bool {
        *self.deaf.borrow(py)
    }

    #[setter]
    fn set_deaf(&self, py: Python<'_>, value: bool) {
        *self.deaf.borrow(py) = value;
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.flows)
    }
}
