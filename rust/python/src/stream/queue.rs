//! The calls that wait for what arrives, in their order.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::held::copy;
use super::native::Handle;
use super::receiving::{Entry, Receiving};
use super::waiter::{Waiter, Waiters};

impl Receiving {
    /// Queue a call. Its waiter is done when those before it are and it can be answered; None if that is at once.
    pub(super) fn enter(
        &self,
        slf: &Bound<'_, Self>,
        minimum: usize,
        separator: Option<&Py<PyBytes>>,
    ) -> PyResult<Option<Handle<Waiter>>> {
        let py = slf.py();
        let error = copy(py, &self.state.borrow(py).error);
        if let Some(error) = error
            && !self.answerable(slf, minimum, separator)?
        {
            let error = slf.call_method1(intern!(py, "_raisable"), (error,))?;
            return Err(PyErr::from_value(error));
        }
        let linked = copy(py, &self.state.borrow(py).waiters);
        let waiters = match linked {
            Some(waiters) => waiters.into_bound(py),
            None => self.ask(slf, minimum, separator)?,
        };
        let waiter = waiters.get().make(py)?;
        let first = {
            let mut state = self.state.borrow(py);
            state.calls.push_back(Entry {
                waiter: waiter.clone_ref(py),
                minimum,
                separator: separator.map(|separator| separator.clone_ref(py)),
            });
            state.calls.len() == 1
        };
        if first {
            self.state.borrow(py).scanned = 0;
            // One that can be answered without a separator enters only if it is not the first, or at the end.
            let now = match (self.messages, separator) {
                (true, _) | (false, Some(_)) => self.answerable(slf, minimum, separator)?,
                (false, None) => self.inbox.get().ended(py),
            };
            if now {
                return Ok(None);
            }
            if self.state.borrow(py).paused {
                self.adjust(slf)?;
            }
        }
        Ok(Some(waiter))
    }

    /// There is no socket, or something was closed: what a call waits by nevertheless, if it may.
    fn ask<'py>(
        &self,
        slf: &Bound<'py, Self>,
        minimum: usize,
        separator: Option<&Py<PyBytes>>,
    ) -> PyResult<Bound<'py, Waiters>> {
        let py = slf.py();
        let flow = self.flow.bind(py);
        if flow.getattr(intern!(py, "closed"))?.is_truthy()?
            || !self.state.borrow(py).calls.is_empty()
            || !self.answerable(slf, minimum, separator)?
        {
            flow.call_method0(intern!(py, "need"))?; // raises, unless a socket may still come
        }
        let waiters = flow.getattr(intern!(py, "waiter"))?;
        Ok(waiters.cast_into::<Waiters>()?) // every driver's are made by these
    }

    pub(super) fn remove(&self, py: Python<'_>, waiter: &Handle<Waiter>) {
        let left = {
            let mut state = self.state.borrow(py);
            let place = state
                .calls
                .iter()
                .position(|entry| entry.waiter.as_ptr() == waiter.as_ptr());
            place.and_then(|place| state.calls.remove(place))
        };
        drop(left);
    }

    pub(super) fn answerable(
        &self,
        slf: &Bound<'_, Self>,
        minimum: usize,
        separator: Option<&Py<PyBytes>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        if self.messages {
            if let Some((whole, ended)) = self.first_message(py) {
                return Ok(whole || ended);
            }
            return slf.call_method0(intern!(py, "_answerable"))?.is_truthy();
        }
        let held = self.inbox.get().held.borrow(py);
        if held.inbox.size() >= minimum || held.ended {
            return Ok(true);
        }
        let Some(separator) = separator else {
            return Ok(false);
        };
        let mut state = self.state.borrow(py);
        let separator = separator.as_bytes(py);
        match held.inbox.find(separator, state.scanned) {
            Some(found) => {
                state.scanned = found;
                Ok(true)
            }
            None => {
                state.scanned = (held.inbox.size() + 1).saturating_sub(separator.len());
                Ok(false)
            }
        }
    }

    /// It is this call's turn: how many bytes the first separator ends. Raises if it is not there in time.
    pub(super) fn separated(
        &self,
        slf: &Bound<'_, Self>,
        separator: &Bound<'_, PyBytes>,
        at_most: usize,
    ) -> PyResult<usize> {
        let py = slf.py();
        let (end, size) = {
            let held = self.inbox.get().held.borrow(py);
            let bytes = separator.as_bytes();
            let found = held.inbox.find(bytes, self.state.borrow(py).scanned);
            (found.map(|found| found + bytes.len()), held.inbox.size())
        };
        match end {
            Some(end) if end <= at_most => Ok(end),
            None if size < at_most => {
                let error = slf.call_method1(intern!(py, "_incomplete"), (py.None(),))?;
                Err(PyErr::from_value(error))
            }
            end => {
                let error =
                    slf.call_method1(intern!(py, "_too_late"), (separator, at_most, end))?;
                Err(PyErr::from_value(error))
            }
        }
    }

    /// The call whose turn it was is done: it is the next one's.
    pub(super) fn taken(&self, slf: &Bound<'_, Self>, count: usize) -> PyResult<()> {
        let py = slf.py();
        let (gone, more, paused) = {
            let mut state = self.state.borrow(py);
            state.count += count as u64;
            let gone = state.calls.pop_front();
            (gone, !state.calls.is_empty(), state.paused)
        };
        drop(gone);
        if more {
            self.turn(slf)
        } else if paused {
            self.adjust(slf)
        } else {
            Ok(())
        }
    }

    /// Another call may be the first now: wake it if it can be answered, and read on if it needs more.
    pub(super) fn turn(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        self.state.borrow(py).scanned = 0;
        if let Some(waiter) = self.first_answerable(slf)? {
            waiter.get(py).complete(waiter.bind(py), None)?;
        }
        if self.state.borrow(py).paused {
            self.adjust(slf)?;
        }
        Ok(())
    }

    /// The waiter of the first call, if that has not been woken and can be answered.
    pub(super) fn first_answerable(
        &self,
        slf: &Bound<'_, Self>,
    ) -> PyResult<Option<Handle<Waiter>>> {
        let py = slf.py();
        let (waiter, minimum, separator) = {
            let state = self.state.borrow(py);
            let Some(first) = state.calls.front() else {
                return Ok(None);
            };
            let separator = copy(py, &first.separator);
            (first.waiter.clone_ref(py), first.minimum, separator)
        };
        if !waiter.get(py).is_done(py) && self.answerable(slf, minimum, separator.as_ref())? {
            return Ok(Some(waiter));
        }
        Ok(None)
    }
}
