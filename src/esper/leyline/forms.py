"""How values look in JSON: what a form is; the forms of scalars, choices, arrays; and what does not fit."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from esper.errors import EsperError

Convert = Callable[[Any], Any]


class Fault(Exception):
    """Something is not as its type says; the path to it grows on the way out."""

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text)
        self.path = path

    def step(self, outwards: str) -> None:
        self.path = outwards + self.path


class Form:
    """How values of one type are written and read, and what they can look like in JSON."""

    def __init__(self, write: Convert, read: Convert, *kinds: str) -> None:
        self.write, self.read, self.kinds = write, read, frozenset(kinds)


def unlike(expected: str, value: Any) -> Fault:
    """The fault of a value that is not what was expected."""
    text = repr(value)
    return Fault(f"expected {expected}, found {text if len(text) <= 60 else f'{text[:57]}...'}")


def built(build: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """What a class or a function of ours makes of values of the right types, which may still not fit."""
    try:
        return build(*values, **named)
    except (ValueError, TypeError, LookupError, OverflowError, EsperError) as error:
        raise Fault(str(error).removesuffix(".")) from error


def each(items: Iterable[tuple[Any, Any]], convert: Convert) -> Iterator[tuple[Any, Any]]:
    """Converts items; a fault learns the index or key of its item."""
    for key, item in items:
        try:
            yield key, convert(item)
        except Fault as fault:
            fault.step(f"[{key!r}]")
            raise


def within(key: str, convert: Convert, value: Any) -> Any:
    """Converts the value of a field; a fault learns the name of that."""
    try:
        return convert(value)
    except Fault as fault:
        fault.step(f".{key}")
        raise


def converted(cls: type, form: Form, there: Convert, back: Convert) -> Form:
    """The form of a class whose values are stored as others."""

    def write(value: Any) -> Any:
        if isinstance(value, cls):
            return form.write(there(value))
        raise unlike(f"a {cls.__name__}", value)

    return Form(write, lambda plain: built(back, form.read(plain)), *form.kinds)


def scalar(expected: str, classes: tuple[type, ...], make: Convert, kind: str) -> Form:
    """The form of what looks the same in JSON."""

    def same(value: Any) -> Any:
        # bool is an int to Python, and to nobody else
        if isinstance(value, classes) and (not isinstance(value, bool) or bool in classes):
            return make(value)
        raise unlike(expected, value)

    return Form(same, same, kind)


def _real() -> Form:
    beyond = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    number = scalar(
        "a number",
        (int, float, np.integer, np.floating),
        lambda v: v if type(v) is int else float(v),
        "number",
    )

    def write(value: Any) -> Any:
        value = number.write(value)
        if type(value) is int or math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

    def read(plain: Any) -> Any:
        return beyond[plain] if isinstance(plain, str) and plain in beyond else number.read(plain)

    return Form(write, read, "number", "text")


def _described(value: Any) -> str:
    return repr(value) if isinstance(value, float) else f"a {type(value).__name__}"


def _anything(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if type(value) is list:
        return [item for _, item in each(enumerate(value), _anything)]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return dict(each(value.items(), _anything))
    raise Fault(f"expected what JSON can hold, found {_described(value)}")


def choice(values: Mapping[Any, Any]) -> Form:
    """One of few values, by what stands for each."""
    expected = "one of " + ", ".join(map(repr, values))
    known = {(type(plain), plain): value for plain, value in values.items()}
    stands_for = {value: plain for plain, value in values.items()}

    def write(value: Any) -> Any:
        if value in stands_for:
            return stands_for[value]
        raise unlike(expected, value)

    def read(plain: Any) -> Any:
        if isinstance(plain, (str, int)) and (type(plain), plain) in known:
            return known[type(plain), plain]
        raise unlike(expected, plain)

    return Form(write, read, *{kind_of(plain) for plain in values})


def kind_of(plain: Any) -> str:
    """What a value looks like in JSON; "leaf" if it is none of its."""
    return next((kind for kind, classes in KINDS.items() if isinstance(plain, classes)), "leaf")


def array_of(dtype: np.dtype[Any]) -> Form:
    """Arrays of one type, as nested lists; what was not measured (NaN) is null."""
    number = next((form for cls, form in _NUMBERS.items() if issubclass(dtype.type, cls)), None)
    if number is None:
        raise Fault(f"arrays of {dtype} have no form in JSON")
    expected, has_nan = f"an array of {dtype}", number is _REAL

    def write(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or not value.ndim or not np.can_cast(value.dtype, dtype):
            raise unlike(expected, value)
        if value.ndim > 1 and not value.size:
            return {"shape": list(value.shape)}  # nested lists would not always say it
        plain = value.tolist()
        return plain if not has_nan or np.isfinite(value).all() else _elements(plain, _write_element)

    def read_element(plain: Any) -> Any:
        return math.nan if plain is None and has_nan else number.read(plain)

    def read(plain: Any) -> Any:
        if isinstance(plain, dict) and plain.keys() == {"shape"}:
            return built(np.zeros, _elements(plain["shape"], _INTEGER.read), dtype)
        if not isinstance(plain, (list, tuple)):
            raise unlike(expected, plain)
        array = built(np.array, plain)
        if array.dtype.kind != dtype.kind:  # an empty list, or one with nulls or with what does not belong
            array = built(np.array, _elements(plain, read_element), dtype)
        return array.astype(dtype, copy=False)

    return Form(write, read, "list", "object")


def _elements(plain: Any, convert: Convert) -> Any:
    """Nested lists with every element converted."""
    if isinstance(plain, (list, tuple)):
        return [item for _, item in each(enumerate(plain), lambda inner: _elements(inner, convert))]
    return convert(plain)


def _write_element(number: float) -> Any:
    return None if math.isnan(number) else _REAL.write(number)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


KINDS: Mapping[str, tuple[type, ...]] = {
    "null": (NoneType,),
    "bool": (bool, np.bool_),
    "number": (int, float, np.integer, np.floating),
    "text": (str,),
    "list": (list, tuple),
    "object": (Mapping,),
}
_INTEGER = scalar("an integer", (int, np.integer), int, "number")
_BOOL = scalar("true or false", (bool, np.bool_), bool, "bool")
_REAL = _real()
_TEXT = scalar("text", (str,), str, "text")
_ANYTHING = Form(_anything, lambda plain: plain, *KINDS)
# The first that a type of numbers belongs to counts.
_NUMBERS: Mapping[type, Form] = {np.bool_: _BOOL, np.integer: _INTEGER, np.floating: _REAL}
SCALARS: Mapping[Any, Form] = {
    NoneType: scalar("null", (NoneType,), lambda value: value, "null"),
    bool: _BOOL,
    int: _INTEGER,
    float: _REAL,
    str: _TEXT,
    Path: converted(Path, _TEXT, str, Path),
    bytes: converted(bytes, _TEXT, lambda data: base64.b64encode(data).decode(), _bytes),
    Any: _ANYTHING,
    object: _ANYTHING,
}
