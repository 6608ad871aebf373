//! The inbound half of a stream where what arrives becomes whole messages.

use std::io;
use std::time::Instant;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::held::copy;
use super::messages::{MessageInbox, Received};
use super::receiving::Receiving;
use super::records::First;
use crate::websocket::{WebSocketCodec, WebSocketFailure};

impl Receiving {
    pub(super) fn whole(&self, py: Python<'_>) -> Option<Py<MessageInbox>> {
        copy(py, &self.state.borrow(py).whole)
    }

    /// Whether there is a whole message, and whether no more will come; None if the subclass has to look.
    pub(super) fn first_message(&self, py: Python<'_>) -> Option<(bool, bool)> {
        if let Some(whole) = self.whole(py) {
            return Some((!whole.get().is_empty(py), whole.get().ended(py)));
        }
        let ended = self.inbox.get().ended(py);
        match self.first_record(py, self.records.get()?) {
            First::Whole(_) => Some((true, ended)),
            First::Begun => Some((false, ended)),
            First::Unusual => None,
        }
    }

    /// Whether there is a whole message.
    pub(super) fn is_whole(&self, slf: &Bound<'_, Self>) -> PyResult<bool> {
        match self.first_message(slf.py()) {
            Some((whole, _)) => Ok(whole),
            None => slf
                .call_method0(intern!(slf.py(), "_is_whole"))?
                .is_truthy(),
        }
    }

    /// The message whose turn it is, if there is nothing to say of it but what is said already.
    pub(super) fn next_message(&self, py: Python<'_>) -> Option<Received> {
        if !self.unchanged {
            return None;
        }
        self.whole(py)?.get().pop_unless_ended(py)
    }

    /// Find messages in what has arrived. What else is in it is the flow's.
    pub(super) fn decode(
        &self,
        slf: &Bound<'_, Self>,
        codec: &WebSocketCodec,
        piece: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let py = slf.py();
        self.take_found(slf, |whole| codec.find(py, piece.as_bytes(), whole))
    }

    /// Read what is still to come of a large message to where it is gathered. None if it does not come to that.
    pub(super) fn fill(
        &self,
        py: Python<'_>,
        at_most: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize> + Send,
    ) -> PyResult<Option<io::Result<usize>>> {
        let codec = {
            let state = self.state.borrow(py);
            match state.cipher {
                None => copy(py, &state.codec),
                Some(_) => None,
            }
        };
        match codec {
            Some(codec) => codec.get().fill(py, at_most, read),
            None => Ok(None),
        }
    }

    /// What was read so counts.
    pub(super) fn filled(&self, slf: &Bound<'_, Self>, count: usize) -> PyResult<()> {
        let py = slf.py();
        let codec = copy(py, &self.state.borrow(py).codec);
        match codec {
            Some(codec) => self.take_found(slf, |whole| codec.get().filled(py, count, whole)),
            None => Ok(()),
        }
    }

    /// Messages may have been found. What else was is the flow's.
    fn take_found<'py>(
        &self,
        slf: &Bound<'py, Self>,
        find: impl FnOnce(&MessageInbox) -> PyResult<Option<Bound<'py, PyList>>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let Some(whole) = self.whole(py) else {
            return Err(PyRuntimeError::new_err("a codec needs an inbox"));
        };
        self.state.borrow(py).heard = Some(Instant::now());
        let whole = whole.get();
        let others = match find(whole) {
            Ok(None) => return self.found(slf, whole),
            Ok(Some(others)) => (others.into_any(), None),
            Err(error) if error.is_instance_of::<WebSocketFailure>(py) => {
                let failure = error.into_value(py).into_bound(py);
                let received = failure.getattr(intern!(py, "received"))?;
                (received, Some(failure))
            }
            Err(error) => return Err(error),
        };
        let flow = self.flow.bind(py);
        flow.call_method1(intern!(py, "decoded"), others).map(drop)
    }

    /// There may be more messages: the call that the first answers runs in here.
    fn found(&self, slf: &Bound<'_, Self>, whole: &MessageInbox) -> PyResult<()> {
        let py = slf.py();
        if !whole.is_empty(py)
            && let Some(waiter) = self.first_answerable(slf)?
        {
            waiter.get(py).resume(waiter.bind(py))?;
        }
        if self.state.borrow(py).paused || whole.size(py) > self.limit {
            self.adjust(slf)?;
        }
        Ok(())
    }

    /// Bytes, or what messages count for, that calls have taken.
    pub(super) fn total(&self, py: Python<'_>) -> u64 {
        self.state.borrow(py).count
    }

    /// Bytes, or messages, that wait.
    pub(super) fn waiting(&self, py: Python<'_>) -> usize {
        match self.whole(py) {
            Some(whole) => whole.get().size(py),
            None => self.inbox.get().size(py),
        }
    }
}
