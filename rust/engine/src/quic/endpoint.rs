//! All connections of one UDP socket.
//!
//! Connections that something has happened to are *touched*; before anything is told of an
//! endpoint, these are settled, and then stand in line for sending. So the work is for those alone
//! that have some. Timers are in a heap, from which outdated ones are not removed but skipped.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::{hkdf, hmac};
use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionHandle, DatagramEvent, EcnCodepoint, EndpointConfig,
    ServerConfig,
};

use super::close::CloseReason;
use super::config::{Config, Retry, Settings};
use super::connection::Connection;
use super::early::InTheWay;
use super::error::EndpointError;
use super::event::{Change, Event, Handle};
use super::identifiers::{Generator, MAXIMUM_LENGTH, Random};
use super::packets::{Incoming, Transmit};
use super::session::{Shared, VERSION_1, is_retry};
use super::time::{Clock, WallClock};

/// Answers to datagrams that belong to no connection. Under a flood, the others get none.
const RESPONSES: usize = 256;

/// What has become of those who wanted to connect to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub accepted: u64,
    /// They were asked to come again, with a token.
    pub retried: u64,
    /// A limit was reached, or the endpoint is stopping.
    pub refused: u64,
    /// Their first packet was no good.
    pub failed: u64,
}

struct Server {
    config: Config,
    /// What connections share, without what is each one's own.
    template: ServerConfig,
}

pub struct Endpoint {
    inner: quinn_proto::Endpoint,
    clock: Clock,
    now: Instant,
    wall_clock: WallClock,
    server: Option<Server>,
    maximum_connections: usize,
    maximum_handshakes: usize,
    /// How many more may come in, if that is limited.
    room: Option<usize>,
    retry: Retry,
    destinations: Random,
    connections: HashMap<Handle, Box<Connection>>,
    /// By quinn-proto's handles.
    routes: Vec<Option<Handle>>,
    next_handle: Handle,
    touched: Vec<Handle>,
    sending: VecDeque<Handle>,
    timers: BinaryHeap<Reverse<(Instant, Handle)>>,
    responses: VecDeque<(Transmit, Vec<u8>)>,
    events: Vec<Event>,
    /// How often events were fetched.
    round: u64,
    incoming: usize,
    handshakes: usize,
    counters: Counters,
    stopping: bool,
    poisoned: bool,
}

impl Endpoint {
    pub fn new(settings: Settings) -> Result<Self, EndpointError> {
        let random = |purpose| Random::new(settings.seed, purpose);
        let key =
            |given: Option<[u8; 32]>, purpose| given.unwrap_or_else(|| random(purpose).bytes());
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &key(settings.reset_key, "reset"));
        let mut config = EndpointConfig::new(Arc::new(reset_key));
        let (server_id, ids) = (settings.server_id.clone(), random("connection IDs"));
        config
            .supported_versions(vec![VERSION_1])
            .rng_seed(settings.seed)
            .cid_generator(move || {
                Box::new(Generator {
                    server_id: server_id.clone(),
                    random: ids.clone(),
                })
            });
        config
            .max_udp_payload_size(settings.maximum_udp_payload)
            .map_err(|_| {
                EndpointError::Invalid("the largest UDP payload is 1200 to 65527 bytes".into())
            })?;
        let clock = Clock::new();
        let wall_clock = WallClock::new(settings.seed.is_some());
        let server = match settings.server {
            None => None,
            Some(server) => {
                let crypto = server
                    .server_maker(&Shared::default())
                    .map_err(EndpointError::Invalid)?;
                let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
                    .extract(&key(settings.token_key, "tokens"));
                let mut template = ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
                template
                    .migration(settings.migration)
                    .time_source(Arc::new(wall_clock.clone()));
                Some(Server {
                    config: server,
                    template,
                })
            }
        };
        let template = server
            .as_ref()
            .map(|server| Arc::new(server.template.clone()));
        Ok(Self {
            inner: quinn_proto::Endpoint::new(
                Arc::new(config),
                template,
                settings.discover_mtu,
                None,
            ),
            clock,
            now: clock.epoch(),
            wall_clock,
            server,
            maximum_connections: settings.maximum_connections,
            maximum_handshakes: settings.maximum_handshakes,
            room: None,
            retry: settings.retry,
            destinations: random("destinations"),
            connections: HashMap::new(),
            routes: Vec::new(),
            next_handle: 1,
            touched: Vec::new(),
            sending: VecDeque::new(),
            timers: BinaryHeap::new(),
            responses: VecDeque::new(),
            events: Vec::new(),
            round: 0,
            incoming: 0,
            handshakes: 0,
            counters: Counters::default(),
            stopping: false,
            poisoned: false,
        })
    }

    /// Begin to connect. `server_name` is whom the certificate must show.
    pub fn connect(
        &mut self,
        now: Duration,
        config: &Config,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<Handle, EndpointError> {
        self.check()?;
        if self.stopping {
            return Err(EndpointError::Stopping);
        }
        let now = self.advance(now);
        let shared = Shared::default();
        let crypto = config
            .client_maker(server_name, &shared)
            .map_err(EndpointError::Invalid)?;
        let random = self.destinations.bytes();
        let destination = quinn_proto::ConnectionId::new(&random[..MAXIMUM_LENGTH]);
        let early = config.has_early_data().then(InTheWay::new);
        let mut client = ClientConfig::new(Arc::new(crypto));
        client
            .transport_config(config.transport(remote, self.clock.epoch(), early.clone()))
            .token_store(config.tokens.clone())
            .initial_dst_cid_provider(Arc::new(move || destination));
        let (key, inner) = self
            .inner
            .connect(now, client, remote, server_name)
            .map_err(|error| {
                EndpointError::Invalid(match error {
                    ConnectError::InvalidRemoteAddress(remote) => {
                        format!("nobody can be reached at {remote}")
                    }
                    other => other.to_string(),
                })
            })?;
        let handle = self.add(inner, key, shared, config);
        if let Some(connection) = self.connections.get_mut(&handle) {
            connection.destination = Some(destination);
            connection.in_the_way = early;
        }
        Ok(handle)
    }

    /// Take in what has come.
    pub fn receive<'a>(
        &mut self,
        now: Duration,
        batch: impl IntoIterator<Item = Incoming<'a>>,
    ) -> Result<(), EndpointError> {
        self.check()?;
        let now = self.advance(now);
        for incoming in batch {
            // Each datagram gets memory of its own: a stream that is not read would otherwise keep
            // that of the whole batch for one of its packets.
            let stride = match incoming.stride {
                0 => usize::MAX,
                stride => stride,
            };
            for datagram in incoming.data.chunks(stride) {
                self.receive_one(now, &incoming, BytesMut::from(datagram));
            }
        }
        Ok(())
    }

    fn receive_one(&mut self, now: Instant, incoming: &Incoming<'_>, data: BytesMut) {
        let (remote, local_ip) = (incoming.remote, incoming.local_ip);
        let ecn = EcnCodepoint::from_bits(incoming.ecn & 3);
        let retry = is_retry(&data).then(|| data.clone());
        let mut response = Vec::new();
        match self
            .inner
            .handle(now, remote, local_ip, ecn, data, &mut response)
        {
            None => {}
            Some(DatagramEvent::ConnectionEvent(key, event)) => {
                let handle = self.routes.get(key.0).copied().flatten();
                if let Some(connection) =
                    handle.and_then(|handle| self.connections.get_mut(&handle))
                {
                    if retry.is_some_and(|packet| !connection.awaits_retry(&packet)) {
                        return;
                    }
                    connection.handle_event(event);
                    touch(&mut self.touched, connection);
                }
            }
            Some(DatagramEvent::NewConnection(attempt)) => self.admit(now, attempt),
            Some(DatagramEvent::Response(transmit)) => self.respond(&transmit, response),
        }
    }

    /// Let somebody in, or not.
    fn admit(&mut self, now: Instant, attempt: quinn_proto::Incoming) {
        let remote = attempt.remote_address();
        let mut response = Vec::new();
        let full = self.incoming >= self.maximum_connections
            || self.handshakes >= self.maximum_handshakes
            || self.room == Some(0);
        let suspicious = match self.retry {
            Retry::Never => false,
            Retry::Above(limit) => self.handshakes >= limit,
            Retry::Always => true,
        };
        let shared = Shared::default();
        let server = match &self.server {
            Some(server) if !self.stopping && !full => server,
            _ => {
                self.counters.refused += 1;
                let transmit = self.inner.refuse(attempt, &mut response);
                return self.respond(&transmit, response);
            }
        };
        if suspicious && !attempt.remote_address_validated() && attempt.may_retry() {
            self.counters.retried += 1;
            if let Ok(transmit) = self.inner.retry(attempt, &mut response) {
                self.respond(&transmit, response);
            }
            return;
        }
        let config = server.config.clone();
        let mut own = server.template.clone();
        match config.server_maker(&shared) {
            Ok(crypto) => own.crypto = Arc::new(crypto),
            Err(_) => return self.inner.ignore(attempt),
        }
        own.transport_config(config.transport(remote, self.clock.epoch(), None));
        match self
            .inner
            .accept(attempt, now, &mut response, Some(Arc::new(own)))
        {
            Ok((key, inner)) => {
                self.counters.accepted += 1;
                self.incoming += 1;
                self.handshakes += 1;
                self.room = self.room.map(|room| room.saturating_sub(1));
                let handle = self.add(inner, key, shared, &config);
                if let Some(connection) = self.connections.get_mut(&handle) {
                    connection.announce(Change::Incoming);
                }
            }
            Err(error) => {
                self.counters.failed += 1;
                let reason = CloseReason::new(error.cause, &shared.lock());
                self.events.push(Event::Refused(remote, reason));
                if let Some(transmit) = error.response {
                    self.respond(&transmit, response);
                }
            }
        }
    }

    fn add(
        &mut self,
        inner: quinn_proto::Connection,
        key: ConnectionHandle,
        shared: Shared,
        config: &Config,
    ) -> Handle {
        let handle = self.next_handle;
        self.next_handle += 1;
        if self.routes.len() <= key.0 {
            self.routes.resize(key.0 + 1, None);
        }
        self.routes[key.0] = Some(handle);
        let mut connection = Connection::new(inner, key, handle, shared, config, self.clock);
        touch(&mut self.touched, &mut connection);
        self.connections.insert(handle, Box::new(connection));
        handle
    }

    fn respond(&mut self, transmit: &quinn_proto::Transmit, mut data: Vec<u8>) {
        if self.responses.len() < RESPONSES {
            data.truncate(transmit.size);
            self.responses.push_back((transmit.into(), data));
        }
    }

    /// Put the next datagrams to send into `buffer`, in place of what it held. Call it until there
    /// are none; at most `segments` of one size and destination come at once.
    pub fn transmit(
        &mut self,
        now: Duration,
        segments: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<Transmit> {
        buffer.clear();
        if self.poisoned {
            return None;
        }
        let now = self.advance(now);
        if let Some((transmit, data)) = self.responses.pop_front() {
            buffer.extend_from_slice(&data);
            return Some(transmit);
        }
        self.settle();
        while let Some(handle) = self.sending.pop_front() {
            let Some(connection) = self.connections.get_mut(&handle) else {
                continue;
            };
            let transmit = connection.inner.poll_transmit(now, segments.max(1), buffer);
            if transmit.is_some() {
                // The others first: one that has much to say must not keep them waiting.
                self.sending.push_back(handle);
            } else {
                connection.sending = false;
            }
            self.settle_one(handle);
            if let Some(transmit) = transmit {
                buffer.truncate(transmit.size);
                return Some((&transmit).into());
            }
            buffer.clear();
        }
        None
    }

    /// When `handle_timeout` is to be called next.
    pub fn timeout(&mut self) -> Option<Duration> {
        if self.poisoned {
            return None;
        }
        self.settle();
        while let Some(Reverse((instant, handle))) = self.timers.peek() {
            let current = self.connections.get(handle);
            if current.is_some_and(|connection| connection.deadline == Some(*instant)) {
                return Some(self.clock.since(*instant));
            }
            self.timers.pop();
        }
        None
    }

    pub fn handle_timeout(&mut self, now: Duration) -> Result<(), EndpointError> {
        self.check()?;
        let now = self.advance(now);
        self.settle();
        while let Some(&Reverse((instant, handle))) = self.timers.peek() {
            if instant > now {
                break;
            }
            self.timers.pop();
            if let Some(connection) = self.connections.get_mut(&handle)
                && connection.deadline == Some(instant)
            {
                connection.deadline = None;
                connection.handle_timeout(now);
                touch(&mut self.touched, connection);
            }
        }
        Ok(())
    }

    /// Append what has happened since the last call to `events`.
    pub fn events(&mut self, events: &mut Vec<Event>) {
        if !self.poisoned {
            self.settle();
            self.round += 1;
        }
        if events.is_empty() {
            std::mem::swap(events, &mut self.events); // an idle endpoint keeps no room for them
        } else {
            events.append(&mut self.events);
        }
    }

    /// A connection, to do something with it or to ask it. It lives until it is released.
    pub fn connection(&mut self, handle: Handle) -> Result<&mut Connection, EndpointError> {
        self.check()?;
        let connection = self
            .connections
            .get_mut(&handle)
            .ok_or(EndpointError::Unknown)?;
        touch(&mut self.touched, connection);
        Ok(connection)
    }

    /// A connection, only to ask it.
    pub fn peek(&self, handle: Handle) -> Option<&Connection> {
        self.connections
            .get(&handle)
            .map(|connection| &**connection)
    }

    /// Nobody wants to know of this connection any more. It is closed if it was not, and forgotten
    /// when its peer no longer needs to be told so.
    pub fn release(&mut self, now: Duration, handle: Handle) {
        if self.poisoned {
            return;
        }
        self.advance(now);
        if let Some(connection) = self.connections.get_mut(&handle) {
            connection.released = true;
            let _ = connection.close(now, 0, b"");
            touch(&mut self.touched, connection);
            self.settle();
        }
    }

    /// Take in so many more, and refuse what comes after them. None: as the other limits allow.
    pub fn admit_at_most(&mut self, room: Option<usize>) {
        self.room = room;
    }

    /// Make no more connections, and take in no others. Those that there are go on.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// How many there are, those that are not yet drained or released among them.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Refuse everything from now on, because of a fault in ourselves. Each connection is told.
    pub fn poison(&mut self) {
        if self.poisoned {
            return;
        }
        self.poisoned = true;
        self.responses.clear();
        let mut handles: Vec<_> = self
            .connections
            .values()
            .filter(|connection| !connection.is_closed())
            .map(|connection| connection.handle())
            .collect();
        handles.sort_unstable();
        self.events.extend(handles.into_iter().map(|handle| {
            let reason = CloseReason::Internal("this is a bug in tieline".into());
            Event::Connection(handle, Change::Lost(reason))
        }));
    }

    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn check(&self) -> Result<(), EndpointError> {
        match self.poisoned {
            true => Err(EndpointError::Poisoned),
            false => Ok(()),
        }
    }

    /// The caller's time never runs backwards.
    fn advance(&mut self, now: Duration) -> Instant {
        self.now = self.now.max(self.clock.at(now));
        self.wall_clock.set(self.clock.since(self.now));
        self.now
    }

    fn settle(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for handle in touched.drain(..) {
            if let Some(connection) = self.connections.get_mut(&handle) {
                connection.touched = false;
                if !connection.sending {
                    connection.sending = true;
                    self.sending.push_back(handle);
                }
            }
            self.settle_one(handle);
        }
        self.touched = touched; // keeps its memory
        // Most timers are moved before they ring.
        if self.timers.len() > 64 + 4 * self.connections.len() {
            let connections = &self.connections;
            self.timers.retain(|Reverse((instant, handle))| {
                connections
                    .get(handle)
                    .is_some_and(|connection| connection.deadline == Some(*instant))
            });
        }
    }

    fn settle_one(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(&handle) else {
            return;
        };
        let (now, round) = (self.now, self.round);
        let settled = connection.settle(&mut self.inner, now, round, &mut self.events);
        if settled.handshake_ended && !connection.is_client() {
            self.handshakes -= 1;
        }
        if settled.drained {
            if !connection.is_client() {
                self.incoming -= 1;
            }
            self.routes[connection.key.0] = None;
        }
        if connection.released && connection.is_drained() {
            self.connections.remove(&handle);
            return;
        }
        let deadline = match connection.is_drained() {
            true => None,
            false => connection.next_timeout(),
        };
        if deadline != connection.deadline {
            connection.deadline = deadline;
            if let Some(instant) = deadline {
                self.timers.push(Reverse((instant, handle)));
            }
        }
    }
}

fn touch(touched: &mut Vec<Handle>, connection: &mut Connection) {
    if !connection.touched {
        connection.touched = true;
        touched.push(connection.handle());
    }
}
