//! Messages that are sent: each is made when its turn has come, and leaves whole.

use std::time::{Duration, Instant};

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyString};

use super::call::Step;
use super::descriptor::{Descriptor, SMALL};
use super::held::copy;
use super::invoke::{invoke, invoke_two};
use super::receiving::Receiving;
use super::sending::{Linked, STREAK, Sending, State};

/// A frame is that much larger than its content.
const HEAD: usize = 14;
/// Records that are sent one after the other, with nothing taken in between, before those that follow are gathered.
const ROW: u32 = 4;
/// A record that is sent so long after the one before is in no row: who works on each, and does not let the loop have its turn
/// meanwhile, wants each to leave. A system call takes a tenth of this.
const LATE: Duration = Duration::from_micros(50);

/// What makes the bytes of values; behind their lengths they are records.
pub(super) struct Values {
    pub(super) codec: Py<PyAny>,
    pub(super) encode: Py<PyAny>,
    pub(super) limit: usize,
}

impl Values {
    fn record<'py>(&self, content: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let py = content.py();
        let codec = self.codec.bind(py);
        let data = match self.encode.bind(py).call1((content,)) {
            Ok(data) => data,
            Err(error) if error.is_instance_of::<PyException>(py) => {
                let told =
                    codec.call_method1(intern!(py, "unencodable"), (content, error.value(py)))?;
                let told = PyErr::from_value(told);
                told.set_cause(py, Some(error));
                return Err(told);
            }
            Err(error) => return Err(error),
        };
        if let Ok(bytes) = data.cast_exact::<PyBytes>()
            && let bytes = bytes.as_bytes()
            && bytes.len() <= self.limit
            && let Ok(length) = u32::try_from(bytes.len())
        {
            return PyBytes::new_with(py, 4 + bytes.len(), |record| {
                record[..4].copy_from_slice(&length.to_be_bytes());
                record[4..].copy_from_slice(bytes);
                Ok(())
            });
        }
        Ok(invoke(codec, intern!(py, "framed"), &data)?.cast_into::<PyBytes>()?)
    }
}

impl State {
    /// Whether a record that is sent now comes long after the one before.
    fn is_late(&mut self) -> bool {
        let now = Instant::now();
        let last = self.last.replace(now);
        last.is_none_or(|last| now.duration_since(last) > LATE)
    }
}

impl Sending {
    /// A message of a WebSocket, if nobody is before it.
    pub(super) fn message<'py>(
        &self,
        slf: &Bound<'py, Self>,
        content: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Step<'py>>> {
        let py = slf.py();
        let (data, is_text) = if let Ok(bytes) = content.cast_exact::<PyBytes>() {
            (bytes.as_bytes(), false)
        } else if let Ok(text) = content.cast_exact::<PyString>()
            && let Ok(text) = text.to_str()
        {
            (text.as_bytes(), true)
        } else {
            return Ok(None);
        };
        let codec = copy(py, &self.state.borrow(py).codec);
        let Some(codec) = codec else {
            return Ok(None);
        };
        let turn = slf.getattr(intern!(py, "turn"))?;
        if turn.getattr(intern!(py, "is_taken"))?.is_truthy()? {
            return Ok(None);
        }
        let Some((socket, machine)) = self.may_begin(slf) else {
            return Ok(None);
        };
        if data.len() > SMALL
            && machine.is_none()
            && let Some(head) = codec.get().head(is_text, data.len())?
            && let Some(step) = self.apart(slf, &socket, head.as_bytes(), content, data)?
        {
            return Ok(Some(step));
        }
        if data.len() + HEAD > self.slice {
            return Ok(None);
        }
        let record = codec.get().frame(content)?;
        if record.as_bytes().len() > self.slice {
            let rest = invoke_two(slf, intern!(py, "_begun"), content, &record)?;
            return Ok(Some(Step::Hand(rest)));
        }
        self.record(slf, (socket, machine), &record).map(Some)
    }

    /// Give a large message to the kernel from where it lies, if nothing has gathered before it and nothing is below.
    fn apart<'py>(
        &self,
        slf: &Bound<'py, Self>,
        socket: &Bound<'py, PyAny>,
        head: &[u8],
        content: &Bound<'py, PyAny>,
        data: &[u8],
    ) -> PyResult<Option<Step<'py>>> {
        let py = slf.py();
        let Ok(descriptor) = socket.cast::<Descriptor>() else {
            return Ok(None);
        };
        if !self.accepted.is_empty(py) {
            return Ok(None);
        }
        let taken = match descriptor.get().give_both(descriptor, head, data) {
            Ok(taken) => taken,
            Err(error) => return Err(self.refused(slf, &error)?),
        };
        let full = taken < head.len() + data.len();
        {
            let mut state = self.state.borrow(py);
            state.count += taken as u64;
            state.streak += 1;
            state.full = full;
        }
        if !full {
            return Ok(Some(Step::Done(py.None().into_bound(py))));
        }
        let rest = match taken.checked_sub(head.len()) {
            Some(taken) => {
                let taken = taken.into_pyobject(py)?;
                invoke_two(slf, intern!(py, "_go_on"), content, &taken)?
            }
            None => {
                let rest = PyBytes::new(py, &[&head[taken..], data].concat());
                invoke_two(slf, intern!(py, "_begun"), content, &rest)?
            }
        };
        Ok(Some(Step::Hand(rest)))
    }

    /// Where a record goes that is sent now, if nobody is before it and it is not other tasks' turn.
    fn may_begin<'py>(&self, slf: &Bound<'py, Self>) -> Option<Linked<'py>> {
        let py = slf.py();
        {
            let state = self.state.borrow(py);
            if state.ended || state.full || state.streak + 1 >= STREAK {
                return None;
            }
        }
        match self.writers.is_empty(py) {
            true => self.link(py),
            false => None,
        }
    }

    /// A value, in a record of its own.
    pub(super) fn value<'py>(
        &self,
        slf: &Bound<'py, Self>,
        content: &Bound<'py, PyAny>,
        last_message: bool,
    ) -> PyResult<Step<'py>> {
        let py = slf.py();
        let Some(values) = self.values.get() else {
            let last_message = PyBool::new(py, last_message);
            let general = invoke_two(slf, intern!(py, "_send_value"), content, &last_message)?;
            return Ok(Step::Hand(general));
        };
        let record = values.record(content)?;
        if !last_message
            && record.as_bytes().len() <= self.slice
            && let Some(link) = self.may_begin(slf)
        {
            return self.record(slf, link, &record);
        }
        let last_message = PyBool::new(py, last_message);
        let general = invoke_two(slf, intern!(py, "_record"), &record, &last_message)?;
        Ok(Step::Hand(general))
    }

    /// Give a record of at most a slice to the kernel, or gather it; nobody is before it.
    fn record<'py>(
        &self,
        slf: &Bound<'py, Self>,
        (socket, machine): Linked<'py>,
        record: &Bound<'py, PyBytes>,
    ) -> PyResult<Step<'py>> {
        let py = slf.py();
        let wire = match machine {
            None => record.clone(),
            Some(machine) => self.through(&machine, record)?,
        };
        let count = record.as_bytes().len();
        if !self.gathers(slf, &socket, &wire)? {
            if self.accepted.is_empty(py) {
                return self.deliver(slf, &socket, &wire, count);
            }
            invoke(slf, intern!(py, "_give_on"), &wire)?;
        }
        let mut state = self.state.borrow(py);
        state.count += count as u64;
        state.streak += 1;
        Ok(Step::Done(py.None().into_bound(py)))
    }

    /// Keep a record until there are more, if it is to wait for them.
    pub(super) fn gathers(
        &self,
        slf: &Bound<'_, Self>,
        socket: &Bound<'_, PyAny>,
        wire: &Bound<'_, PyBytes>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let flow = self.flow.bind(py);
        let receiving = flow
            .getattr(intern!(py, "receiving"))?
            .cast_into::<Receiving>()?; // of every flow that has this half
        let (waiting, taken) = (receiving.get().waiting(py), receiving.get().total(py));
        let size = wire.as_bytes().len();
        let due = {
            let mut state = self.state.borrow(py);
            // In a simulated network time is another one.
            let late = socket.is_instance_of::<Descriptor>() && state.is_late();
            if late || state.taken != taken {
                (state.taken, state.row) = (taken, 0);
            }
            state.row = state.row.saturating_add(1);
            if (waiting == 0 && state.row <= ROW) || state.size + size > self.gather {
                return Ok(false);
            }
            state.size += size;
            std::mem::replace(&mut state.due, true)
        };
        self.accepted.list(py).append(wire)?;
        if !due {
            let leave = slf.getattr(intern!(py, "_leave"))?;
            invoke(flow, intern!(py, "soon"), &leave)?;
        }
        Ok(true)
    }
}
