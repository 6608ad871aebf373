"""Which flow moves the data of which protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tieline.protocols.coder import Coder
from tieline.protocols.framer import Framer
from tieline.protocols.roles import CarrierProtocol, DatagramProtocol, MultiplexProtocol
from tieline.protocols.tlv import TLV
from tieline.protocols.websocket import WebSocket

if TYPE_CHECKING:
    from tieline.flows.owner import FlowOwner
    from tieline.flows.stream import StreamFlow
    from tieline.parameters import Parameters

__all__ = ["make_flow"]


def make_flow(owner: Any, parameters: Parameters[Any], endpoint: object) -> Any:
    """The flow for a channel of something else than bytes. The channel owns it (`FlowOwner`, or `MultiplexOwner`)."""
    stack: Any = parameters.stack
    if isinstance(stack, DatagramProtocol):
        from tieline.flows.datagram import DatagramFlow  # here and below: a program takes in what its protocols need

        return DatagramFlow(owner, parameters, endpoint)
    if stack.is_datagrams:
        from tieline.flows.units import UnitFlow

        return UnitFlow(owner, parameters, endpoint)
    if isinstance(stack, MultiplexProtocol):
        from tieline.multiplex.flow import MultiplexFlow

        return MultiplexFlow(owner, parameters, endpoint)
    return _message_flow(stack, owner, parameters, endpoint)


def _message_flow(stack: Any, owner: FlowOwner, parameters: Parameters[Any], endpoint: object) -> StreamFlow:
    below = getattr(stack, "below", None)
    if issubclass(type(stack), Coder):  # of whatever types: isinstance would narrow to unknown ones
        from tieline.engines.coder import CoderCodec, CoderOnTLVCodec
        from tieline.engines.tlv import TLVCodec
        from tieline.flows.messages import MessageFlow
        from tieline.flows.values import ValueFlow

        if isinstance(below, TLV):
            records = TLVCodec(below, endpoint)
            return MessageFlow(owner, parameters, endpoint, CoderOnTLVCodec(stack, records, endpoint))
        coder = CoderCodec(stack, endpoint)
        if isinstance(below, CarrierProtocol):
            text = isinstance(below, WebSocket) and stack.using == "json"
            return ValueFlow(owner, parameters, endpoint, coder, {"text": True} if text else {})
        return MessageFlow(owner, parameters, endpoint, coder)
    if isinstance(stack, TLV):
        from tieline.engines.tlv import TLVCodec
        from tieline.flows.messages import TLVFlow

        return TLVFlow(owner, parameters, endpoint, TLVCodec(stack, endpoint))
    if isinstance(stack, Framer):
        from tieline.flows.framer import FramerFlow

        return FramerFlow(owner, parameters, endpoint)
    if isinstance(stack, WebSocket):
        from tieline.flows.websocket import WebSocketFlow

        return WebSocketFlow(owner, parameters, endpoint)
    raise TypeError(f"{stack.name} is no protocol for a channel")
