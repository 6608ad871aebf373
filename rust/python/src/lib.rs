//! `tieline._engine`: what Python sees of tieline-engine. Converts, raises, releases the GIL.

mod datagram;
mod polling;
mod quic;
mod stream;
mod tls;
mod websocket;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _engine {
    use super::*;

    #[pymodule_export]
    use crate::datagram::datagram;
    #[pymodule_export]
    use crate::polling::polling;
    #[pymodule_export]
    use crate::quic::quic;
    #[pymodule_export]
    use crate::stream::stream;
    #[pymodule_export]
    use crate::tls::tls;
    #[pymodule_export]
    use crate::websocket::websocket;

    /// A submodule of an extension module is importable by name only if it is registered by hand.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let modules = module.py().import("sys")?.getattr("modules")?;
        for name in ["datagram", "polling", "quic", "stream", "tls", "websocket"] {
            modules.set_item(format!("tieline._engine.{name}"), module.getattr(name)?)?;
        }
        Ok(())
    }
}
