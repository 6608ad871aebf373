//! `tieline._engine.stream`: what a message passes between a stream socket and the program. Its contract is
//! src/tieline/_engine/stream.pyi.

mod accept;
mod call;
mod descriptor;
#[cfg(target_os = "linux")]
mod epoll;
mod forward;
mod held;
mod inbox;
mod invoke;
mod messages;
mod native;
mod outgoing;
mod queue;
mod readers;
mod receive;
mod receiving;
mod records;
mod sending;
mod waiter;
mod whole;

pub(crate) use call::{Call, Step, Work};
pub(crate) use descriptor::{Raw, SMALL, later, raise};
pub(crate) use held::{Held, copy};
pub(crate) use invoke::{invoke, invoke_two, pair};
pub(crate) use messages::{MessageInbox, Received};
pub(crate) use native::{Handle, Visit};
pub(crate) use receiving::Receiving;
pub(crate) use waiter::{Waiter, Waiters};

use pyo3::prelude::*;

#[pymodule(submodule)]
pub(crate) mod stream {
    #[pymodule_export]
    use super::accept::accept;
    #[pymodule_export]
    use super::descriptor::Descriptor;
    #[cfg(target_os = "linux")]
    #[pymodule_export]
    use super::epoll::Epoll;
    #[pymodule_export]
    use super::forward::Forward;
    #[pymodule_export]
    use super::inbox::ByteInbox;
    #[pymodule_export]
    use super::messages::MessageInbox;
    #[pymodule_export]
    use super::receive::adopt_messages;
    #[pymodule_export]
    use super::receiving::Receiving;
    #[pymodule_export]
    use super::sending::Sending;
    #[pymodule_export]
    use super::waiter::Waiters;
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.setattr("__name__", "tieline._engine.stream")?;
        module.add("OVERHEAD", messages::OVERHEAD)?;
        module.add("Call", native::class::<call::Call>(py)?)?;
        module.add("Waiter", native::class::<waiter::Waiter>(py)?)
    }
}
