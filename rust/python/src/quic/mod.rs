//! `tieline._engine.quic`. Its contract is src/tieline/_engine/quic.pyi.

mod connection;
mod stream;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use tieline_engine::quic::{
    Change, Config, Endpoint, EndpointError, Event, Handle, Incoming, Qlog, Retry, ServerId,
    Settings,
};

use crate::tls::{Input, TlsConfig, refused};
use connection::QuicConnection;
pub(crate) use stream::QuicStream;
use values::{
    Address, QuicClose, QuicParameters, QuicStatistics, QuicTransport, address, change, duration,
    ip, socket_address,
};

/// Work on as many bytes takes longer than giving the GIL away and getting it back.
const DETACH_FROM: usize = 32 * 1024;

#[pymodule(submodule)]
pub(crate) mod quic {
    use super::*;
    #[pymodule_export]
    use super::{
        QuicClient, QuicClose, QuicConnection, QuicEndpoint, QuicParameters, QuicStatistics,
        QuicStream, QuicTransport,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.setattr("__name__", "tieline._engine.quic")?;
        // Ordinary attributes, as in tls.
        let error = py.get_type::<QuicError>();
        error.setattr("reason", "unknown")?;
        error.setattr("code", py.None())?;
        module.add("OVERLAP", OVERLAP)?;
        module.add("QuicError", error)
    }
}

create_exception!(
    tieline._engine.quic,
    QuicError,
    PyException,
    "Something cannot be done with a stream or datagram."
);

/// Things that are done before what follows from them leaves: so the peer works on these during the next ones.
const OVERLAP: usize = 16;

/// An endpoint, as its connections share it.
pub(crate) struct Shared {
    endpoint: Mutex<Endpoint>,
    /// What was done leaves when the turn ends.
    turning: AtomicBool,
    /// Things that were done since something left.
    touches: AtomicUsize,
}

impl Shared {
    /// The endpoint is taken when a validator calls back into it, or another thread is in it. To
    /// wait could be to wait forever, so neither may.
    fn lock(&self) -> PyResult<MutexGuard<'_, Endpoint>> {
        match self.endpoint.try_lock() {
            Ok(endpoint) => Ok(endpoint),
            // Panics are caught while the lock is held, so it cannot be poisoned.
            Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => Err(PyRuntimeError::new_err(
                "this QUIC endpoint is in use (a validator must not call it)",
            )),
        }
    }

    /// Something more was done. True if the endpoint has to hear of it now.
    fn touch(&self) -> bool {
        let touches = self.touches.fetch_add(1, Ordering::Relaxed) + 1;
        touches >= OVERLAP || !self.turning.load(Ordering::Relaxed)
    }

    /// Call `work`, without the GIL if it is much work. A panic ends the endpoint, not the process.
    pub(crate) fn guarded<R: Send>(
        &self,
        py: Python<'_>,
        bytes: usize,
        work: impl FnOnce(&mut Endpoint) -> R + Send,
    ) -> PyResult<R> {
        let mut endpoint = self.lock()?;
        let endpoint = &mut *endpoint;
        let call = || catch_unwind(AssertUnwindSafe(|| work(&mut *endpoint)));
        let result = if bytes >= DETACH_FROM {
            py.detach(call)
        } else {
            call()
        };
        result.map_err(|_| {
            endpoint.poison();
            complain(EndpointError::Poisoned)
        })
    }
}

fn complain(error: EndpointError) -> PyErr {
    match error {
        EndpointError::Invalid(text) => PyValueError::new_err(text),
        other => PyRuntimeError::new_err(other.to_string()),
    }
}

/// All QUIC connections of one UDP socket.
#[pyclass(frozen, module = "tieline._engine.quic")]
pub(crate) struct QuicEndpoint(Arc<Shared>);

/// A datagram or several: their bytes, where they came from and to, ECN bits, size of each but the last.
type Received<'py> = (
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<String>,
    u8,
    usize,
);
/// A datagram or several, as they go: the same.
type Sent<'py> = (
    Bound<'py, PyBytes>,
    Address<'py>,
    Option<String>,
    u8,
    Option<usize>,
);

#[pymethods]
impl QuicEndpoint {
    #[new]
    #[pyo3(signature = (
        *, server = None, transport = None, maximum_connections = 10_000, maximum_handshakes = 1000,
        retry_above = Some(100), migration = true, maximum_udp_payload = 1472, discover_mtu = true,
        server_id = None, server_id_rotation = 0, reset_key = None, token_key = None, seed = None,
    ), text_signature = "(*, server=None, transport=None, maximum_connections=10_000, maximum_handshakes=1000, retry_above=100, migration=True, maximum_udp_payload=1472, discover_mtu=True, server_id=None, server_id_rotation=0, reset_key=None, token_key=None, seed=None)")]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn new(
        server: Option<&TlsConfig>,
        transport: Option<&QuicTransport>,
        maximum_connections: usize,
        maximum_handshakes: usize,
        retry_above: Option<usize>,
        migration: bool,
        maximum_udp_payload: u16,
        discover_mtu: bool,
        server_id: Option<Vec<u8>>,
        server_id_rotation: u8,
        reset_key: Option<[u8; 32]>,
        token_key: Option<[u8; 32]>,
        seed: Option<[u8; 32]>,
    ) -> PyResult<Self> {
        let server = server.map(|tls| configure(tls, transport)).transpose()?;
        let server_id = server_id
            .map(|id| ServerId::new(server_id_rotation, &id))
            .transpose()
            .map_err(PyValueError::new_err)?;
        let settings = Settings {
            server,
            maximum_connections,
            maximum_handshakes,
            retry: match retry_above {
                None => Retry::Never,
                Some(0) => Retry::Always,
                Some(limit) => Retry::Above(limit),
            },
            migration,
            maximum_udp_payload,
            discover_mtu,
            server_id,
            reset_key,
            token_key,
            seed,
        };
        let endpoint = Endpoint::new(settings).map_err(complain)?;
        Ok(Self(Arc::new(Shared {
            endpoint: Mutex::new(endpoint),
            turning: AtomicBool::new(false),
            touches: AtomicUsize::new(0),
        })))
    }

    /// Begin to connect.
    #[pyo3(signature = (now, config, remote, server_name))]
    fn connect(
        &self,
        py: Python<'_>,
        now: f64,
        config: &QuicClient,
        remote: &Bound<'_, PyAny>,
        server_name: &str,
    ) -> PyResult<QuicConnection> {
        let (now, remote) = (duration(now)?, socket_address(remote)?);
        let handle = self
            .0
            .guarded(py, 0, |endpoint| {
                endpoint.connect(now, &config.0, remote, server_name)
            })?
            .map_err(complain)?;
        Ok(QuicConnection::new(self.0.clone(), handle))
    }

    /// The connection that an event is about.
    #[pyo3(signature = (handle, /))]
    fn connection(&self, handle: Handle) -> QuicConnection {
        QuicConnection::new(self.0.clone(), handle)
    }

    /// Take in what has come.
    #[pyo3(signature = (now, batch, /))]
    fn receive(&self, py: Python<'_>, now: f64, batch: Vec<Received<'_>>) -> PyResult<()> {
        let now = duration(now)?;
        let data = batch
            .iter()
            .map(|(data, ..)| Input::new(data))
            .collect::<PyResult<Vec<_>>>()?;
        let mut incoming = Vec::with_capacity(batch.len());
        for ((_, remote, local, ecn, stride), data) in batch.iter().zip(&data) {
            incoming.push(Incoming {
                remote: socket_address(remote)?,
                local_ip: local.as_deref().map(ip).transpose()?,
                ecn: *ecn,
                stride: *stride,
                data: data.as_bytes(),
            });
        }
        let bytes = incoming.iter().map(|incoming| incoming.data.len()).sum();
        self.0
            .guarded(py, bytes, |endpoint| endpoint.receive(now, incoming))?
            .map_err(complain)
    }

    /// Take up to `limit` transmissions of up to `segments` datagrams each.
    #[pyo3(signature = (now, /, limit = 64, segments = 10))]
    fn transmit<'py>(
        &self,
        py: Python<'py>,
        now: f64,
        limit: usize,
        segments: usize,
    ) -> PyResult<Vec<Sent<'py>>> {
        let now = duration(now)?;
        let mut sent = Vec::new();
        let mut buffer = Vec::new();
        while sent.len() < limit {
            let next = self.0.guarded(py, 0, |endpoint| {
                endpoint.transmit(now, segments, &mut buffer)
            })?;
            let Some(next) = next else {
                break;
            };
            sent.push((
                PyBytes::new(py, &buffer),
                address(py, next.remote)?,
                next.source_ip.map(|ip| ip.to_string()),
                next.ecn,
                next.segment_size,
            ));
        }
        Ok(sent)
    }

    /// When `handle_timeout` is to be called next.
    fn timeout(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        let next = self.0.guarded(py, 0, Endpoint::timeout)?;
        Ok(next.map(|next| next.as_secs_f64()))
    }

    #[pyo3(signature = (now, /))]
    fn handle_timeout(&self, py: Python<'_>, now: f64) -> PyResult<()> {
        // Rounding must not make this too early, and the caller come back at once.
        let now = duration(now)? + std::time::Duration::from_micros(1);
        self.0
            .guarded(py, 0, |endpoint| endpoint.handle_timeout(now))?
            .map_err(complain)
    }

    /// What has happened since the last call.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for event in self.happened(py)? {
            list.append(told(py, event)?)?;
        }
        Ok(list)
    }

    /// Tell the sessions what has happened since the last call, and `other` what none of them hears. False if that was nothing.
    #[pyo3(signature = (sessions, other, /))]
    fn dispatch(
        &self,
        py: Python<'_>,
        sessions: &Bound<'_, PyDict>,
        other: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let events = self.happened(py)?;
        let some = !events.is_empty();
        for event in events {
            if let Event::Connection(handle, Change::Readable(stream)) = event
                && let Some(session) = sessions.get_item(handle)?
            {
                let streams = session.getattr(intern!(py, "streams"))?;
                // One that is closed is not in there any more.
                if let Some(stream) = streams.cast::<PyDict>()?.get_item(stream)? {
                    QuicStream::readable(stream.cast::<QuicStream>()?)?;
                }
                continue;
            }
            let (handle, kind, value) = told(py, event)?;
            match sessions.get_item(handle)? {
                Some(session) => session
                    .call_method1(intern!(py, "happened"), (kind, value))
                    .map(drop)?,
                None => other.call1((handle, kind, value)).map(drop)?,
            }
        }
        Ok(some)
    }

    /// Whether a turn is under way, at whose end what was done leaves.
    #[getter]
    fn turning(&self) -> bool {
        self.0.turning.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_turning(&self, value: bool) {
        self.0.turning.store(value, Ordering::Relaxed);
    }

    /// Things that were done since something left.
    #[getter]
    fn touches(&self) -> usize {
        self.0.touches.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_touches(&self, value: usize) {
        self.0.touches.store(value, Ordering::Relaxed);
    }

    /// Take in so many more connections, and refuse what comes after them.
    #[pyo3(signature = (room, /))]
    fn admit_at_most(&self, py: Python<'_>, room: Option<usize>) -> PyResult<()> {
        self.0
            .guarded(py, 0, |endpoint| endpoint.admit_at_most(room))
    }

    /// Make no more connections, and take in no others.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.0.guarded(py, 0, Endpoint::stop)
    }

    /// How many connections there are.
    #[getter]
    fn connections(&self) -> PyResult<usize> {
        Ok(self.0.lock()?.connections())
    }

    /// Of those who wanted to connect: accepted, retried, refused, failed.
    #[getter]
    fn counters(&self) -> PyResult<(u64, u64, u64, u64)> {
        let counters = self.0.lock()?.counters();
        Ok((
            counters.accepted,
            counters.retried,
            counters.refused,
            counters.failed,
        ))
    }

    #[getter]
    fn poisoned(&self) -> PyResult<bool> {
        Ok(self.0.lock()?.is_poisoned())
    }
}

impl QuicEndpoint {
    fn happened(&self, py: Python<'_>) -> PyResult<Vec<Event>> {
        let mut events = Vec::new();
        self.0
            .guarded(py, 0, |endpoint| endpoint.events(&mut events))?;
        Ok(events)
    }
}

/// An event: the connection that it is about, its name, and what comes with it.
fn told(py: Python<'_>, event: Event) -> PyResult<(Handle, &Bound<'_, PyString>, Py<PyAny>)> {
    match event {
        Event::Connection(handle, what) => {
            let (kind, value) = change(py, what)?;
            Ok((handle, kind, value))
        }
        Event::Refused(remote, reason) => {
            let reason = QuicClose::new(py, reason)?;
            let value = (address(py, remote)?, reason).into_pyobject(py)?;
            Ok((0, intern!(py, "refused"), value.into_any().unbind()))
        }
    }
}

/// A client's settings, checked once, with the tickets and tokens that its connections share.
#[pyclass(frozen, module = "tieline._engine.quic")]
pub(crate) struct QuicClient(Config);

#[pymethods]
impl QuicClient {
    #[new]
    #[pyo3(signature = (tls, transport = None))]
    fn new(tls: &TlsConfig, transport: Option<&QuicTransport>) -> PyResult<Self> {
        Ok(Self(configure(tls, transport)?))
    }
}

fn configure(tls: &TlsConfig, transport: Option<&QuicTransport>) -> PyResult<Config> {
    let (transport, log) = match transport {
        Some(transport) => (transport.transport.clone(), transport.qlog.clone()),
        None => Default::default(),
    };
    let mut transport = transport;
    transport.qlog = log.map(qlog);
    Config::new(tls.config().clone(), transport).map_err(refused)
}

/// Into a folder goes a file for each connection, into a file the last one's.
fn qlog(path: PathBuf) -> Qlog {
    let count = AtomicU64::new(0);
    Arc::new(move |remote| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let port = remote.port();
        let address = remote.ip().to_string().replace(':', "-");
        let name = format!("{address}-{port}-{}-{number}.sqlog", std::process::id());
        let file = if path.is_dir() {
            path.join(name)
        } else {
            Path::to_owned(&path)
        };
        // Nobody can be told here, and a connection should not fail for its log.
        let file = std::fs::File::create(file).ok()?;
        Some(Box::new(std::io::BufWriter::new(file)))
    })
}
