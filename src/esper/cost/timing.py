"""Measures a latency table: every linear map and convolution of a network at a grid of widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from esper.anatomy import Anatomy
from esper.anatomy.labels import CONVOLUTIONS, GROUPS, LINEAR, groups_of
from esper.anatomy.twin import Twin
from esper.batches import repeated, samples
from esper.cost.cost import CostModel
from esper.cost.latency import Axis, LatencyTable, TimedOperator
from esper.cost.origin import Origin
from esper.cost.stopwatch import seconds_of

ELEMENT_FLOPS = 1000.0
"""What an element of an activation counts beside the work of operators that are not timed alone."""

_EIGHTHS = 8
_REPEATS = 3
_FEW = 2
"""Samples of a pass that takes little but what every pass takes."""

_SLOW_SECONDS = 0.05
"""An operator that takes longer than this is timed once at every width."""


def origin_of(
    anatomy: Anatomy, twin: Twin, state: Mapping[str, Tensor], sample: Any, latency_batch: int | None
) -> Origin:
    """The origin of a network; timed where a `latency_batch` is given. Arguments as in `measure_latency`."""
    if latency_batch is None:
        return Origin.of(anatomy)
    return Origin.of(anatomy, measure_latency(twin, anatomy, state, sample, latency_batch))


def measure_latency(
    twin: Twin, anatomy: Anatomy, state: Mapping[str, Tensor], sample: Any, batch: int
) -> LatencyTable:
    """Times the network's operators on the device of `state`; takes some seconds.

    Args:
        twin: the network's graph.
        anatomy: its anatomy.
        state: its tensors by name.
        sample: a batch that the twin can take; it is repeated to `batch` samples where any number will do.
        batch: samples of the forward pass that is timed.
    """
    whole = repeated(sample, batch) if twin.is_batch_dynamic else sample
    device = next((value.device for value in state.values()), torch.device("cpu"))
    # Operators that are alike are timed once.
    known: dict[Any, tuple[tuple[float, ...], ...]] = {}
    operators = []
    with torch.inference_mode():
        for call in _calls(twin, anatomy, state, whole):
            if call.signature not in known:
                known[call.signature] = _times(call, device)
            operators.append(TimedOperator(call.node, call.axes, call.widths, known[call.signature]))
        total = _shortest(lambda: twin.run(state, whole), device)
        # A pass with hardly any work takes what every pass takes.
        few = repeated(sample, _FEW) if twin.is_batch_dynamic else None
        fixed = 0.0 if few is None else min(_shortest(lambda: twin.run(state, few), device), total)
    # At full width: the last row and column. The rest of the pass is what these do not explain.
    timed = sum(operator.milliseconds[-1][-1] for operator in operators)
    nodes = frozenset(operator.node for operator in operators)
    rest = CostModel(anatomy, "flops", activation_flops=ELEMENT_FLOPS, without=nodes)
    return LatencyTable(
        operators=tuple(operators),
        fixed_milliseconds=min(fixed, max(total - timed, 0.0)),
        rest_milliseconds=max(total - timed - fixed, 0.0),
        rest_cost=rest.total(np.ones(anatomy.num_units, np.bool_)),
        element_flops=ELEMENT_FLOPS,
        batch=samples(whole),
        device=str(device),
    )


def _shortest(run: Callable[[], object], device: torch.device) -> float:
    """The shortest of a few times in milliseconds: what disturbs a machine only ever adds."""
    first = seconds_of(run, device)
    repeats = 0 if first > _SLOW_SECONDS else _REPEATS
    return 1e3 * min([first, *(seconds_of(run, device) for _ in range(repeats))])


@dataclass(frozen=True, eq=False)
class _Call:
    """One linear map or convolution, as the network makes it."""

    node: str
    operator: fx.Node
    read: torch.Size
    weight: Tensor
    axes: tuple[Axis, Axis]
    widths: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def signature(self) -> Any:
        """Operators that are alike in this take the same time."""
        settings = [str(argument) for argument in self.operator.args[3:]]
        return self.operator.target, self.read, self.weight.shape, self.weight.dtype, *settings, self.widths

    def narrowed(self, outputs: int, inputs: int) -> Callable[[], object]:
        """The same operator with so many outputs and inputs, on random numbers."""
        arguments: list[Any] = list(self.operator.args)
        shape, axis = list(self.read), -1 if self.operator.target is LINEAR else 1
        # A convolution by channel has as many groups, and reads as many channels, as it makes.
        if groups_of(self.operator) > 1:
            arguments[GROUPS] = shape[axis] = outputs
        else:
            shape[axis] = inputs
        bias = self.weight.new_zeros(outputs) if len(arguments) > 2 and arguments[2] is not None else None
        arguments[:2] = self.weight.new_empty(shape).normal_(), self.weight[:outputs, :inputs].contiguous()
        if len(arguments) > 2:
            arguments[2] = bias
        target: Any = self.operator.target
        return lambda: target(*arguments)


def _times(call: _Call, device: torch.device) -> tuple[tuple[float, ...], ...]:
    outputs, inputs = call.widths
    return tuple(tuple(_shortest(call.narrowed(o, i), device) for i in inputs) for o in outputs)


def _calls(twin: Twin, anatomy: Anatomy, state: Mapping[str, Tensor], sample: Any) -> list[_Call]:
    """Every operator that can be timed alone and through whose weight units run."""
    own = {alias: info.name for info in anatomy.tensors for alias in (info.name, *info.aliases)}
    owners, work = _owners(anatomy), {term.node for term in anatomy.terms}
    nodes = list(twin.program.graph.nodes)
    # Operators of which a weight carries units.
    found: dict[str, tuple[int, str]] = {}
    for name, position in twin.positions.items():
        weight = _weight(nodes[position])
        tensor = None if weight is None else own.get(twin.names.get(weight.name, ""))
        if name in work and tensor is not None and any((tensor, axis) in owners for axis in (0, 1)):
            found[name] = position, tensor
    read: dict[int, torch.Size] = {}

    def watch(position: int) -> Callable[[Tensor], Tensor]:
        def look(value: Tensor) -> Tensor:
            read[position] = value.shape
            return value

        return look

    # One run shows the shapes that they read.
    twin.run(state, sample, {(position, 0): watch(position) for position, _ in found.values()})
    calls = []
    for name, (position, tensor) in found.items():
        value = state[tensor]
        sides = [_side(owners.get((tensor, axis), {}), anatomy, value.shape[axis]) for axis in (0, 1)]
        (out, out_widths), (inside, in_widths) = sides
        widths = (out_widths, in_widths)
        calls.append(_Call(name, nodes[position], read[position], value, (out, inside), widths))
    return calls


def _weight(node: fx.Node) -> fx.Node | None:
    """The weight of a linear map, or of a convolution in one group or in as many as it has channels."""
    weight = node.args[1] if len(node.args) > 1 else None
    if not isinstance(weight, fx.Node):
        return None
    if node.target is LINEAR:
        return weight
    if node.target not in CONVOLUTIONS:
        return None
    outputs, inputs = weight.meta["val"].shape[:2]
    return weight if groups_of(node) == 1 or (groups_of(node) == outputs and inputs == 1) else None


def _owners(anatomy: Anatomy) -> dict[tuple[str, int], dict[str, float]]:
    """For every (tensor, axis): the groups that run through it, and their coordinates per unit."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for group in anatomy.groups:
        for member in group.members:
            each = found.setdefault((member.tensor, member.axis), {})
            each[group.name] = each.get(group.name, 0.0) + member.index.shape[1]
    return found


def _side(owned: Mapping[str, float], anatomy: Anatomy, size: int) -> tuple[Axis, tuple[int, ...]]:
    """One side of a weight: what it is made of, and the widths at which it is timed."""
    if not owned:
        return Axis(float(size), {}), (size,)
    width = {group.name: group.width for group in anatomy.groups}
    fixed = size - sum(each * width[name] for name, each in owned.items())
    # Eighths of the full size, rounded up to multiples of 8 (of less in narrow layers).
    step = max(1, min(_EIGHTHS, size // _EIGHTHS))
    widths = {min(-(-size * n // (_EIGHTHS * step)) * step, size) for n in range(1, _EIGHTHS + 1)}
    return Axis(float(fixed), dict(owned)), tuple(sorted(widths))
