//! One send of a datagram.

use std::ffi::c_int;

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::descriptor::DatagramDescriptor;
use super::flow::Datagrams;
use crate::stream::{Step, Visit, invoke, invoke_two};

/// One send.
pub(crate) struct Give {
    pub(super) flow: Py<Datagrams>,
    pub(super) content: Py<PyAny>,
    pub(super) metadata: Option<Py<PyAny>>,
}

/// What became of a datagram.
pub(super) enum Given {
    Gone,
    /// The kernel has no room; `writable` follows.
    Blocked,
    /// The way takes only so much.
    TooLarge(usize),
}

impl Give {
    pub(crate) fn begin<'py>(&self, py: Python<'py>) -> PyResult<Step<'py>> {
        let flow = self.flow.bind(py);
        let content = self.content.bind(py);
        if self.metadata.is_none()
            && let Ok(datagram) = content.cast_exact::<PyBytes>()
            && let Some(step) = direct(flow, datagram)?
        {
            return Ok(step);
        }
        let general = flow.call_method1(intern!(py, "_send_one"), (content, &self.metadata))?;
        Ok(Step::Hand(general))
    }

    pub(crate) fn visit(&self, visit: Visit<'_>) -> c_int {
        let references = [Some(self.flow.as_ptr()), Some(self.content.as_ptr())];
        let metadata = self.metadata.as_ref().map(Py::as_ptr);
        references
            .into_iter()
            .chain([metadata])
            .flatten()
            .map(visit)
            .find(|result| *result != 0)
            .unwrap_or(0)
    }
}

/// Straight to the kernel, if nobody is before us and nothing is special.
fn direct<'py>(
    flow: &Bound<'py, Datagrams>,
    datagram: &Bound<'py, PyBytes>,
) -> PyResult<Option<Step<'py>>> {
    let py = flow.py();
    let this = flow.get();
    let Some((socket, remote)) = this.way(py) else {
        return Ok(None);
    };
    let size = datagram.as_bytes().len();
    let given = match socket.cast::<DatagramDescriptor>() {
        Ok(descriptor) => descriptor.get().give(descriptor, datagram, &remote),
        Err(_) => give(&socket, datagram, &remote),
    };
    match given {
        Ok(Given::Gone) => {
            this.sent(py, size);
            Ok(Some(Step::Done(py.None().into_bound(py))))
        }
        Ok(Given::Blocked) => {
            let rest = invoke(flow, intern!(py, "_send_blocked"), datagram)?;
            Ok(Some(Step::Hand(rest)))
        }
        Ok(Given::TooLarge(limit)) => {
            let error = flow.call_method1(intern!(py, "_too_large"), (size, limit))?;
            Err(PyErr::from_value(error))
        }
        Err(error) if error.is_instance_of::<PyOSError>(py) => {
            let told = invoke_two(
                flow,
                intern!(py, "_refused"),
                error.value(py).as_any(),
                datagram,
            )?;
            Err(PyErr::from_value(told))
        }
        Err(error) => Err(error),
    }
}

/// To any socket of the port.
fn give<'py>(
    socket: &Bound<'py, PyAny>,
    datagram: &Bound<'py, PyBytes>,
    remote: &Bound<'py, PyAny>,
) -> PyResult<Given> {
    let py = socket.py();
    let limit = invoke(socket, intern!(py, "maximum_size"), remote)?.extract()?;
    if datagram.as_bytes().len() > limit {
        return Ok(Given::TooLarge(limit));
    }
    match invoke_two(socket, intern!(py, "send"), datagram, remote)?.is_truthy()? {
        true => Ok(Given::Gone),
        false => Ok(Given::Blocked),
    }
}
