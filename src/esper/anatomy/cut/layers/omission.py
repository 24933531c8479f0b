"""A network's program without some of its residual blocks, and which modules of the network that concerns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx
from torch.export import ExportedProgram

from esper.anatomy.cut.exported import State, module_of
from esper.anatomy.cut.layers.blocks import Sum, named, own_modules, paths_of, sums, unread
from esper.anatomy.graph import Traced
from esper.errors import SurgeryError


@dataclass(frozen=True)
class Way:
    """Modules to replace in the live network; those in `zeros` end a block and must give zeros."""

    modules: tuple[str, ...]
    zeros: frozenset[str]


@dataclass(frozen=True, eq=False)
class Omission:
    """The program of a network, and the sums in it that will give their stream alone."""

    program: ExportedProgram
    chosen: tuple[Sum, ...]

    @classmethod
    def of(cls, traced: Traced, names: Sequence[str]) -> Omission:
        """Finds the blocks of these names in a graph where nothing is written in place.

        Raises:
            UnknownPathError: there is no block of that name.
        """
        return cls(traced.program, tuple(named(sums(traced), names)))

    @cached_property
    def dead(self) -> list[fx.Node]:
        """What nothing reads any more."""
        return unread(self.program.graph, self.chosen)

    @property
    def names(self) -> tuple[str, ...]:
        """The blocks, in the order of the graph."""
        return tuple(one.block.name for one in self.chosen)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Parameters and buffers that only the blocks read."""
        return tuple(dict.fromkeys(name for one in self.chosen for name in one.block.tensors))

    def ways(self) -> tuple[Way, ...]:
        """What to replace in the live network: modules that hold a sum and all in it, or those inside of it.

        Raises:
            SurgeryError: a block has no module of its own.
        """
        graph, gone = self.program.graph, {*self.dead, *(one.node for one in self.chosen)}
        # Modules that hold nothing but blocks and their sums, and those that hold nothing but blocks.
        whole = own_modules(graph, [node for node in graph.nodes if node in gone])
        parts = own_modules(graph, self.dead)
        if whole != parts and all(self._end(one, parts) for one in self.chosen):
            return self._way(whole), self._way(parts)
        return (self._way(whole),)

    def _way(self, modules: tuple[str, ...]) -> Way:
        ends = {one.block.name: self._end(one, modules) for one in self.chosen}
        for name, end in ends.items():
            if not end:
                raise SurgeryError(
                    f"Block {name} is computed by code between modules, and none of them is its own. Nothing "
                    "was changed. Remove it from the program."
                )
        around = {path for one in self.chosen for path in paths_of(one.node)}
        return Way(modules, frozenset(end for end in ends.values() if end not in around))

    def _end(self, one: Sum, modules: Sequence[str]) -> str:
        """The module in which a block ends: the one that also adds it, or the last one in it."""
        ends = (*paths_of(one.node), *one.block.modules[-1:])
        found = (module for end in ends for module in modules if f"{end}.".startswith(f"{module}."))
        return next(found, "")

    def masked(self, state: State) -> fx.GraphModule:
        """The network with the blocks at zero, as a module that computes with these tensors."""
        # For the time of the copy each sum adds zeros instead of its block.
        zeros = []
        for one in self.chosen:
            with self.program.graph.inserting_before(one.node):
                zero = self.program.graph.call_function(torch.ops.aten.zeros_like.default, (one.added,))
            zero.meta = dict(one.added.meta)
            one.node.replace_input_with(one.added, zero)
            zeros.append(zero)
        module = module_of(self.program, state)
        for one, zero in zip(self.chosen, zeros, strict=True):
            one.node.replace_input_with(zero, one.added)
            self.program.graph.erase_node(zero)
        return module

    def omit(self) -> None:
        """Leaves the blocks and what only they need out of the program."""
        graph, dead = self.program.graph, self.dead
        for one in self.chosen:  # a view of the stream, which keeps the name that the graph's outputs know
            one.node.target, one.node.args, one.node.kwargs = torch.ops.aten.alias.default, (one.stream,), {}
        # Readers before what they read; assertions are readers as well.
        for node in reversed(dead):
            for assertion in list(node.users):
                graph.erase_node(assertion)
            if node.op != "placeholder":
                graph.erase_node(node)


def forget_unread(module: fx.GraphModule) -> fx.GraphModule:
    """Takes the tensors that nothing reads any more out of a program's module."""
    for node in module.graph.nodes:
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    module.recompile()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    held = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    for target in [name for name, _ in held if name not in used]:
        owner, _, name = target.rpartition(".")
        delattr(module.get_submodule(owner), name)
    return module
