//! The settings of a connection and of an endpoint, checked once.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use quinn_proto::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn_proto::{
    IdleTimeout, MtuDiscoveryConfig, QlogConfig, TokenMemoryCache, TransportConfig, VarInt,
};
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, ServerConnection, Version};
use rustls::{ClientConfig, Error, ServerConfig};

use super::early::{InTheWay, WithRoom};
use super::identifiers::ServerId;
use super::parameters::MAXIMUM;
use super::session::{Maker, Shared};
use crate::tls::config::Side;
use crate::tls::engine::parse_server_name;
use crate::tls::{self, ClientAuthentication, ConfigError};

/// quinn-proto's queue of datagrams is emptied into ours after each packet, so it has to hold what
/// one packet brings: the largest is 65,527 bytes, and it counts some overhead.
const DATAGRAM_BUFFER: usize = 256 * 1024;
/// RFC 9000, section 14: what every path must carry.
const MINIMUM_MTU: u16 = 1200;
/// RFC 9000, section 4.6: more cannot be expressed.
const MAXIMUM_STREAMS: u64 = 1 << 60;

/// How the rate of sending follows the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    #[default]
    Cubic,
    NewReno,
    /// Experimental in quinn-proto.
    Bbr,
}

/// Opens a connection's qlog (a stream of JSON text sequences), given its remote address.
pub type Qlog =
    Arc<dyn Fn(SocketAddr) -> Option<Box<dyn Write + Send + Sync>> + Send + Sync + 'static>;

/// What a connection announces and keeps to.
#[derive(Clone)]
pub struct Transport {
    /// None: never.
    pub idle_timeout: Option<Duration>,
    pub keepalive: Option<Duration>,
    /// How many streams of a kind the peer may have open.
    pub maximum_bidirectional_streams: u64,
    pub maximum_unidirectional_streams: u64,
    /// How much the peer may send before we read it: on one stream, and on all.
    pub stream_receive_window: u64,
    pub receive_window: u64,
    /// How much we hold that the peer has not acknowledged.
    pub send_window: u64,
    /// The largest DATAGRAM frame that we take; 0 for no datagrams.
    pub max_datagram_frame_size: u64,
    /// How many bytes of datagrams wait: to be read (the oldest give way), and to be sent (there is
    /// no room for another then).
    pub datagram_receive_buffer: usize,
    pub datagram_send_buffer: usize,
    /// The size of packets that is tried at once, and the largest that is ever tried.
    pub initial_mtu: u16,
    pub maximum_mtu: u16,
    pub initial_rtt: Duration,
    pub congestion: Congestion,
    pub qlog: Option<Qlog>,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(30)),
            keepalive: None,
            maximum_bidirectional_streams: 100,
            maximum_unidirectional_streams: 100,
            stream_receive_window: 1024 * 1024,
            receive_window: 4 * 1024 * 1024,
            send_window: 1024 * 1024,
            max_datagram_frame_size: 0,
            datagram_receive_buffer: 1024 * 1024,
            datagram_send_buffer: 256 * 1024,
            initial_mtu: MINIMUM_MTU,
            maximum_mtu: 1452, // Ethernet's 1500, without the headers of IPv6 and UDP
            initial_rtt: Duration::from_millis(333), // RFC 9002, section 6.2.2
            congestion: Congestion::Cubic,
            qlog: None,
        }
    }
}

impl Transport {
    /// What is wrong with it, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let variable = |name: &str, value: u64| {
            (value <= MAXIMUM)
                .then_some(())
                .ok_or(format!("{name} is at most 2**62 - 1, not {value}"))
        };
        variable("a receive window", self.stream_receive_window)?;
        variable("a receive window", self.receive_window)?;
        variable("the size of datagrams", self.max_datagram_frame_size)?;
        for streams in [
            self.maximum_bidirectional_streams,
            self.maximum_unidirectional_streams,
        ] {
            if streams > MAXIMUM_STREAMS {
                return Err(format!("there are at most 2**60 streams, not {streams}"));
            }
        }
        if self.idle_timeout.is_some_and(|timeout| {
            timeout < Duration::from_millis(1) || timeout.as_millis() > u128::from(MAXIMUM)
        }) {
            return Err("an idle timeout is 1 ms at least".into());
        }
        if self
            .keepalive
            .is_some_and(|interval| interval < MINIMUM_KEEPALIVE)
        {
            return Err("a keepalive interval is 1 ms at least".into());
        }
        if self.initial_mtu < MINIMUM_MTU || self.maximum_mtu < self.initial_mtu {
            return Err(format!(
                "an MTU is {MINIMUM_MTU} at least, and its maximum not below what is tried first"
            ));
        }
        Ok(())
    }

    /// quinn-proto's form of this, for a connection to `remote`.
    fn build(
        &self,
        remote: SocketAddr,
        epoch: Instant,
        early: Option<InTheWay>,
    ) -> Arc<TransportConfig> {
        let variable = |value| VarInt::from_u64(value).unwrap_or(VarInt::MAX);
        let mut config = TransportConfig::default();
        let idle_timeout = self
            .idle_timeout
            .and_then(|timeout| IdleTimeout::try_from(timeout).ok());
        let datagrams = self.max_datagram_frame_size > 0;
        config
            .max_idle_timeout(idle_timeout)
            .max_concurrent_bidi_streams(variable(self.maximum_bidirectional_streams))
            .max_concurrent_uni_streams(variable(self.maximum_unidirectional_streams))
            .stream_receive_window(variable(self.stream_receive_window))
            .receive_window(variable(self.receive_window))
            .send_window(self.send_window)
            .datagram_receive_buffer_size(datagrams.then_some(DATAGRAM_BUFFER))
            .datagram_send_buffer_size(self.datagram_send_buffer)
            .initial_mtu(self.initial_mtu)
            .initial_rtt(self.initial_rtt);
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.maximum_mtu);
        config.mtu_discovery_config(Some(discovery));
        let factory: Arc<dyn ControllerFactory + Send + Sync> = match self.congestion {
            Congestion::Cubic => Arc::new(CubicConfig::default()),
            Congestion::NewReno => Arc::new(NewRenoConfig::default()),
            Congestion::Bbr => Arc::new(BbrConfig::default()),
        };
        config.congestion_controller_factory(match early {
            Some(early) => Arc::new(WithRoom { factory, early }),
            None => factory,
        });
        if let Some(writer) = self.qlog.as_ref().and_then(|open| open(remote)) {
            let mut qlog = QlogConfig::default();
            qlog.writer(writer).start_time(epoch);
            config.qlog_stream(qlog.into_stream());
        }
        Arc::new(config)
    }
}

/// Pings more often than the clock ticks would be a flood.
pub(crate) const MINIMUM_KEEPALIVE: Duration = Duration::from_millis(1);

/// One side's settings, with the tickets and tokens that its connections share.
#[derive(Clone)]
pub struct Config {
    pub(crate) tls: tls::Config,
    pub(crate) transport: Arc<Transport>,
    /// quinn-proto's form of it, which connections share unless each writes a qlog of its own, or has
    /// early data.
    built: Arc<OnceLock<Arc<TransportConfig>>>,
    pub(crate) tokens: Arc<TokenMemoryCache>,
}

impl Config {
    /// The versions in `settings` must allow TLS 1.3: QUIC has no other (RFC 9001, section 4.2).
    pub fn client(settings: tls::Settings, transport: Transport) -> Result<Self, ConfigError> {
        Self::new(tls::Config::client(only_tls13(settings)?)?, transport)
    }

    pub fn server(
        settings: tls::Settings,
        authentication: ClientAuthentication,
        transport: Transport,
    ) -> Result<Self, ConfigError> {
        let tls = tls::Config::server(only_tls13(settings)?, authentication)?;
        Self::new(tls, transport)
    }

    /// With settings of TLS that are there already. Tickets are kept with them, so they should not
    /// be those of anything but QUIC.
    pub fn new(mut tls: tls::Config, transport: Transport) -> Result<Self, ConfigError> {
        transport.check()?;
        // rustls checks what QUIC needs when a connection is made, and none is here yet.
        match &mut tls.side {
            Side::Client(config) => {
                let name = ServerName::from(IpAddr::from([0; 4]));
                ClientConnection::new(config.clone(), Version::V1, name, Vec::new()).map(drop)
            }
            Side::Server(config) => {
                if config.max_early_data_size > 0 {
                    // How much it is, QUIC limits by flow control (RFC 9001, section 4.6.1).
                    let mut early = ServerConfig::clone(config);
                    early.max_early_data_size = u32::MAX;
                    *config = Arc::new(early);
                }
                ServerConnection::new(config.clone(), Version::V1, Vec::new()).map(drop)
            }
        }
        .map_err(|error| match error {
            Error::General(text) => text,
            other => other.to_string(),
        })?;
        Ok(Self {
            tls,
            transport: Arc::new(transport),
            built: Arc::default(),
            tokens: Arc::new(TokenMemoryCache::default()),
        })
    }

    pub fn is_client(&self) -> bool {
        self.tls.is_client()
    }

    fn datagrams(&self) -> Option<u64> {
        Some(self.transport.max_datagram_frame_size).filter(|&size| size > 0)
    }

    /// Client: early data may be sent, if a ticket allows it.
    pub(crate) fn has_early_data(&self) -> bool {
        matches!(&self.tls.side, Side::Client(config) if config.enable_early_data)
    }

    /// For a connection to `remote`.
    pub(super) fn transport(
        &self,
        remote: SocketAddr,
        epoch: Instant,
        early: Option<InTheWay>,
    ) -> Arc<TransportConfig> {
        let build = || self.transport.build(remote, epoch, early.clone());
        match (&self.transport.qlog, &early) {
            (None, None) => self.built.get_or_init(build).clone(),
            _ => build(),
        }
    }

    pub(crate) fn client_maker(
        &self,
        server_name: &str,
        shared: &Shared,
    ) -> Result<Maker<ClientConfig>, String> {
        let Side::Client(config) = &self.tls.side else {
            return Err("a client's connection needs a client's configuration".into());
        };
        Ok(Maker {
            config: config.clone(),
            name: Some(parse_server_name(server_name)?),
            alpn: self.tls.alpn.clone(),
            datagrams: self.datagrams(),
            shared: shared.clone(),
        })
    }

    pub(crate) fn server_maker(&self, shared: &Shared) -> Result<Maker<ServerConfig>, String> {
        let Side::Server(config) = &self.tls.side else {
            return Err("a server needs a server's configuration".into());
        };
        Ok(Maker {
            config: config.clone(),
            name: None,
            alpn: self.tls.alpn.clone(),
            datagrams: self.datagrams(),
            shared: shared.clone(),
        })
    }
}

fn only_tls13(mut settings: tls::Settings) -> Result<tls::Settings, ConfigError> {
    if settings.maximum_version.as_deref() == Some("TLSv1.2") {
        return Err(ConfigError::Invalid("QUIC needs TLS 1.3".into()));
    }
    settings.minimum_version = Some("TLSv1.3".into());
    settings.maximum_version = Some("TLSv1.3".into());
    Ok(settings)
}

/// When a client has to show that it receives at its address before we do anything for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    /// While as many handshakes are under way.
    Above(usize),
    Always,
}

/// What all connections of one socket share.
pub struct Settings {
    /// None for an endpoint that only connects.
    pub server: Option<Config>,
    /// How many connections may come in, and how many of them may be in their handshake.
    pub maximum_connections: usize,
    pub maximum_handshakes: usize,
    pub retry: Retry,
    /// Peers may change their address.
    pub migration: bool,
    /// The largest UDP payload that we receive.
    pub maximum_udp_payload: u16,
    /// Packets are never fragmented on their way, so their size can be tried.
    pub discover_mtu: bool,
    pub server_id: Option<ServerId>,
    /// A server that starts again with the same keys can reset what it has forgotten, and takes the
    /// tokens that it gave. Random if None.
    pub reset_key: Option<[u8; 32]>,
    pub token_key: Option<[u8; 32]>,
    /// For tests: everything but TLS happens in the same way each time.
    pub seed: Option<[u8; 32]>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: None,
            maximum_connections: 10_000,
            maximum_handshakes: 1000,
            retry: Retry::Above(100),
            migration: true,
            maximum_udp_payload: 1472, // Ethernet's 1500, without the headers of IPv4 and UDP
            discover_mtu: true,
            server_id: None,
            reset_key: None,
            token_key: None,
            seed: None,
        }
    }
}
