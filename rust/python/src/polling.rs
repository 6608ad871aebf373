//! Looking for what comes next before the event loop may sleep: the machine of the engine, and a turn of the loop for it.
//!
//! A look is a callback of its own, so whatever the loop has ready goes first: the tasks that the last message has woken, which
//! may send what the peer is to answer, and what has arrived elsewhere.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use tieline_engine::polling::{Account, Looks, Policy};

thread_local! {
    static ACCOUNT: RefCell<Account> = RefCell::default();
}

/// What a look has met.
pub(crate) enum Met {
    Something,
    Nothing,
    /// Nothing more is awaited.
    Enough,
}

/// The looks at one descriptor.
#[derive(Default)]
pub(crate) struct Looking {
    looks: Looks,
    /// How long the look will take that the loop has been asked for.
    asked: Option<Duration>,
}

impl Looking {
    /// As `Parameters.busy_poll` says.
    pub(crate) fn new(busy_poll: Option<f64>) -> PyResult<Self> {
        let policy = match busy_poll {
            None => Policy::Adaptive,
            Some(seconds) => Policy::UpTo(
                Duration::try_from_secs_f64(seconds)
                    .map_err(|error| PyValueError::new_err(error.to_string()))?,
            ),
        };
        Ok(Looking {
            looks: Looks::new(policy),
            asked: None,
        })
    }

    pub(crate) fn arrived(&mut self, who: usize) {
        ACCOUNT.with_borrow_mut(|account| self.looks.arrived(account, who, Instant::now()));
    }

    /// More is awaited. True if the loop is to be asked for a look.
    pub(crate) fn awaits(&mut self, who: usize) -> bool {
        if self.asked.is_some() {
            return false;
        }
        let now = Instant::now();
        self.asked = ACCOUNT.with_borrow_mut(|account| self.looks.awaits(account, who, now));
        self.asked.is_some()
    }

    /// The loop has come to it.
    pub(crate) fn begin(&mut self) -> Duration {
        self.asked.take().unwrap_or_default()
    }

    pub(crate) fn end(&mut self, took: Duration, found: bool) {
        ACCOUNT.with_borrow_mut(|account| self.looks.looked(account, took, found));
    }
}

/// Ask the loop of a descriptor for a look at it.
pub(crate) fn ask(descriptor: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = descriptor.py();
    let look = descriptor.getattr(intern!(py, "_look"))?;
    let event_loop = descriptor.getattr(intern!(py, "_loop"))?;
    event_loop.call_method1(intern!(py, "call_soon"), (look,))?;
    Ok(())
}

/// Look up to so long; true if there was something. And how long it took until there was.
pub(crate) fn look(
    limit: Duration,
    mut once: impl FnMut() -> PyResult<Met>,
) -> PyResult<(bool, Duration)> {
    let begun = Instant::now();
    let mut took = Duration::ZERO;
    loop {
        // What comes is worked on in here, which is not looking.
        match once()? {
            Met::Something => return Ok((true, took)),
            Met::Enough => return Ok((false, took)),
            Met::Nothing => {}
        }
        took = begun.elapsed().min(limit); // more, if others had the processor
        if took == limit {
            return Ok((false, took));
        }
        std::hint::spin_loop();
    }
}
