//! What tells that there is something to read from a stream socket: an epoll of our own, or whatever has a loop's methods.

use pyo3::intern;
use pyo3::prelude::*;

use super::descriptor::Raw;
#[cfg(target_os = "linux")]
use super::epoll::Epoll;

pub(super) fn add(
    readers: &Bound<'_, PyAny>,
    raw: Raw,
    callback: Bound<'_, PyAny>,
) -> PyResult<()> {
    #[cfg(target_os = "linux")]
    if let Ok(epoll) = readers.cast_exact::<Epoll>() {
        return Epoll::add_reader(epoll, raw, callback.unbind());
    }
    let name = intern!(readers.py(), "add_reader");
    readers.call_method1(name, (raw, callback)).map(drop)
}

pub(super) fn remove(readers: &Bound<'_, PyAny>, raw: Raw) -> PyResult<()> {
    #[cfg(target_os = "linux")]
    if let Ok(epoll) = readers.cast_exact::<Epoll>() {
        return epoll.get().remove_reader(readers.py(), raw);
    }
    let name = intern!(readers.py(), "remove_reader");
    readers.call_method1(name, (raw,)).map(drop)
}
