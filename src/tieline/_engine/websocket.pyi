"""WebSocket's frames (RFC 6455) and permessage-deflate (RFC 7692). Mirrors rust/python/src/websocket.rs."""

from typing import Any, TypeAlias, final

from typing_extensions import Buffer

from tieline._engine.stream import MessageInbox

__all__ = ["WebSocketCodec", "WebSocketEvent", "WebSocketFailure", "frame"]

_Item: TypeAlias = tuple[str | bytes, Any, int] | WebSocketEvent
"""A whole message, its metadata and its size in bytes, or what else was received."""

class WebSocketFailure(Exception):
    """The peer broke a rule. The close frame that says so is the caller's to send."""

    received: list[_Item]
    """What came before it, behind the messages that went to the inbox."""
    code: int
    """For the close frame: 1002, 1007 or 1009."""
    expected: str
    got: str
    section: str
    """Of RFC 6455."""

@final
class WebSocketEvent:
    """What was received, other than a whole message."""

    @property
    def opcode(self) -> int:
        """8 close, 9 ping, 10 pong; 0 part of a message."""

    @property
    def content(self) -> str | bytes:
        """Of a ping, a pong or a part; the reason of a close."""

    @property
    def code(self) -> int | None:
        """Of a close; None if there was none."""

    @property
    def last(self) -> bool:
        """This part is the message's last."""

@final
class WebSocketCodec:
    """Both halves of one side. A direction of compression is (window bits, context takeover), None for none.

    `text` and `binary` are the metadata of whole messages.
    """

    def __new__(
        cls,
        text: object,
        binary: object,
        *,
        client: bool,
        maximum_message_size: int,
        maximum_frame_size: int,
        batch: int,  # bytes that one call of receive gives before it holds back the rest
        sending: tuple[int, bool] | None = None,
        receiving: tuple[int, bool] | None = None,
        level: int = 6,  # 1 to 9
        threshold: int = 0,  # messages of fewer bytes are sent as they are
    ) -> WebSocketCodec: ...
    def receive(self, data: Buffer, inbox: MessageInbox, /) -> list[_Item] | None:
        """Take what arrived. Messages go to the inbox, up to the first that is something else.

        That, and what comes behind it, is returned; None if there is nothing else, nor more was received than one call gives
        (`has_more`). Raises WebSocketFailure, and from then on each time.
        """

    @property
    def has_more(self) -> bool:
        """More was received than one call gives: the next call of `receive` gives more, whether or not more comes."""

    @property
    def incomplete(self) -> bool:
        """Part of a message or of a frame has come, and the rest has not."""

    def set_streaming(self, streaming: bool, /) -> None:
        """From the next call of `receive` on, give messages in parts as they come, or whole."""

    @property
    def unfinished(self) -> bool:
        """A message has been begun with `send`, and not ended."""

    def send(self, content: str | Buffer, last: bool = True, text: bool = False, /) -> bytes:
        """The frame of a message, or of the next part of one: `last` ends it. Bytes are binary, or with `text` UTF-8.

        Raises UnicodeEncodeError.
        """

    def control(self, opcode: int, data: Buffer, /) -> bytes:
        """The frame of a ping (9) or pong (10) of at most 125 bytes."""

    def close(self, code: int | None, reason: str, /) -> bytes:
        """The close frame. Raises ValueError for a code that may not be sent, or a reason of more than 123 bytes."""

def frame(content: str | Buffer, /) -> bytes:
    """A whole message's frame as any server sends it, without compression."""
