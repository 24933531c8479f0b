"""Values to and from JSON for their way to a worker and back: no pickle, and no tensors."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from esper.errors import ConfigError

_TAG = "!"


def to_plain(value: Any) -> Any:
    """`value` as what JSON can hold; `from_plain` is the inverse.

    Raises:
        ConfigError: It holds something else than scalars, lists, tuples, mappings with text keys, paths,
        bytes,
            NumPy arrays and dataclasses.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, tuple):
        return {_TAG: "tuple", "items": [to_plain(item) for item in value]}
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, Path):
        return {_TAG: "path", "path": str(value)}
    if isinstance(value, bytes):
        return {_TAG: "bytes", "data": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {_TAG: "array", "type": value.dtype.str, "shape": list(value.shape), "data": data}
    if is_dataclass(value) and not isinstance(value, type):
        return _dataclass(value)
    raise ConfigError(
        f"A value of type {type(value).__name__} cannot go to a worker or back. Send plain values, arrays or "
        "dataclasses of these; write tensors to a file and send a reference to it."
    )


def from_plain(plain: Any) -> Any:
    """The value that `to_plain` made `plain` from."""
    if isinstance(plain, list):
        return [from_plain(item) for item in plain]
    if isinstance(plain, dict):
        return (
            _DECODERS[plain[_TAG]](plain) if _TAG in plain else {k: from_plain(v) for k, v in plain.items()}
        )
    return plain


def locate(name: str) -> Any:
    """What "module:qualified.name" names."""
    module, _, path = name.partition(":")
    return reduce(getattr, path.split("."), import_module(module))


def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    wrong = [key for key in value if not isinstance(key, str) or key == _TAG]
    if wrong:
        raise ConfigError(
            f"Mappings that go to a worker have text keys other than {_TAG!r}; found {wrong[0]!r}."
        )
    return {key: to_plain(item) for key, item in value.items()}


def _dataclass(value: Any) -> dict[str, Any]:
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    if name.startswith("__main__:") or "<locals>" in name:
        raise ConfigError(
            f"Dataclass {name!r} cannot be imported by a worker; define it at the top of a module."
        )
    return {
        _TAG: "dataclass",
        "class": name,
        "fields": {f.name: to_plain(getattr(value, f.name)) for f in fields(value) if f.init},
    }


def _to_array(plain: dict[str, Any]) -> Any:
    flat = np.frombuffer(base64.b64decode(plain["data"]), dtype=np.dtype(plain["type"]))
    return flat.reshape(plain["shape"]).copy()


def _to_dataclass(plain: dict[str, Any]) -> Any:
    cls = locate(plain["class"])
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ConfigError(f"{plain['class']!r} is not a dataclass.")
    return cls(**{name: from_plain(item) for name, item in plain["fields"].items()})


_DECODERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "tuple": lambda plain: tuple(from_plain(item) for item in plain["items"]),
    "path": lambda plain: Path(plain["path"]),
    "bytes": lambda plain: base64.b64decode(plain["data"]),
    "array": _to_array,
    "dataclass": _to_dataclass,
}
