//! What the engine does without Python: bulk over one stream, on a UDP socket of the system's.
//! `benchmarks/quic.py` runs it beside Tieline, with the same settings.
//!
//! ```text
//! quic_bulk serve                  prints its port, and answers each stream with how much came on it
//! quic_bulk send PORT SIZE COUNT   prints MB/s
//! ```
//!
//! Either ends when its standard input does.

use std::error::Error;
use std::io::{ErrorKind, IoSliceMut, Read as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rcgen::{CertificateParams, KeyPair};
use tieline_engine::quic::{
    Bytes, Change, Config, Connection, Direction, Endpoint, Event, Handle, Incoming, Settings,
    Transport,
};
use tieline_engine::tls::{self, ClientAuthentication, Trust};

const SEGMENTS: usize = 20;
const LARGEST: usize = 65_536;
const READ: usize = 256 * 1024;
const BUFFER: usize = 4 * 1024 * 1024;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// An endpoint and its socket.
struct Peer {
    endpoint: Endpoint,
    socket: UdpSocket,
    state: UdpSocketState,
    begun: Instant,
    received: Vec<u8>,
    sent: Vec<u8>,
}

impl Peer {
    fn new(server: Option<Config>) -> Outcome<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let state = UdpSocketState::new((&socket).into())?;
        state.set_recv_buffer_size((&socket).into(), BUFFER)?;
        state.set_send_buffer_size((&socket).into(), BUFFER)?;
        // One read takes what GRO has joined, and waits for it.
        socket.set_nonblocking(false)?;
        let settings = Settings {
            server,
            ..Settings::default()
        };
        Ok(Self {
            endpoint: Endpoint::new(settings).map_err(|error| error.to_string())?,
            socket,
            state,
            begun: Instant::now(),
            received: vec![0; LARGEST],
            sent: Vec::new(),
        })
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Let everything leave, wait for what comes, and take it in.
    fn turn(&mut self, events: &mut Vec<Event>) -> Outcome {
        let now = self.now();
        while let Some(next) = self.endpoint.transmit(now, SEGMENTS, &mut self.sent) {
            let transmit = Transmit {
                destination: next.remote,
                ecn: EcnCodepoint::from_bits(next.ecn),
                contents: &self.sent,
                segment_size: next.segment_size,
                src_ip: None,
            };
            self.state.try_send((&self.socket).into(), &transmit)?;
        }
        let patience = self
            .endpoint
            .timeout()
            .map(|due| due.saturating_sub(now).max(Duration::from_micros(1)));
        self.socket.set_read_timeout(patience)?;
        let mut meta = [RecvMeta::default()];
        let mut buffers = [IoSliceMut::new(&mut self.received)];
        let now = self.begun.elapsed();
        match self
            .state
            .recv((&self.socket).into(), &mut buffers, &mut meta)
        {
            Ok(_) => {
                let incoming = Incoming {
                    remote: meta[0].addr,
                    local_ip: None,
                    ecn: meta[0].ecn.map_or(0, |ecn| ecn as u8),
                    stride: meta[0].stride,
                    data: &self.received[..meta[0].len],
                };
                self.endpoint.receive(now, [incoming])?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.endpoint.handle_timeout(self.begun.elapsed())?;
            }
            Err(error) => return Err(error.into()),
        }
        self.endpoint.events(events);
        Ok(())
    }

    fn connection(&mut self, handle: Handle) -> Outcome<&mut Connection> {
        Ok(self.endpoint.connection(handle)?)
    }
}

/// As Tieline's options have them.
fn transport() -> Transport {
    Transport {
        receive_window: 16 * 1024 * 1024,
        ..Transport::default()
    }
}

fn read(connection: &mut Connection, stream: u64, total: &mut usize) -> Outcome<(Vec<u8>, bool)> {
    let mut content = Vec::new();
    loop {
        let mut chunks = Vec::<Bytes>::new();
        let read = connection
            .read(stream, READ, &mut chunks)
            .map_err(|error| format!("{error:?}"))?;
        *total += read.length;
        if let Some(last) = chunks.last() {
            content = last.to_vec();
        }
        if read.end || read.length == 0 {
            return Ok((content, read.end));
        }
    }
}

fn serve() -> Outcome {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".into()])?.self_signed(&key)?;
    let mut settings = tls::Settings::new(Trust::Anyone);
    settings.certificate_chain = vec![certificate.der().clone()];
    settings.private_key = Some(key.serialize_der());
    settings.alpn = vec![b"benchmark".to_vec()];
    let config = Config::server(settings, ClientAuthentication::None, transport())?;
    let mut peer = Peer::new(Some(config))?;
    println!("{}", peer.socket.local_addr()?.port());
    let mut events = Vec::new();
    let (mut stream, mut total) = (0, 0);
    loop {
        peer.turn(&mut events)?;
        for event in events.drain(..) {
            let Event::Connection(handle, change) = event else {
                continue;
            };
            match change {
                Change::Opened(direction) => {
                    total = 0;
                    stream = peer
                        .connection(handle)?
                        .accept(direction)
                        .ok_or("no stream")?;
                }
                Change::Readable(number) if number == stream => {}
                _ => continue,
            }
            let connection = peer.connection(handle)?;
            if read(connection, stream, &mut total)?.1 {
                connection
                    .write(stream, &(total as u64).to_be_bytes())
                    .and_then(|_| connection.finish(stream))
                    .map_err(|error| format!("{error:?}"))?;
            }
        }
    }
}

fn send(port: u16, size: usize, count: usize) -> Outcome {
    let mut settings = tls::Settings::new(Trust::Anyone);
    settings.alpn = vec![b"benchmark".to_vec()];
    let config = Config::client(settings, transport())?;
    let mut peer = Peer::new(None)?;
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let now = peer.now();
    let handle = peer.endpoint.connect(now, &config, remote, "localhost")?;
    let mut events = Vec::new();
    let connected = |event: &Event| matches!(event, Event::Connection(_, Change::Connected));
    while !events.iter().any(connected) {
        peer.turn(&mut events)?;
    }
    let content = Bytes::from(vec![0; size]);
    let stream = peer
        .connection(handle)?
        .open(Direction::Bidirectional)
        .map_err(|error| format!("{error:?}"))?
        .ok_or("the peer allows no stream")?;
    let begun = Instant::now();
    let mut rest = content.clone();
    let (mut left, mut finished, mut total) = (count, false, 0);
    loop {
        let connection = peer.connection(handle)?;
        while left > 0 {
            connection
                .write_bytes(stream, &mut rest)
                .map_err(|error| format!("{error:?}"))?;
            if !rest.is_empty() {
                break;
            }
            left -= 1;
            rest = content.clone();
        }
        if left == 0 && !finished {
            finished = true;
            connection
                .finish(stream)
                .map_err(|error| format!("{error:?}"))?;
        }
        events.clear();
        peer.turn(&mut events)?;
        let answered = |event: &Event| matches!(event, Event::Connection(_, Change::Readable(_)));
        if events.iter().any(answered) {
            let (answer, _) = read(peer.connection(handle)?, stream, &mut total)?;
            let expected = (size * count) as u64;
            if answer != expected.to_be_bytes() {
                return Err(format!("{answer:?} arrived of {expected} bytes").into());
            }
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", (size * count) as f64 / 1e6 / seconds);
    Ok(())
}

fn main() -> Outcome {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve"] => serve(),
        ["send", port, size, count] => send(port.parse()?, size.parse()?, count.parse()?),
        _ => Err("quic_bulk serve | send PORT SIZE COUNT".into()),
    }
}
