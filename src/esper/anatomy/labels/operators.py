"""Operators that multiply what they read by a weight: which they are, and where their arguments stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten

LINEAR: Any = _aten.linear.default
"""`linear(input, weight, bias)`; what it reads has its channels last."""

CONVOLUTIONS: frozenset[Any] = frozenset(
    {
        _aten.conv1d.default,
        _aten.conv2d.default,
        _aten.conv3d.default,
        _aten.conv1d.padding,
        _aten.conv2d.padding,
        _aten.conv3d.padding,
    }
)
"""`conv(input, weight, bias, stride, padding, dilation, groups)`; the channels of the input are axis 1."""

_RECURRENT = (_aten.lstm, _aten.gru, _aten.rnn_tanh, _aten.rnn_relu)

PACKED: frozenset[Any] = frozenset(operator.data for operator in _RECURRENT)
"""`rnn(input, batch_sizes, state, weights, has_biases, layers, dropout, train, bidirectional)`, over packed
sequences; others have no `batch_sizes`, and `batch_first` at the end."""

_LISTED: Mapping[Any, int] = {
    _aten.einsum.default: 1,
    **{operator.input: 2 for operator in _RECURRENT},
    **{operator.data: 3 for operator in _RECURRENT},
}
"""Operators whose operands are one list, and the position of that among their arguments."""

BIAS, PADDING, GROUPS = 2, 4, 6
"""Positions of the bias, the padding and the number of groups among a convolution's arguments."""


def groups_of(node: fx.Node) -> int:
    """In how many groups a convolution works; 1 for a linear map."""
    written: Any = node.args[GROUPS] if len(node.args) > GROUPS else 1
    groups: int = written
    return groups


def operands_of(target: Any, args: Sequence[Any]) -> Sequence[Any]:
    """What the numbers of a `Gate` count: arguments of a call, or those in the one list that holds them."""
    place = _LISTED.get(target)
    if place is None:
        return args
    listed: Any = args[place]
    return listed if isinstance(listed, (list, tuple)) else ()


def with_operands(target: Any, args: Sequence[Any], changed: Mapping[int, Any]) -> tuple[Any, ...]:
    """The arguments of a call with some of its operands exchanged, by their numbers."""
    operands = list(operands_of(target, args))
    for number, value in changed.items():
        operands[number] = value
    place = _LISTED.get(target)
    return tuple(operands) if place is None else (*args[:place], operands, *args[place + 1 :])
