//! `tieline._engine.tls`. Its contract is src/tieline/_engine/tls.pyi.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::buffer::PyBuffer;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBool, PyBytes, PyList};
use tieline_engine::tls::{
    CertificateDer, ClientAuthentication, Config, ConfigError, Decision, Engine, EngineError,
    Failure, Info, Opaque, Settings, Trust, Validator,
};

/// Work on as many bytes takes longer than giving the GIL away and getting it back.
const DETACH_FROM: usize = 64 * 1024;

#[pymodule(submodule)]
pub(crate) mod tls {
    use super::*;
    #[pymodule_export]
    use super::{TlsConfig, TlsEngine, TlsInfo};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.setattr("__name__", "tieline._engine.tls")?;
        // Under the stable ABI of 3.11 a Rust class cannot extend Exception, so the fields are
        // ordinary attributes, and these their defaults.
        let failure = py.get_type::<TlsFailure>();
        failure.setattr("reason", "internal")?;
        failure.setattr("alert", py.None())?;
        failure.setattr("received", false)?;
        failure.setattr("expected", py.None())?;
        failure.setattr("got", py.None())?;
        module.add("TlsFailure", failure)
    }
}

create_exception!(
    tieline._engine.tls,
    TlsFailure,
    PyException,
    "The handshake or a record failed. The alert for the peer, if any, is in `TlsEngine.output()`."
);

pub(crate) fn raise(py: Python<'_>, failure: Failure) -> PyErr {
    let error = TlsFailure::new_err(failure.message);
    let value = error.value(py);
    let set = || {
        value.setattr("reason", failure.reason.as_str())?;
        value.setattr("alert", failure.alert)?;
        value.setattr("received", failure.received)?;
        value.setattr("expected", failure.expected)?;
        value.setattr("got", failure.got)
    };
    match set() {
        Ok(()) => error,
        Err(other) => other,
    }
}

/// The settings of one side, checked once and then shared by its connections (and so is its session cache).
#[pyclass(frozen, module = "tieline._engine.tls")]
pub(crate) struct TlsConfig(Config);

impl TlsConfig {
    pub(crate) fn config(&self) -> &Config {
        &self.0
    }
}

#[pymethods]
impl TlsConfig {
    #[staticmethod]
    #[pyo3(signature = (
        *, alpn, trust, certificates = vec![], fingerprints = vec![], validator = None,
        certificate_chain = vec![], private_key = None, minimum_version = None,
        maximum_version = None, cipher_suites = vec![], tickets = true, early_data = false,
        keylog_file = None,
    ), text_signature = "(*, alpn, trust, certificates=(), fingerprints=(), validator=None, certificate_chain=(), private_key=None, minimum_version=None, maximum_version=None, cipher_suites=(), tickets=True, early_data=False, keylog_file=None)")]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn client(
        alpn: Vec<PyBackedBytes>,
        trust: &str,
        certificates: Vec<PyBackedBytes>,
        fingerprints: Vec<PyBackedBytes>,
        validator: Option<Py<PyAny>>,
        certificate_chain: Vec<PyBackedBytes>,
        private_key: Option<PyBackedBytes>,
        minimum_version: Option<String>,
        maximum_version: Option<String>,
        cipher_suites: Vec<String>,
        tickets: bool,
        early_data: bool,
        keylog_file: Option<PathBuf>,
    ) -> PyResult<Self> {
        let settings = Settings {
            alpn: protocols(alpn)?,
            trust: parse_trust(trust, certificates, fingerprints, validator)?,
            certificate_chain: ders(certificate_chain),
            private_key: private_key.map(|key| key.to_vec()),
            minimum_version,
            maximum_version,
            cipher_suites,
            tickets,
            early_data,
            keylog_file,
        };
        Ok(Self(Config::client(settings).map_err(refused)?))
    }

    /// Client: begin the next connection to this server without a ticket. False if there are none.
    #[pyo3(signature = (server_name, /))]
    fn forget_tickets(&self, server_name: &str) -> PyResult<bool> {
        self.0
            .forget_tickets(server_name)
            .map_err(PyValueError::new_err)
    }

    #[staticmethod]
    #[pyo3(signature = (
        *, alpn, certificate_chain, private_key, client_authentication = "none", trust = "none",
        certificates = vec![], fingerprints = vec![], validator = None, minimum_version = None,
        maximum_version = None, cipher_suites = vec![], tickets = true, early_data = false,
        keylog_file = None,
    ), text_signature = "(*, alpn, certificate_chain, private_key, client_authentication='none', trust='none', certificates=(), fingerprints=(), validator=None, minimum_version=None, maximum_version=None, cipher_suites=(), tickets=True, early_data=False, keylog_file=None)")]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn server(
        alpn: Vec<PyBackedBytes>,
        certificate_chain: Vec<PyBackedBytes>,
        private_key: PyBackedBytes,
        client_authentication: &str,
        trust: &str,
        certificates: Vec<PyBackedBytes>,
        fingerprints: Vec<PyBackedBytes>,
        validator: Option<Py<PyAny>>,
        minimum_version: Option<String>,
        maximum_version: Option<String>,
        cipher_suites: Vec<String>,
        tickets: bool,
        early_data: bool,
        keylog_file: Option<PathBuf>,
    ) -> PyResult<Self> {
        let authentication = match client_authentication {
            "none" => ClientAuthentication::None,
            "optional" => ClientAuthentication::Optional,
            "required" => ClientAuthentication::Required,
            other => {
                return Err(PyValueError::new_err(format!(
                    "client_authentication is none, optional or required, not {other:?}"
                )));
            }
        };
        let settings = Settings {
            alpn: protocols(alpn)?,
            trust: parse_trust(trust, certificates, fingerprints, validator)?,
            certificate_chain: ders(certificate_chain),
            private_key: Some(private_key.to_vec()),
            minimum_version,
            maximum_version,
            cipher_suites,
            tickets,
            early_data,
            keylog_file,
        };
        Ok(Self(
            Config::server(settings, authentication).map_err(refused)?,
        ))
    }
}

pub(crate) fn refused(error: ConfigError) -> PyErr {
    match error {
        ConfigError::Invalid(text) => PyValueError::new_err(text),
        // With these arguments OSError picks its own subclass, as FileNotFoundError.
        ConfigError::KeyLog { path, error } => match error.raw_os_error() {
            Some(number) => {
                let text = error.to_string();
                let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
                PyOSError::new_err((number, text, path.into_os_string()))
            }
            None => PyOSError::new_err(error.to_string()),
        },
    }
}

fn protocols(alpn: Vec<PyBackedBytes>) -> PyResult<Vec<Vec<u8>>> {
    let valid = |name: &PyBackedBytes| (1..=255).contains(&name.len());
    if !alpn.iter().all(valid) {
        let text = "the name of an application protocol has 1 to 255 bytes";
        return Err(PyValueError::new_err(text));
    }
    Ok(alpn.iter().map(|name| name.to_vec()).collect())
}

fn ders(certificates: Vec<PyBackedBytes>) -> Vec<CertificateDer<'static>> {
    let own = |der: &PyBackedBytes| CertificateDer::from(der.to_vec());
    certificates.iter().map(own).collect()
}

fn parse_trust(
    name: &str,
    certificates: Vec<PyBackedBytes>,
    fingerprints: Vec<PyBackedBytes>,
    validator: Option<Py<PyAny>>,
) -> PyResult<Trust> {
    match name {
        "system" => Ok(Trust::System),
        "certificates" => Ok(Trust::Certificates(ders(certificates))),
        "fingerprints" => fingerprints
            .iter()
            .map(|pin| <[u8; 32]>::try_from(&pin[..]))
            .collect::<Result<_, _>>()
            .map(Trust::Fingerprints)
            .map_err(|_| PyValueError::new_err("a fingerprint is a SHA-256 of 32 bytes")),
        "validator" => match validator {
            Some(callable) => Ok(Trust::Validator(python_validator(callable))),
            None => Err(PyValueError::new_err(
                "trust in a validator needs a validator",
            )),
        },
        "none" => Ok(Trust::Anyone),
        other => Err(PyValueError::new_err(format!(
            "trust is system, certificates, fingerprints, validator or none, not {other:?}"
        ))),
    }
}

/// The callable as the engine knows it. It runs within `receive`, and gets the GIL back if that
/// has given it away.
fn python_validator(callable: Py<PyAny>) -> Validator {
    Arc::new(move |chain, server_name| {
        Python::attach(|py| {
            let answer = PyList::new(py, chain.iter().map(|der| PyBytes::new(py, der)))
                .and_then(|chain| callable.bind(py).call1((chain, server_name)));
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return Decision::Fail(opaque(error.into_value(py).into_any())),
            };
            if let Ok(accepted) = answer.cast::<PyBool>() {
                if accepted.is_true() {
                    Decision::Accept
                } else {
                    Decision::Refuse
                }
            } else if answer.hasattr("__await__").unwrap_or(false) {
                Decision::Pending(opaque(answer.unbind()))
            } else {
                // Anything else would be a guess, and None, from a forgotten return, a bad one.
                let kind = answer.get_type();
                let text = format!("a validator returns a bool or an awaitable, not {kind}");
                let error = PyTypeError::new_err(text).into_value(py);
                Decision::Fail(opaque(error.into_any()))
            }
        })
    })
}

fn opaque(object: Py<PyAny>) -> Opaque {
    Box::new(object)
}

pub(crate) fn transparent(py: Python<'_>, object: Option<&Opaque>) -> Option<Py<PyAny>> {
    object
        .and_then(|object| object.downcast_ref::<Py<PyAny>>())
        .map(|object| object.clone_ref(py))
}

/// What the handshake agreed on.
#[pyclass(frozen, get_all, module = "tieline._engine.tls")]
pub(crate) struct TlsInfo {
    version: String,
    cipher_suite: String,
    group: Option<String>,
    alpn: Option<String>,
    server_name: Option<String>,
    peer_certificates: Py<PyList>,
    resumed: bool,
    early_data_accepted: bool,
}

impl TlsInfo {
    pub(crate) fn new(py: Python<'_>, info: Info) -> PyResult<Self> {
        let ders = info.peer_certificates.iter();
        Ok(Self {
            version: info.version,
            cipher_suite: info.cipher_suite,
            group: info.group,
            alpn: info.alpn,
            server_name: info.server_name,
            peer_certificates: PyList::new(py, ders.map(|der| PyBytes::new(py, der)))?.unbind(),
            resumed: info.resumed,
            early_data_accepted: info.early_data_accepted,
        })
    }
}

/// One connection's TLS: ciphertext in and out on one side, plaintext on the other.
#[pyclass(frozen, module = "tieline._engine.tls")]
pub(crate) struct TlsEngine(Mutex<Engine>);

#[pymethods]
impl TlsEngine {
    #[new]
    #[pyo3(signature = (config, server_name = None))]
    fn new(config: &TlsConfig, server_name: Option<&str>) -> PyResult<Self> {
        match Engine::new(&config.0, server_name) {
            Ok(engine) => Ok(Self(Mutex::new(engine))),
            Err(text) => Err(PyValueError::new_err(text)),
        }
    }

    /// Take ciphertext; return the plaintext that it completes, perhaps none. Raises TlsFailure.
    #[pyo3(signature = (data, /))]
    fn receive<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data)?;
        let data = data.as_bytes();
        let mut engine = self.lock()?;
        let mut plaintext = SCRATCH.take();
        let result = guarded(py, &mut engine, data.len(), |engine| {
            engine.receive(data, &mut plaintext)
        });
        let answer = match result {
            Ok(Ok(())) => Ok(PyBytes::new(py, &plaintext)),
            Ok(Err(failure)) => Err(raise(py, failure)),
            Err(error) => Err(error),
        };
        keep_scratch(plaintext);
        answer
    }

    /// Encrypt all of `data` and return the records, after whatever `output()` still held. Handshake must be done.
    #[pyo3(signature = (data, /))]
    fn send<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data)?;
        let data = data.as_bytes();
        let mut engine = self.lock()?;
        let room = guarded(py, &mut engine, 0, |engine| engine.sealed_len(data))?
            .map_err(|error| complain(py, error))?;
        PyBytes::new_with(py, room, |sealed| {
            let used = guarded(py, &mut engine, data.len(), |engine| {
                engine.seal(data, sealed)
            })?
            .map_err(|error| complain(py, error))?;
            // rustls computes the size of every record before it encrypts.
            if used == room {
                Ok(())
            } else {
                Err(PyRuntimeError::new_err(
                    "the records have another size than announced",
                ))
            }
        })
    }

    /// Take the bytes that wait for the peer without having been asked for by `send`.
    fn output<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut engine = self.lock()?;
        let output = PyBytes::new(py, engine.output());
        engine.clear_output();
        Ok(output)
    }

    /// Clients, before the handshake is done: queue 0-RTT data in `output()`. Returns how many bytes were taken (0 if there is no ticket).
    #[pyo3(signature = (data, /))]
    fn send_early(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let data = Input::new(data)?;
        let data = data.as_bytes();
        let mut engine = self.lock()?;
        guarded(py, &mut engine, 0, |engine| engine.send_early(data))?
            .map_err(|error| complain(py, error))
    }

    /// End our direction; returns everything that is left to send.
    fn close_notify<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut engine = self.lock()?;
        guarded(py, &mut engine, 0, Engine::close_notify)?;
        let output = PyBytes::new(py, engine.output());
        engine.clear_output();
        Ok(output)
    }

    #[getter]
    fn handshaking(&self) -> PyResult<bool> {
        Ok(self.lock()?.is_handshaking())
    }

    /// The peer sent close_notify: its direction ended cleanly.
    #[getter]
    fn peer_closed(&self) -> PyResult<bool> {
        Ok(self.lock()?.peer_closed())
    }

    /// The connection has failed: the next call of `receive` or `send` raises.
    #[getter]
    fn failed(&self) -> PyResult<bool> {
        Ok(self.lock()?.failed())
    }

    /// What an asynchronous validator returned and the engine has provisionally accepted. None when nothing is left to decide.
    #[getter]
    fn decision(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(transparent(py, self.lock()?.decision()))
    }

    /// The handshake resumed a session, so the validator has not seen this connection's peer yet.
    #[getter]
    fn needs_validation(&self) -> PyResult<bool> {
        Ok(self.lock()?.needs_validation())
    }

    /// What the validator raised, if that is why the handshake failed.
    #[getter]
    fn validator_error(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(transparent(py, self.lock()?.validator_error()))
    }

    /// Raises RuntimeError while handshaking.
    fn info(&self, py: Python<'_>) -> PyResult<TlsInfo> {
        match self.lock()?.info() {
            Some(info) => TlsInfo::new(py, info),
            None => Err(PyRuntimeError::new_err("the handshake is not done")),
        }
    }
}

/// What came of ciphertext.
pub(crate) enum Opened<'py> {
    /// Plaintext, perhaps none. `quiet`: and nothing else, no end of the peer's and nothing to be said to it.
    Plaintext {
        content: Bound<'py, PyBytes>,
        quiet: bool,
    },
    /// The connection has failed: `receive` raises why.
    Failed,
}

impl TlsEngine {
    /// `receive` for those who need not be told why it failed.
    pub(crate) fn open<'py>(&self, py: Python<'py>, data: &[u8]) -> PyResult<Opened<'py>> {
        let mut engine = self.lock()?;
        let mut plaintext = SCRATCH.take();
        let result = guarded(py, &mut engine, data.len(), |engine| {
            engine.receive(data, &mut plaintext)
        });
        let opened = result.map(|result| match result {
            Ok(()) => Opened::Plaintext {
                content: PyBytes::new(py, &plaintext),
                quiet: engine.output().is_empty() && !engine.peer_closed(),
            },
            Err(_) => Opened::Failed,
        });
        keep_scratch(plaintext);
        opened
    }

    /// Encrypt a piece; None if that fails, and `send` raises why.
    pub(crate) fn seal<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyBytes>,
    ) -> Option<Bound<'py, PyBytes>> {
        self.send(py, data.as_any()).ok()
    }

    /// The engine is taken when a validator calls back into it, or another thread is in it. To wait
    /// could be to wait forever, so neither may.
    fn lock(&self) -> PyResult<MutexGuard<'_, Engine>> {
        match self.0.try_lock() {
            Ok(engine) => Ok(engine),
            // Panics are caught while the lock is held, so it cannot be poisoned.
            Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => Err(PyRuntimeError::new_err(
                "this TLS engine is in use (a validator must not call it)",
            )),
        }
    }
}

/// Call `work`, without the GIL if it is much work. A panic ends the engine, not the process.
fn guarded<R: Send>(
    py: Python<'_>,
    engine: &mut Engine,
    bytes: usize,
    work: impl FnOnce(&mut Engine) -> R + Send,
) -> PyResult<R> {
    let call = || catch_unwind(AssertUnwindSafe(|| work(&mut *engine)));
    let result = if bytes >= DETACH_FROM {
        py.detach(call)
    } else {
        call()
    };
    result.map_err(|_| {
        engine.poison();
        PyRuntimeError::new_err("the TLS engine failed inside; this is a bug in tieline")
    })
}

fn complain(py: Python<'_>, error: EngineError) -> PyErr {
    match error {
        EngineError::Failed(failure) => raise(py, failure),
        EngineError::Misuse(text) => PyRuntimeError::new_err(text),
    }
}

thread_local! {
    /// Where plaintext is gathered until its size is known and a bytes object can be made of it.
    /// One for each thread instead of one for each connection, most of which are idle.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// More than any read of ours; who reads more at once pays for an allocation each time.
const SCRATCH_LIMIT: usize = 1024 * 1024;

fn keep_scratch(mut scratch: Vec<u8>) {
    if scratch.capacity() <= SCRATCH_LIMIT {
        scratch.clear();
        SCRATCH.set(scratch);
    }
}

/// An argument with bytes in it.
pub(crate) enum Input<'a> {
    Bytes(&'a [u8]),
    /// Others could change while the GIL is released or a validator runs.
    Copy(Vec<u8>),
}

impl<'a> Input<'a> {
    pub(crate) fn new(object: &'a Bound<'_, PyAny>) -> PyResult<Self> {
        match object.cast::<PyBytes>() {
            Ok(bytes) => Ok(Self::Bytes(bytes.as_bytes())),
            Err(_) => Ok(Self::Copy(
                PyBuffer::<u8>::get(object)?.to_vec(object.py())?,
            )),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Copy(bytes) => bytes,
        }
    }
}
