"""A graph that runs with some arguments of its operators changed on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx

from esper.anatomy.labels import operands_of, with_operands
from esper.anatomy.twin.narrowed_norms import Left, OverSurvivors

Gates = Mapping[tuple[int, int], Callable[[Tensor], Tensor]]
"""What is done to arguments on the way: (position of the node, number of the argument) -> function."""


class Gated(OverSurvivors):
    """Interprets the graph and lets gates change arguments on the way."""

    def __init__(self, module: fx.GraphModule, gates: Gates, left: Mapping[fx.Node, Left]) -> None:
        super().__init__(module, left)
        self._gates: dict[fx.Node, list[tuple[int, Callable[[Tensor], Tensor]]]] = {}
        nodes = list(module.graph.nodes) if gates else []
        for (position, argument), gate in gates.items():
            self._gates.setdefault(nodes[position], []).append((argument, gate))

    def run_node(self, n: fx.Node) -> Any:
        if n not in self._gates:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        operands = operands_of(n.target, args)
        changed = {argument: gate(operands[argument]) for argument, gate in self._gates[n]}
        return self.call_function(n.target, with_operands(n.target, args, changed), kwargs)
