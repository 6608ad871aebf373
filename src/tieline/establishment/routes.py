"""Which interfaces the parameters leave, and whether an address is reached through one of them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from tieline.endpoints import HostPort
from tieline.paths import PathStatus, UnsatisfiedReason, evaluate

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver
    from tieline.parameters import Parameters

__all__ = ["route_refusal", "unusable_path"]

# The option that speaks in each reason, for the error's text.
OPTIONS = {
    UnsatisfiedReason.INTERFACE_PROHIBITED: "prohibited_interfaces",
    UnsatisfiedReason.INTERFACE_TYPE_PROHIBITED: "prohibited_interface_types",
    UnsatisfiedReason.INTERFACE_REQUIRED: "required_interface",
    UnsatisfiedReason.INTERFACE_TYPE_REQUIRED: "required_interface_type",
}


def unusable_path(driver: Driver, parameters: Parameters[Any]) -> OSError | None:
    """Why no interface may be used at present, or None if one may (or nobody restricts them)."""
    if not parameters.restricts_interfaces:
        return None
    path = evaluate(
        driver.interfaces(),
        required_interface=parameters.required_interface,
        required_interface_type=parameters.required_interface_type,
        prohibited_interfaces=parameters.prohibited_interfaces,
        prohibited_interface_types=parameters.prohibited_interface_types,
    )
    reason = path.unsatisfied_reason
    if path.status is PathStatus.SATISFIED or reason is None:
        return None
    option = OPTIONS.get(reason)
    setting = "" if option is None else f" ({option}={getattr(parameters, option)!r})"
    return OSError(errno.ENETDOWN, f"no usable network: {reason.value}{setting}")


def route_refusal(driver: Driver, parameters: Parameters[Any], address: Address) -> OSError | None:
    """Why this address may not be tried: its packets would leave through an interface that the parameters rule out."""
    if not isinstance(address, HostPort) or not parameters.restricts_interfaces or parameters.required_interface:
        return None  # a required interface is bound to its socket, so that the kernel sees to it
    source = driver.source_of(address)
    for interface in driver.interfaces():
        if source is not None and source in (host.partition("%")[0] for host in interface.addresses):
            allowed = evaluate(
                (interface,),
                required_interface_type=parameters.required_interface_type,
                prohibited_interfaces=parameters.prohibited_interfaces,
                prohibited_interface_types=parameters.prohibited_interface_types,
            )
            if allowed.status is PathStatus.SATISFIED:
                return None
            return OSError(errno.ENETUNREACH, f"the route leads through {interface.name}, which the parameters rule out")
    return OSError(errno.ENETUNREACH, "no route through an interface that the parameters allow")
