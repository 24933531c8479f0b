"""Removing residual blocks for real: from the live network, modules and all, or from its program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.optim import Optimizer

from esper.anatomy.admission import check_tensors, check_values
from esper.anatomy.blocks import Sum, named, own_modules, sums, unread, writes_elsewhere
from esper.anatomy.deployed import deployed
from esper.anatomy.equivalence import GRADIENT_LIMIT, Equivalence, Probe, difference
from esper.anatomy.program import (
    CutProgram,
    compared,
    in_double,
    module_of,
    outputs_of,
    state_of,
    traced_again,
)
from esper.anatomy.ranks import is_parallel
from esper.anatomy.removed import answers, become_removed
from esper.anatomy.tensors import Undo
from esper.anatomy.trace import traced_as
from esper.anatomy.wrappers import bare, check_renewable, renew
from esper.errors import NotEquivalentError, SurgeryError, UntraceableError


@dataclass(frozen=True)
class Removal:
    """What a removal did.

    Attributes:
        equivalence: how equal the network is to itself with the blocks at zero.
        removed: modules that are gone.
        left: parameters that had a part in the blocks only and stay, because they lie in modules that do
            something else too; nothing reads what they make.
        parameters_before: of the network.
        parameters_after: of the network.
    """

    equivalence: Equivalence
    removed: tuple[str, ...]
    left: tuple[str, ...]
    parameters_before: int
    parameters_after: int


def remove_blocks(
    model: nn.Module, names: Sequence[str], probe: Probe, optimizers: tuple[Optimizer, ...] = ()
) -> Removal:
    """Removes residual blocks in place, or leaves everything as it was.

    Modules that only these blocks need lose their tensors and do nothing any more; they stay the objects that
    they are, as `RemovedModule`. Optimizers forget their parameters.

    Args:
        model: the network, as it is or in `torch.compile`.
        names: names of blocks, as `residual_blocks` says them.
        probe: inputs to prove equality on.
        optimizers: optimizers that hold the network's parameters.

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
    network = bare(model)
    check_tensors(network)
    check_values(network)
    plan = _Plan.of(network, names, probe)
    masked = plan.masked()
    before, old = dict(network.named_parameters()), _count(network)
    undo = Undo()
    try:
        how = answers(network, plan.modules, plan.last_modules(), probe)
        for path, answer in how.items():
            become_removed(network.get_submodule(path), answer, undo)
        equivalence = _proof(network, masked, probe)
    except UntraceableError as error:
        undo.run()
        raise SurgeryError(
            f"{', '.join(names)} cannot be removed from {type(network).__name__}, whose code needs what "
            f"would go: {str(error).splitlines()[0]} Nothing was changed. Remove it from the program."
        ) from error
    except BaseException:
        undo.run()
        raise
    finally:
        renew(model)
    after = dict(network.named_parameters())
    for optimizer in optimizers:
        _forget(optimizer, {p for name, p in before.items() if name not in after} - set(after.values()))
    left = tuple(name for name in plan.tensors if name in after)
    return Removal(equivalence, tuple(how), left, old, _count(network))


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
    plan = _Plan.of(bare(model), names, probe)
    masked = plan.masked()
    smaller = traced_again(plan.without(), probe)
    return CutProgram(smaller, compared(smaller.module(), masked, probe), tuple(names))


@dataclass(frozen=True, eq=False)
class _Plan:
    """The program of a network, and the sums in it that will give their stream alone."""

    program: ExportedProgram
    chosen: tuple[Sum, ...]

    @classmethod
    def of(cls, network: nn.Module, names: Sequence[str], probe: Probe) -> _Plan:
        program = deployed(network, probe.args, probe.kwargs)
        found = sums(program, traced_as(program, network).names, network)
        plan = cls(program, tuple(named(found, names)))
        if writes_elsewhere(plan.dead):
            raise SurgeryError(
                f"{', '.join(names)} write(s) into memory that other layers read. Nothing was changed. Leave "
                "one of them, or write the code without in-place operators."
            )
        return plan

    @cached_property
    def dead(self) -> list[fx.Node]:
        return unread(self.program.graph, self.chosen)

    @cached_property
    def modules(self) -> tuple[str, ...]:
        return own_modules(self.program.graph, self.dead)

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for one in self.chosen for name in one.block.tensors))

    def last_modules(self) -> frozenset[str]:
        """For every block the module that ends it, which must give zeros.

        Raises:
            SurgeryError: a block has no module of its own.
        """
        last = set()
        for one in self.chosen:
            end = next(iter(one.block.modules[-1:]), None)
            ends = [module for module in self.modules if f"{end}.".startswith(f"{module}.")]
            if not ends:
                raise SurgeryError(
                    f"Block {one.block.name} is computed by code between modules, and none of them is its "
                    "own. Nothing was changed. Remove it from the program."
                )
            last.add(ends[0])
        return frozenset(last)

    def masked(self) -> nn.Module:
        """The network with the blocks at zero."""
        zeros = []
        for one in self.chosen:
            with self.program.graph.inserting_before(one.node):
                zero = self.program.graph.call_function(torch.ops.aten.zeros_like.default, (one.added,))
            zero.meta = dict(one.added.meta)
            one.node.replace_input_with(one.added, zero)
            zeros.append(zero)
        module = module_of(self.program, state_of(self.program))
        for one, zero in zip(self.chosen, zeros, strict=True):
            one.node.replace_input_with(zero, one.added)
            self.program.graph.erase_node(zero)
        return module

    def without(self) -> nn.Module:
        """The network without the blocks and what only they need; the program is used up."""
        graph, dead = self.program.graph, self.dead
        for one in self.chosen:  # a view of the stream, which keeps the name that the graph's outputs know
            one.node.target, one.node.args, one.node.kwargs = torch.ops.aten.alias.default, (one.stream,), {}
        for node in reversed(dead):
            for assertion in list(node.users):
                graph.erase_node(assertion)
            if node.op != "placeholder":
                graph.erase_node(node)
        module = module_of(self.program, state_of(self.program))
        for target in _unused(module):
            owner, _, name = target.rpartition(".")
            delattr(module.get_submodule(owner), name)
        return module


def _unused(module: fx.GraphModule) -> list[str]:
    for node in module.graph.nodes:
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    module.recompile()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    held = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return [name for name, _ in held if name not in used]


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
    return max((difference(found[name], expected[name]) for name in found), default=0.0)


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


def _forget(optimizer: Optimizer, gone: set[nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in gone]
    for parameter in gone:
        optimizer.state.pop(parameter, None)


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
