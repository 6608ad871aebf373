//! What a listening socket has for us.

use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener};

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::descriptor::{Raw, later, raise};

/// Take in one connection: its descriptor, which does not block and is the caller's, and its peer's address as the socket
/// module has it. None if nobody is there.
#[pyfunction]
#[pyo3(signature = (raw, unix, /))]
pub(crate) fn accept(
    py: Python<'_>,
    raw: Raw,
    unix: bool,
) -> PyResult<Option<(Raw, Bound<'_, PyAny>)>> {
    let taken = match unix {
        true => system::unix(py, raw),
        false => system::internet(raw).map(|(raw, peer)| (raw, address(py, peer))),
    };
    match taken {
        Ok((raw, address)) => Ok(Some((raw, address?))),
        Err(error) if later(&error) => Ok(None),
        Err(error) => Err(raise(py, &error)),
    }
}

fn address(py: Python<'_>, peer: SocketAddr) -> PyResult<Bound<'_, PyAny>> {
    match peer {
        SocketAddr::V4(peer) => (peer.ip().to_string(), peer.port()).into_bound_py_any(py),
        SocketAddr::V6(peer) => {
            let host = peer.ip().to_string();
            (host, peer.port(), peer.flowinfo(), peer.scope_id()).into_bound_py_any(py)
        }
    }
}

#[cfg(unix)]
mod system {
    use std::os::fd::{FromRawFd, IntoRawFd};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[expect(unsafe_code)]
    pub(super) fn internet(raw: Raw) -> io::Result<(Raw, SocketAddr)> {
        // SAFETY: the caller's socket object owns the descriptor and is alive, and `ManuallyDrop` never closes it.
        let listener = ManuallyDrop::new(unsafe { TcpListener::from_raw_fd(raw) });
        let (stream, peer) = listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok((stream.into_raw_fd(), peer))
    }

    #[expect(unsafe_code)]
    pub(super) fn unix(py: Python<'_>, raw: Raw) -> io::Result<(Raw, PyResult<Bound<'_, PyAny>>)> {
        // SAFETY: as above.
        let listener = ManuallyDrop::new(unsafe { UnixListener::from_raw_fd(raw) });
        let (stream, peer) = listener.accept()?;
        stream.set_nonblocking(true)?;
        // As bytes, which is what the socket module has for names outside of the file system.
        let name = match (peer.as_pathname(), abstract_name(&peer)) {
            (Some(path), _) => path.as_os_str().as_bytes().to_vec(),
            (None, Some(name)) => [b"\0", name].concat(),
            (None, None) => Vec::new(),
        };
        Ok((stream.into_raw_fd(), Ok(PyBytes::new(py, &name).into_any())))
    }

    #[cfg(target_os = "linux")]
    fn abstract_name(peer: &std::os::unix::net::SocketAddr) -> Option<&[u8]> {
        std::os::linux::net::SocketAddrExt::as_abstract_name(peer)
    }

    #[cfg(not(target_os = "linux"))]
    fn abstract_name(_: &std::os::unix::net::SocketAddr) -> Option<&[u8]> {
        None
    }
}

#[cfg(windows)]
mod system {
    use std::os::windows::io::{FromRawSocket, IntoRawSocket};

    use super::*;

    #[expect(unsafe_code)]
    pub(super) fn internet(raw: Raw) -> io::Result<(Raw, SocketAddr)> {
        // SAFETY: the caller's socket object owns the socket and is alive, and `ManuallyDrop` never closes it.
        let listener = ManuallyDrop::new(unsafe { TcpListener::from_raw_socket(raw) });
        let (stream, peer) = listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok((stream.into_raw_socket(), peer))
    }

    pub(super) fn unix(_: Python<'_>, _: Raw) -> io::Result<(Raw, PyResult<Bound<'_, PyAny>>)> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
