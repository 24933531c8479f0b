"""Removing residual blocks for real: from the live network, modules and all, or from its program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from esper.anatomy.cut.companions import whole_copy_in
from esper.anatomy.cut.omission import Omission, Way
from esper.anatomy.cut.program import CutProgram, compared, in_double, outputs_of, traced_again
from esper.anatomy.cut.removed import Answer, answers, become_removed
from esper.anatomy.graph import bare, check_renewable, check_tensors, check_values, is_parallel, renew
from esper.anatomy.proof import GRADIENT_LIMIT, Equivalence, Probe, Undo, difference
from esper.anatomy.twin import deployed
from esper.errors import NotEquivalentError, SurgeryError, UntraceableError


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
    probe: Probe,
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
        probe: inputs to prove equality on.
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
        made = _remove_from(network, names, probe, undo)
        for copied in copies:
            _remove_from(copied, names, probe.beside(copied), undo)
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


def _remove_from(network: nn.Module, names: Sequence[str], probe: Probe, undo: Undo) -> Removal:
    check_tensors(network)
    check_values(network)
    plan = Omission.of(network, names, probe)
    old, masked = _count(network), plan.masked()
    equivalence, removed = _in_some_way(network, plan.ways(), masked, probe, undo)
    held = dict(network.named_parameters())
    left = tuple(name for name in plan.tensors if name in held)
    return Removal(plan.names, equivalence, removed, left, old, _count(network), undo)


def _in_some_way(
    network: nn.Module, ways: Sequence[Way], masked: nn.Module, probe: Probe, undo: Undo
) -> tuple[Equivalence, tuple[str, ...]]:
    """Replaces modules in the first way that is proven; the last one says why none is."""
    *others, last = ways
    for way in others:
        try:
            return _replace(network, way, masked, probe, undo)
        except SurgeryError:
            continue  # nothing was changed
    return _replace(network, last, masked, probe, undo)


def _replace(
    network: nn.Module, way: Way, masked: nn.Module, probe: Probe, undo: Undo
) -> tuple[Equivalence, tuple[str, ...]]:
    """Replaces modules in one way, or leaves everything as it was.

    Zeros that spread over the width of their stream follow it when units of it go later, so they come first.
    """
    how = answers(network, way.modules, way.zeros, probe)
    if any(answer.is_fixed for answer in how.values()):
        with suppress(SurgeryError):  # nothing was changed
            spread = {path: answer.spread() for path, answer in how.items()}
            return _become(network, way, spread, masked, probe, undo)
    return _become(network, way, how, masked, probe, undo)


def _become(
    network: nn.Module,
    way: Way,
    how: Mapping[str, Answer],
    masked: nn.Module,
    probe: Probe,
    undo: Undo,
) -> tuple[Equivalence, tuple[str, ...]]:
    attempt = Undo()
    try:
        for path, answer in how.items():
            become_removed(network.get_submodule(path), answer, attempt)
        equivalence = _proof(network, masked, probe)
    except UntraceableError as error:
        attempt.run()
        raise SurgeryError(
            f"{', '.join(way.modules)} cannot be removed from {type(network).__name__}, whose code needs "
            f"what would go: {str(error).splitlines()[0]} Nothing was changed. Remove the block from the "
            "program."
        ) from error
    except BaseException:
        attempt.run()
        raise
    undo.add(attempt.run)
    return equivalence, tuple(how)


def program_without(model: nn.Module, names: Sequence[str], probe: Probe) -> CutProgram:
    """The network without these residual blocks, as a program; the network is left untouched.

    Args:
        model: the network.
        names: names of blocks, as `residual_blocks` says them.
        probe: one batch of inputs, to trace with and to prove equality on.

    Raises:
        UnknownPathError: there is no block of that name.
        UntraceableError: the network cannot be exported.
        NotEquivalentError: the program that came out computes something else.
    """
    plan = Omission.of(bare(model), names, probe)
    masked = plan.masked()
    smaller = traced_again(plan.without(), probe)
    return CutProgram(smaller, compared(smaller.module(), masked, probe), plan.names)


def _proof(network: nn.Module, masked: nn.Module, probe: Probe) -> Equivalence:
    ours = deployed(network, probe.args, probe.kwargs).module()
    equal = compared(ours, masked, probe)
    error = _gradients_differ(ours, masked, probe)
    if not error <= GRADIENT_LIMIT:
        raise NotEquivalentError(
            f"Without these blocks, gradients differ by {error:.2g} in float64 (limit {GRADIENT_LIMIT:.2g}). "
            "Nothing was changed."
        )
    return Equivalence(equal.float32_error, equal.float64_error, error, equal.samples)


def _gradients_differ(ours: nn.Module, masked: nn.Module, probe: Probe) -> float:
    """Largest difference between gradients of the parameters that stay, in float64."""
    double = probe.cast(torch.float64)
    found, expected = (_gradients(in_double(module), double) for module in (ours, masked))
    tied = sorted(found.keys() - expected.keys())
    if tied:
        raise SurgeryError(
            f"{tied[0]} is tied to a weight of a block that would go, so its gradient cannot be compared. "
            "Nothing was changed. Remove both blocks, or neither."
        )
    return max((difference(found[name], expected[name]) for name in found), default=0.0)


@torch.enable_grad()  # also where somebody removes blocks without
def _gradients(module: nn.Module, probe: Probe) -> dict[str, Tensor]:
    wanted = {n: p.requires_grad_() for n, p in module.named_parameters() if p.is_floating_point()}
    outputs = outputs_of(module, probe, with_gradients=True)
    total = torch.zeros((), dtype=torch.float64, device=outputs[0].device)
    for output in outputs:
        total = total + (output * torch.linspace(-1.0, 1.7, output.numel()).to(output).view_as(output)).sum()
    given: tuple[Tensor | None, ...] = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    return {
        name: torch.zeros_like(wanted[name]) if gradient is None else gradient
        for name, gradient in zip(wanted, given, strict=True)
    }


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
