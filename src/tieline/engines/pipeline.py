"""Layers on top of each other: byte-to-byte protocols between a transport's bytes and the application's.

       application
    send │     ▲ receive            plaintext
    ┌────▼─────┴────┐
    │  layers[-1]   │  TLS to the server
    ├───────────────┤
    │  layers[0]    │  TLS to the proxy
    └────┬─────▲────┘
  output ▼     │ receive            what the transport carries
       transport

A layer does its handshake when the one below it is ready, so `receive` carries bytes upwards only as far as the layer
that is still shaking hands, and starts the next one when that is done. Everything that a layer wants to say goes down
through `send` of the layers below it. Nobody here does I/O or knows the time: the caller writes what `start`, `send`,
`end` and `output` give.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Protocol

from tieline.engines.framing import CarrierLayer, MessageLayer

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Layer", "Pipeline"]


class Layer(Protocol):
    """One byte-to-byte protocol of a stack as a sans-I/O machine.

    The order of calls: `start` once; then `receive` for what comes and `output` for what goes, until `ready`; then
    `send` too. While `decision` is not None the caller awaits it, gives the result to `decided`, and should not read
    on. Data are bytes or buffers of bytes (a `memoryview` of format ``B``).
    """

    @property
    def name(self) -> str:
        """The protocol's name, for reports."""
        ...

    @property
    def ready(self) -> bool:
        """Its handshake is done, nothing is left to decide, and it may carry data."""
        ...

    @property
    def ended(self) -> bool:
        """The peer ended its direction cleanly."""
        ...

    @property
    def decision(self) -> Awaitable[bool] | None:
        """To be awaited before this layer can become ready; None if nothing is to be decided."""
        ...

    @property
    def early_data_accepted(self) -> bool:
        """The data of `send_early` counted; if this is False once ready, they have to be sent again."""
        ...

    def start(self) -> bytes:
        """The first flight of a client; a server has nothing to say yet."""
        ...

    def receive(self, data: Buffer, /) -> bytes:
        """Take what came from below and return what it means above; before `ready` that is early data.

        Raises NetworkError. If something good came before the fault, that is returned, and the next call raises.
        """
        ...

    def receive_end(self) -> None:
        """The layer below came to its end. Raises PeerResetError if that cuts this layer short."""
        ...

    def send(self, data: Buffer, /) -> bytes:
        """What to send below for all of `data`, after whatever `output` still held."""
        ...

    def send_early(self, data: Buffer, /) -> int:
        """Put data into the first flight, to be taken from `output`; returns how many bytes it took, perhaps none."""
        ...

    def end(self) -> bytes:
        """End our direction: everything that is left to send below."""
        ...

    def output(self) -> bytes:
        """Bytes for below that nobody asked for. To be taken after every call, also after an error: maybe an alert."""
        ...

    def decided(self, accepted: bool, error: BaseException | None = None) -> bytes:
        """The result of `decision`; returns data that waited for it. Raises TLSError on refusal, caused by `error`."""
        ...

    def metadata(self) -> object:
        """What this layer's handshake agreed on; RuntimeError before it is done."""
        ...


class Pipeline:
    """Layers, bottom first, with the verbs of one. There must be at least one: a bare transport needs no pipeline."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        if not layers:
            raise ValueError("a pipeline needs at least one layer, got none")
        self.layers = tuple(layers)
        self.ready = False
        self._downwards = self.layers[::-1]
        self._top = self.layers[-1]
        self._current = 0  # the layer that is shaking hands; those below are ready, those above have not been started
        self._early = b""  # early data for a layer that has not been started
        self._waiting = b""  # first flights of upper layers
        self._handshakes: list[str] = []
        carried = (layer.messages if isinstance(layer, CarrierLayer) else layer for layer in self.layers)
        self.messages = tuple(layer for layer in carried if isinstance(layer, MessageLayer))  # they act by themselves

    def be_ready(self) -> None:
        """The handshakes of all layers have been done elsewhere."""
        self.ready = True
        self._current = len(self.layers)

    @property
    def handshaking(self) -> Layer | None:
        """The layer that is shaking hands, None when all have."""
        return None if self.ready else self.layers[self._current]

    @property
    def ended(self) -> bool:
        return self._top.ended

    @property
    def decision(self) -> Awaitable[bool] | None:
        return None if self.ready else self.layers[self._current].decision

    @property
    def early_data_accepted(self) -> bool:
        return self._top.early_data_accepted

    def handshakes(self) -> list[str]:
        """Names of the layers that have become ready since the last call, in that order."""
        names, self._handshakes = self._handshakes, []
        return names

    def start(self) -> bytes:
        first = self.layers[0].start()
        self._rise(b"", 0)
        return first + self.output()

    def receive(self, data: Buffer) -> bytes:
        if not self.ready:
            return self._rise(self.layers[0].receive(data), 0)
        for layer in self.layers:
            data = layer.receive(data)
        return bytes(data)

    def woken(self) -> bytes:
        """A layer of messages has been called at its deadline: it may be ready by that."""
        return b"" if self.ready else self._rise(b"", self._current)

    def decided(self, accepted: bool, error: BaseException | None = None) -> bytes:
        level = self._current
        return self._rise(self.layers[level].decided(accepted, error), level)

    def _rise(self, data: bytes, level: int) -> bytes:
        """Carry what `level` gave up through the layers above, starting each when the one below it is ready."""
        while True:
            if level == self._current:
                if not self.layers[level].ready:
                    if level + 1 == len(self.layers):
                        return data
                    self._early += data
                    return b""
                self._handshakes.append(self.layers[level].name)
                self._current += 1
                data, self._early = self._early + data, b""
                if self._current == len(self.layers):
                    self.ready = True
                    return data
                self._waiting += self._sink(self.layers[level + 1].start(), level)
            elif level + 1 == len(self.layers):
                return data
            level += 1
            data = self.layers[level].receive(data) if data else b""

    def _sink(self, data: bytes, level: int) -> bytes:
        """Send down from `level`, which is ready."""
        for layer in self.layers[level::-1]:
            data = layer.send(data)
        return data

    def receive_end(self) -> None:
        if not self.ended:
            for layer in self.layers[: self._current + 1]:
                layer.receive_end()

    def send(self, data: Buffer) -> bytes:
        for layer in self._downwards:
            data = layer.send(data)
        return bytes(data) if not self._waiting else self._take_waiting() + bytes(data)

    def send_early(self, data: Buffer) -> int:
        return self._top.send_early(data) if self._current == len(self.layers) - 1 else 0

    def end(self) -> bytes:
        data = b""
        for layer in self.layers[self._current :: -1] if not self.ready else self._downwards:
            data = (layer.send(data) if data else b"") + layer.end()
        return self._take_waiting() + data

    def output(self) -> bytes:
        data = b""
        for layer in self.layers[self._current :: -1] if not self.ready else self._downwards:
            data = layer.send(data) if data else layer.output()
        return self._take_waiting() + data if self._waiting else data

    def closed(self) -> None:
        """The connection, or this attempt at one, is over."""
        for layer in self.messages:
            layer.closed()

    def _take_waiting(self) -> bytes:
        waiting, self._waiting = self._waiting, b""
        return waiting
