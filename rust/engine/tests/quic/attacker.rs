//! A peer that has the keys, and sends what it likes: quinn-proto, with other contents of its packets
//! than it thinks.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::crypto::{
    self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{
    ClientConfig, ConnectError, Connection, ConnectionHandle, ConnectionId, DatagramEvent, Dir,
    EndpointConfig, ServerConfig, Side as EngineSide, TransportConfig, TransportError,
};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tieline_engine::quic::{Change, CloseReason, Endpoint, Event, Incoming};

use crate::pair::*;

/// Changes the contents of a packet with data in it.
pub(crate) type Forge = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// An endpoint of ours, and its attacker.
pub(crate) struct Attack {
    victim: Endpoint,
    pub(crate) lost: Option<CloseReason>,
    attacker: quinn_proto::Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    now: Duration,
    epoch: Instant,
    victim_address: SocketAddr,
    attacker_address: SocketAddr,
    stream: Option<quinn_proto::StreamId>,
    answers: Vec<Vec<u8>>,
}

impl Attack {
    pub(crate) fn on_server(mut setup: Setup, forge: Forge) -> Self {
        setup.client_tls.alpn = Vec::new();
        setup.server_tls.alpn = Vec::new();
        let (pair, _) = setup.build();
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting))
            .with_no_client_auth();
        tls.enable_early_data = false;
        let mut client = ClientConfig::new(Arc::new(Forging {
            inner: Arc::new(QuicClientConfig::try_from(tls).unwrap()),
            forge,
        }));
        client.transport_config(transport());
        let mut attack = Self::new(pair.server.endpoint, pair.server.address, None);
        let remote = attack.victim_address;
        let connection = attack
            .attacker
            .connect(attack.epoch, client, remote, NAME)
            .unwrap();
        attack.connection = Some(connection);
        attack
    }

    pub(crate) fn on_client(mut setup: Setup, forge: Forge) -> Self {
        setup.client_tls.alpn = Vec::new();
        setup.client_tls.trust = tieline_engine::tls::Trust::Anyone;
        let identity = self_signed(params(NAME));
        let (mut pair, config) = setup.build();
        let key = PrivateKeyDer::try_from(identity.key.clone()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain.clone(), key)
            .unwrap();
        let mut server = ServerConfig::with_crypto(Arc::new(Forging {
            inner: Arc::new(QuicServerConfig::try_from(tls).unwrap()),
            forge,
        }));
        server.transport_config(transport());
        pair.start(&config);
        Self::new(
            pair.client.endpoint,
            pair.client.address,
            Some(Arc::new(server)),
        )
    }

    fn new(
        victim: Endpoint,
        victim_address: SocketAddr,
        server: Option<Arc<ServerConfig>>,
    ) -> Self {
        let config = Arc::new(EndpointConfig::default());
        Self {
            victim,
            lost: None,
            attacker: quinn_proto::Endpoint::new(config, server, false, None),
            connection: None,
            now: Duration::ZERO,
            epoch: Instant::now(),
            victim_address,
            attacker_address: SocketAddr::new([127, 0, 0, 1].into(), 443),
            stream: None,
            answers: Vec::new(),
        }
    }

    /// A millisecond passes. True if the victim's connection has ended.
    pub(crate) fn step(&mut self) -> bool {
        self.now += ms(1);
        for data in self.send() {
            let incoming = Incoming {
                remote: self.attacker_address,
                local_ip: None,
                ecn: 0,
                stride: data.len(),
                data: &data,
            };
            self.victim.receive(self.now, [incoming]).unwrap();
        }
        let mut buffer = Vec::new();
        while self.victim.transmit(self.now, 1, &mut buffer).is_some() {
            self.receive(&buffer);
        }
        if self.victim.timeout().is_some_and(|at| at <= self.now) {
            self.victim.handle_timeout(self.now).unwrap();
        }
        let mut events = Vec::new();
        self.victim.events(&mut events);
        for event in events {
            if let Event::Connection(_, Change::Lost(reason)) = event {
                self.lost = Some(reason);
            }
        }
        self.lost.is_some()
    }

    fn send(&mut self) -> Vec<Vec<u8>> {
        let now = self.epoch + self.now;
        let mut packets = std::mem::take(&mut self.answers);
        if let Some((_, connection)) = &mut self.connection {
            if !connection.is_handshaking() && !connection.is_closed() {
                if self.stream.is_none() {
                    self.stream = connection.streams().open(Dir::Uni);
                }
                if let Some(stream) = self.stream {
                    let _ = connection.send_stream(stream).write(&[0; 100_000]);
                }
                connection.ping();
            }
            if connection.poll_timeout().is_some_and(|at| at <= now) {
                connection.handle_timeout(now);
            }
        }
        self.shuttle();
        if let Some((_, connection)) = &mut self.connection {
            let mut buffer = Vec::new();
            while connection.poll_transmit(now, 1, &mut buffer).is_some() {
                packets.push(std::mem::take(&mut buffer));
            }
        }
        packets
    }

    fn receive(&mut self, data: &[u8]) {
        let now = self.epoch + self.now;
        let (mut response, data) = (Vec::new(), BytesMut::from(data));
        let remote = self.victim_address;
        match self
            .attacker
            .handle(now, remote, None, None, data, &mut response)
        {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.connection = self
                    .attacker
                    .accept(incoming, now, &mut response, None)
                    .ok();
            }
            Some(DatagramEvent::Response(_)) => self.answers.push(response),
            None => {}
        }
        self.shuttle();
    }

    fn shuttle(&mut self) {
        let Some((key, connection)) = &mut self.connection else {
            return;
        };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(answer) = self.attacker.handle_event(*key, event) {
                connection.handle_event(answer);
            }
        }
        while connection.poll().is_some() {}
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.send_window(1 << 30).mtu_discovery_config(None);
    Arc::new(transport)
}

struct Forging<Config> {
    inner: Arc<Config>,
    forge: Forge,
}

impl<Config> Forging<Config> {
    fn session(&self, inner: Box<dyn crypto::Session>) -> Box<dyn crypto::Session> {
        Box::new(ForgingSession {
            inner,
            changes: 0,
            forge: self.forge.clone(),
        })
    }
}

impl crypto::ClientConfig for Forging<QuicClientConfig> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        let inner = self.inner.clone();
        Ok(self.session(inner.start_session(version, server_name, parameters)?))
    }
}

impl crypto::ServerConfig for Forging<QuicServerConfig> {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.inner.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, original: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, original, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        self.session(self.inner.clone().start_session(version, parameters))
    }
}

struct ForgingSession {
    inner: Box<dyn crypto::Session>,
    changes: usize,
    forge: Forge,
}

impl crypto::Session for ForgingSession {
    fn initial_keys(&self, id: &ConnectionId, side: EngineSide) -> Keys {
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
                forge: self.forge.clone(),
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
    forge: Forge,
}

impl PacketKey for ForgingKey {
    fn encrypt(&self, number: u64, packet: &mut [u8], header: usize) {
        let end = packet.len() - self.inner.tag_len();
        (self.forge)(&mut packet[header..end]);
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

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
