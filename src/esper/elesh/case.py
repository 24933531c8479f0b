"""What a worker gets about one checkpoint: references to verified files, never tensors or code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from esper.anatomy import Anatomy
from esper.anatomy.twin import Twin, left_as_tensors
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.batches import HeldOut
from esper.checkpoint import (
    FileRef,
    MappedTensors,
    decode,
    encode,
    from_json,
    load_tensors,
    open_tensors,
    to_json,
)
from esper.leyline import decode as decode_value


@dataclass(frozen=True)
class DataRef:
    """Batches on disk: their structure and their tensors."""

    tree: FileRef
    tensors: FileRef


@dataclass(frozen=True)
class Case:
    """One checkpoint to analyze.

    `optimizer` is the optimizer's state by parameter name, `tracked` what the importance tracker measured
    (unit scores); both may be missing. `masked` are the units that are masked already. `history` are the
    ranks that earlier epochs let expect; `twin_samples` and `twin_flops` limit what is measured on the twin
    before finalists are chosen. `criterion` holds the tensors of a loss that has any. `still` names
    running statistics that training does not move.
    """

    twin: FileRef
    anatomy: FileRef
    model: FileRef
    optimizer: DataRef | None
    tracked: tuple[float, ...] | None
    data: DataRef
    masked: tuple[int, ...]
    history: tuple[float, ...] | None = None
    twin_samples: int = 0
    twin_flops: float = 0.0
    criterion: FileRef | None = None
    still: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenCase:
    """A case with its files verified and mapped."""

    twin: Twin
    anatomy: Anatomy
    state: dict[str, Tensor]
    keep: BoolArray

    def masked_state(self, keep: BoolArray) -> dict[str, Tensor]:
        """The checkpoint's tensors with exactly the units of `keep` left; untouched tensors stay mapped."""
        axes = masked_axes(self.anatomy, keep)
        state = dict(self.state)
        for name in {name for name, _ in axes}:
            state[name] = state[name].clone()
        zero_masked(state, axes)
        return {**_with_aliases(state, self.anatomy), **left_as_tensors(self.anatomy, keep)}


def open_case(case: Case) -> OpenCase:
    """Verifies and maps the files of a case; graph and anatomy are kept from task to task.

    Raises:
        CheckpointCorrupt: a file is not what the training process saved.
    """
    anatomy = read_anatomy(case.anatomy)
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    keep[list(case.masked)] = False
    stored = load_tensors(case.model)
    stored |= {name: torch.view_as_complex(stored[name]) for name in _in_pairs(stored, anatomy)}
    state = _with_aliases(stored, anatomy)
    if case.criterion is not None:
        state.update(load_tensors(case.criterion))
    return OpenCase(_twin(case.twin), anatomy, state, keep)


def open_parameters(case: Case, anatomy: Anatomy) -> MappedTensors:
    """The network's tensors as the anatomy knows them, to be read one after the other and let go of.

    Raises:
        CheckpointCorrupt: the file is not what the training process saved.
    """
    tensors = open_tensors(case.model)
    for name in _in_pairs(tensors, anatomy):
        tensors.read_as_complex(name)
    return tensors


def _in_pairs(stored: Mapping[str, Tensor], anatomy: Anatomy) -> list[str]:
    """Names of complex tensors: a checkpoint holds them as pairs of numbers along an axis of their own."""
    names = ((name, info.shape) for info in anatomy.tensors for name in (info.name, *info.aliases))
    return [name for name, shape in names if name in stored and stored[name].shape == (*shape, 2)]


def _with_aliases(state: dict[str, Tensor], anatomy: Anatomy) -> dict[str, Tensor]:
    for info in anatomy.tensors:
        names = (info.name, *info.aliases)
        # A tied tensor is stored under one of its names and needed under all.
        present = next((state[name] for name in names if name in state), None)
        if present is not None:
            state.update(dict.fromkeys(names, present))
    return state


@lru_cache(maxsize=2)
def _twin(file: FileRef) -> Twin:
    return Twin.from_bytes(file.read_bytes())


@lru_cache(maxsize=2)
def read_anatomy(file: FileRef) -> Anatomy:
    """The anatomy of a case, verified."""
    return decode_value(Anatomy, json.loads(file.read_bytes()))


def encode_data(sample: Any, held_out: HeldOut) -> tuple[bytes, dict[str, Tensor]]:
    """The data of a run as the two files of a `DataRef`: JSON tree, tensors."""
    value = {"sample": sample, "calibration": held_out.calibration, "validation": held_out.validation}
    tree, tensors = encode(pytree.tree_map(_to_cpu, value))
    return to_json(tree), tensors


def read_data(data: DataRef) -> tuple[Any, HeldOut]:
    """The sample and the held-out batches of a `DataRef`, verified."""
    value = decode(from_json(data.tree.read_bytes()), load_tensors(data.tensors))
    return value["sample"], HeldOut(value["calibration"], value["validation"])


def read_optimizer(
    data: DataRef, tensors: Mapping[str, Tensor]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Optimizer state and group settings by parameter name, from the trainer's state of a checkpoint.

    Args:
        data: its files.
        tensors: those of `data.tensors`, verified.
    """
    rest = from_json(data.tree.read_bytes())["rest"]["dict"]  # its other parts have their tensors elsewhere
    # An optimizer numbers its parameters; the names are listed in that order.
    names: list[str] = decode(rest["extra"]["dict"]["parameter_names"], tensors)
    optimizer = decode(rest["optimizer"], tensors)
    groups = {names[n]: group for group in optimizer["param_groups"] for n in group["params"]}
    return {names[n]: state for n, state in optimizer["state"].items()}, groups


def _to_cpu(leaf: Any) -> Any:
    return leaf.detach().to("cpu", copy=True) if isinstance(leaf, torch.Tensor) else leaf
