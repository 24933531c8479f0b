"""Units that are there twice: found by their weights, folded into their twin, so that nothing is lost.

Two units are one signal if everything that makes them is equal: weight rows, biases, norm weights and
running statistics. Whoever reads both can read one of them with the sum of both weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial, reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.cut import Cut, copy_in, cut
from esper.anatomy.graph import bare, is_parallel
from esper.anatomy.proof import (
    FLOAT64_LIMIT,
    Equivalence,
    Inputs,
    Live,
    Mode,
    Observation,
    Reference,
    Undo,
    live_tensors,
    outputs_differ,
    prove,
)
from esper.anatomy.structure import Anatomy, Member
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray, IntArray
from esper.errors import SurgeryError


def twins(model: nn.Module, anatomy: Anatomy) -> IntArray:
    """For every unit the first one of its group that is made of equal numbers, or -1: int [units].

    Whether it can be folded into that one depends on who reads them; `fold` finds out.

    Raises:
        SurgeryError: the anatomy is of another network.
    """
    tensors = live_tensors(bare(model), anatomy)
    pairs: IntArray = np.full(anatomy.num_units, -1, np.int64)
    for number, group in enumerate(anatomy.groups):
        makers = [member for member in group.members if member.role != "consumer"]
        if all(member.role != "producer" for member in makers):
            continue
        # [width, numbers that make a unit]: equal rows are one signal.
        rows = torch.cat([_along(tensors[member.tensor], member) for member in makers], 1)
        _, same = torch.unique(rows, dim=0, return_inverse=True)
        # `torch.unique` does not say where a row came first, so its numbers are asked again: the first unit
        # of every kind leads it.
        _, first, kind = np.unique(same.cpu().numpy(), return_index=True, return_inverse=True)
        leader = first[kind]
        own = np.arange(group.width)
        pairs[anatomy.unit_slice(number)] = np.where(leader == own, -1, leader + anatomy.offsets[number])
    return pairs


def _along(tensor: Tensor, member: Member) -> Tensor:
    """The numbers of every unit of a member: float64 [width, numbers of each]."""
    index = torch.from_numpy(member.index.ravel()).to(tensor.device)
    rows = tensor.detach().movedim(member.axis, 0)[index].reshape(member.index.shape[0], -1)
    return rows.to("cpu", torch.float64)


def fold(
    model: nn.Module,
    anatomy: Anatomy,
    inputs: Inputs,
    optimizers: tuple[Optimizer, ...] = (),
    companions: tuple[nn.Module, ...] = (),
    *,
    allowed: BoolArray | None = None,
) -> Cut:
    """Folds units into their twins and cuts them, in place, or leaves everything as it was.

    Outputs in eval mode stay what they were. Weights that read a unit are added to those that read its twin;
    the optimizer state of these stays, because both had the same gradient. Groups whose twins cannot be
    folded (coordinates of queries and keys, for example, which no weight reads) are left alone.

    Args:
        model: the live network the anatomy was made of.
        anatomy: its anatomy.
        inputs: inputs to prove equality on.
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
    pairs = _foldable(network, anatomy, inputs, allowed)
    try:
        proofs = [_fold_weights(network, anatomy, pairs, inputs, undo)]
        for companion in companions:
            copied = copy_in(companion, network, anatomy)
            if not _are_twins(copied, anatomy, pairs):
                raise SurgeryError(
                    f"In the companion {type(companion).__name__} units are different that are twins in the "
                    "network, so it would lose something. Nothing was changed. Fold without it."
                )
            proofs.append(_fold_weights(copied, anatomy, pairs, inputs.beside(copied), undo))
        result = cut(model, anatomy, pairs < 0, inputs, optimizers, companions)
    except BaseException:
        undo.run()
        raise
    return replace(result, equivalence=reduce(Equivalence.after, proofs, result.equivalence))


def _are_twins(model: nn.Module, anatomy: Anatomy, pairs: IntArray) -> bool:
    """Whether what is about to be folded is equal in this copy too."""
    own = twins(model, anatomy)
    gone = np.flatnonzero(pairs >= 0)
    return bool((own[gone] == pairs[gone]).all())


def _foldable(model: nn.Module, anatomy: Anatomy, inputs: Inputs, allowed: BoolArray | None) -> IntArray:
    """The twins of those groups that give the same outputs when they are folded, each by itself."""
    pairs = twins(model, anatomy)
    result = np.full_like(pairs, -1)
    expected: Observation | None = None
    mode = Mode(torch.float64, with_gradients=False)
    for number in range(len(anatomy.groups)):
        own = anatomy.unit_slice(number)
        if (pairs[own] < 0).all() or (allowed is not None and not allowed[number]):
            continue
        expected = expected or Live(model, inputs).see(mode)
        # Each group by itself: one that cannot be folded does not hold the others.
        alone = np.full_like(pairs, -1)
        alone[own] = pairs[own]
        folded = Live(model, inputs, partial(_folded, anatomy=anatomy, pairs=alone))
        if outputs_differ(folded.see(mode), expected) <= FLOAT64_LIMIT:
            result[own] = pairs[own]
    return result


def _fold_weights(
    model: nn.Module, anatomy: Anatomy, pairs: IntArray, inputs: Inputs, undo: Undo
) -> Equivalence:
    """Adds weights in place, if that changes no output.

    Raises:
        NotEquivalentError: it does.
    """
    before = Reference.of(Live(model, inputs), with_gradients=False)  # two makers share what one gets now
    proof = prove(Live(model, inputs, partial(_folded, anatomy=anatomy, pairs=pairs)), before)
    tensors = live_tensors(model, anatomy)
    with torch.no_grad():
        for name, value in _sums(tensors, anatomy, pairs).items():
            undo.add(partial(_set, tensors[name], tensors[name].detach().clone()))
            _set(tensors[name], value)
    return proof


def _set(tensor: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(value)


def _folded(state: Mapping[str, Tensor], anatomy: Anatomy, pairs: IntArray) -> dict[str, Tensor]:
    """What changes when units are folded: what reads their twins, and zeros in what was folded."""
    axes = masked_axes(anatomy, pairs < 0)
    # Sums before zeros: what is folded must still be there to be added.
    changed = {name: state[name].clone() for name, _ in axes if name in state} | _sums(state, anatomy, pairs)
    zero_masked(changed, axes)
    return changed


def _sums(state: Mapping[str, Tensor], anatomy: Anatomy, pairs: IntArray) -> dict[str, Tensor]:
    """New values of the tensors that read a folded unit: what read it is added to what reads its twin."""
    changed: dict[str, Tensor] = {}
    for number, group in enumerate(anatomy.groups):
        own = pairs[anatomy.unit_slice(number)]
        gone = np.flatnonzero(own >= 0)
        # Numbers within the group: who goes, and the twin that each goes into.
        into = own[gone] - anatomy.offsets[number]
        for member in group.members:
            if gone.size and member.role == "consumer" and member.tensor in state:
                new = changed.setdefault(member.tensor, state[member.tensor].detach().clone())
                source, target = (
                    torch.from_numpy(member.index[units].ravel()).to(new.device) for units in (gone, into)
                )
                view = new.movedim(member.axis, 0)
                # `view[source]` is a copy, and several units may share a twin.
                view.index_add_(0, target, view[source])
    return changed
