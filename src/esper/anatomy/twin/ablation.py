"""The loss of a twin without each of many units alone, of which nothing is computed twice.

A batch runs through the whole graph once. For the units of one group everything up to the places where they
are read stays as it was, so only what follows is computed, for many units at a time. Where the first reader
is a linear map, what it gives without a unit is what it gave less the unit's own share: for one of n inputs
that is an n-th of its work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from esper.anatomy.labels import (
    BIAS,
    CONVOLUTIONS,
    GROUPS,
    LINEAR,
    groups_of,
    operands_of,
    with_operands,
)
from esper.anatomy.structure import Anatomy, Gate
from esper.anatomy.twin.narrowed_norms import Left, OverSurvivors, over_survivors
from esper.anatomy.twin.rows import for_each_row
from esper.anatomy.twin.twin import State, Twin
from esper.arrays import IntArray

_ELEMENTS = 4 << 20
"""Elements of the largest value of one gated run: enough to fill the vector units, few enough for caches."""

Values = dict[fx.Node, Any]


class Ablation:
    """The units of one network that are removed one by one, for any number of batches."""

    def __init__(self, twin: Twin, anatomy: Anatomy, units: IntArray) -> None:
        """Of one network.

        Args:
            twin: the network with its loss.
            anatomy: its units.
            units: their numbers, each to be removed alone.

        Raises:
            EvidenceError: a gate is in no node of this graph, so the anatomy is of another network.
        """
        self._twin, self._num_units, self._units = twin, anatomy.num_units, units
        group_of = anatomy.group_of[units]
        parts = [
            _Part.of(twin, twin.gates_of(anatomy, group), units, group_of == group)
            for group in np.unique(group_of)
        ]
        self._parts = [part for part in parts if part.members.size]
        self._wanted = {node for part in self._parts for node in part.needs}
        self._changed = {node for part in self._parts for node, _ in part.nodes}

    def losses(self, state: State, sample: Any) -> tuple[Tensor, Tensor]:
        """The loss as it is, a scalar, and without each unit alone, shape [units]; NaN where none is read."""
        losses = torch.full((len(self._units),), float("nan"))
        with torch.no_grad():
            run = self._base(state, sample)
            for part in self._parts:
                # As many units at a time as the largest of their values allows.
                largest = max((run.sizes.get(node, 1) for node, _ in part.nodes), default=1)
                step = max(1, _ELEMENTS // largest)
                for members in np.split(part.members, range(step, part.members.size, step)):
                    losses[members] = self._without(part, run, self._units[members], state, sample)
        return run.loss, losses

    def _without(self, part: _Part, run: _Keeping, units: IntArray, state: State, sample: Any) -> Tensor:
        """The loss without each of some units of one group: shape [units]."""
        twin = self._twin
        rows = torch.ones(len(units), self._num_units + 1)  # the last column is "no unit" (-1)
        rows[torch.arange(len(units)), torch.from_numpy(units)] = 0.0
        if twin.writes:  # what was computed once would be written to
            return for_each_row(partial(_whole, twin, state, sample, part.gates), rows)
        rest = partial(part.rest, run.kept, twin.left(state))
        return for_each_row(rest, (rows, part.without(run.kept, units)))

    def _base(self, state: State, sample: Any) -> _Keeping:
        """The batch run through the whole graph, with the values that the rests of it begin with."""
        twin, wanted = self._twin, set() if self._twin.writes else self._wanted
        run = _Keeping(twin.program.graph_module, twin.left(state), wanted, self._changed)
        loss: Tensor = run.run(*twin.inputs(state, sample), enable_io_processing=False)[0]
        run.loss = loss.reshape(())
        return run


def _whole(twin: Twin, state: State, sample: Any, gates: Sequence[Gate], row: Tensor) -> Tensor:
    loss: Tensor = twin.run(state, sample, twin.multipliers(gates, row))[0]
    return loss.reshape(())


class _Keeping(OverSurvivors):
    """Runs the graph and keeps the values of some nodes.

    Attributes:
        loss: what the graph gave.
        kept: by node, its value.
        sizes: elements of the values of others.
    """

    def __init__(
        self, module: fx.GraphModule, left: Mapping[fx.Node, Left], wanted: set[fx.Node], sized: set[fx.Node]
    ) -> None:
        super().__init__(module, left)
        self._wanted, self._sized = wanted, sized
        self.loss = torch.empty(())
        self.kept: Values = {}
        self.sizes: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted:
            self.kept[n] = value
        if n in self._sized and isinstance(value, Tensor):
            self.sizes[n] = value.numel()
        return value


@dataclass(frozen=True, eq=False)
class _Part:
    """One group of units: where it is read, and what of the graph changes with it.

    Attributes:
        members: places among the asked units of those that are read, shape [members].
        gates: all places where the group is read.
        multiplied: those where what is read is multiplied by 0 or 1, by node.
        lessened: linear readers of unchanged values, from whose results a unit's own share is taken.
        nodes: what changes, in order, with what is not needed any more after it.
        needs: nodes whose unchanged values are needed.
        loss: the node that gives the loss.
    """

    members: IntArray
    gates: Sequence[Gate]
    multiplied: Mapping[fx.Node, Sequence[Gate]]
    lessened: Mapping[fx.Node, _Columns]
    nodes: Sequence[tuple[fx.Node, Sequence[fx.Node]]]
    needs: frozenset[fx.Node]
    loss: fx.Node

    @classmethod
    def of(cls, twin: Twin, gates: Sequence[Gate], units: IntArray, in_group: Any) -> _Part:
        twin.require(gates)
        graph = list(twin.program.graph.nodes)
        loss: fx.Node = graph[-1].args[0][0]
        members = np.flatnonzero(
            in_group & np.isin(units, [unit for gate in gates for unit in gate.units.flat])
        )
        by_node: dict[fx.Node, list[Gate]] = {}
        for gate in gates:
            by_node.setdefault(graph[twin.positions[gate.node]], []).append(gate)
        changed = _followers(graph, by_node, loss)
        lessened = {}
        for node, own in by_node.items():
            columns = _Columns.of(node, own, units[members])
            if columns is not None and changed.isdisjoint(node.all_input_nodes):
                lessened[node] = columns
        order = [node for node in graph if node in changed]
        reads = {node for each in order if each not in lessened for node in each.all_input_nodes}
        reads |= {node for each in lessened for node in (each, *each.all_input_nodes)}
        return cls(
            members,
            gates,
            {node: own for node, own in by_node.items() if node not in lessened},
            lessened,
            list(_with_last_uses(order, loss)),
            frozenset(node for node in reads if node not in changed or node in lessened),
            loss,
        )

    def without(self, values: Values, units: IntArray) -> list[Tensor]:
        """What the linear readers give without each of `units`: tensors [units, ...], in their order."""
        return [columns.less(node, values, units) for node, columns in self.lessened.items()]

    def rest(self, values: Values, left: Mapping[fx.Node, Left], row: tuple[Tensor, list[Tensor]]) -> Tensor:
        """The loss for one row of gates, from the first change on."""
        factors, without = row
        mine: Values = dict(values)
        mine.update(zip(self.lessened, without, strict=True))
        for node, unused in self.nodes:
            if node not in self.lessened:
                mine[node] = self._value(node, mine, left, factors)
            for other in unused:
                del mine[other]
        result: Tensor = mine[self.loss]
        return result.reshape(())

    def _value(self, node: fx.Node, values: Values, left: Mapping[fx.Node, Left], factors: Tensor) -> Any:
        target: Any = node.target
        args, kwargs = _fetched(node.args, values), _fetched(node.kwargs, values)
        changed: dict[int, Tensor] = {}
        for gate in self.multiplied.get(node, ()):
            factor = factors[torch.from_numpy(gate.units)]
            value = changed.get(gate.argument, operands_of(target, args)[gate.argument])
            changed[gate.argument] = value * factor.to(value.dtype)
        args = with_operands(target, args, changed)
        if node in left:
            return over_survivors(target, args, kwargs, left[node])
        return target(*args, **kwargs)


def _fetched(arguments: Any, values: Values) -> Any:
    """What a node is given: its arguments with values in the place of nodes."""
    return fx.node.map_arg(arguments, values.__getitem__)


def _followers(graph: Sequence[fx.Node], first: Mapping[fx.Node, Any], loss: fx.Node) -> set[fx.Node]:
    """All nodes that the first ones have an effect on, and that have one on the loss."""
    changed: set[fx.Node] = set()
    for node in graph:
        if node in first or not changed.isdisjoint(node.all_input_nodes):
            changed.add(node)
    leading = {loss}
    for node in reversed(graph):
        if node in leading:
            leading.update(node.all_input_nodes)
    return changed & leading


def _with_last_uses(order: Sequence[fx.Node], loss: fx.Node) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """The nodes, each with those of them that nobody needs after it."""
    last = {loss: loss}
    for node in order:
        last.setdefault(node, node)
        last.update(dict.fromkeys((read for read in node.all_input_nodes if read in last), node))
    unused: dict[fx.Node, list[fx.Node]] = {}
    for node, user in last.items():
        if node is not loss:
            unused.setdefault(user, []).append(node)
    return ((node, unused.get(node, [])) for node in order)


@dataclass(frozen=True, eq=False)
class _Columns:
    """The inputs of a linear map that belong to each unit.

    Attributes:
        axis: the axis of its first argument that carries units, counted from the end or the front.
        of_unit: by unit, the same number of places along that axis.
    """

    axis: int
    of_unit: Mapping[int, IntArray]

    @classmethod
    def of(cls, node: fx.Node, gates: Sequence[Gate], units: IntArray) -> _Columns | None:
        """Those of a node; None where it is no linear map, or does not read as many inputs of every unit."""
        is_dense = node.target is LINEAR or (node.target in CONVOLUTIONS and groups_of(node) == 1)
        if not is_dense or node.kwargs or len(gates) != 1 or gates[0].argument != 0:
            return None
        numbers, axis = gates[0].units, -1 if node.target is LINEAR else 1
        if numbers.ndim <= max(axis, 0) or numbers.size != numbers.shape[axis]:
            return None
        flat = numbers.ravel()
        of_unit = {int(unit): np.flatnonzero(flat == unit) for unit in units}
        sizes = {places.size for places in of_unit.values()}
        return cls(axis, of_unit) if len(sizes) == 1 and 0 not in sizes else None

    def less(self, node: fx.Node, values: Values, units: IntArray) -> Tensor:
        """What the map gives without each of `units`: [units, ...]."""
        whole: Tensor = values[node]
        args: list[Any] = list(_fetched(node.args, values))
        columns = torch.from_numpy(np.stack([self.of_unit[int(unit)] for unit in units]))  # [units, each]
        count, each = columns.shape
        value, weight = args[0].index_select(self.axis, columns.ravel()), args[1][:, columns]
        if node.target is LINEAR:
            # [units, rows, each] x [units, each, outputs].
            inputs = value.reshape(-1, count, each).transpose(0, 1)
            share: Tensor = torch.bmm(inputs, weight.permute(1, 2, 0)).reshape(count, *whole.shape)
            return whole - share
        # One group of channels for every unit: [units x outputs, each, kernel].
        kernel = weight.transpose(0, 1).reshape(-1, each, *weight.shape[3:])
        operator: Callable[..., Tensor] = node.target  # type: ignore[assignment]
        share = operator(value, kernel, None, *args[BIAS + 1 : GROUPS], groups=count)
        apart: Tensor = share.unflatten(1, (count, -1)).movedim(1, 0)
        return whole - apart
