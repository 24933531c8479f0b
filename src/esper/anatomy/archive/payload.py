"""The tensors of a stored program: bytes with a shape beside them, which never reaches beyond the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._export.serde import schema
from torch._export.serde.serialize import deserialize_device, deserialize_scalar_type

from esper.anatomy.archive.names import NotAdmitted, shown


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies: in which member, as what, and how its elements follow each other."""

    member: str
    dtype: torch.dtype
    device: torch.device
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    is_parameter: bool
    requires_grad: bool


def slots(config: schema.PayloadConfig, content: Mapping[str, memoryview], folder: str) -> dict[str, Slot]:
    """Where every tensor of a list lies, by its name.

    Args:
        config: the list.
        content: the members of the archive.
        folder: what the list's members begin with, such as `data/weights/weight_`.

    Raises:
        NotAdmitted: a tensor is pickled, or does not lie within its member.
    """
    return {name: _slot(name, payload, content, folder) for name, payload in config.config.items()}


def _slot(name: str, payload: schema.PayloadMeta, content: Mapping[str, memoryview], folder: str) -> Slot:
    meta = payload.tensor_meta
    if payload.use_pickle or meta is None:
        raise NotAdmitted(f"pickled tensors ({name})")
    if meta.layout is not schema.Layout.Strided or meta.device.type == "meta":
        raise NotAdmitted(f"the tensor {name}, which is not dense, or nowhere in memory")
    member = f"{folder.rpartition('/')[0]}/{payload.path_name}"
    if not member.startswith(folder) or member not in content:
        raise NotAdmitted(f"the tensor {name} without its member {shown(member)}")
    sizes, strides = _numbers(name, meta.sizes), _numbers(name, meta.strides)
    (offset,) = _numbers(name, [meta.storage_offset])
    dtype = deserialize_scalar_type(meta.dtype)
    count, rest = divmod(len(content[member]), dtype.itemsize)
    if rest or len(sizes) != len(strides) or offset + _extent(sizes, strides) > count:
        raise NotAdmitted(
            f"the tensor {name}, which does not fit into the {len(content[member])} bytes of {member}"
        )
    device = deserialize_device(meta.device)
    return Slot(member, dtype, device, sizes, strides, offset, payload.is_param, meta.requires_grad)


def _numbers(name: str, sizes: list[schema.SymInt]) -> tuple[int, ...]:
    """Sizes, strides or an offset as numbers that are not negative."""
    if not all(size.type == "as_int" and size.as_int >= 0 for size in sizes):
        raise NotAdmitted(f"the tensor {name} with sizes that are no numbers")
    return tuple(size.as_int for size in sizes)


def _extent(sizes: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements lie between the first and the last, both counted."""
    if 0 in sizes:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


def tensors(places: Mapping[str, Slot], content: Mapping[str, memoryview]) -> dict[str, Tensor]:
    """The tensors themselves; those that shared memory when they were stored share it again."""
    flat: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
    made = {}
    for name, slot in places.items():
        key = (slot.member, slot.dtype, slot.device)
        if key not in flat:
            flat[key] = _elements(content[slot.member], slot.dtype).to(slot.device)
        view = torch.as_strided(flat[key], slot.sizes, slot.strides, slot.offset)
        made[name] = nn.Parameter(view, requires_grad=slot.requires_grad) if slot.is_parameter else view
    return made


def _elements(data: memoryview, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
