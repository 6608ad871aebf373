//! What a socket knows of the way to one peer.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::OnceLock;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::stream::Held;

/// Where datagrams go.
pub(super) enum Name {
    /// Where the socket is connected to.
    Connected,
    Address(SocketAddr),
    /// Only the socket module knows.
    Other,
}

struct State {
    limit: usize,
    until: f64,
}

/// A peer's address as the socket module has it, and the size that the way there takes, until it is asked for again.
#[pyclass(frozen, module = "tieline._engine.datagram")]
pub(crate) struct Towards {
    #[pyo3(get)]
    name: Py<PyAny>,
    pub(super) address: Name,
    state: Held<State>,
}

/// Seconds since the first time it was asked.
fn now() -> f64 {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    BEGINNING.get_or_init(Instant::now).elapsed().as_secs_f64()
}

fn address(name: &Bound<'_, PyAny>) -> Option<SocketAddr> {
    let name = name.cast::<PyTuple>().ok()?;
    let host: IpAddr = name
        .get_item(0)
        .ok()?
        .extract::<&str>()
        .ok()?
        .parse()
        .ok()?;
    let port: u16 = name.get_item(1).ok()?.extract().ok()?;
    match (host, name.len()) {
        (IpAddr::V6(host), 4) => {
            let flow = name.get_item(2).ok()?.extract().ok()?;
            let scope = name.get_item(3).ok()?.extract().ok()?;
            Some(SocketAddrV6::new(host, port, flow, scope).into())
        }
        (host, 2) => Some(SocketAddr::new(host, port)),
        _ => None,
    }
}

impl Towards {
    /// The size that the way takes, None if that is to be asked for.
    pub(super) fn known(&self, py: Python<'_>) -> Option<usize> {
        let state = self.state.borrow(py);
        (now() < state.until).then_some(state.limit)
    }
}

#[pymethods]
impl Towards {
    #[new]
    fn new(name: Bound<'_, PyAny>) -> Self {
        let address = match address(&name) {
            _ if name.is_none() => Name::Connected,
            Some(address) => Name::Address(address),
            None => Name::Other,
        };
        Towards {
            name: name.unbind(),
            address,
            state: Held::new(State {
                limit: 0,
                until: 0.0,
            }),
        }
    }

    #[getter]
    fn limit(&self, py: Python<'_>) -> Option<usize> {
        self.known(py)
    }

    /// The size that the way takes, for so many seconds.
    fn learn(&self, py: Python<'_>, limit: usize, lifetime: f64) {
        *self.state.borrow(py) = State {
            limit,
            until: now() + lifetime,
        };
    }

    fn forget(&self, py: Python<'_>) {
        self.state.borrow(py).until = 0.0;
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.name)
    }
}
