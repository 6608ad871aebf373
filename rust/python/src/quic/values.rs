//! What goes in and out as values.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use pyo3::{IntoPyObjectExt, intern};
use tieline_engine::quic::{
    Change, CloseReason, Congestion, Direction, PeerParameters, Statistics, Transport,
    transport_error_name,
};

use crate::tls::raise;

pub(super) type Address<'py> = Bound<'py, PyTuple>;

/// Seconds, of which there are neither too many nor fewer than none.
pub(super) fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{seconds} is no time in seconds")))
}

pub(super) fn ip(text: &str) -> PyResult<IpAddr> {
    // As the system writes it: fe80::1%eth0
    let bare = text.split('%').next().unwrap_or(text);
    bare.parse()
        .map_err(|_| PyValueError::new_err(format!("{text:?} is no IP address")))
}

/// (host, port) or (host, port, flow information, scope), as sockets give and take it.
pub(super) fn socket_address(address: &Bound<'_, PyAny>) -> PyResult<SocketAddr> {
    let address = address.cast::<PyTuple>()?;
    let host = address.get_item(0)?;
    let host = ip(host.extract()?)?;
    let port = address.get_item(1)?.extract()?;
    Ok(match host {
        IpAddr::V6(host) if address.len() == 4 => {
            let flow = address.get_item(2)?.extract()?;
            let scope = address.get_item(3)?.extract()?;
            SocketAddrV6::new(host, port, flow, scope).into()
        }
        host => SocketAddr::new(host, port),
    })
}

pub(super) fn address<'py>(py: Python<'py>, address: SocketAddr) -> PyResult<Address<'py>> {
    let host = address.ip().to_string();
    match address {
        SocketAddr::V4(v4) => (host, v4.port()).into_pyobject(py),
        SocketAddr::V6(v6) => (host, v6.port(), v6.flowinfo(), v6.scope_id()).into_pyobject(py),
    }
}

/// What a connection announces and keeps to.
#[pyclass(frozen, module = "tieline._engine.quic")]
pub(crate) struct QuicTransport {
    pub(super) transport: Transport,
    pub(super) qlog: Option<PathBuf>,
}

#[pymethods]
impl QuicTransport {
    #[new]
    #[pyo3(signature = (
        *, idle_timeout = Some(30.0), keepalive = None, maximum_bidirectional_streams = 100,
        maximum_unidirectional_streams = 100, stream_receive_window = 1_048_576,
        receive_window = 4_194_304, send_window = 1_048_576, max_datagram_frame_size = 0,
        datagram_receive_buffer = 1_048_576, datagram_send_buffer = 262_144, initial_mtu = 1200,
        maximum_mtu = 1452, congestion = "cubic", qlog = None,
    ), text_signature = "(*, idle_timeout=30.0, keepalive=None, maximum_bidirectional_streams=100, maximum_unidirectional_streams=100, stream_receive_window=1_048_576, receive_window=4_194_304, send_window=1_048_576, max_datagram_frame_size=0, datagram_receive_buffer=1_048_576, datagram_send_buffer=262_144, initial_mtu=1200, maximum_mtu=1452, congestion='cubic', qlog=None)")]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn new(
        idle_timeout: Option<f64>,
        keepalive: Option<f64>,
        maximum_bidirectional_streams: u64,
        maximum_unidirectional_streams: u64,
        stream_receive_window: u64,
        receive_window: u64,
        send_window: u64,
        max_datagram_frame_size: u64,
        datagram_receive_buffer: usize,
        datagram_send_buffer: usize,
        initial_mtu: u16,
        maximum_mtu: u16,
        congestion: &str,
        qlog: Option<PathBuf>,
    ) -> PyResult<Self> {
        let congestion = match congestion {
            "cubic" => Congestion::Cubic,
            "newreno" => Congestion::NewReno,
            "bbr" => Congestion::Bbr,
            other => {
                return Err(PyValueError::new_err(format!(
                    "congestion is cubic, newreno or bbr, not {other:?}"
                )));
            }
        };
        let transport = Transport {
            idle_timeout: idle_timeout.map(duration).transpose()?,
            keepalive: keepalive.map(duration).transpose()?,
            maximum_bidirectional_streams,
            maximum_unidirectional_streams,
            stream_receive_window,
            receive_window,
            send_window,
            max_datagram_frame_size,
            datagram_receive_buffer,
            datagram_send_buffer,
            initial_mtu,
            maximum_mtu,
            congestion,
            ..Transport::default()
        };
        transport.check().map_err(PyValueError::new_err)?;
        Ok(Self { transport, qlog })
    }
}

/// Why a connection has ended.
#[pyclass(frozen, get_all, module = "tieline._engine.quic")]
pub(crate) struct QuicClose {
    kind: &'static str,
    code: Option<u64>,
    name: Option<&'static str>,
    frame: Option<u64>,
    reason: Py<PyBytes>,
    received: bool,
    tls: Option<Py<PyAny>>,
    message: String,
}

impl QuicClose {
    pub(super) fn new(py: Python<'_>, reason: CloseReason) -> PyResult<Self> {
        let mut close = Self {
            kind: "local",
            code: None,
            name: None,
            frame: None,
            reason: PyBytes::new(py, b"").unbind(),
            received: false,
            tls: None,
            message: reason.to_string(),
        };
        match reason {
            CloseReason::Local => {}
            CloseReason::Application { code, reason } => {
                close.kind = "application";
                close.code = Some(code);
                close.reason = PyBytes::new(py, &reason).unbind();
                close.received = true;
            }
            CloseReason::Transport {
                code,
                frame,
                reason,
                received,
            } => {
                close.kind = "transport";
                close.code = Some(code);
                close.name = transport_error_name(code);
                close.frame = frame;
                close.reason = PyBytes::new(py, reason.as_bytes()).unbind();
                close.received = received;
            }
            CloseReason::Tls(failure) => {
                close.kind = "tls";
                close.received = failure.received;
                close.tls = Some(raise(py, failure).into_value(py).into_any());
            }
            CloseReason::IdleTimeout => close.kind = "idle_timeout",
            CloseReason::StatelessReset => close.kind = "stateless_reset",
            CloseReason::VersionMismatch => close.kind = "version_mismatch",
            CloseReason::Internal(_) => close.kind = "internal",
        }
        Ok(close)
    }
}

/// An event's name, and what comes with it.
pub(super) fn change(
    py: Python<'_>,
    change: Change,
) -> PyResult<(&Bound<'_, PyString>, Py<PyAny>)> {
    let bidirectional = |direction| direction == Direction::Bidirectional;
    Ok(match change {
        Change::Incoming => (intern!(py, "incoming"), py.None()),
        Change::EarlyDataRejected => (intern!(py, "early_data_rejected"), py.None()),
        Change::Connected => (intern!(py, "connected"), py.None()),
        Change::Opened(direction) => (
            intern!(py, "opened"),
            bidirectional(direction).into_py_any(py)?,
        ),
        Change::Readable(stream) => (intern!(py, "readable"), stream.into_py_any(py)?),
        Change::Writable(stream) => (intern!(py, "writable"), stream.into_py_any(py)?),
        Change::Finished(stream) => (intern!(py, "finished"), stream.into_py_any(py)?),
        Change::Stopped(stream, code) => (intern!(py, "stopped"), (stream, code).into_py_any(py)?),
        Change::Available(direction) => (
            intern!(py, "available"),
            bidirectional(direction).into_py_any(py)?,
        ),
        Change::Datagrams => (intern!(py, "datagrams"), py.None()),
        Change::DatagramsUnblocked => (intern!(py, "datagrams_unblocked"), py.None()),
        Change::PeerAddress(remote) => (
            intern!(py, "peer_address"),
            address(py, remote)?.into_any().unbind(),
        ),
        Change::Lost(reason) => (
            intern!(py, "lost"),
            QuicClose::new(py, reason)?.into_py_any(py)?,
        ),
        Change::Drained => (intern!(py, "drained"), py.None()),
    })
}

/// What the peer said about itself in the handshake.
#[pyclass(frozen, get_all, module = "tieline._engine.quic")]
pub(crate) struct QuicParameters {
    idle_timeout: Option<f64>,
    initial_max_bidirectional_streams: u64,
    initial_max_unidirectional_streams: u64,
    max_datagram_frame_size: u64,
    migration: bool,
}

impl From<PeerParameters> for QuicParameters {
    fn from(parameters: PeerParameters) -> Self {
        Self {
            idle_timeout: parameters.idle_timeout.map(|timeout| timeout.as_secs_f64()),
            initial_max_bidirectional_streams: parameters.initial_max_bidirectional_streams,
            initial_max_unidirectional_streams: parameters.initial_max_unidirectional_streams,
            max_datagram_frame_size: parameters.max_datagram_frame_size,
            migration: parameters.migration,
        }
    }
}

/// Counts since the connection began, and the state of its path now.
#[pyclass(frozen, get_all, module = "tieline._engine.quic")]
pub(crate) struct QuicStatistics {
    rtt: f64,
    minimum_rtt: f64,
    congestion_window: u64,
    mtu: u16,
    packets_sent: u64,
    packets_lost: u64,
    bytes_lost: u64,
    congestion_events: u64,
    black_holes: u64,
    udp_datagrams_sent: u64,
    udp_bytes_sent: u64,
    udp_datagrams_received: u64,
    udp_bytes_received: u64,
    datagrams_sent: u64,
    datagrams_refused: u64,
    datagrams_unsendable: u64,
    datagrams_received: u64,
    datagrams_dropped: u64,
}

impl From<Statistics> for QuicStatistics {
    fn from(statistics: Statistics) -> Self {
        Self {
            rtt: statistics.rtt.as_secs_f64(),
            minimum_rtt: statistics.minimum_rtt.as_secs_f64(),
            congestion_window: statistics.congestion_window,
            mtu: statistics.mtu,
            packets_sent: statistics.packets_sent,
            packets_lost: statistics.packets_lost,
            bytes_lost: statistics.bytes_lost,
            congestion_events: statistics.congestion_events,
            black_holes: statistics.black_holes,
            udp_datagrams_sent: statistics.udp_datagrams_sent,
            udp_bytes_sent: statistics.udp_bytes_sent,
            udp_datagrams_received: statistics.udp_datagrams_received,
            udp_bytes_received: statistics.udp_bytes_received,
            datagrams_sent: statistics.datagrams_sent,
            datagrams_refused: statistics.datagrams_refused,
            datagrams_unsendable: statistics.datagrams_unsendable,
            datagrams_received: statistics.datagrams_received,
            datagrams_dropped: statistics.datagrams_dropped,
        }
    }
}
