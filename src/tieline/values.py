"""Values: frozen dataclasses whose methods are written once, here, or when they are first called.

The decorator of the standard library writes and compiles six methods for each class anew, and most programs call few of them.
For some fifty classes that was a third of the time which `import tieline` takes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields, is_dataclass
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform, overload

__all__ = ["Value", "value"]

T = TypeVar("T", bound="Value")
Names = dict[str, Any]


class Value:
    """The base of what `value` decorates: it shows, refuses and is copied as a frozen dataclass of the standard library is."""

    __slots__ = ()

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @recursive_repr()
    def __repr__(self) -> str:
        shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
        return f"{self.__class__.__qualname__}({shown})"

    if not TYPE_CHECKING:  # type checkers would take it for leave to set any name

        def __setattr__(self, name: str, value: object) -> None:
            if refuses(self, name):
                raise FrozenInstanceError(f"cannot assign to field {name!r}")
            object.__setattr__(self, name, value)

        def __delattr__(self, name: str) -> None:
            if refuses(self, name):
                raise FrozenInstanceError(f"cannot delete field {name!r}")
            object.__delattr__(self, name)

    # Without these two, a copy would be made by setting what cannot be set.

    def __getstate__(self) -> Any:
        return [getattr(self, option.name) for option in fields(self)]

    def __setstate__(self, state: Any) -> None:
        for option, content in zip(fields(self), state, strict=True):
            object.__setattr__(self, option.name, content)


def refuses(one: Value, name: str) -> bool:
    """Whether this may not be set: in a class that was not decorated itself, what is no field is the class's own affair."""
    return "__dataclass_fields__" in vars(type(one)) or name in type(one).__dataclass_fields__


@overload
def value(cls: type[T], /) -> type[T]: ...
@overload
def value(*, kw_only: bool = False, slots: bool = True) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T] | None = None, /, *, kw_only: bool = False, slots: bool = True) -> Any:
    """Makes a subclass of `Value` what ``@dataclass(frozen=True, slots=True)`` would; methods of its own stay.

    Every field is an argument of `__init__`: there is no `InitVar` and no ``field(init=False)``.
    """

    def decorate(cls: Any) -> Any:
        # `dataclass` compiles methods that refuse for each class that it is told is frozen. So it hears of that afterwards.
        bases: list[Any] = [base for base in cls.__mro__[1:] if is_dataclass(base)]
        for base in bases:
            base.__dataclass_params__.frozen = False
        try:
            made: Any = dataclass(init=False, repr=False, eq=False, kw_only=kw_only, slots=slots)(cls)
            made.__dataclass_params__.frozen = True
        finally:
            for base in bases:
                base.__dataclass_params__.frozen = True
        for name, write in WRITERS.items():
            if name not in vars(made):
                setattr(made, name, Unwritten(made, name, write))
        return made

    return decorate if cls is None else decorate(cls)


class Unwritten:
    """In place of a method of a class: the method is written when somebody first looks for it."""

    __slots__ = ("_cls", "_module", "_name", "_write")

    def __init__(self, cls: type[Any], name: str, write: Callable[[type[Any], Names], Any]) -> None:
        self._cls, self._name, self._write = cls, name, write
        self._module = vars(sys.modules[cls.__module__])  # while it is there

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        written = self._write(self._cls, self._module)
        setattr(self._cls, self._name, written)
        return written.__get__(instance, owner)


def initializer(cls: type[Any], module: Names) -> Any:
    positional, named, body = ["self"], list[str](), list[str]()
    known: dict[str, Any] = {"_set": object.__setattr__, "_LATER": Later()}
    for option in fields(cls):
        name, default = option.name, f"_default_{option.name}"
        argument = name
        if option.default_factory is not MISSING:
            known[default] = option.default_factory
            argument += "=_LATER"
            body.append(f"if {name} is _LATER: {name} = {default}()")
        elif option.default is not MISSING:
            known[default] = option.default
            argument += f"={default}"
        (named if option.kw_only else positional).append(argument)
        body.append(f"_set(self, {name!r}, {name})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    arguments = [*positional, "*", *named] if named else positional
    written = compiled(cls, module, f"__init__({', '.join(arguments)})", body or ["pass"], known)
    written.__annotations__ = {option.name: option.type for option in fields(cls)} | {"return": None}
    return written


def equality(cls: type[Any], module: Names) -> Any:
    same = f"return {compared(cls, 'self')} == {compared(cls, 'other')}"
    return compiled(
        cls, module, "__eq__(self, other)", [f"if other.__class__ is self.__class__: {same}", "return NotImplemented"]
    )


def hashing(cls: type[Any], module: Names) -> Any:
    return compiled(cls, module, "__hash__(self)", [f"return hash({compared(cls, 'self')})"])


WRITERS = {"__init__": initializer, "__eq__": equality, "__hash__": hashing}
"""What writes each method as the standard library would."""


def compared(cls: type[Any], whose: str) -> str:
    """The tuple of what makes two values of a class different, as source."""
    return f"({''.join(f'{whose}.{option.name}, ' for option in fields(cls) if option.compare)})"


def compiled(cls: type[Any], module: Names, head: str, body: list[str], known: dict[str, Any] | None = None) -> Any:
    """A method of the class, of names in our own code and of what is `known`."""
    known, made = known or {}, dict[str, Any]()
    source = [
        f"def write({', '.join(known)}):",
        f" def {head}:",
        *(f"  {line}" for line in body),
        f" return {head.partition('(')[0]}",
    ]
    exec("\n".join(source), module, made)  # noqa: S102
    written = made["write"](**known)
    written.__qualname__ = f"{cls.__qualname__}.{written.__name__}"
    return written


class Later:
    """The default of an argument whose field has a `default_factory`, as signatures show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<factory>"
