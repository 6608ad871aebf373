//! Two endpoints, and a network between them that exists in virtual time only.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tieline_engine::quic::{
    Bytes, Change, CloseReason, Config, Connection, Direction, Endpoint, Event, Handle, Incoming,
    Settings, StreamError, Transport,
};
use tieline_engine::tls::{self, ClientAuthentication, Trust};

pub(crate) use crate::identity::*;

pub(crate) const NAME: &str = "example.com";

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// xorshift64*: as good as needed, the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below
    }
}

/// What the network does to packets; rates are in thousands.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) latency: Duration,
    pub(crate) loss: usize,
    pub(crate) reorder: usize,
    pub(crate) duplicate: usize,
    pub(crate) mtu: usize,
    /// Packets of a batch arrive as one.
    pub(crate) offload: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: ms(5),
            loss: 0,
            reorder: 0,
            duplicate: 0,
            mtu: 1500,
            offload: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Packet {
    at: Duration,
    number: u64,
    pub(crate) to: Side,
    pub(crate) from: SocketAddr,
    ecn: u8,
    stride: usize,
    pub(crate) data: Vec<u8>,
}

pub(crate) struct Peer {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: SocketAddr,
    pub(crate) events: VecDeque<Event>,
    /// The last connection there was.
    pub(crate) handle: Handle,
    pub(crate) sent: usize,
}

impl Peer {
    fn new(settings: Settings, port: u16) -> Self {
        Self {
            endpoint: Endpoint::new(settings).unwrap(),
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            events: VecDeque::new(),
            handle: 0,
            sent: 0,
        }
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        self.endpoint.connection(self.handle).unwrap()
    }

    /// Take everything that happened and that `wanted` has something to say about.
    pub(crate) fn take<T>(&mut self, wanted: impl Fn(&Change) -> Option<T>) -> Vec<T> {
        let (mut found, mut left) = (Vec::new(), VecDeque::new());
        for event in self.events.drain(..) {
            match &event {
                Event::Connection(_, change) => match wanted(change) {
                    Some(value) => found.push(value),
                    None => left.push_back(event),
                },
                Event::Refused(..) => left.push_back(event),
            }
        }
        self.events = left;
        found
    }

    pub(crate) fn lost(&mut self) -> Option<CloseReason> {
        let mut reasons = self.take(|change| match change {
            Change::Lost(reason) => Some(reason.clone()),
            _ => None,
        });
        assert!(reasons.len() <= 1, "{reasons:?}");
        reasons.pop()
    }

    pub(crate) fn write_all(&mut self, stream: u64, data: &[u8]) {
        assert_eq!(self.connection().write(stream, data), Ok(data.len()));
    }

    /// What is there of a stream, and whether that is its end.
    pub(crate) fn read(&mut self, stream: u64) -> Result<(Vec<u8>, bool), StreamError> {
        self.read_some(stream, usize::MAX)
    }

    pub(crate) fn read_some(
        &mut self,
        stream: u64,
        maximum: usize,
    ) -> Result<(Vec<u8>, bool), StreamError> {
        let mut chunks = Vec::<Bytes>::new();
        let read = self.connection().read(stream, maximum, &mut chunks)?;
        let data = chunks.concat();
        assert_eq!(data.len(), read.length);
        Ok((data, read.end))
    }

    pub(crate) fn open(&mut self, direction: Direction) -> u64 {
        self.connection().open(direction).unwrap().unwrap()
    }

    pub(crate) fn accept(&mut self, direction: Direction) -> u64 {
        self.connection().accept(direction).unwrap()
    }
}

pub(crate) struct Pair {
    pub(crate) now: Duration,
    pub(crate) client: Peer,
    pub(crate) server: Peer,
    pub(crate) link: Link,
    pub(crate) random: Random,
    pub(crate) flight: BinaryHeap<Reverse<Packet>>,
    /// Everything that was sent, if it is to be kept.
    pub(crate) log: Option<Vec<Packet>>,
    number: u64,
}

pub(crate) struct Setup {
    pub(crate) client: Settings,
    pub(crate) server: Settings,
    pub(crate) client_tls: tls::Settings,
    pub(crate) server_tls: tls::Settings,
    pub(crate) authentication: ClientAuthentication,
    pub(crate) client_transport: Transport,
    pub(crate) server_transport: Transport,
    pub(crate) link: Link,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let identity = self_signed(params(NAME));
        let mut client_tls = tls::Settings::new(Trust::Certificates(vec![identity.leaf()]));
        let mut server_tls = with_identity(Trust::Anyone, &identity);
        client_tls.alpn = vec![b"test".to_vec()];
        server_tls.alpn = vec![b"test".to_vec()];
        Self {
            client: Settings {
                seed: Some([1; 32]),
                ..Settings::default()
            },
            server: Settings {
                seed: Some([2; 32]),
                ..Settings::default()
            },
            client_tls,
            server_tls,
            authentication: ClientAuthentication::None,
            client_transport: Transport::default(),
            server_transport: Transport::default(),
            link: Link::default(),
        }
    }

    /// The same on both sides.
    pub(crate) fn transport(mut self, change: impl Fn(&mut Transport)) -> Self {
        change(&mut self.client_transport);
        change(&mut self.server_transport);
        self
    }

    /// Packets so large that a whole ClientHello fits into one. Post-quantum keys take it beyond 1200 bytes.
    pub(crate) fn large_packets(mut self) -> Self {
        self.client_transport.initial_mtu = 2000;
        self.client_transport.maximum_mtu = 2000;
        self.link.mtu = 2500;
        self
    }

    /// A pair that has not begun yet, and what its client connects with.
    pub(crate) fn build(mut self) -> (Pair, Config) {
        let client = Config::client(self.client_tls, self.client_transport).unwrap();
        let server =
            Config::server(self.server_tls, self.authentication, self.server_transport).unwrap();
        self.server.server = Some(server);
        let pair = Pair {
            now: Duration::ZERO,
            client: Peer::new(self.client, 2000),
            server: Peer::new(self.server, 443),
            link: self.link,
            random: Random(0x0071_7569_6321),
            flight: BinaryHeap::new(),
            log: None,
            number: 0,
        };
        (pair, client)
    }

    pub(crate) fn connect(self) -> Pair {
        let (mut pair, config) = self.build();
        pair.connect(&config);
        pair
    }
}

impl Pair {
    pub(crate) fn peer(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Begin to connect.
    pub(crate) fn start(&mut self, config: &Config) {
        let remote = self.server.address;
        let endpoint = &mut self.client.endpoint;
        self.client.handle = endpoint.connect(self.now, config, remote, NAME).unwrap();
    }

    /// Connect, and wait until both sides have.
    #[track_caller]
    pub(crate) fn connect(&mut self, config: &Config) {
        self.start(config);
        self.run_until(|pair| {
            let connected = |peer: &Peer| {
                peer.events.iter().any(|event| {
                    matches!(event, Event::Connection(handle, Change::Connected) if *handle == peer.handle)
                })
            };
            connected(&pair.client) && connected(&pair.server)
        });
        for side in [Side::Client, Side::Server] {
            self.peer(side).take(|change| {
                matches!(change, Change::Connected | Change::Incoming).then_some(())
            });
        }
    }

    /// Let both sides send, and do the next thing that happens. False if nothing will ever happen.
    pub(crate) fn step(&mut self) -> bool {
        self.flush();
        let timers = [
            self.client.endpoint.timeout(),
            self.server.endpoint.timeout(),
        ];
        let timer = timers.iter().flatten().min().copied();
        let arrival = self.flight.peek().map(|Reverse(packet)| packet.at);
        let Some(next) = timer.into_iter().chain(arrival).min() else {
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        while let Some(Reverse(packet)) = self.flight.peek()
            && packet.at <= now
        {
            let Some(Reverse(packet)) = self.flight.pop() else {
                break;
            };
            self.deliver(&packet);
        }
        for side in [Side::Client, Side::Server] {
            let endpoint = &mut self.peer(side).endpoint;
            if endpoint.timeout().is_some_and(|at| at <= now) {
                endpoint.handle_timeout(now).unwrap();
            }
        }
        self.flush();
        true
    }

    pub(crate) fn deliver(&mut self, packet: &Packet) {
        let now = self.now;
        let to = self.peer(packet.to);
        let incoming = Incoming {
            remote: packet.from,
            local_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            ecn: packet.ecn,
            stride: packet.stride,
            data: &packet.data,
        };
        to.endpoint.receive(now, [incoming]).unwrap();
    }

    pub(crate) fn flush(&mut self) {
        for side in [Side::Client, Side::Server] {
            let (now, link) = (self.now, self.link);
            let mut buffer = Vec::new();
            loop {
                let peer = self.peer(side);
                let Some(transmit) = peer.endpoint.transmit(now, 10, &mut buffer) else {
                    break;
                };
                let from = peer.address;
                let size = transmit.segment_size.unwrap_or(buffer.len());
                peer.sent += buffer.len().div_ceil(size);
                // Who is not there gets nothing.
                if transmit.remote != self.peer(side.other()).address {
                    continue;
                }
                let pieces = match link.offload {
                    true => buffer.len(),
                    false => size,
                };
                for data in buffer.chunks(pieces) {
                    let packet = Packet {
                        at: now + link.latency,
                        number: self.number,
                        to: side.other(),
                        from,
                        ecn: transmit.ecn,
                        stride: size,
                        data: data.to_vec(),
                    };
                    self.number += 1;
                    if let Some(log) = &mut self.log {
                        log.push(packet.clone());
                    }
                    self.send(packet);
                }
            }
            let mut events = Vec::new();
            let peer = self.peer(side);
            peer.endpoint.events(&mut events);
            for event in events {
                if let Event::Connection(handle, Change::Incoming) = event {
                    peer.handle = handle;
                }
                peer.events.push_back(event);
            }
        }
    }

    fn send(&mut self, mut packet: Packet) {
        let link = self.link;
        if packet.stride.min(packet.data.len()) > link.mtu || self.random.next(1000) < link.loss {
            return;
        }
        if self.random.next(1000) < link.duplicate {
            self.flight.push(Reverse(packet.clone()));
        }
        if self.random.next(1000) < link.reorder {
            packet.at += link.latency * 2;
        }
        self.flight.push(Reverse(packet));
    }

    /// Step until `done` says so, and fail if that is not within 10 minutes.
    #[track_caller]
    pub(crate) fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + Duration::from_secs(600);
        while !done(self) {
            assert!(
                self.now < end && self.step(),
                "nothing more happens: client {:?}, server {:?}",
                self.client.events,
                self.server.events
            );
        }
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.flush();
            let timers = [
                self.client.endpoint.timeout(),
                self.server.endpoint.timeout(),
            ];
            let arrival = self.flight.peek().map(|Reverse(packet)| packet.at);
            let next = timers.into_iter().flatten().chain(arrival).min();
            if next.is_none_or(|next| next > end) {
                break;
            }
            self.step();
        }
        self.now = end;
    }
}

pub(crate) fn connected() -> Pair {
    Setup::new().connect()
}

/// Bytes that differ from each other.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index % 251) as u8 ^ (index >> 12) as u8)
        .collect()
}
