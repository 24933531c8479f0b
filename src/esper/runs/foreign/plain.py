"""What a file of `torch.load` holds, taken apart: tensors by dotted path, plain values, the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from esper.errors import CheckpointError

TENSOR = "$tensor"
"""The one key of what stands in the place of a tensor; its value is the tensor's name."""
ALONE = "value"
"""The name of a tensor that is all that a file holds."""
_MOST_DEPTH = 200
_MOST_VALUES = 5_000_000


@dataclass
class Parts:
    """What was found, filled while the file's content is walked.

    Args:
        tensors: dense tensors on the CPU, by dotted path; a further one of the same path has `~2` behind it.
        was: what a value was before JSON made something simpler of it, by dotted path.
        left_out: what is in no file that is written, and why, by dotted path.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    was: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    values: int = 0

    def taken_apart(self, value: Any, path: str = "", depth: int = 0) -> Any:
        """The value as JSON has it; tensors are put aside.

        Raises:
            CheckpointError: two keys are written alike, or it is nested without end.
        """
        self.values += 1
        if depth > _MOST_DEPTH or self.values > _MOST_VALUES:
            raise CheckpointError(
                f"it is nested over {_MOST_DEPTH} deep or has over {_MOST_VALUES} values at {path}"
            )
        if isinstance(value, Tensor):
            return self._put_aside(value, path or ALONE)
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, Mapping):
            return self._mapping(value, path, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return self._row(value, path, depth)
        return self._single(value, path)

    def _mapping(self, value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
        kinds = sorted({type(key).__name__ for key in value} - {"str"})
        if kinds:
            self._note(path, f"keys of type {', '.join(kinds)}")
        plain: dict[str, Any] = {}
        for key, one in value.items():
            if str(key) in plain:
                raise CheckpointError(f"two keys at {path or 'its top'} are both written {str(key)!r}")
            plain[str(key)] = self.taken_apart(one, f"{path}.{key}" if path else str(key), depth + 1)
        return plain

    def _row(self, value: Iterable[Any], path: str, depth: int) -> list[Any]:
        if not isinstance(value, list):
            self._note(path, type(value).__name__)
        return [
            self.taken_apart(one, f"{path}.{place}" if path else str(place), depth + 1)
            for place, one in enumerate(value)
        ]

    def _single(self, value: Any, path: str) -> Any:
        if type(value) is float:
            if math.isfinite(value):
                return value
            self._note(path, "float")
            return str(value)
        if isinstance(value, complex):
            self._note(path, "complex")
            return [str(value.real), str(value.imag)]
        if isinstance(value, torch.dtype | torch.device):
            self._note(path, f"torch.{type(value).__name__}")
            return str(value)
        self._leave_out(path, f"a value of type {type(value).__name__}, which JSON has no form for")
        return None

    def _put_aside(self, value: Tensor, path: str) -> dict[str, str] | None:
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            what = (
                "quantized" if value.is_quantized else "without data" if value.is_meta else str(value.layout)
            )
            self._leave_out(path, f"a tensor that is not dense ({what})")
            return None
        name = _free(path, self.tensors)
        dense = value.detach()
        if dense.is_complex():
            self._note(name, f"{dense.dtype}, now pairs of real and imaginary part along the last axis")
            dense = torch.view_as_real(dense.resolve_conj())
        self.tensors[name] = dense
        return {TENSOR: name}

    def _note(self, path: str, was: str) -> None:
        self.was[_free(path, self.was)] = was

    def _leave_out(self, path: str, why: str) -> None:
        self.left_out[_free(path, self.left_out)] = why

    def tied(self) -> list[list[str]]:
        """Names of tensors that were the same memory; each of them is written in full."""
        places: dict[tuple[Any, ...], list[str]] = {}
        for name, one in self.tensors.items():
            if one.numel():
                place = (one.untyped_storage().data_ptr(), one.storage_offset(), one.shape, one.stride())
                places.setdefault(place, []).append(name)
        return [names for names in places.values() if len(names) > 1]


def _free(path: str, taken: Mapping[str, Any]) -> str:
    """A name that nothing has yet: keys may hold dots, so that two places of a file can have one path."""
    name, number = path, 1
    while name in taken:
        number += 1
        name = f"{path}~{number}"
    return name
