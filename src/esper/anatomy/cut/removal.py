"""Removing residual blocks for real: from the live network, modules and all, or from its program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from esper.anatomy.cut.companions import whole_copy_in
from esper.anatomy.cut.omission import Omission, Way
from esper.anatomy.cut.program import CutProgram, traced_again
from esper.anatomy.cut.removed import Answer, answers, become_removed
from esper.anatomy.graph import (
    bare,
    check_renewable,
    check_tensors,
    check_values,
    is_parallel,
    renew,
)
from esper.anatomy.proof import Equivalence, Graph, Inputs, Live, Reference, Undo, prove
from esper.anatomy.twin import deployed
from esper.errors import SurgeryError, UntraceableError


@dataclass(frozen=True)
class Removal:
    """What a removal did.

    Attributes:
        blocks: names of the blocks.
        equivalence: how equal the network is to itself with the blocks at zero.
        removed: modules that are gone.
        left: parameters that had a part in the blocks only and stay, because they lie in modules that do
            something else too; nothing reads what they make.
        parameters_before: of the network.
        parameters_after: of the network.
        undo: gives modules their tensors and optimizers their parameters back, as they were.
    """

    blocks: tuple[str, ...]
    equivalence: Equivalence
    removed: tuple[str, ...]
    left: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    undo: Undo


def remove_blocks(
    model: nn.Module,
    names: Sequence[str],
    inputs: Inputs,
    optimizers: tuple[Optimizer, ...] = (),
    companions: tuple[nn.Module, ...] = (),
    *,
    then: Callable[[Removal], None] = lambda _: None,
) -> Removal:
    """Removes residual blocks in place, or leaves everything as it was.

    Modules that only these blocks need lose their tensors and do nothing any more; they stay the objects that
    they are, as `RemovedModule`. Optimizers forget their parameters.

    Args:
        model: the network, as it is or in `torch.compile`.
        names: names of blocks, as `residual_blocks` says them, of modules that hold some (`layers.3`), or of
            a weight in one (`layers.3.mlp.down_proj`).
        inputs: inputs to prove equality on.
        optimizers: optimizers that hold the network's parameters.
        companions: modules that hold a copy of the network (an EMA, a teacher); they lose the same blocks,
            each with a proof of its own.
        then: hears what was done when all is removed and proven; if it raises, the removal is undone.

    Raises:
        UnknownPathError: there is no block of that name.
        SurgeryError: the code around a block needs what would go; nothing changed. The program can be cut.
        NotEquivalentError: what was left would compute something else; nothing changed.
    """
    if is_parallel(model):
        raise SurgeryError(
            "Several processes train this network, and blocks are removed in one. Nothing was changed. "
            "Remove them before the network is parallelized."
        )
    check_renewable(model)
    network, undo = bare(model), Undo()
    try:
        copies = [whole_copy_in(companion, network) for companion in companions]
        before = dict(network.named_parameters())
        made = _remove_from(network, names, inputs, undo)
        for copied in copies:
            _remove_from(copied, names, inputs.beside(copied), undo)
        after = set(network.parameters())
        for optimizer in optimizers:
            _forget(optimizer, {p for p in before.values() if p not in after}, undo)
        then(made)
    except BaseException:
        undo.run()
        raise
    finally:
        for changed in (model, *companions):
            renew(changed)
    return made


def _remove_from(network: nn.Module, names: Sequence[str], inputs: Inputs, undo: Undo) -> Removal:
    check_tensors(network)
    check_values(network)
    plan = Omission.of(network, names, inputs)
    old = _count(network)
    expected = Reference.of(Graph(plan.masked(), inputs, is_network=True))
    ours = Live(network, inputs)
    equivalence, removed = _in_some_way(ours, plan.ways(), expected, undo)
    held = dict(network.named_parameters())
    left = tuple(name for name in plan.tensors if name in held)
    return Removal(plan.names, equivalence, removed, left, old, _count(network), undo)


def _in_some_way(
    ours: Live, ways: Sequence[Way], expected: Reference, undo: Undo
) -> tuple[Equivalence, tuple[str, ...]]:
    """Replaces modules in the first way that is proven; the last one says why none is."""
    *others, last = ways
    for way in others:
        with suppress(SurgeryError):  # nothing was changed
            return _replace(ours, way, expected, undo)
    return _replace(ours, last, expected, undo)


def _replace(ours: Live, way: Way, expected: Reference, undo: Undo) -> tuple[Equivalence, tuple[str, ...]]:
    """Replaces modules in one way, or leaves everything as it was.

    Zeros that spread over the width of their stream follow it when units of it go later, so they come first.
    """
    how = answers(ours.model, way.modules, way.zeros, ours.inputs)
    if any(answer.is_fixed for answer in how.values()):
        with suppress(SurgeryError):  # nothing was changed
            spread = {path: answer.spread() for path, answer in how.items()}
            return _become(ours, way, spread, expected, undo)
    return _become(ours, way, how, expected, undo)


def _become(
    ours: Live, way: Way, how: Mapping[str, Answer], expected: Reference, undo: Undo
) -> tuple[Equivalence, tuple[str, ...]]:
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
    return equivalence, tuple(how)


def _proof(ours: Live, expected: Reference) -> Equivalence:
    module = deployed(ours.model, ours.inputs.args, ours.inputs.kwargs).module()
    known = {} if expected.double is None else expected.double.gradients or {}
    tied = {name.removeprefix("model.") for name, _ in module.named_parameters()} - known.keys()
    if known and tied:
        raise SurgeryError(
            f"{min(tied)} is tied to a weight of a block that would go, so its gradient cannot be compared. "
            "Nothing was changed. Remove both blocks, or neither."
        )
    return prove(Graph(module, ours.inputs, is_network=True), expected)


def program_without(model: nn.Module, names: Sequence[str], inputs: Inputs) -> CutProgram:
    """The network without these residual blocks, as a program; the network is left untouched.

    Args:
        model: the network.
        names: names of blocks, as `residual_blocks` says them.
        inputs: one batch of inputs, to trace with and to prove equality on.

    Raises:
        UnknownPathError: there is no block of that name.
        UntraceableError: the network cannot be exported.
        NotEquivalentError: the program that came out computes something else.
    """
    plan = Omission.of(bare(model), names, inputs)
    masked = plan.masked()
    smaller = traced_again(plan.without(), inputs)
    proof = prove(Graph(smaller.module(), inputs), Reference.of(Graph(masked, inputs)))
    return CutProgram(smaller, proof, plan.names)


def _forget(optimizer: Optimizer, gone: set[nn.Parameter], undo: Undo) -> None:
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


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
