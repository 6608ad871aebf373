//! What a stream costs that is not read. Two faults of QUIC engines are the measure here: memory
//! that a peer can make us keep by sending frames with gaps between them (RUSTSEC-2026-0185), and
//! the cure for that which takes a slow reader for an attack.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::crypto::{
    self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionId, DatagramEvent, Dir, EndpointConfig, Side,
    TransportConfig, TransportError,
};
use tieline_engine::quic::{Change, CloseReason, Direction, Event, Incoming};

use crate::pair::*;

/// Send `total` bytes in messages of `size` each to somebody who reads only when all are there.
#[track_caller]
fn pause(window: u64, total: usize, size: usize, link: Link) {
    let mut setup = Setup::new().transport(|transport| {
        transport.stream_receive_window = window;
        transport.receive_window = window;
        transport.idle_timeout = None;
    });
    setup.link = link;
    let mut pair = setup.connect();
    let stream = pair.client.open(Direction::Unidirectional);
    let data = pattern(total);
    let mut written = 0;
    while written < total {
        let end = total.min(written + size);
        let connection = pair.client.connection();
        match connection.write(stream, &data[written..end]).unwrap() {
            0 => assert!(pair.step(), "the connection is stuck at {written}"),
            count => written += count,
        }
        // So that it leaves before the next message could join it.
        pair.run_for(Duration::from_micros(500));
        assert!(pair.server.lost().is_none(), "at {written} of {total}");
    }
    pair.client.connection().finish(stream).unwrap();
    pair.run_for(Duration::from_secs(60));
    assert!(pair.client.lost().is_none());
    assert_eq!(pair.server.accept(Direction::Unidirectional), stream);
    let (received, end) = pair.server.read(stream).unwrap();
    assert!(received == data && end);
}

#[test]
fn a_reader_may_pause_with_much_pending() {
    pause(8 << 20, 6 << 20, 64 * 1024, Link::default());
}

#[test]
fn a_reader_may_pause_with_many_small_messages_pending() {
    // Each in a packet of its own: nearly 10,000 of them.
    pause(1 << 20, 980_000, 100, Link::default());
}

#[test]
fn a_reader_may_pause_behind_a_bad_network() {
    let link = Link {
        loss: 30,
        reorder: 100,
        duplicate: 30,
        ..Link::default()
    };
    pause(8 << 20, 5 << 20, 64 * 1024, link);
    pause(1 << 20, 500_000, 100, link);
}

#[test]
fn frames_with_gaps_are_bounded() {
    let mut setup = Setup::new().transport(|transport| {
        // All the room that one could wish for an attack.
        transport.stream_receive_window = 1 << 30;
        transport.receive_window = 1 << 30;
    });
    setup.client_tls.alpn = Vec::new();
    setup.server_tls.alpn = Vec::new();
    let (mut pair, _) = setup.build();
    let mut attacker = Attacker::new(pair.server.address);
    let forged = attacker.forged.clone();
    let mut lost = None;
    for _ in 0..20_000 {
        attacker.now += Duration::from_millis(1);
        pair.now += Duration::from_millis(1);
        for data in attacker.send() {
            let incoming = Incoming {
                remote: "127.0.0.1:2000".parse().unwrap(),
                local_ip: None,
                ecn: 0,
                stride: data.len(),
                data: &data,
            };
            pair.server.endpoint.receive(pair.now, [incoming]).unwrap();
        }
        let (mut buffer, mut events) = (Vec::new(), Vec::new());
        while pair
            .server
            .endpoint
            .transmit(pair.now, 1, &mut buffer)
            .is_some()
        {
            attacker.receive(&buffer);
        }
        if pair
            .server
            .endpoint
            .timeout()
            .is_some_and(|at| at <= pair.now)
        {
            pair.server.endpoint.handle_timeout(pair.now).unwrap();
        }
        pair.server.endpoint.events(&mut events);
        for event in events {
            if let Event::Connection(_, Change::Lost(reason)) = event {
                lost = Some(reason);
            }
        }
        if lost.is_some() {
            break;
        }
    }
    let frames = forged.load(Ordering::Relaxed);
    let Some(CloseReason::Transport {
        code,
        reason,
        received,
        ..
    }) = lost
    else {
        panic!("{frames} frames were taken, and this was the end: {lost:?}");
    };
    assert_eq!((code, received), (1, false), "{reason}");
    assert!(reason.contains("gaps"), "{reason}");
    // It takes that many to be noticed, and what they cost is thereby bounded.
    assert!((1000..5000).contains(&frames), "{frames}");
}

/// A client whose packets are not what its own engine thinks that they are.
struct Attacker {
    endpoint: quinn_proto::Endpoint,
    connection: quinn_proto::Connection,
    key: quinn_proto::ConnectionHandle,
    server: SocketAddr,
    now: Instant,
    stream: Option<quinn_proto::StreamId>,
    forged: Arc<AtomicU64>,
}

impl Attacker {
    fn new(server: SocketAddr) -> Self {
        let forged = Arc::new(AtomicU64::new(0));
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
        tls.enable_early_data = false;
        let mut client = ClientConfig::new(Arc::new(Forging {
            inner: Arc::new(QuicClientConfig::try_from(tls).unwrap()),
            forged: forged.clone(),
        }));
        let mut transport = TransportConfig::default();
        transport.send_window(1 << 30).mtu_discovery_config(None);
        client.transport_config(Arc::new(transport));
        let config = Arc::new(EndpointConfig::default());
        let mut endpoint = quinn_proto::Endpoint::new(config, None, false, None);
        let now = Instant::now();
        let (key, connection) = endpoint.connect(now, client, server, NAME).unwrap();
        Self {
            endpoint,
            connection,
            key,
            server,
            now,
            stream: None,
            forged,
        }
    }

    fn send(&mut self) -> Vec<Vec<u8>> {
        if !self.connection.is_handshaking() && !self.connection.is_closed() {
            if self.stream.is_none() {
                self.stream = self.connection.streams().open(Dir::Uni);
            }
            if let Some(stream) = self.stream {
                let _ = self.connection.send_stream(stream).write(&[0; 100_000]);
            }
        }
        if self
            .connection
            .poll_timeout()
            .is_some_and(|at| at <= self.now)
        {
            self.connection.handle_timeout(self.now);
        }
        self.shuttle();
        let mut packets = Vec::new();
        let mut buffer = Vec::new();
        while self
            .connection
            .poll_transmit(self.now, 1, &mut buffer)
            .is_some()
        {
            packets.push(std::mem::take(&mut buffer));
        }
        packets
    }

    fn receive(&mut self, data: &[u8]) {
        let mut response = Vec::new();
        let event = self.endpoint.handle(
            self.now,
            self.server,
            None,
            None,
            BytesMut::from(data),
            &mut response,
        );
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
        self.shuttle();
    }

    fn shuttle(&mut self) {
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(answer) = self.endpoint.handle_event(self.key, event) {
                self.connection.handle_event(answer);
            }
        }
        while self.connection.poll().is_some() {}
    }
}

struct Forging {
    inner: Arc<QuicClientConfig>,
    forged: Arc<AtomicU64>,
}

impl crypto::ClientConfig for Forging {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        let inner = self.inner.clone();
        Ok(Box::new(ForgingSession {
            inner: inner.start_session(version, server_name, parameters)?,
            changes: 0,
            forged: self.forged.clone(),
        }))
    }
}

struct ForgingSession {
    inner: Box<dyn crypto::Session>,
    changes: usize,
    forged: Arc<AtomicU64>,
}

impl crypto::Session for ForgingSession {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, data: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(data)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, output: &mut Vec<u8>) -> Option<Keys> {
        let mut keys = self.inner.write_handshake(output)?;
        self.changes += 1;
        // The first keys are the handshake's.
        if self.changes == 2 {
            keys.packet.local = Box::new(ForgingKey {
                inner: keys.packet.local,
                forged: self.forged.clone(),
            });
        }
        Some(keys)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

struct ForgingKey {
    inner: Box<dyn PacketKey>,
    forged: Arc<AtomicU64>,
}

impl PacketKey for ForgingKey {
    /// In place of full packets: STREAM frames of a byte each, with a byte left out between them.
    fn encrypt(&self, number: u64, packet: &mut [u8], header: usize) {
        let end = packet.len() - self.inner.tag_len();
        let payload = &mut packet[header..end];
        if payload.len() > 1000 {
            payload.fill(0); // PADDING
            for frame in payload.chunks_exact_mut(8) {
                let index = self.forged.fetch_add(1, Ordering::Relaxed);
                let offset = (1 + 2 * index as u32) | 0x8000_0000;
                frame[0] = 0x0e; // STREAM, with an offset and a length
                frame[1] = 2;
                frame[2..6].copy_from_slice(&offset.to_be_bytes());
                frame[6] = 1;
                frame[7] = 0xaa;
            }
        }
        self.inner.encrypt(number, packet, header);
    }

    fn decrypt(
        &self,
        number: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.inner.decrypt(number, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

#[derive(Debug)]
struct Trusting;

impl rustls::client::danger::ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
