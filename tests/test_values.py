"""Values are what frozen dataclasses of the standard library are, side by side."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from collections.abc import Callable
from dataclasses import KW_ONLY, FrozenInstanceError, asdict, dataclass, field, fields, is_dataclass, make_dataclass, replace
from typing import Any, Generic, TypeVar, get_type_hints

import pytest

from tieline import QUIC, TCP, TLS, HostPort, Parameters, StreamMetadata
from tieline.values import Unwritten, Value, value

T = TypeVar("T")


@value
class Ours(Value):
    """A value."""

    number: int
    text: str = "a"
    hidden: int = field(default=0, repr=False)
    beside: Any = field(default=None, compare=False)
    _: KW_ONLY
    names: list[str] = field(default_factory=list[str])
    last: object = 1.5

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"number must not be below 0, got {self.number}")


@dataclass(frozen=True, slots=True)
class Theirs:
    """A value."""

    number: int
    text: str = "a"
    hidden: int = field(default=0, repr=False)
    beside: Any = field(default=None, compare=False)
    _: KW_ONLY
    names: list[str] = field(default_factory=list[str])
    last: object = 1.5

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"number must not be below 0, got {self.number}")


@value
class OurHeir(Ours):
    text: str = "b"
    more: int = 7

    def __post_init__(self) -> None:
        Ours.__post_init__(self)
        object.__setattr__(self, "more", self.more + 1)


@dataclass(frozen=True, slots=True)
class TheirHeir(Theirs):
    text: str = "b"
    more: int = 7

    def __post_init__(self) -> None:
        Theirs.__post_init__(self)
        object.__setattr__(self, "more", self.more + 1)


@value(kw_only=True)
class OurNames(Value):
    first: int
    second: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirNames:
    first: int
    second: int = 2


@value
class OurNothing(Value):
    pass


@dataclass(frozen=True, slots=True)
class TheirNothing:
    pass


@value(slots=False)
class OurBox(Value, Generic[T]):
    content: T


@dataclass(frozen=True)
class TheirBox(Generic[T]):
    content: T


PAIRS = [(Ours, Theirs), (OurHeir, TheirHeir), (OurNames, TheirNames), (OurNothing, TheirNothing), (OurBox, TheirBox)]
CALLS: list[Callable[[Any], Any]] = [
    lambda kind: kind(),
    lambda kind: kind(1),
    lambda kind: kind(-1),
    lambda kind: kind(number=1, text="x", names=["y"]),
    lambda kind: kind(1, "x", 2, 3, last=None),
    lambda kind: kind(1, "x", 2, 3, 4),
    lambda kind: kind(1, "x", 2, 3, 4, 5),
    lambda kind: kind(1, number=2),
    lambda kind: kind(1, other=2),
    lambda kind: kind(first=1),
    lambda kind: kind(content=1),
]


def outcome(call: Callable[[], Any]) -> object:
    """What it gave or raised, with the names that differ made the same."""
    try:
        text = repr(call())
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    return text.replace("Our", "Their")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_making_one(ours: Any, theirs: Any, call: Callable[[Any], Any]) -> None:
    assert outcome(lambda: call(ours)) == outcome(lambda: call(theirs))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_what_the_classes_tell(ours: Any, theirs: Any) -> None:
    assert is_dataclass(ours) and ours.__dataclass_params__.frozen
    assert [(one.name, one.type, one.kw_only) for one in fields(ours)] == [
        (one.name, one.type, one.kw_only) for one in fields(theirs)
    ]
    assert str(inspect.signature(ours)) == str(inspect.signature(theirs))
    assert get_type_hints(ours.__init__) == get_type_hints(theirs.__init__)
    assert ours.__init__.__qualname__ == f"{ours.__name__}.__init__" and ours.__init__.__module__ == __name__
    assert ours.__match_args__ == theirs.__match_args__
    assert vars(ours).get("__slots__") == vars(theirs).get("__slots__")


def test_methods_are_written_when_they_are_first_used() -> None:
    @value
    class Fresh(Value):
        number: int

    class Heir(Fresh):
        __slots__ = ()

    methods = ("__init__", "__eq__", "__hash__")
    assert all(isinstance(vars(Fresh)[name], Unwritten) for name in methods)
    assert Heir(1) == Heir(1) and hash(Heir(1)) == hash((1,))
    assert all(inspect.isfunction(vars(Fresh)[name]) and name not in vars(Heir) for name in methods)


def test_a_method_of_its_own_stays() -> None:
    @value
    class Own(Value):
        number: int

        def __init__(self, text: str) -> None:
            object.__setattr__(self, "number", int(text))

        def __hash__(self) -> int:
            return 5

    assert Own("7").number == 7 and hash(Own("7")) == 5 and Own("7") == Own("07")


@pytest.mark.parametrize("kind", [Ours, Theirs, OurHeir, TheirHeir])
def test_what_makes_values_different(kind: Any) -> None:
    assert kind(1) == kind(1)
    assert kind(1, beside=2) == kind(1)
    assert kind(1) != kind(2) and kind(1, hidden=1) != kind(1) and kind(1, "c") != kind(1) and kind(1, last=2) != kind(1)
    assert hash(kind(1, names=())) == hash(kind(1, names=(), beside=[]))
    assert len({kind(1, names=()), kind(1, names=()), kind(2, names=())}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(kind(1))


def test_another_class_makes_another_value() -> None:
    heir: Any = make_dataclass("Heir", [], bases=(Ours,), frozen=True, eq=False, repr=False)
    assert Ours(1) != heir(1) and heir(1) != Ours(1) and Ours(1) != Theirs(1) and Ours(1) != OurHeir(1)
    assert Ours(1).__eq__(1) is NotImplemented
    assert heir(1) == heir(1)
    assert OurNothing() == OurNothing() and hash(OurNothing()) == hash(TheirNothing())
    nan = float("nan")
    assert Ours(1, last=nan) == Ours(1, last=nan)  # as tuples do


def test_how_values_look() -> None:
    assert repr(Ours(1, beside="x")) == "Ours(number=1, text='a', beside='x', names=[], last=1.5)"
    inside: list[Any] = []
    outside = Ours(1, beside=inside)
    inside.append(outside)
    assert repr(outside) == "Ours(number=1, text='a', beside=[...], names=[], last=1.5)"


@pytest.mark.parametrize(("ours", "theirs"), [(Ours, Theirs), (OurHeir, TheirHeir)])
@pytest.mark.parametrize("name", ["number", "more"])
def test_a_value_does_not_change(ours: Any, theirs: Any, name: str) -> None:
    def delete(one: Any) -> None:
        delattr(one, name)

    for change in (lambda one: setattr(one, name, 2), delete):
        with pytest.raises(FrozenInstanceError) as ours_raised:
            change(ours(1))
        if hasattr(theirs, name):  # that of Python 3.11 trips over its own slots for other names
            with pytest.raises(FrozenInstanceError) as theirs_raised:
                change(theirs(1))
            assert str(ours_raised.value) == str(theirs_raised.value)
    assert ours(1) == ours(1)


@pytest.mark.parametrize(
    "one",
    [Ours(1, names=["x"]), OurHeir(1, more=3), OurNothing(), OurBox(2), HostPort("a", 1), TLS(alpn=["h2"]), Parameters(TCP())],
)
def test_copies(one: Any) -> None:
    for copied in (copy.copy(one), copy.deepcopy(one), *(pickle.loads(pickle.dumps(one, number)) for number in range(2, 6))):
        assert type(copied) is type(one) and copied == one and repr(copied) == repr(one)


def test_the_functions_of_the_standard_library() -> None:
    assert replace(Ours(1, names=["x"]), text="c") == Ours(1, "c", names=["x"])
    with pytest.raises(ValueError, match="number must not be below 0, got -1"):
        replace(Ours(1), number=-1)
    assert asdict(Ours(1)) == asdict(Theirs(1))
    match Ours(1, "x"):
        case Ours(number, text, last=last):
            assert (number, text, last) == (1, "x", 1.5)
    assert Ours(1).names is not Ours(1).names


def test_a_program_can_derive_from_values() -> None:
    @dataclass(frozen=True)
    class Mine(TCP):
        comment: str = ""

    assert Mine(no_delay=False, comment="x").comment == "x"
    assert repr(Mine()).endswith("comment='')") and Mine() == Mine() != Mine(comment="x")
    with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):
        dataclass(type("Loose", (TCP,), {}))
    assert OurBox[int](3) == OurBox(3)
    assert QUIC(alpn=["x"]) == QUIC(alpn=["x"])


def test_those_of_the_public_interface() -> None:
    assert TCP(no_delay=True) == TCP(no_delay=True) != TCP(no_delay=False)
    assert TLS(alpn=["h2"]) == TLS(alpn=["h2"]) != TLS(alpn=["h3"])
    assert Parameters(TCP(), local_port=1) == Parameters(TCP(), local_port=1) != Parameters(TCP(), local_port=2)
    assert repr(StreamMetadata(end_of_stream=True)).endswith("end_of_stream=True)")


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    class Named(Parameters[TCP]):
        def __init__(self, name: str) -> None:
            super().__init__(TCP(), local_port=7)
            self.name = name

    named = Named("first")
    named.name = "second"
    assert (named.name, named.local_port) == ("second", 7)
    with pytest.raises(FrozenInstanceError, match="local_port"):
        named.local_port = 8  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="note"):
        Parameters(TCP()).note = 1  # type: ignore[attr-defined]
    del named.name
    assert not hasattr(named, "name")


def test_a_method_is_written_although_its_module_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    @value
    class Late(Value):
        number: int

    monkeypatch.delitem(sys.modules, Late.__module__)
    assert Late(1) == Late(1) and hash(Late(1)) == hash(Late(1))
