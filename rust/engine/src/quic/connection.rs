//! One connection: its state, its lifetime and what is known about it. What it does with streams
//! and datagrams is in the files of those names.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::{
    ConnectionHandle, ConnectionId, Dir, Endpoint, Event as EngineEvent, Side, StreamEvent, VarInt,
};

use super::close::CloseReason;
use super::config::MINIMUM_KEEPALIVE;
use super::datagrams::{Received, Sent};
use super::early::InTheWay;
use super::event::{Change, Direction, Event, Handle};
use super::farewell::Farewell;
use super::parameters::PeerParameters;
use super::session::{Shared, is_genuine_retry};
use super::streams::{StreamError, number, side};
use super::time::Clock;
use crate::tls::{Info, Opaque};

pub struct Connection {
    pub(super) inner: quinn_proto::Connection,
    /// quinn-proto's name for it, which others get when this connection is drained.
    pub(super) key: ConnectionHandle,
    pub(super) handle: Handle,
    /// Client: whom the first packet went to.
    pub(super) destination: Option<ConnectionId>,
    shared: Shared,
    has_validator: bool,
    clock: Clock,
    phase: Phase,
    /// The endpoint was not yet told that the handshake has ended.
    counts_as_handshake: bool,
    lost: bool,
    drained: bool,
    /// How many streams of each kind we have opened, and have accepted.
    pub(super) opened: [u64; 2],
    pub(super) accepted: [u64; 2],
    /// The peer has raised its limit, to what we cannot see.
    pub(super) raised: [bool; 2],
    /// Early data was sent, or could have been.
    pub(super) early: bool,
    /// How much of it was taken on streams.
    pub(super) early_count: usize,
    pub(super) in_the_way: Option<InTheWay>,
    pub(super) received: Received,
    pub(super) sent: Sent,
    keepalive: Option<Duration>,
    keepalive_at: Option<Instant>,
    acknowledgements: u64,
    /// The keys are to change as soon as they may.
    update_due: bool,
    peer: SocketAddr,
    /// Of which streams `Readable` was told since events were last fetched, which was the `round`th
    /// time.
    told: HashSet<u64>,
    round: u64,
    changes: Vec<Change>,
    /// Where it stands in the endpoint's queues.
    pub(super) touched: bool,
    pub(super) sending: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) released: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Handshake,
    Open,
    Closed,
}

/// What an endpoint needs to know of its connection when that has settled.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) handshake_ended: bool,
    pub(super) drained: bool,
}

/// Counts since the connection began, and the state of its path now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    pub rtt: Duration,
    pub minimum_rtt: Duration,
    pub congestion_window: u64,
    pub mtu: u16,
    pub packets_sent: u64,
    pub packets_lost: u64,
    pub bytes_lost: u64,
    pub congestion_events: u64,
    pub black_holes: u64,
    pub udp_datagrams_sent: u64,
    pub udp_bytes_sent: u64,
    pub udp_datagrams_received: u64,
    pub udp_bytes_received: u64,
    pub datagrams_sent: u64,
    /// There was no room for them in the queue.
    pub datagrams_refused: u64,
    /// Taken, but too large when their turn came, because the path had changed.
    pub datagrams_unsendable: u64,
    pub datagrams_received: u64,
    /// The oldest of the queue, for which newer ones came.
    pub datagrams_dropped: u64,
}

impl Connection {
    pub(super) fn new(
        inner: quinn_proto::Connection,
        key: ConnectionHandle,
        handle: Handle,
        shared: Shared,
        settings: &super::config::Config,
        clock: Clock,
    ) -> Self {
        let early = inner.side() == Side::Client && inner.has_0rtt();
        Self {
            peer: inner.remote_address(),
            inner,
            key,
            handle,
            destination: None,
            shared,
            has_validator: settings.tls.has_validator,
            clock,
            phase: Phase::Handshake,
            counts_as_handshake: true,
            lost: false,
            drained: false,
            opened: [0; 2],
            accepted: [0; 2],
            raised: [false; 2],
            early,
            early_count: 0,
            in_the_way: None,
            received: Received::new(settings.transport.datagram_receive_buffer),
            sent: Sent::new(settings.transport.datagram_send_buffer),
            keepalive: settings.transport.keepalive,
            keepalive_at: None,
            acknowledgements: 0,
            update_due: false,
            told: HashSet::new(),
            round: 0,
            changes: Vec::new(),
            touched: false,
            sending: false,
            deadline: None,
            released: false,
        }
    }

    pub fn handle(&self) -> Handle {
        self.handle
    }

    pub fn is_client(&self) -> bool {
        self.inner.side() == Side::Client
    }

    pub fn is_handshaking(&self) -> bool {
        self.phase == Phase::Handshake
    }

    /// The connection has ended: `Lost` was told, or is about to be.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained
    }

    // What the handshake has shown.

    /// None while handshaking.
    pub fn info(&self) -> Option<Info> {
        self.shared.lock().info.clone()
    }

    /// None while handshaking.
    pub fn peer_parameters(&self) -> Option<PeerParameters> {
        self.shared.lock().parameters.clone()
    }

    /// Client: a ticket allows to send before the handshake is done.
    pub fn has_early_data(&self) -> bool {
        self.early
    }

    /// What a validator gave that will decide later. Nobody but the taker has it then.
    pub fn take_decision(&mut self) -> Option<Opaque> {
        self.shared.lock().notes.decision.take()
    }

    pub fn take_validator_error(&mut self) -> Option<Opaque> {
        self.shared.lock().notes.validator_error.take()
    }

    /// A session was resumed, for whose peer the validator has not been asked in this handshake.
    pub fn needs_validation(&self) -> bool {
        let handshake = self.shared.lock();
        self.has_validator
            && !handshake.notes.validator_asked
            && handshake
                .info
                .as_ref()
                .is_some_and(|info| info.resumed && !info.peer_certificates.is_empty())
    }

    /// Key material that only the two ends know (RFC 8446, section 7.5). None while handshaking, or
    /// if it is too much.
    pub fn export(&self, label: &[u8], context: &[u8], length: usize) -> Option<Vec<u8>> {
        let mut material = vec![0; length.min(MAXIMUM_EXPORT)];
        let session = self.inner.crypto_session();
        let exported = session.export_keying_material(&mut material, label, context);
        (length <= MAXIMUM_EXPORT && exported.is_ok()).then_some(material)
    }

    // The path.

    pub fn remote_address(&self) -> SocketAddr {
        self.peer
    }

    /// Server: our address to which the client came, where the caller of `receive` knows it.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.inner.local_ip()
    }

    pub fn rtt(&self) -> Duration {
        self.inner.rtt()
    }

    pub fn mtu(&self) -> u16 {
        self.inner.current_mtu()
    }

    /// Client: from now on, packets leave from another local address.
    ///
    /// The new path is used at once, under another connection ID and with nothing taken for granted
    /// of it. If it leads nowhere, the connection ends by its idle timeout, or is moved again.
    pub fn migrate(&mut self, now: Duration) {
        if self.is_client() && self.phase == Phase::Open {
            self.inner.local_address_changed();
            self.inner.path_changed(self.clock.at(now));
        }
    }

    pub fn ping(&mut self) {
        if !self.is_closed() {
            self.inner.ping();
        }
    }

    /// Ping the peer whenever nothing has come from it for that long. None for never.
    pub fn set_keepalive(&mut self, now: Duration, interval: Option<Duration>) {
        self.keepalive = interval.map(|interval| interval.max(MINIMUM_KEEPALIVE));
        self.arm_keepalive(self.clock.at(now));
    }

    pub fn keepalive(&self) -> Option<Duration> {
        self.keepalive
    }

    /// Change the keys of both directions (RFC 9001, section 6), once the last change is through.
    /// The peer learns of it with the next packet.
    pub fn update_keys(&mut self) {
        self.update_due = true;
    }

    /// How often the keys have changed, at whichever side's wish.
    pub fn key_updates(&self) -> u64 {
        // quinn-proto has one pair of keys in store.
        self.shared.lock().key_updates.saturating_sub(1)
    }

    /// quinn-proto does nothing, and says nothing, while it has the keys from before the last change.
    /// It does not look whether the handshake is confirmed, as it has to be (RFC 9001, section 6.1).
    fn try_key_update(&mut self) {
        if self.is_client() && self.inner.stats().frame_rx.handshake_done == 0 {
            return;
        }
        let before = self.key_updates();
        self.inner.force_key_update();
        self.update_due = self.key_updates() == before && !self.is_closed();
    }

    // Limits at run time.

    /// How many streams of a kind the peer may have open.
    pub fn set_maximum_streams(&mut self, direction: Direction, count: u64) {
        let count = VarInt::from_u64(count.min(1 << 60)).unwrap_or(VarInt::MAX);
        self.inner
            .set_max_concurrent_streams(direction.into(), count);
    }

    pub fn set_receive_window(&mut self, size: u64) {
        let size = VarInt::from_u64(size).unwrap_or(VarInt::MAX);
        self.inner.set_receive_window(size);
    }

    pub fn set_send_window(&mut self, size: u64) {
        self.inner.set_send_window(size);
    }

    /// How many streams of a kind the peer lets us open in all, and whether that is exact: once the
    /// peer has raised the limit, we know only that it is not lower. None while handshaking.
    pub fn peer_maximum_streams(&self, direction: Direction) -> Option<(u64, bool)> {
        let handshake = self.shared.lock();
        let parameters = handshake.parameters.as_ref()?;
        let first = match direction {
            Direction::Bidirectional => parameters.initial_max_bidirectional_streams,
            Direction::Unidirectional => parameters.initial_max_unidirectional_streams,
        };
        let index = direction as usize;
        let raised = self.raised[index];
        Some((
            first.max(self.opened[index] + u64::from(raised)),
            !raised && self.opened[index] <= first,
        ))
    }

    pub fn statistics(&mut self) -> Statistics {
        let stats = self.inner.stats();
        self.count_unsendable(stats.frame_tx.datagram);
        Statistics {
            rtt: stats.path.rtt,
            minimum_rtt: stats.path.min_rtt,
            congestion_window: stats.path.cwnd,
            mtu: stats.path.current_mtu,
            packets_sent: stats.path.sent_packets,
            packets_lost: stats.path.lost_packets,
            bytes_lost: stats.path.lost_bytes,
            congestion_events: stats.path.congestion_events,
            black_holes: stats.path.black_holes_detected,
            udp_datagrams_sent: stats.udp_tx.datagrams,
            udp_bytes_sent: stats.udp_tx.bytes,
            udp_datagrams_received: stats.udp_rx.datagrams,
            udp_bytes_received: stats.udp_rx.bytes,
            datagrams_sent: stats.frame_tx.datagram,
            datagrams_refused: self.sent.refused,
            datagrams_unsendable: self.sent.unsendable,
            datagrams_received: self.received.count(),
            datagrams_dropped: self.received.dropped(),
        }
    }

    // The end.

    /// Close at once: what is not acknowledged may be lost. Streams that were finished are told by
    /// `Finished` when that is safe.
    pub fn close(&mut self, now: Duration, code: u64, reason: &[u8]) -> Result<(), StreamError> {
        let code = VarInt::from_u64(code).map_err(|_| StreamError::Code)?;
        if !self.is_closed() {
            let reason = Bytes::copy_from_slice(reason);
            self.inner.close(self.clock.at(now), code, reason);
            self.end(CloseReason::Local);
        }
        Ok(())
    }

    /// Close at once, with an error code of the transport.
    pub fn refuse(&mut self, now: Duration, code: u64, reason: &str) -> Result<(), StreamError> {
        let farewell = Farewell::new(code, reason).ok_or(StreamError::Code)?;
        if !self.is_closed() {
            let said = farewell.said_reason().to_vec();
            let farewell = self.shared.farewell.set(farewell);
            debug_assert!(farewell.is_ok(), "a connection is closed once");
            self.close(now, code, &said)?;
        }
        Ok(())
    }

    fn end(&mut self, reason: CloseReason) {
        if !self.lost {
            self.lost = true;
            self.phase = Phase::Closed;
            self.keepalive_at = None;
            self.changes.push(Change::Lost(reason));
        }
    }

    // What the endpoint does with it.

    /// quinn-proto checks a Retry packet, but after a forged one takes no genuine one any more, and
    /// as a server lets one end the handshake.
    pub(super) fn awaits_retry(&self, packet: &[u8]) -> bool {
        self.destination
            .is_some_and(|destination| is_genuine_retry(&destination, packet))
    }

    pub(super) fn handle_event(&mut self, event: quinn_proto::ConnectionEvent) {
        self.inner.handle_event(event);
        let before = self.received.is_empty();
        while let Some(datagram) = self.inner.datagrams().recv() {
            self.received.push(datagram);
        }
        if before && !self.received.is_empty() {
            self.changes.push(Change::Datagrams);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.inner.handle_timeout(now);
        if self.keepalive_at.is_some_and(|at| at <= now) {
            self.inner.ping();
            self.arm_keepalive(now);
        }
    }

    fn arm_keepalive(&mut self, now: Instant) {
        self.keepalive_at = match self.phase {
            Phase::Open => self
                .keepalive
                .and_then(|interval| now.checked_add(interval)),
            Phase::Handshake | Phase::Closed => None,
        };
    }

    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        let inner = self.inner.poll_timeout();
        match (inner, self.keepalive_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Carry messages between quinn-proto's endpoint and its connection until both are quiet, and
    /// gather what its owner should know. `round` counts how often events were fetched.
    pub(super) fn settle(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        round: u64,
        events: &mut Vec<Event>,
    ) -> Settled {
        let mut settled = Settled::default();
        if self.update_due {
            self.try_key_update();
        }
        if self.round != round {
            self.round = round;
            self.told.clear();
        }
        loop {
            let mut quiet = true;
            while let Some(event) = self.inner.poll_endpoint_events() {
                quiet = false;
                // Once an endpoint has been told so, it knows this connection no more.
                if self.drained {
                    continue;
                }
                self.drained = event.is_drained();
                settled.drained = self.drained;
                if let Some(answer) = endpoint.handle_event(self.key, event) {
                    self.inner.handle_event(answer);
                }
            }
            while let Some(event) = self.inner.poll() {
                quiet = false;
                self.translate(event, now);
            }
            if quiet {
                break;
            }
        }
        let came = self.inner.stats().frame_rx;
        if let Some(early) = self
            .in_the_way
            .take_if(|_| !self.early || came.handshake_done > 0)
        {
            early.end();
        }
        let acknowledgements = came.acks;
        if acknowledgements != self.acknowledgements {
            self.acknowledgements = acknowledgements;
            self.arm_keepalive(now);
        }
        let peer = self.inner.remote_address();
        if peer != self.peer {
            self.peer = peer;
            self.changes.push(Change::PeerAddress(peer));
        }
        if settled.drained {
            // It was told why before, unless quinn-proto forgot.
            self.end(CloseReason::Internal("the reason is lost".into()));
            self.changes.push(Change::Drained);
        }
        settled.handshake_ended = self.counts_as_handshake && !self.is_handshaking();
        self.counts_as_handshake &= !settled.handshake_ended;
        let handle = self.handle;
        // An idle connection keeps no room for them.
        let changes = std::mem::take(&mut self.changes).into_iter();
        events.extend(changes.map(|change| Event::Connection(handle, change)));
        settled
    }

    pub(super) fn announce(&mut self, change: Change) {
        self.changes.push(change);
    }

    fn translate(&mut self, event: EngineEvent, now: Instant) {
        if self.lost {
            return;
        }
        match event {
            EngineEvent::HandshakeDataReady | EngineEvent::DatagramReceived => {}
            EngineEvent::Connected => {
                if self.early && !self.inner.accepted_0rtt() {
                    self.opened = [0; 2];
                    self.changes.push(Change::EarlyDataRejected);
                }
                self.phase = Phase::Open;
                self.arm_keepalive(now);
                self.changes.push(Change::Connected);
            }
            EngineEvent::ConnectionLost { reason } => {
                let reason = CloseReason::new(reason, &self.shared.lock());
                self.end(reason);
            }
            EngineEvent::DatagramsUnblocked => self.changes.push(Change::DatagramsUnblocked),
            EngineEvent::Stream(event) => self.changes.push(match event {
                StreamEvent::Opened { dir } => Change::Opened(dir.into()),
                StreamEvent::Readable { id } => {
                    if !self.told.insert(number(id)) {
                        return;
                    }
                    Change::Readable(number(id))
                }
                StreamEvent::Writable { id } => Change::Writable(number(id)),
                StreamEvent::Finished { id } => Change::Finished(number(id)),
                StreamEvent::Stopped { id, error_code } => {
                    Change::Stopped(number(id), error_code.into_inner())
                }
                StreamEvent::Available { dir } => {
                    self.raised[side(dir)] = true;
                    Change::Available(dir.into())
                }
            }),
        }
    }
}

/// RFC 5869: HKDF gives 255 hashes at most, of 32 bytes.
const MAXIMUM_EXPORT: usize = 255 * 32;

impl From<Dir> for Direction {
    fn from(dir: Dir) -> Self {
        match dir {
            Dir::Bi => Self::Bidirectional,
            Dir::Uni => Self::Unidirectional,
        }
    }
}

impl From<Direction> for Dir {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Bidirectional => Self::Bi,
            Direction::Unidirectional => Self::Uni,
        }
    }
}
