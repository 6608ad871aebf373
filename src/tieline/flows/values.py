"""Values of a Coder that stands on messages: one for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tieline.flows.layered import LayeredFlow, LayeredReceiving, LayeredSending
from tieline.protocols.coder import CoderMetadata
from tieline.protocols.message import Message

if TYPE_CHECKING:
    from tieline.engines.coder import CoderCodec
    from tieline.flows.owner import FlowOwner
    from tieline.parameters import Parameters

__all__ = ["ValueFlow"]


class ValueReceiving(LayeredReceiving):
    """The inbound half of a Coder: one value for each message."""

    __slots__ = ("_values",)

    def __init__(self, flow: LayeredFlow, limit: int, values: CoderCodec) -> None:
        super().__init__(flow, limit)
        self._values = values

    def _answer(self, iterating: bool) -> Message[Any, Any]:
        return self._changed(super()._answer(iterating))

    def _changed(self, received: Message[Any, Any]) -> Message[Any, Any]:
        content, metadata = received
        data = content.encode() if isinstance(content, str) else content
        return Message(self._values.decode_value(data), CoderMetadata((metadata,), last_message=metadata.last_message))


class ValueSending(LayeredSending):
    """The outbound half of a Coder."""

    __slots__ = ("_options", "_values")

    def __init__(self, flow: LayeredFlow, limit: int, values: CoderCodec, options: dict[str, Any]) -> None:
        super().__init__(flow, limit)
        self._values = values
        self._options = options

    async def send(self, content: Any, *, last_message: bool = False) -> None:  # type: ignore[override]
        await self.message(self._values.pack(content), self._options, last_message=last_message)


class ValueFlow(LayeredFlow):
    """Moves values, each in a message of the protocol below; `options` are what that wants for each."""

    __slots__ = ()

    calls = "send(value, last_message=), receive(), messages and iteration"

    def __init__(
        self,
        owner: FlowOwner,
        parameters: Parameters[Any],
        endpoint: object,
        values: CoderCodec,
        options: dict[str, Any],
    ) -> None:
        super().__init__(owner, parameters, endpoint)
        self.receiving = ValueReceiving(self, parameters.receive_limit, values)
        self.sending = ValueSending(self, parameters.send_limit, values, options)
