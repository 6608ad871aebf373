//! Two endpoints with a connection between them, in virtual time. The script drops, damages, repeats and reorders packets,
//! brings its own, changes addresses, and uses the connection from both ends.
//!
//! Whatever it does: nothing panics, no endpoint is poisoned, limits hold, and what is read of a stream is what was written.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tieline_engine::quic::{
    Bytes, Change, Config, Direction, Endpoint, Event, Handle, Incoming, Retry, Settings, Transport,
};
use tieline_engine::tls::ClientAuthentication;

use crate::identity;
use crate::script::{Script, damage, pattern};

const CONNECTIONS: usize = 8;
const KEPT: usize = 32; // packets, for replays

struct Side {
    endpoint: Endpoint,
    address: SocketAddr,
    handle: Option<Handle>,
    written: BTreeMap<u64, usize>,
    read: BTreeMap<u64, usize>,
    inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    seen: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Side {
    fn new(settings: Settings, port: u16) -> Self {
        Self {
            endpoint: Endpoint::new(settings).expect("settings"),
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            handle: None,
            written: BTreeMap::new(),
            read: BTreeMap::new(),
            inbox: VecDeque::new(),
            seen: VecDeque::new(),
        }
    }

    fn receive(&mut self, now: Duration, remote: SocketAddr, stride: usize, data: &[u8]) {
        let incoming = Incoming {
            remote,
            local_ip: None,
            ecn: data.len() as u8,
            stride,
            data,
        };
        self.endpoint
            .receive(now, [incoming])
            .expect("not poisoned");
    }

    /// Take in what has happened, and read everything that can be read. Returns what is to be sent.
    fn turn(&mut self, now: Duration, is_server: bool) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut events = Vec::new();
        self.endpoint.events(&mut events);
        let mut readable = Vec::new();
        for event in events {
            match event {
                Event::Connection(handle, Change::Incoming) if self.handle.is_none() => {
                    self.handle = Some(handle)
                }
                Event::Connection(handle, change) if Some(handle) == self.handle => match change {
                    Change::Readable(stream) => readable.push(stream),
                    Change::Opened(direction) => {
                        if let Ok(connection) = self.endpoint.connection(handle) {
                            while let Some(stream) = connection.accept(direction) {
                                readable.push(stream);
                            }
                        }
                    }
                    Change::EarlyDataRejected => self.written.clear(),
                    Change::Drained if is_server => {
                        self.handle = None;
                        self.written.clear();
                        self.read.clear();
                    }
                    Change::Lost(_) => self.endpoint.release(now, handle),
                    _ => {}
                },
                _ => {}
            }
        }
        for stream in readable {
            self.read(stream);
        }
        let (mut sent, mut buffer) = (Vec::new(), Vec::new());
        while let Some(transmit) = self.endpoint.transmit(now, 10, &mut buffer) {
            assert!(!buffer.is_empty());
            let size = transmit.segment_size.unwrap_or(buffer.len());
            sent.extend(
                buffer
                    .chunks(size)
                    .map(|one| (transmit.remote, one.to_vec())),
            );
            assert!(sent.len() < 100_000, "it never stops");
        }
        sent
    }

    fn read(&mut self, stream: u64) {
        let Some(connection) = self
            .handle
            .and_then(|handle| self.endpoint.connection(handle).ok())
        else {
            return;
        };
        let mut chunks: Vec<Bytes> = Vec::new();
        if connection.read(stream, usize::MAX, &mut chunks).is_ok() {
            let data = chunks.concat();
            let before = self.read.entry(stream).or_default();
            assert_eq!(
                data,
                pattern(*before, data.len()),
                "other bytes than were sent"
            );
            *before += data.len();
        }
        while let Some(datagram) = connection.receive_datagram() {
            assert_eq!(datagram, pattern(datagram.len(), datagram.len()));
        }
    }

    /// Do something with the connection.
    fn act(&mut self, now: Duration, script: &mut Script<'_>) {
        let (Some(what), Some(number)) = (script.byte(), script.short()) else {
            return;
        };
        let Some(connection) = self
            .handle
            .and_then(|handle| self.endpoint.connection(handle).ok())
        else {
            return;
        };
        let direction = match number & 1 {
            0 => Direction::Bidirectional,
            _ => Direction::Unidirectional,
        };
        let stream = self
            .written
            .keys()
            .nth(number % self.written.len().max(1))
            .copied();
        match (what % 12, stream) {
            (0 | 1, _) => {
                if let Ok(Some(stream)) = connection.open(direction) {
                    self.written.insert(stream, 0);
                }
            }
            (2..=4, Some(stream)) => {
                let before = self.written.entry(stream).or_default();
                if let Ok(count) = connection.write(stream, &pattern(*before, number)) {
                    *before += count;
                }
            }
            (5, Some(stream)) => drop(connection.finish(stream)),
            (6, Some(stream)) => drop(connection.reset(stream, number as u64)),
            (7, Some(stream)) => drop(connection.stop_sending(stream, number as u64)),
            (8, _) => drop(connection.send_datagram(pattern(number % 1000, number % 1000).into())),
            (9, _) => connection.update_keys(),
            (10, _) => connection.ping(),
            (11, _) if number < 300 => drop(connection.close(now, number as u64, b"script")),
            _ => {}
        }
    }
}

/// The target.
pub fn quic(data: &[u8]) {
    let mut script = Script(data);
    let options = script.byte().unwrap_or(0);
    let mut transport = Transport::default();
    transport.max_datagram_frame_size = if options & 1 == 0 { 65_535 } else { 0 };
    transport.stream_receive_window = if options & 2 == 0 { 100_000 } else { 1000 };
    transport.receive_window = 200_000;
    transport.idle_timeout = Some(Duration::from_secs(5));
    let server = Config::server(
        identity::server(),
        ClientAuthentication::None,
        transport.clone(),
    )
    .expect("server");
    let client = Config::client(identity::client(), transport).expect("client");
    let server = Settings {
        server: Some(server),
        maximum_connections: CONNECTIONS,
        retry: if options & 4 == 0 {
            Retry::Never
        } else {
            Retry::Always
        },
        seed: Some([2; 32]),
        ..Settings::default()
    };
    let ours = Settings {
        seed: Some([1; 32]),
        ..Settings::default()
    };
    let mut sides = [Side::new(ours, 2000), Side::new(server, 443)];
    let mut now = Duration::ZERO;
    let remote = sides[1].address;
    sides[0].handle = sides[0]
        .endpoint
        .connect(now, &client, remote, identity::NAME)
        .ok();

    // What a script does not say goes well, so that short ones come far, too.
    while let Some(code) = script.byte() {
        let to = usize::from(code & 1);
        let [first, second] = &mut sides;
        let (side, other) = if to == 0 {
            (first, second)
        } else {
            (second, first)
        };
        match code >> 1 & 7 {
            0 | 1 => {} // everything arrives
            2 => drop(side.inbox.pop_front()),
            3 => {
                if let Some((_, packet)) = side.inbox.front_mut() {
                    damage(&mut script, packet);
                }
            }
            4 => {
                let mut own = Vec::new();
                if let Some((_, packet)) = side
                    .seen
                    .get(usize::from(script.byte().unwrap_or(0)) % KEPT)
                {
                    own.clone_from(packet);
                }
                damage(&mut script, &mut own);
                let remote = match script.byte().unwrap_or(0) {
                    0..128 => other.address,
                    port => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 3000 + u16::from(port)),
                };
                side.receive(now, remote, script.short().unwrap_or(0), &own);
            }
            5 => side.act(now, &mut script),
            6 => side.inbox.rotate_left(usize::from(!side.inbox.is_empty())),
            _ if to == 0 => side
                .address
                .set_port(2000 + u16::from(script.byte().unwrap_or(0))), // a NAT
            _ => now += Duration::from_millis(script.short().unwrap_or(0) as u64),
        }
        advance(&mut sides, &mut now);
    }
    for _ in 0..100 {
        advance(&mut sides, &mut now);
    }
    for side in &sides {
        assert!(!side.endpoint.is_poisoned());
        assert!(side.endpoint.connections() <= CONNECTIONS);
    }
}

/// One packet arrives at each side, due timers fire, and both sides send.
fn advance(sides: &mut [Side; 2], now: &mut Duration) {
    *now += Duration::from_millis(1);
    for index in 0..2 {
        let from = sides[1 - index].address;
        let side = &mut sides[index];
        if let Some((_, packet)) = side.inbox.pop_front() {
            side.receive(*now, from, 0, &packet);
            if side.seen.len() == KEPT {
                side.seen.pop_front();
            }
            side.seen.push_back((from, packet));
        }
        if side.endpoint.timeout().is_some_and(|at| at <= *now) {
            side.endpoint.handle_timeout(*now).expect("not poisoned");
        }
        let sent = side.turn(*now, index == 1);
        let other = &mut sides[1 - index];
        let address = other.address;
        other
            .inbox
            .extend(sent.into_iter().filter(|(to, _)| *to == address));
    }
}
