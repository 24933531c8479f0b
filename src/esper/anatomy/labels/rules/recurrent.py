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
from esper.anatomy.labels.operators import PACKED
from esper.anatomy.labels.rules.call import Call, Read, Result, Rule
from esper.anatomy.labels.rules.contraction import contract, squeezed, with_bias

_STARTS = "starts from a state of a fixed size"
_GATES = {"lstm": 4, "gru": 3, "lstm_cell": 4, "gru_cell": 3}


@dataclass(frozen=True)
class _Pass:
    """One layer in one direction.

    Attributes:
        weights: its tensors, as torch lists them: of the input, of the step before, both biases, projection.
        first: the place of the first of them among the operands.
        starts: what the first step takes from the step before, [..., units]: what goes out, and the cell.
    """

    weights: Sequence[Flow]
    first: int
    starts: Sequence[Flow]


def recurrent(call: Call) -> Result:
    """LSTM, GRU and plain recurrent layers over [steps, samples, features], stacked, both ways, projected.

    Packed sequences are [rows, features].
    """
    x = call.args[0]
    states, weights, has_biases, num_layers, _, _, both = call.args[2 if call.target in PACKED else 1 :][:7]
    states = [states] if isinstance(states, Flow) else list(states)
    ways = 2 if both else 1
    each = len(weights) // (num_layers * ways)
    for flow in (x, *states):
        for axis in range(len(flow.shape) - 1):
            call.space.fix_axis(flow, axis, f"{call.where} runs over it")
    starts = [_of_units(call, state, len(x.shape)) for state in states]
    below = x.moved(x.shape, _along_last(x))
    for number in range(num_layers):
        made = []
        for way in range(ways):
            first = (number * ways + way) * each
            one = _Pass(weights[first : first + each], first, starts)
            made.append(_passed(call, below, one, num_biases=2 if has_biases else 0))
        below = _side_by_side(call, made)
    # All layers share the tensors that they start from, and so what each of them ends with.
    ends = [
        replace(_of_units(call, state, len(shape)), shape=shape, is_zeroed=below.is_zeroed)
        for state, shape in zip(states, call.shapes[1:], strict=True)
    ]
    return [replace(below, shape=call.shape), *ends]


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


def _of_units(call: Call, state: Flow, rank: int) -> Flow:
    """A state [layers, samples, units] as every layer and sample sees it: [..., units] of so many axes."""
    layers = [call.space.conjunction(layer, [0, 1]) for layer in state.layers]
    shape = (*(1 for _ in range(rank - 1)), state.shape[-1])
    return state.moved(shape, [layer.reshape(shape) for layer in layers if varying_axes(layer)])


def _passed(call: Call, below: Flow, one: _Pass, *, num_biases: int) -> Flow:
    """What one layer makes in one direction: [..., units], or of the projection."""
    inward, again, *rest = one.weights
    biases, projections = rest[:num_biases], rest[num_biases:]
    gates = _product(call, below, inward, one.first)
    for bias in biases:
        gates = with_bias(call, gates, bias, axis=len(gates.shape) - 1)
    cell = _meet(call, _one_unit(call, gates), one.starts[-1], _STARTS)
    out = cell
    for projection in projections:  # one at most
        out = _product(call, cell, projection, one.first + 2 + num_biases)
    out = _meet(call, out, one.starts[0], _STARTS)
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
    """The gates [..., gates x units], all of one unit united: [..., units]."""
    count = _GATES.get(call.name, 1)
    shape = (*gates.shape[:-1], gates.shape[-1] // count)
    of_gate = [layer.chunk(count, -1) for layer in gates.layers]
    unit = Flow(shape, tuple(parts[0] for parts in of_gate), is_zeroed=gates.is_zeroed)
    for number in range(1, count):
        unit = _meet(call, unit, unit.moved(shape, [parts[number] for parts in of_gate]))
    return unit


def _meet(call: Call, left: Flow, right: Flow, why: str = "combines it with a fixed size") -> Flow:
    """Both are combined; zero where a mask makes both zero, as `tanh`, and an average of zeros, leave it."""
    met = call.space.meet(left, right, call.reason(why))
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
    """The labels along the last axis, [..., size]; zeros where there are none."""
    shape = (*(1 for _ in flow.shape[:-1]), flow.shape[-1])
    along = [layer.expand(shape) for layer in flow.layers]
    return along[0] if along else torch.zeros(shape, dtype=torch.long)


def packed(call: Call) -> Result:
    """[steps, samples, ...], in either order, as rows [steps of all samples, ...], and samples by step."""
    x, shape = call.args[0], call.shapes[0]
    for axis in (0, 1):
        call.space.fix_axis(x, axis, f"{call.where} runs over it")
    layers = [layer for layer in x.layers if layer.shape[0] == layer.shape[1] == 1]
    return [x.moved(shape, [layer.squeeze(0) for layer in layers]), Flow(call.shapes[1])]


def padded(call: Call) -> Result:
    """Rows as steps and samples again, with a value where a sample has no step."""
    data, value = call.args[0], call.args[3]
    call.space.fix_axis(data, 0, f"{call.where} runs over it")
    layers = [layer.unsqueeze(0) for layer in data.layers if layer.shape[0] == 1]
    filled = replace(data.moved(call.shapes[0], layers), is_zeroed=data.is_zeroed and value == 0)
    return [filled, Flow(call.shapes[1])]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    "_pack_padded_sequence": packed,
    "_pad_packed_sequence": padded,
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), cell),
}
