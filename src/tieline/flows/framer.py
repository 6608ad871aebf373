"""Messages of a user's framer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tieline.flows.content import octets
from tieline.flows.layered import LayeredFlow, LayeredSending

if TYPE_CHECKING:
    from tieline.flows.owner import FlowOwner
    from tieline.parameters import Parameters

__all__ = ["FramerFlow"]


class FramerSending(LayeredSending):
    """The outbound half of a user's framer."""

    __slots__ = ()

    async def send(  # type: ignore[override]
        self, content: Any, *, metadata: dict[str, Any] | None = None, last_message: bool = False
    ) -> None:
        await self.message(octets(content, self._flow), {"metadata": metadata}, last_message=last_message)


class FramerFlow(LayeredFlow):
    """Moves what a user's framer makes of bytes."""

    __slots__ = ()

    calls = "send(data, metadata=, last_message=), receive(), messages and iteration"

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object) -> None:
        super().__init__(owner, parameters, endpoint)
        self.sending = FramerSending(self, parameters.send_limit)
