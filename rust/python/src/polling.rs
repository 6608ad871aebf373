//! Busy polling: the turns that an event loop is asked for, so that it does not sleep. The engine decides.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{intern, wrap_pyfunction};
use tieline_engine::polling::Polling;

pub(crate) use tieline_engine::polling::Policy;

thread_local! {
    static THREAD: RefCell<Thread> = RefCell::default();
}

/// One thread, which runs one event loop at a time.
#[derive(Default)]
struct Thread {
    polling: Polling,
    /// Which turn is the one that was asked for last, and when: a loop that has been closed never comes to it.
    asked: Option<(u64, Instant)>,
    number: u64,
}

/// A turn that has not come for so long is asked for again, which takes its place if it comes after all.
const LOST: Duration = Duration::from_millis(1);

/// As `Parameters.busy_poll` says.
pub(crate) fn policy(busy_poll: Option<f64>) -> PyResult<Policy> {
    let Some(seconds) = busy_poll else {
        return Ok(Policy::Adaptive);
    };
    let limit = Duration::try_from_secs_f64(seconds);
    let limit = limit.map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(Policy::UpTo(limit))
}

/// Something has come for a socket, which has its loop as `_loop`.
pub(crate) fn note(socket: &Bound<'_, PyAny>, policy: Policy) -> PyResult<()> {
    match begun(policy) {
        Some(number) => ask(&socket.getattr(intern!(socket.py(), "_loop"))?, number),
        None => Ok(()),
    }
}

/// The number of the turn to ask for, if something that has come makes one worth asking for.
fn begun(policy: Policy) -> Option<u64> {
    THREAD.with_borrow_mut(|thread| thread.arrived(policy, Instant::now()))
}

impl Thread {
    fn arrived(&mut self, policy: Policy, now: Instant) -> Option<u64> {
        if let Some((_, asked)) = self.asked
            && now.saturating_duration_since(asked) > LOST
        {
            self.polling.lost();
        }
        self.polling.arrived(policy, now).then(|| self.next(now))
    }

    fn next(&mut self, now: Instant) -> u64 {
        self.number += 1;
        self.asked = Some((self.number, now));
        self.number
    }

    fn turn(&mut self, number: u64, now: Instant) -> Option<u64> {
        if self.asked.is_none_or(|(asked, _)| asked != number) {
            return None;
        }
        if self.polling.turn(now) {
            return Some(self.next(now));
        }
        self.asked = None;
        None
    }
}

fn ask(event_loop: &Bound<'_, PyAny>, number: u64) -> PyResult<()> {
    static TURN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = event_loop.py();
    let turn = TURN.get_or_try_init(py, || {
        wrap_pyfunction!(turn, py).map(|turn| turn.into_any().unbind())
    })?;
    event_loop.call_method1(intern!(py, "call_soon"), (turn, event_loop, number))?;
    Ok(())
}

/// A turn that was asked for.
#[pyfunction]
fn turn(event_loop: &Bound<'_, PyAny>, number: u64) -> PyResult<()> {
    match THREAD.with_borrow_mut(|thread| thread.turn(number, Instant::now())) {
        Some(number) => ask(event_loop, number),
        None => Ok(()),
    }
}

#[pymodule]
pub(crate) mod polling {
    use super::*;

    /// Something has come on this loop for a socket with that `Parameters.busy_poll`.
    #[pyfunction]
    fn arrived(event_loop: &Bound<'_, PyAny>, busy_poll: Option<f64>) -> PyResult<()> {
        match begun(policy(busy_poll)?) {
            Some(number) => ask(event_loop, number),
            None => Ok(()),
        }
    }
}
