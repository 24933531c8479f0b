"""Values to and from what JSON can hold, as the types of their fields say.

The type leads both ways: `encode` writes a dataclass by the annotations of its class, and `decode` builds
only what the caller's type names. So data can choose no class, import nothing and call nothing, and the same
two functions serve files, checkpoints and messages between processes.

    dataclass                    an object with a key for every field, or a list of those in `__stored_row__`
    enum, Literal                the value
    tuple, list, Sequence, set   a list
    Mapping                      an object; keys are text, integers or an enum
    NumPy array                  nested lists; NaN is null
    float                        a number, or "NaN", "Infinity", "-Infinity", for which JSON has no number
    Path, bytes                  text; base64
    union                        its member; the members must not look alike in JSON
    Any, object                  what JSON can hold as it is

A missing field takes its default, so that a class can grow. A field without one that is missing, and a key
that is no field, are errors. Where a class was stored otherwise before, its static method
`__stored_before__` gets what is stored and returns it in the present shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from esper.errors import ContractError
from esper.leyline.forms import (
    SCALARS,
    Convert,
    Fault,
    Form,
    array_of,
    built,
    choice,
    converted,
    each,
    kind_of,
    scalar,
    unlike,
    within,
)

T = TypeVar("T")
Leaves = tuple[type, ...]


@dataclass(frozen=True)
class Via:
    """`Annotated[X, Via(Y, write, read)]`: an X is stored as the Y that `write` makes of it."""

    of: Any
    write: Convert
    read: Convert


@dataclass(frozen=True)
class Parts:
    """`Annotated[X, Parts(...)]` of a field: it is stored under several keys, each with its type, or none.

    `split` makes their values from the field's, in the order of the keys; `join` is the inverse.
    """

    types: tuple[tuple[str, Any], ...]
    split: Callable[[Any], tuple[Any, ...]]
    join: Callable[..., Any]


UNSTORED = Parts((), lambda _: (), lambda: None)
"""A field that is not stored: it comes back with its default."""


def gaps(size: str, gone: str) -> Parts:
    """A bool array stored as its size and the few places that are False."""

    def join(count: int, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        keep = np.ones(count, np.bool_)
        keep[places] = False
        return keep

    types = ((size, int), (gone, NDArray[np.int64]))
    return Parts(types, lambda keep: (keep.size, np.flatnonzero(~keep)), join)


def flat(shape: str, elements: str) -> Parts:
    """An array of integers stored as its shape and its elements in a row."""
    types = ((shape, tuple[int, ...]), (elements, NDArray[np.int64]))
    return Parts(types, lambda array: (array.shape, array.ravel()), lambda sizes, row: row.reshape(sizes))


def encode(value: Any, of: Any = None, *, leaves: Leaves = ()) -> Any:
    """`value` as what JSON can hold; `decode` is the inverse.

    Args:
        value: what to write.
        of: the type to write it as, an annotation; None: its class.
        leaves: classes whose instances stay as they are, because the carrier can hold them.

    Raises:
        ContractError: something in it is not of its type, or has no form in JSON; the message names its path.
    """
    of = type(value) if of is None else of
    try:
        return _form(of, leaves).write(value)
    except Fault as fault:
        raise ContractError(f"{_name(of)}{fault.path}: {fault}. Nothing was written.") from fault


def decode(of: type[T], plain: Any, *, leaves: Leaves = ()) -> T:
    """The value of type `of` that `encode` made `plain` from; what is no JSON may hold tuples for lists.

    Raises:
        ContractError: something is missing, surplus or of another type; the message names its path.
    """
    try:
        value: T = _form(cast("Any", of), leaves).read(plain)
    except Fault as fault:
        raise ContractError(
            f"{_name(of)}{fault.path}: {fault}. This version of Esper writes it otherwise: read it with the "
            "version that wrote it."
        ) from fault
    return value


def _name(of: Any) -> str:
    return of.__name__ if isinstance(of, type) and get_origin(of) is None else str(of)


@cache
def _form(of: Any, leaves: Leaves) -> Form:
    """The form of a type; it is made once."""
    origin, arguments = get_origin(of) or of, get_args(of)
    if origin is Annotated:
        return _annotated(of, leaves)
    if origin in (Union, UnionType):
        return _union([_form(member, leaves) for member in arguments])
    if origin is Literal:
        return choice({value: value for value in arguments})
    if origin in SCALARS:
        return SCALARS[origin]
    if isinstance(origin, type):
        if issubclass(origin, leaves):
            return scalar(f"a {origin.__name__}", (origin,), lambda value: value, "leaf")
        if is_dataclass(origin):
            record = _Record(origin, leaves)
            return Form(record.write, record.read, "list" if record.row else "object")
        for base, make in _MAKERS.items():
            if issubclass(origin, base) and (arguments or base is Enum):
                return make(origin, arguments, leaves)
    raise Fault(f"the type {_name(of)} has no form in JSON")


def _annotated(of: Any, leaves: Leaves) -> Form:
    via = next((note for note in of.__metadata__ if isinstance(note, Via)), None)
    if via is None:
        return _form(of.__origin__, leaves)
    return converted(object, _form(via.of, leaves), via.write, via.read)


def _union(members: Sequence[Form]) -> Form:
    by_kind = {kind: member for member in members for kind in member.kinds}
    if len(by_kind) < sum(len(member.kinds) for member in members):
        raise Fault("members of this union look alike in JSON")
    inner = [member for member in members if member is not SCALARS[NoneType]]

    def write(value: Any) -> Any:
        if value is None and "null" in by_kind:
            return None
        for member in inner[:-1]:
            try:
                return member.write(value)
            except Fault:
                continue
        return inner[-1].write(value)

    def read(plain: Any) -> Any:
        kind = kind_of(plain)
        if kind in by_kind:
            return by_kind[kind].read(plain)
        raise unlike(" or ".join(sorted(by_kind)), plain)

    return Form(write, read, *by_kind)


def _sequence(origin: type, arguments: tuple[Any, ...], leaves: Leaves) -> Form:
    make = next(make for base, make in _SEQUENCES.items() if issubclass(origin, base))
    if make is tuple and arguments[-1:] != (...,):
        return _row([_form(member, leaves) for member in arguments])
    one = _form(arguments[0], leaves)
    accepted = (set, frozenset) if make in (set, frozenset) else (list, tuple)

    def write(value: Any) -> Any:
        if not isinstance(value, accepted):
            raise unlike(f"a {make.__name__}", value)
        plain = [item for _, item in each(enumerate(value), one.write)]
        return sorted(plain, key=repr) if make in (set, frozenset) else plain

    def read(plain: Any) -> Any:
        if isinstance(plain, (list, tuple)):
            return make(item for _, item in each(enumerate(plain), one.read))
        raise unlike("a list", plain)

    return Form(write, read, "list")


def _row(members: Sequence[Form]) -> Form:
    """A tuple with a type for each of its places."""

    def items(value: Any, side: str) -> list[Any]:
        if not isinstance(value, (list, tuple)) or len(value) != len(members):
            raise unlike(f"a list of {len(members)}", value)
        pairs = enumerate(zip(members, value, strict=True))
        return [item for _, item in each(pairs, lambda pair: getattr(pair[0], side)(pair[1]))]

    return Form(lambda value: items(value, "write"), lambda plain: tuple(items(plain, "read")), "list")


def _mapping(_: type, arguments: tuple[Any, ...], leaves: Leaves) -> Form:
    keys, values = (_form(argument, leaves) for argument in arguments)
    is_numbered = keys.kinds == {"number"}

    def write(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise unlike("a mapping", value)
        return {str(keys.write(key)): item for key, item in each(value.items(), values.write)}

    def read_key(key: Any) -> Any:
        if is_numbered and isinstance(key, str) and key.removeprefix("-").isdecimal():
            return keys.read(int(key))
        return keys.read(key)

    def read(plain: Any) -> Any:
        if not isinstance(plain, Mapping):
            raise unlike("an object", plain)
        return {read_key(key): item for key, item in each(plain.items(), values.read)}

    return Form(write, read, "object")


class _Record:
    """A dataclass: how its fields are stored."""

    def __init__(self, cls: Any, leaves: Leaves) -> None:
        self._cls, self._leaves = cls, leaves
        self._before: Convert | None = getattr(cls, "__stored_before__", None)
        self.row: tuple[str, ...] = getattr(cls, "__stored_row__", ())

    @cached_property
    def _fields(self) -> list[_Stored]:
        """Made when they are first needed, so that a class may hold others of its own."""
        hints = get_type_hints(self._cls, include_extras=True)
        return [_Stored(field, hints[field.name], self._leaves) for field in fields(self._cls) if field.init]

    @cached_property
    def _keys(self) -> set[str]:
        return {key for field in self._fields for key, _ in field.keys}

    def write(self, value: Any) -> Any:
        if type(value) is not self._cls:
            raise unlike(f"a {self._cls.__name__}", value)
        plain: dict[str, Any] = {}
        for field in self._fields:
            for (key, form), part in zip(field.keys, field.split(getattr(value, field.name)), strict=True):
                plain[key] = within(key, form.write, part)
        return [plain[key] for key in self.row] if self.row else plain

    def read(self, plain: Any) -> Any:
        stored = self._by_key(plain)
        if self._before is not None:
            stored = built(self._before, stored)
        surplus = next((key for key in stored if key not in self._keys), None)
        if surplus is not None:
            raise Fault("expected no such field", f".{surplus}")
        values = {}
        for field in self._fields:
            missing = next((key for key, _ in field.keys if key not in stored), None)
            if missing is None and field.keys:
                parts = [within(key, form.read, stored[key]) for key, form in field.keys]
                values[field.name] = built(field.join, *parts)
            elif not field.has_default:
                raise Fault("expected a value, found nothing", f".{missing}")
        return built(self._cls, **values)

    def _by_key(self, plain: Any) -> Mapping[str, Any]:
        if not self.row:
            if isinstance(plain, Mapping):
                return plain
            raise unlike("an object", plain)
        if isinstance(plain, (list, tuple)) and len(plain) <= len(self.row):
            return dict(zip(self.row, plain, strict=False))
        raise unlike(f"a list of {', '.join(self.row)}", plain)


class _Stored:
    """One field of a dataclass, the keys that it is stored under, and the form of what each holds."""

    def __init__(self, field: Field[Any], hint: Any, leaves: Leaves) -> None:
        notes = getattr(hint, "__metadata__", ()) if get_origin(hint) is Annotated else ()
        usual = Parts(((field.name, hint),), lambda value: (value,), lambda value: value)
        parts = next((note for note in notes if isinstance(note, Parts)), usual)
        self.name, self.split, self.join = field.name, parts.split, parts.join
        self.keys = [(key, within(key, lambda of: _form(of, leaves), of)) for key, of in parts.types]
        self.has_default = field.default is not MISSING or field.default_factory is not MISSING


_MAKERS: Mapping[type, Callable[..., Form]] = {
    Enum: lambda cls, *_: choice({member.value: member for member in cls}),
    np.ndarray: lambda _, arguments, __: array_of(np.dtype(get_args(arguments[1])[0])),
    Mapping: _mapping,
    Sequence: _sequence,
    AbstractSet: _sequence,
}
_SEQUENCES: Mapping[type, Any] = {tuple: tuple, set: set, AbstractSet: frozenset, Sequence: list}
