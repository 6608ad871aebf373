//! `tieline._engine.datagram`: what a datagram passes between its socket and the program. Its contract is
//! src/tieline/_engine/datagram.pyi.

mod arrival;
mod departure;
mod descriptor;
mod flow;
mod give;
mod inbox;
mod sharing;
mod take;
mod towards;

pub(crate) use flow::Datagrams;
pub(crate) use give::Give;
pub(crate) use take::Take;

use pyo3::prelude::*;

#[pymodule(submodule)]
pub(crate) mod datagram {
    #[pymodule_export]
    use super::descriptor::DatagramDescriptor;
    #[pymodule_export]
    use super::flow::Datagrams;
    #[pymodule_export]
    use super::sharing::Sharing;
    #[pymodule_export]
    use super::take::adopt_datagrams;
    #[pymodule_export]
    use super::towards::Towards;
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.setattr("__name__", "tieline._engine.datagram")
    }
}
