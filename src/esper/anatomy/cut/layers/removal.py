"""Removing residual blocks from the live network: modules and all, and from its optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from esper.anatomy.cut.exported import state_of
from esper.anatomy.cut.layers.blocks import traced_for
from esper.anatomy.cut.layers.omission import Omission, Way
from esper.anatomy.cut.layers.removed import Answer, answers, become_removed
from esper.anatomy.proof import Equivalence, Graph, Inputs, Live, Reference, Undo, prove
from esper.anatomy.twin import deployed
from esper.errors import SurgeryError, UntraceableError


@dataclass(frozen=True)
class Removed:
    """What a removal did: names of the blocks, how equal the network is to itself with them at zero.

    `leftover` are parameters that had a part in the blocks only and stay, because they lie in modules that do
    something else too; nothing reads what they make.
    """

    blocks: tuple[str, ...]
    equivalence: Equivalence
    leftover: tuple[str, ...]


def remove(network: nn.Module, names: Sequence[str], inputs: Inputs, undo: Undo) -> Removed:
    """Removes residual blocks in place.

    Modules that only these blocks need lose their tensors and do nothing any more; they stay the objects that
    they are, as `RemovedModule`.

    Args:
        network: as its user wrote it, in no wrapper.
        names: names of blocks, as `residual_blocks` says them, of modules that hold some (`layers.3`), or of
            a weight in one (`layers.3.mlp.down_proj`).
        inputs: inputs to prove equality on.
        undo: learns how to take it back, and must when anything fails.

    Raises:
        UnknownPathError: there is no block of that name.
        SurgeryError: the code around a block needs what would go. The program can be cut.
        NotEquivalentError: what was left would compute something else.
    """
    plan = Omission.of(traced_for(network, inputs.args, inputs.kwargs), names)
    expected = Reference.of(Graph(plan.masked(state_of(plan.program)), inputs, is_network=True))
    equivalence = _in_some_way(Live(network, inputs), plan.ways(), expected, undo)
    held = dict(network.named_parameters())
    return Removed(plan.names, equivalence, tuple(name for name in plan.tensors if name in held))


def _in_some_way(ours: Live, ways: Sequence[Way], expected: Reference, undo: Undo) -> Equivalence:
    """Replaces modules in the first way that is proven; the last one says why none is."""
    *others, last = ways
    for way in others:
        with suppress(SurgeryError):  # nothing was changed
            return _replace(ours, way, expected, undo)
    return _replace(ours, last, expected, undo)


def _replace(ours: Live, way: Way, expected: Reference, undo: Undo) -> Equivalence:
    """Replaces modules in one way, or leaves everything as it was.

    Zeros that spread over the width of their stream follow it when units of it go later, so they come first.
    """
    how = answers(ours.model, way.modules, way.zeros, ours.inputs)
    if any(answer.is_fixed for answer in how.values()):
        with suppress(SurgeryError):  # nothing was changed
            spread = {path: answer.spread() for path, answer in how.items()}
            return _become(ours, way, spread, expected, undo)
    return _become(ours, way, how, expected, undo)


def _become(ours: Live, way: Way, how: Mapping[str, Answer], expected: Reference, undo: Undo) -> Equivalence:
    attempt = Undo()
    try:
        for path, answer in how.items():
            become_removed(ours.model.get_submodule(path), answer, attempt)
        equivalence = _proof(ours, expected)
    except UntraceableError as error:
        attempt.run()
        raise SurgeryError(
            f"{', '.join(way.modules)} cannot be removed from {type(ours.model).__name__}, whose code needs "
            f"what would go: {str(error).splitlines()[0]} Nothing was changed. Remove the block from the "
            "program."
        ) from error
    except BaseException:
        attempt.run()
        raise
    undo.add(attempt.run)
    return equivalence


def _proof(ours: Live, expected: Reference) -> Equivalence:
    if expected.is_quick:
        return prove(ours, expected)
    module = deployed(ours.model, ours.inputs.args, ours.inputs.kwargs).module()
    known = {} if expected.double is None else expected.double.gradients or {}
    tied = {name.removeprefix("model.") for name, _ in module.named_parameters()} - known.keys()
    if known and tied:
        raise SurgeryError(
            f"{min(tied)} is tied to a weight of a block that would go, so its gradient cannot be compared. "
            "Nothing was changed. Remove both blocks, or neither."
        )
    return prove(Graph(module, ours.inputs, is_network=True), expected)


def forget(optimizer: Optimizer, gone: set[nn.Parameter], undo: Undo) -> None:
    """Takes parameters that are gone out of an optimizer.

    Raises:
        SurgeryError: it treats all parameters as one.
    """
    for name, value in vars(optimizer).items():
        leaves = () if name in ("param_groups", "state") else pytree.tree_leaves(value)
        if any(isinstance(leaf, nn.Parameter) and leaf in gone for leaf in leaves):
            raise SurgeryError(
                f"{type(optimizer).__name__} keeps parameters in {name!r} and treats all of them as one, so "
                "it cannot forget some. Nothing was changed. Remove blocks without this optimizer and start "
                "a new one."
            )
    groups = [group["params"] for group in optimizer.param_groups]
    state: dict[Tensor, Any] = {
        parameter: optimizer.state.pop(parameter) for parameter in gone & optimizer.state.keys()
    }
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in gone]

    def remember() -> None:  # loading a state gives an optimizer new groups and a new state
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = parameters
        optimizer.state.update(state)

    undo.add(remember)
