"""Recurrent layers and cells as one operator: what every step does to labels, it does to them once.

A step multiplies what comes in and what the step before gave by two weights, whose rows are the gates of the
units in turn, and combines the gates of a unit. So a unit is a row of every gate, and a column of the weight
that reads it in the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from esper.anatomy.labels.labels import Flow, varying_axes
from esper.anatomy.labels.operators import RECURRENT
from esper.anatomy.labels.rules.call import Call, Read, Result, Rule
from esper.anatomy.labels.rules.contraction import contract, squeezed, with_bias

_GATES = {"lstm": 4, "gru": 3, "lstm_cell": 4, "gru_cell": 3}
_AXES = 3
"""Of what comes in and goes out: steps, samples, features, the first two in either order."""


@dataclass(frozen=True)
class _Pass:
    """One layer in one direction.

    Attributes:
        weights: its tensors, as torch lists them: of the input, of the step before, both biases, projection.
        first: the place of the first of them among the operands.
        starts: what the first step takes from the step before, [1, 1, units]: what goes out, and the cell.
    """

    weights: Sequence[Flow]
    first: int
    starts: Sequence[Flow]


def recurrent(call: Call) -> Result:
    """LSTM, GRU and plain recurrent layers over [steps, samples, features], stacked, both ways, projected."""
    if call.target not in RECURRENT:
        return call.frozen(f"{call.where} runs over packed sequences, which are not followed")
    x, states, weights, has_biases, num_layers = call.args[:5]
    states = [states] if isinstance(states, Flow) else list(states)
    ways = 2 if call.args[7] else 1
    each = len(weights) // (num_layers * ways)
    for flow in (x, *states):
        for axis in range(_AXES - 1):
            call.space.fix_axis(flow, axis, f"{call.where} runs over it")
    starts = [_of_units(call, state) for state in states]
    below = x.moved(x.shape, _along_last(x))
    for number in range(num_layers):
        made = []
        for way in range(ways):
            first = (number * ways + way) * each
            one = _Pass(weights[first : first + each], first, starts)
            made.append(_passed(call, below, one, num_biases=2 if has_biases else 0))
        below = _side_by_side(call, made)
    # All layers share the tensors that they start from, and so what each of them ends with.
    ends = [replace(start, shape=shape) for start, shape in zip(starts, call.shapes[1:], strict=True)]
    return [
        replace(below, shape=call.shape),
        *(replace(end, is_zeroed=below.is_zeroed) for end in ends),
    ]


def cell(call: Call) -> Result:
    """One step over [samples, features], which code calls with the state of the step before."""
    x, states, inward, again, *biases = call.args
    states = [states] if isinstance(states, Flow) else list(states)
    for flow in (x, *states):
        call.space.fix_axis(flow, 0, f"{call.where} runs over it")
    of_features = [flow.moved(flow.shape, _along_last(flow)) for flow in (x, *states)]
    x, *states = of_features
    gates = _product(call, x, inward, 2)
    for bias in biases:
        gates = with_bias(call, gates, bias, axis=1) if isinstance(bias, Flow) else gates
    unit = _one_unit(call, _meet(call, gates, _product(call, states[0], again, 3)))
    # What an LSTM keeps goes from cell to cell, and what a GRU gives is an average with what it gave before.
    out = unit if call.name.startswith("rnn") else _meet(call, unit, states[-1])
    return out if len(call.shapes) == 1 else [out] * len(call.shapes)


def _along_last(flow: Flow) -> list[Tensor]:
    return [layer for layer in flow.layers if varying_axes(layer) == (layer.dim() - 1,)]


def _of_units(call: Call, state: Flow) -> Flow:
    """A state [layers, samples, units] as every layer and sample sees it: [1, 1, units]."""
    layers = [call.space.conjunction(layer, [0, 1]) for layer in state.layers]
    return state.moved((1, 1, state.shape[-1]), [layer for layer in layers if varying_axes(layer)])


def _passed(call: Call, below: Flow, one: _Pass, *, num_biases: int) -> Flow:
    """What one layer makes in one direction: [steps, samples, units], or of the projection."""
    inward, again, *rest = one.weights
    biases, projections = rest[:num_biases], rest[num_biases:]
    gates = _product(call, below, inward, one.first)
    for bias in biases:
        gates = with_bias(call, gates, bias, axis=_AXES - 1)
    cell = _meet(call, _one_unit(call, gates), one.starts[-1])
    out = cell
    for projection in projections:  # one at most
        out = _product(call, cell, projection, one.first + 2 + num_biases)
    out = _meet(call, out, one.starts[0])
    # What the next step reads of this one adds to the same gates.
    _meet(call, _product(call, out, again, one.first + 1), gates)
    return out


def _product(call: Call, x: Flow, weight: Flow, place: int) -> Flow:
    """`linear`, with the columns of the weight as the place where units can be silenced."""
    for layer in x.layers:
        call.notes.reads.append(Read(call.node, place, layer.reshape(1, -1), (1,)))
    rank = len(x.shape)
    return squeezed(contract(call, x.unsqueezed(rank - 1), weight, [rank]), rank)


def _one_unit(call: Call, gates: Flow) -> Flow:
    """The gates [steps, samples, gates x units], all of one unit united: [steps, samples, units]."""
    count = _GATES.get(call.name, 1)
    shape = (*gates.shape[:-1], gates.shape[-1] // count)
    of_gate = [layer.chunk(count, -1) for layer in gates.layers]
    unit = Flow(shape, tuple(parts[0] for parts in of_gate), is_zeroed=gates.is_zeroed)
    for number in range(1, count):
        unit = _meet(call, unit, unit.moved(shape, [parts[number] for parts in of_gate]))
    return unit


def _meet(call: Call, left: Flow, right: Flow) -> Flow:
    """Both are combined; zero where a mask makes both zero, as `tanh`, and an average of zeros, leave it."""
    met = call.space.meet(left, right, call.reason("combines it with a fixed size"))
    return replace(met, is_zeroed=left.is_zeroed and right.is_zeroed)


def _side_by_side(call: Call, made: Sequence[Flow]) -> Flow:
    """What both directions give to the next layer, the second behind the first."""
    if len(made) == 1:
        return made[0]
    shape = (*made[0].shape[:-1], sum(flow.shape[-1] for flow in made))
    labels = [_labels(flow) for flow in made]
    joined = torch.cat(labels, -1)
    return call.space.flow(
        shape,
        [joined] if bool(joined.any()) else [],
        is_zeroed=all(flow.is_zeroed for flow in made),
    )


def _labels(flow: Flow) -> Tensor:
    """The labels along the last axis, [1, 1, size]; zeros where there are none."""
    size = flow.shape[-1]
    along = [layer.expand(1, 1, size) for layer in flow.layers]
    return along[0] if along else torch.zeros(1, 1, size, dtype=torch.long)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), cell),
}
