"""What type checkers know of connection groups. Checked by tests/test_typing.py, never run.

A `type: ignore` here is an assertion: the line must be an error, or the checker reports the comment as unused.
"""

from dataclasses import dataclass
from typing import assert_type

from tieline import (
    TCP,
    UDP,
    Coder,
    ConnectionGroup,
    GroupMessage,
    GroupState,
    HostPort,
    Interface,
    IPMetadata,
    MulticastGroup,
    NetworkConnection,
    Parameters,
    Path,
    UDPMetadata,
)


@dataclass
class Question:
    service: str


@dataclass
class Offer:
    port: int


def constructing(members: MulticastGroup) -> None:
    assert_type(ConnectionGroup(members, UDP()), ConnectionGroup[UDP])
    assert_type(ConnectionGroup(members, Parameters(UDP(), local_port=0)), ConnectionGroup[UDP])
    assert_type(ConnectionGroup(members, Coder(Offer, UDP())), ConnectionGroup[Coder[Offer, Offer]])
    MulticastGroup("239.0.0.1:9", ("ff02::1", 9), HostPort("239.0.0.2", 9), source=None)
    MulticastGroup("239.0.0.1:9", True)  # type: ignore[arg-type]
    ConnectionGroup("239.0.0.1:9", UDP())  # type: ignore[arg-type]
    ConnectionGroup(members)  # type: ignore[call-arg]


async def datagrams(group: ConnectionGroup[UDP], bare: ConnectionGroup[TCP]) -> None:
    await group.send(b"x")
    await group.send(bytearray(b"x"), to="192.0.2.1:9", metadata=IPMetadata(hop_limit=255))
    await group.send("text")  # type: ignore[arg-type]
    await bare.send(b"x")  # type: ignore[misc]
    message = await group.receive()
    assert_type(message, GroupMessage[bytes, UDP])
    assert_type(message.content, bytes)
    assert_type(message.remote_endpoint, HostPort)
    assert_type(message.interface, Interface | None)
    assert_type(message.path, Path)
    assert_type(message.metadata.ip, IPMetadata | None)
    await message.reply(b"x")
    await message.reply(7)  # type: ignore[arg-type]
    assert_type(message.extract_connection(), NetworkConnection[UDP])
    async for one in group:
        assert_type(one, GroupMessage[bytes, UDP])
    async with group as same:
        assert_type(same, ConnectionGroup[UDP])
    assert_type(group.extract_connection("192.0.2.1:9"), NetworkConnection[UDP])


async def values(group: ConnectionGroup[Coder[Offer, Question]]) -> None:
    await group.send(Offer(1))
    await group.send(Question("x"))  # type: ignore[arg-type]
    message = await group.receive()
    assert_type(message.content, Question)
    await message.reply(Offer(2))
    await message.reply(b"x")  # type: ignore[arg-type]
    assert_type(message.extract_connection(), NetworkConnection[Coder[Offer, Question]])
    async for one in group:
        assert_type(one.content, Question)


async def knowing(group: ConnectionGroup[UDP]) -> None:
    assert_type(group.state, GroupState)
    assert_type(group.interfaces, tuple[Interface, ...])
    assert_type(group.metadata(UDP), UDPMetadata)
    assert_type(group.descriptor.members, tuple[HostPort, ...])
    async for state in group.state_updates():
        assert_type(state, GroupState)
    async for interfaces in group.interfaces_updates():
        assert_type(interfaces, tuple[Interface, ...])
    group.on_state_update(lambda one, state: assert_type(state, GroupState))
