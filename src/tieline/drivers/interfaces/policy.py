"""What a program knows of its interfaces and the system does not tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tieline.paths import Interface, Network

__all__ = ["applied", "set_interface_policy"]

_policy: Callable[[Interface], Interface] | None = None


def set_interface_policy(policy: Callable[[Interface], Interface] | None) -> None:
    """Let `policy` have the last word on the type, expense and constraint of each interface, in the whole process.

    It is given an interface and returns it, or ``dataclasses.replace(interface, is_expensive=True)`` and the like; an adapter
    that the system takes for Ethernet may well be a telephone. It is called whenever the network is looked up, so it must be
    quick and give the same answer for the same interface. None takes it away.

    Raises `TypeError` if it cannot be called.
    """
    global _policy
    if policy is not None and not callable(policy):
        raise TypeError(f"an interface policy is a function of an Interface, got {policy!r}")
    _policy = policy


def applied(network: Network) -> Network:
    """The network as the policy sees it. Raises what the policy raises, and TypeError if it returns no interface."""
    if _policy is None:
        return network
    interfaces: list[Interface] = []
    for one in network.interfaces:
        judged: object = _policy(one)
        if not isinstance(judged, Interface) or (judged.name, judged.index) != (one.name, one.index):
            raise TypeError(
                f"the interface policy returns the interface it was given, perhaps changed: got {judged!r} for {one!r}"
            )
        interfaces.append(judged)
    return replace(network, interfaces=tuple(interfaces))
