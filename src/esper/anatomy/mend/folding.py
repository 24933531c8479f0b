"""Units that are there twice: found by their weights, folded into their twin, so that nothing is lost.

Two units are one signal if everything that makes them is equal: weight rows, biases, norm weights and
running statistics. Whoever reads both can read one of them with the sum of both weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.cut import Cut, copy_in, cut
from esper.anatomy.graph import bare, is_parallel
from esper.anatomy.proof import FLOAT64_LIMIT, Probe, Undo, difference, live_tensors, outputs_with, tensors_in
from esper.anatomy.structure import Anatomy, Member
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray, IntArray
from esper.errors import NotEquivalentError, SurgeryError

ROUNDING_LIMIT = 1e-4
"""In float32 sums of weights are rounded; the equality itself is measured in float64."""


@dataclass(frozen=True, eq=False)
class Fold:
    """What a fold did.

    Attributes:
        twins: for every unit of the anatomy the one it was folded into, -1 for none: int [units].
        error: largest difference between the outputs before and after in float64, relative.
        cut: what was cut; None if nothing is there twice.
    """

    twins: IntArray
    error: float
    cut: Cut | None


def twins(model: nn.Module, anatomy: Anatomy) -> IntArray:
    """For every unit the first one of its group that is made of equal numbers, or -1: int [units].

    Whether it can be folded into that one depends on who reads them; `fold` finds out.

    Raises:
        SurgeryError: the anatomy is of another network.
    """
    tensors = live_tensors(bare(model), anatomy)
    found = np.full(anatomy.num_units, -1, np.int64)
    for number, group in enumerate(anatomy.groups):
        makers = [member for member in group.members if member.role != "consumer"]
        if all(member.role != "producer" for member in makers):
            continue
        made = torch.cat([_along(tensors[member.tensor], member) for member in makers], 1)
        _, same = torch.unique(made, dim=0, return_inverse=True)
        _, first, kind = np.unique(same.cpu().numpy(), return_index=True, return_inverse=True)
        leader = first[kind]
        own = np.arange(group.width)
        found[anatomy.unit_slice(number)] = np.where(leader == own, -1, leader + anatomy.offsets[number])
    return found


def _along(tensor: Tensor, member: Member) -> Tensor:
    """The numbers of every unit of a member: float64 [width, numbers of each]."""
    index = torch.from_numpy(member.index.ravel()).to(tensor.device)
    rows = tensor.detach().movedim(member.axis, 0)[index].reshape(member.index.shape[0], -1)
    return rows.to("cpu", torch.float64)


def fold(
    model: nn.Module,
    anatomy: Anatomy,
    probe: Probe,
    optimizers: tuple[Optimizer, ...] = (),
    companions: tuple[nn.Module, ...] = (),
    *,
    allowed: BoolArray | None = None,
) -> Fold:
    """Folds units into their twins and cuts them, in place, or leaves everything as it was.

    Outputs in eval mode stay what they were. Weights that read a unit are added to those that read its twin;
    the optimizer state of these stays, because both had the same gradient. Groups whose twins cannot be
    folded (coordinates of queries and keys, for example, which no weight reads) are left alone.

    Args:
        model: the live network the anatomy was made of.
        anatomy: its anatomy.
        probe: inputs to prove equality on.
        optimizers: optimizers that hold the network's parameters.
        companions: copies of the network (an EMA, a teacher) in which the same units are twins.
        allowed: groups that may be cut: bool [groups]; None for all.

    Raises:
        SurgeryError: the anatomy is of another network, or in a companion these units are no twins; nothing
            changed.
        NotEquivalentError: it would compute something else; nothing changed.
    """
    network, undo = bare(model), Undo()
    if is_parallel(model):
        raise SurgeryError(
            "Several processes train this network, and twins are folded in one. Nothing was changed. Fold "
            "them before the network is parallelized."
        )
    found = _foldable(network, anatomy, probe, allowed)
    if (found < 0).all():
        return Fold(found, 0.0, None)
    try:
        errors = [_fold_weights(network, anatomy, found, probe, undo)]
        for companion in companions:
            copied = copy_in(companion, network, anatomy)
            if not _are_twins(copied, anatomy, found):
                raise SurgeryError(
                    f"In the companion {type(companion).__name__} units are different that are twins in the "
                    "network, so it would lose something. Nothing was changed. Fold without it."
                )
            errors.append(_fold_weights(copied, anatomy, found, probe.beside(copied), undo))
        made = cut(model, anatomy, found < 0, probe, optimizers, companions)
    except BaseException:
        undo.run()
        raise
    return Fold(found, max(errors), made)


def _are_twins(model: nn.Module, anatomy: Anatomy, found: IntArray) -> bool:
    """Whether what is about to be folded is equal in this copy too."""
    own = twins(model, anatomy)
    gone = np.flatnonzero(found >= 0)
    return bool((own[gone] == found[gone]).all())


def _foldable(model: nn.Module, anatomy: Anatomy, probe: Probe, allowed: BoolArray | None) -> IntArray:
    """The twins of those groups that give the same outputs when they are folded, each by itself."""
    found = twins(model, anatomy)
    result = np.full_like(found, -1)
    state = tensors_in(model, torch.float64)
    double = probe.cast(torch.float64)
    expected: tuple[Tensor, ...] | None = None
    for number in range(len(anatomy.groups)):
        own = anatomy.unit_slice(number)
        if (found[own] < 0).all() or (allowed is not None and not allowed[number]):
            continue
        expected = expected or outputs_with(model, state, double)
        alone = np.full_like(found, -1)
        alone[own] = found[own]
        if _differ(outputs_with(model, _folded(state, anatomy, alone), double), expected) <= FLOAT64_LIMIT:
            result[own] = found[own]
    return result


def _fold_weights(model: nn.Module, anatomy: Anatomy, found: IntArray, probe: Probe, undo: Undo) -> float:
    """Adds weights in place, if that changes no output; returns the difference in float64.

    Raises:
        NotEquivalentError: it does.
    """
    errors = []
    for dtype, limit in ((torch.float64, FLOAT64_LIMIT), (torch.float32, ROUNDING_LIMIT)):
        state, inputs = tensors_in(model, dtype), probe.cast(dtype)
        expected = outputs_with(model, state, inputs)
        errors.append(_differ(outputs_with(model, _folded(state, anatomy, found), inputs), expected))
        if not errors[-1] <= limit:
            raise NotEquivalentError(
                f"Folding {int((found >= 0).sum())} unit(s) into their twins changes the outputs by "
                f"{errors[-1]:.2g} in {dtype} (limit {limit:.2g}). Nothing was changed."
            )
    tensors = live_tensors(model, anatomy)
    with torch.no_grad():
        for name, value in _sums(tensors, anatomy, found).items():
            undo.add(partial(_set, tensors[name], tensors[name].detach().clone()))
            _set(tensors[name], value)
    return errors[0]


def _set(tensor: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(value)


def _folded(state: Mapping[str, Tensor], anatomy: Anatomy, found: IntArray) -> dict[str, Tensor]:
    """The tensors with twins folded, and what was folded at zero."""
    folded = {**state, **_sums(state, anatomy, found)}
    axes = masked_axes(anatomy, found < 0)
    folded |= {name: folded[name].clone() for name, _ in axes if name in folded}
    zero_masked(folded, axes)
    return folded


def _sums(state: Mapping[str, Tensor], anatomy: Anatomy, found: IntArray) -> dict[str, Tensor]:
    """New values of the tensors that read a folded unit: what read it is added to what reads its twin."""
    changed: dict[str, Tensor] = {}
    for number, group in enumerate(anatomy.groups):
        own = found[anatomy.unit_slice(number)]
        gone = np.flatnonzero(own >= 0)
        into = own[gone] - anatomy.offsets[number]
        for member in group.members:
            if gone.size and member.role == "consumer" and member.tensor in state:
                new = changed.setdefault(member.tensor, state[member.tensor].detach().clone())
                source, target = (
                    torch.from_numpy(member.index[units].ravel()).to(new.device) for units in (gone, into)
                )
                view = new.movedim(member.axis, 0)
                view.index_add_(0, target, view[source])
    return changed


def _differ(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    return max((difference(a, b) for a, b in zip(ours, theirs, strict=True)), default=float("inf"))
