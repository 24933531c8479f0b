"""Any nested training state as one JSON tree and named tensors, bit for bit, and back; nothing is unpickled.

In the tree a JSON array is a list, a JSON scalar is itself, and every JSON object is one tagged value:

    {"dict": {"lr": 0.1}}                        a dict whose keys are all text
    {"pairs": [[0, "a"]], "kind": "dict"}        any other dict, OrderedDict or Counter, in its order
    {"tuple": [..]} {"size": [..]}               tuple, torch.Size
    {"int": "-0x1f.."} {"float": "7ff8.."}       beyond 64 bits; nan and inf by their bits
    {"text": hex} {"bytes": base64}              text that UTF-8 cannot hold; bytes
    {"complex": [re, im]}
    {"tensor": name}                             a tensor; tied ones share a name and become one tensor again
    {"array": name, "dtype": "<f8", "shape": []} a NumPy array
    {"scalar": hex, "dtype": "<f8"}              a NumPy number
    {"dtype": "float32"} {"device": "cuda:0"}
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from esper.errors import CheckpointCorrupt, CheckpointError

MAX_JSON_BYTES = 64 << 20
MAX_DEPTH = 100
Path = tuple[str, ...]
LEAVES = (np.ndarray, torch.Tensor)
"""What a checkpoint holds as it is, without being nested lists of numbers."""
_INT64 = 1 << 63
_ARRAY_KINDS = "biufc"
_MAPPINGS: dict[str, Callable[[Iterable[tuple[Any, ...]]], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": lambda pairs: Counter(dict(pairs)),
}


class Encoded(NamedTuple):
    """A value as a tree that JSON can hold and the tensors that it names."""

    tree: Any
    tensors: dict[str, torch.Tensor]


def encode(value: object) -> Encoded:
    """Splits a value into tree and tensors; the tensors are the live ones, not copies.

    A tensor is named by its path (`state.0.exp_avg`), so a model's `state_dict` keeps its own names. Tensors
    that are the same region of the same storage (tied weights) are stored once.

    Raises:
        CheckpointError: a value cannot be stored; the message names its path and type.
    """
    encoder = _Encoder()
    tree = encoder.encode(value, ())
    return Encoded(tree, encoder.tensors)


def decode(tree: object, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The value that `encode` took. Tensors are those given (mapped ones stay mapped), on the CPU.

    Raises:
        CheckpointCorrupt: the tree is none of ours.
    """
    try:
        return _Decoder(tensors).decode(tree)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, struct.error) as error:
        raise CheckpointCorrupt(f"A state tree cannot be read: {type(error).__name__}: {error}.") from error


def to_json(tree: object) -> bytes:
    """The tree as JSON text, refused if it would be too large to be read back."""
    text = json.dumps(tree, allow_nan=False, separators=(",", ":")).encode()
    if len(text) > MAX_JSON_BYTES:
        raise CheckpointError(
            f"A state tree of {len(text)} bytes is larger than the {MAX_JSON_BYTES} that are read back. Keep "
            f"large data in tensors or arrays: they are stored outside the tree."
        )
    return text


def from_json(text: bytes) -> Any:
    """The tree of JSON text that was verified."""
    if len(text) > MAX_JSON_BYTES:
        raise CheckpointCorrupt(
            f"A state tree of {len(text)} bytes is larger than the {MAX_JSON_BYTES} that are read."
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointCorrupt(f"A state tree is no JSON: {error}.") from error


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._stored: dict[tuple[Any, ...], str] = {}

    def encode(self, value: object, path: Path) -> Any:
        if len(path) > MAX_DEPTH:
            raise CheckpointError(
                f"{_spell(path[:6])} is nested deeper than {MAX_DEPTH} levels, or contains itself."
            )
        kind = type(value)
        if kind in _SCALAR_ENCODERS:
            return _SCALAR_ENCODERS[kind](value)
        if kind in _CONTAINER_ENCODERS:
            return _CONTAINER_ENCODERS[kind](self, value, path)
        if isinstance(value, np.generic) and value.dtype.kind in _ARRAY_KINDS:
            return {"scalar": value.tobytes().hex(), "dtype": value.dtype.str}
        raise CheckpointError(
            f"{_spell(path)} cannot be stored: it is a {kind.__module__}.{kind.__qualname__}. What can be: "
            f"None, bool, int, float, complex, str, bytes, list, tuple, dict, OrderedDict, Counter, tensors, "
            f"and NumPy numbers and arrays. Convert it before saving and back after loading."
        )

    def items(self, value: Iterable[object], path: Path) -> list[Any]:
        return [self.encode(item, (*path, str(index))) for index, item in enumerate(value)]

    def pair(self, value: Iterable[object], path: Path) -> Any:
        return {"tuple": self.items(value, path)}

    def mapping(self, value: Mapping[Any, Any], path: Path) -> Any:
        if type(value) is dict and all(type(key) is str and _is_plain(key) for key in value):
            return {"dict": {key: self.encode(item, (*path, key)) for key, item in value.items()}}
        pairs = [[self._key(key, path), self.encode(item, (*path, str(key)))] for key, item in value.items()]
        return {"pairs": pairs, "kind": type(value).__name__}

    def _key(self, key: object, path: Path) -> Any:
        if not _is_plain_key(key):
            raise CheckpointError(
                f"{_spell(path)} has a key that cannot be stored: {key!r} of type {type(key).__name__}. "
                f"Keys are None, bool, int, float, str, bytes, or tuples of these."
            )
        return self.encode(key, (*path, "(key)"))

    def tensor(self, value: torch.Tensor, path: Path) -> Any:
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise CheckpointError(
                f"{_spell(path)} cannot be stored: it is a {value.layout} tensor of type {value.dtype} on "
                f"{value.device}. Dense tensors with data are; convert it before saving."
            )
        plain = value.detach()
        entry: dict[str, Any] = {}
        if plain.is_complex():
            plain = torch.view_as_real(plain.resolve_conj())
            entry["complex"] = True
        if not plain.is_contiguous() and _is_dense(plain):
            entry["stride"] = list(plain.stride())
        return {"tensor": self._store(plain, value, path), **entry}

    def array(self, value: np.ndarray[Any, np.dtype[Any]], path: Path) -> Any:
        if value.dtype.kind not in _ARRAY_KINDS:
            raise CheckpointError(
                f"{_spell(path)} cannot be stored: it is a NumPy array of type {value.dtype}; arrays of "
                f"numbers and bools are. Convert it before saving."
            )
        raw = torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy())
        return {"array": self._store(raw, raw, path), "dtype": value.dtype.str, "shape": list(value.shape)}

    def _store(self, plain: torch.Tensor, whole: torch.Tensor, path: Path) -> str:
        region = (
            whole.device,
            whole.untyped_storage().data_ptr(),
            whole.storage_offset(),
            whole.dtype,
            tuple(whole.shape),
            whole.stride(),
            whole.is_conj(),
            whole.is_neg(),
        )
        if whole.numel() and region in self._stored:
            return self._stored[region]
        name = wanted = ".".join(path).encode("utf-8", "replace").decode() or "value"
        number = 1
        while name in self.tensors or name == "__metadata__":
            number += 1
            name = f"{wanted}~{number}"
        self.tensors[name] = plain
        self._stored[region] = name
        return name


def _integer(value: int) -> Any:
    return value if -_INT64 <= value < _INT64 else {"int": hex(value)}


def _real(value: float) -> Any:
    return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}


def _text(value: str) -> Any:
    return value if _is_plain(value) else {"text": value.encode("utf-8", "surrogatepass").hex()}


_SCALAR_ENCODERS: dict[type, Callable[[Any], Any]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    int: _integer,
    float: _real,
    complex: lambda value: {"complex": [_real(value.real), _real(value.imag)]},
    str: _text,
    bytes: lambda value: {"bytes": base64.b64encode(value).decode()},
    torch.Size: lambda value: {"size": list(value)},
    torch.dtype: lambda value: {"dtype": str(value).removeprefix("torch.")},
    torch.device: lambda value: {"device": str(value)},
}

_CONTAINER_ENCODERS: dict[type, Callable[[_Encoder, Any, Path], Any]] = {
    list: _Encoder.items,
    tuple: _Encoder.pair,
    dict: _Encoder.mapping,
    OrderedDict: _Encoder.mapping,
    Counter: _Encoder.mapping,
    torch.Tensor: _Encoder.tensor,
    torch.nn.Parameter: _Encoder.tensor,
    np.ndarray: _Encoder.array,
}


class _Decoder:
    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._made: dict[tuple[Any, ...], torch.Tensor] = {}

    def decode(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return self._items(tree)
        if not isinstance(tree, dict):
            return tree
        tag = next(iter(tree), "nothing")
        if tag == "dict":
            return {key: self.decode(item) for key, item in tree["dict"].items()}
        if tag == "pairs":
            return _MAPPINGS[tree["kind"]](tuple(self._items(pair)) for pair in tree["pairs"])
        if tag == "tuple":
            return tuple(self._items(tree["tuple"]))
        if tag == "complex":
            return complex(*self._items(tree["complex"]))
        if tag == "tensor":
            return self._tensor(tree)
        if tag == "array":
            return self._array(tree)
        return _SCALAR_DECODERS[tag](tree)

    def _items(self, trees: Iterable[Any]) -> list[Any]:
        return [self.decode(item) for item in trees]

    def _array(self, tree: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[Any]]:
        raw = self._tensors[tree["array"]].numpy().tobytes()
        return np.frombuffer(raw, np.dtype(tree["dtype"])).reshape(tree["shape"]).copy()

    def _tensor(self, tree: Mapping[str, Any]) -> torch.Tensor:
        stride = tuple(tree.get("stride", ()))
        region = (tree["tensor"], stride, tree.get("complex", False))
        if region not in self._made:
            tensor = self._tensors[tree["tensor"]]
            if stride:
                tensor = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
            self._made[region] = torch.view_as_complex(tensor) if tree.get("complex") else tensor
        return self._made[region]


_SCALAR_DECODERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "int": lambda tree: int(tree["int"], 16),
    "float": lambda tree: struct.unpack(">d", bytes.fromhex(tree["float"]))[0],
    "text": lambda tree: bytes.fromhex(tree["text"]).decode("utf-8", "surrogatepass"),
    "bytes": lambda tree: base64.b64decode(tree["bytes"], validate=True),
    "size": lambda tree: torch.Size(tree["size"]),
    "scalar": lambda tree: np.frombuffer(bytes.fromhex(tree["scalar"]), np.dtype(tree["dtype"]))[0],
    "dtype": lambda tree: _dtype(tree["dtype"]),
    "device": lambda tree: torch.device(tree["device"]),
}


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"torch.{name} is no dtype")
    return found


def _is_plain(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _is_plain_key(key: object) -> bool:
    if type(key) is tuple:
        return all(_is_plain_key(item) for item in key)
    return key is None or type(key) in (bool, int, float, str, bytes)


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one block of memory in some order of the axes, each exactly once."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def _spell(path: Path) -> str:
    return "The value" if not path else f"`{'.'.join(path)}`"
