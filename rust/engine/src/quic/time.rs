//! The caller's time. An engine reads no clock: each call that time matters to is told how much of
//! it has passed since a moment that the caller has chosen, which may as well be simulated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use quinn_proto::TimeSource;

/// Some 140 years, beyond which an `Instant` could overflow when something is added to it.
const END: Duration = Duration::from_secs(1 << 32);

/// Translates to and from the `Instant`s of quinn-proto, which only their differences matter to.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(), // the only way to get one
        }
    }

    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    pub(crate) fn at(&self, now: Duration) -> Instant {
        let end = now.min(END);
        self.epoch.checked_add(end).unwrap_or(self.epoch)
    }

    pub(crate) fn since(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.epoch)
    }
}

/// The date, which tokens are given with. It goes on as the caller's time does.
#[derive(Clone)]
pub(crate) struct WallClock {
    start: SystemTime,
    /// In microseconds, at the last call of the endpoint.
    elapsed: Arc<AtomicU64>,
}

impl WallClock {
    pub(crate) fn new(simulated: bool) -> Self {
        Self {
            start: match simulated {
                true => SystemTime::UNIX_EPOCH,
                false => SystemTime::now(),
            },
            elapsed: Arc::new(AtomicU64::new(0)),
        }
    }

    pub(crate) fn set(&self, elapsed: Duration) {
        let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.elapsed.store(elapsed, Ordering::Relaxed);
    }
}

impl TimeSource for WallClock {
    fn now(&self) -> SystemTime {
        self.start + Duration::from_micros(self.elapsed.load(Ordering::Relaxed))
    }
}
