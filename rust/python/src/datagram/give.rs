//! One send, of a datagram or of several.

use std::ffi::{CStr, c_int};

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::descriptor::DatagramDescriptor;
use super::flow::Datagrams;
use crate::stream::{Step, Visit, invoke, invoke_two};

/// So many in a batch take about as much time as one that is sent by itself: 0.2 µs each, where the kernel takes several at once.
const TOGETHER: usize = 8;

/// One send.
pub(crate) struct Give {
    pub(super) flow: Py<Datagrams>,
    /// A datagram, or a sequence of them.
    pub(super) content: Py<PyAny>,
    pub(super) metadata: Option<Py<PyAny>>,
    pub(super) many: bool,
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
        let step = match (self.many, &self.metadata) {
            (_, Some(_)) => None,
            (true, None) => all_direct(flow, content)?,
            (false, None) => match content.cast_exact::<PyBytes>() {
                Ok(datagram) => direct(flow, datagram)?,
                Err(_) => None,
            },
        };
        if let Some(step) = step {
            return Ok(step);
        }
        let general = match self.many {
            true => intern!(py, "_send_all"),
            false => intern!(py, "_send_one"),
        };
        let general = flow.call_method1(general, (content, &self.metadata))?;
        Ok(Step::Hand(general))
    }

    pub(crate) fn name(&self) -> &'static CStr {
        match self.many {
            true => c"send_many",
            false => c"send",
        }
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
    let Some((socket, remote)) = this.way(py, 1) else {
        return Ok(None);
    };
    let size = datagram.as_bytes().len();
    let given = match socket.cast::<DatagramDescriptor>() {
        Ok(descriptor) => descriptor.get().give(descriptor, datagram, &remote),
        Err(_) => give(&socket, datagram, &remote),
    };
    match given {
        Ok(Given::Gone) => {
            this.sent(py, 1, size);
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

/// The same with several; what the kernel does not take goes the long way.
fn all_direct<'py>(
    flow: &Bound<'py, Datagrams>,
    contents: &Bound<'py, PyAny>,
) -> PyResult<Option<Step<'py>>> {
    let py = flow.py();
    let datagrams = match contents.cast_exact::<PyList>() {
        Ok(list) => list.to_tuple(), // which nobody changes
        Err(_) => match contents.cast_exact::<PyTuple>() {
            Ok(tuple) => tuple.clone(),
            Err(_) => return Ok(None),
        },
    };
    let is_plain = |datagram: Borrowed<'_, 'py, PyAny>| datagram.is_exact_instance_of::<PyBytes>();
    if datagrams.is_empty() || !datagrams.iter_borrowed().all(is_plain) {
        return Ok(None);
    }
    let Some((socket, remote)) = flow.get().way(py, cost(datagrams.len())) else {
        return Ok(None);
    };
    let gone = put(flow, &socket, &remote, &datagrams, None)?;
    if gone == datagrams.len() {
        return Ok(Some(Step::Done(py.None().into_bound(py))));
    }
    let rest = datagrams.get_slice(gone, datagrams.len());
    let rest = flow.call_method1(intern!(py, "_send_all"), (rest, py.None()))?;
    Ok(Some(Step::Hand(rest)))
}

/// What several datagrams count for among those that are sent in a row.
pub(super) fn cost(count: usize) -> usize {
    1 + count / TOGETHER
}

/// Give datagrams to a socket, or none if one is too large; how many it has taken.
pub(super) fn put<'py>(
    flow: &Bound<'py, Datagrams>,
    socket: &Bound<'py, PyAny>,
    remote: &Bound<'py, PyAny>,
    datagrams: &Bound<'py, PyTuple>,
    metadata: Option<&Bound<'py, PyAny>>,
) -> PyResult<usize> {
    let py = flow.py();
    let sizes = datagrams.iter_borrowed().map(|datagram| datagram.len());
    let sizes: Vec<usize> = sizes.collect::<PyResult<_>>()?;
    let descriptor = socket.cast::<DatagramDescriptor>();
    let limit = match &descriptor {
        Ok(descriptor) => descriptor.get().limit(descriptor, remote)?,
        Err(_) => invoke(socket, intern!(py, "maximum_size"), remote)?.extract()?,
    };
    let largest = sizes.iter().copied().max().unwrap_or_default();
    if largest > limit {
        let error = flow.call_method1(intern!(py, "_too_large"), (largest, limit))?;
        return Err(PyErr::from_value(error));
    }
    let gone = match (descriptor, metadata, sizes.as_slice()) {
        (_, _, []) => return Ok(0),
        (Ok(descriptor), None, _) => descriptor
            .get()
            .give_all(descriptor, datagrams, remote, &[]),
        (_, _, [_]) => {
            let arguments = (datagrams.get_item(0)?, remote, metadata);
            let gone = socket.call_method1(intern!(py, "send"), arguments);
            gone.and_then(|gone| gone.is_truthy()).map(usize::from)
        }
        _ => {
            let arguments = (datagrams, remote, metadata);
            let gone = socket.call_method1(intern!(py, "send_many"), arguments);
            gone.and_then(|gone| gone.extract())
        }
    };
    match gone {
        Ok(gone) => {
            let gone = gone.min(sizes.len());
            flow.get().sent(py, gone, sizes[..gone].iter().sum());
            Ok(gone)
        }
        Err(error) if error.is_instance_of::<PyOSError>(py) => {
            let first = datagrams.get_item(0)?;
            let told = invoke_two(flow, intern!(py, "_refused"), error.value(py), &first)?;
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
