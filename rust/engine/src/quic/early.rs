//! Room for the handshake beside early data.
//!
//! What a client sends with 0-RTT keys is acknowledged only when the handshake is done, so until then
//! it stays in flight. quinn-proto counts it against the same congestion window as the handshake's
//! own packets: once some of those are lost, the window is full, nothing of the handshake may be
//! sent again, and no probe is due either, for nothing of it is in flight. So a client's early data
//! is limited to [`LIMIT`], and for as long as it may be in the way the window has [`ROOM`] for it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

/// Bytes on streams that are taken before the handshake is done: what fits, with the handshake's
/// first packets, into a first flight of ten (RFC 9002, section 7.2).
pub(super) const LIMIT: usize = 8000;

/// More than `LIMIT` bytes take up on the wire, on however many streams.
const ROOM: u64 = 16 * 1024;

/// Whether a connection's early data may still be in the way.
#[derive(Clone)]
pub(super) struct InTheWay(Arc<AtomicBool>);

impl InTheWay {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// The server has confirmed the handshake (RFC 9001, section 4.1.2).
    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Makes controllers that have the room.
pub(super) struct WithRoom {
    pub(super) factory: Arc<dyn ControllerFactory + Send + Sync>,
    pub(super) early: InTheWay,
}

impl ControllerFactory for WithRoom {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Roomy {
            controller: self.factory.clone().build(now, mtu),
            early: self.early.clone(),
        })
    }
}

struct Roomy {
    controller: Box<dyn Controller>,
    early: InTheWay,
}

impl Controller for Roomy {
    fn on_sent(&mut self, now: Instant, bytes: u64, last: u64) {
        self.controller.on_sent(now, bytes, last);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.controller.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, last: Option<u64>) {
        self.controller
            .on_end_acks(now, in_flight, app_limited, last);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.controller
            .on_congestion_event(now, sent, persistent, lost);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.controller.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        match self.early.0.load(Ordering::Relaxed) {
            true => self.controller.window().saturating_add(ROOM),
            false => self.controller.window(),
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.controller.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            controller: self.controller.clone_box(),
            early: self.early.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.controller.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.controller.into_any()
    }
}
