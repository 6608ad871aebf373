"""Values are compared and shown as dataclasses of the standard library are."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any

import pytest

from tieline import TCP, TLS, Parameters, StreamMetadata
from tieline.values import Value


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ours(Value):
    number: int
    text: str = "a"
    hidden: int = field(default=0, repr=False)
    beside: Any = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Theirs:
    number: int
    text: str = "a"
    hidden: int = field(default=0, repr=False)
    beside: Any = field(default=None, compare=False)


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_what_makes_values_different(kind: Any) -> None:
    assert kind(1) == kind(1) and hash(kind(1)) == hash(kind(1)) == hash(kind(1, beside=[]))
    assert kind(1, beside=2) == kind(1)
    assert kind(1) != kind(2) and kind(1, hidden=1) != kind(1) and kind(1, "b") != kind(1)
    assert len({kind(1), kind(1), kind(2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(kind([]))


def test_another_class_makes_another_value() -> None:
    heir: Any = make_dataclass("Heir", [], bases=(Ours,), frozen=True, eq=False, repr=False)
    assert Ours(1) != heir(1) and heir(1) != Ours(1) and Ours(1) != Theirs(1)
    assert Ours(1).__eq__(1) is NotImplemented
    assert heir(1) == heir(1)


def test_how_values_look() -> None:
    assert repr(Ours(1, beside="x")) == "Ours(number=1, text='a', beside='x')"
    assert repr(Ours(1)).removeprefix("Ours") == repr(Theirs(1)).removeprefix("Theirs")
    inside: list[Any] = []
    outside = Ours(1, beside=inside)
    inside.append(outside)
    assert repr(outside) == "Ours(number=1, text='a', beside=[...])"


def test_those_of_the_public_interface() -> None:
    assert TCP(no_delay=True) == TCP(no_delay=True) != TCP(no_delay=False)
    assert TLS(alpn=["h2"]) == TLS(alpn=["h2"]) != TLS(alpn=["h3"])
    assert Parameters(TCP(), local_port=1) == Parameters(TCP(), local_port=1) != Parameters(TCP(), local_port=2)
    assert repr(StreamMetadata(end_of_stream=True)).endswith("end_of_stream=True)")
