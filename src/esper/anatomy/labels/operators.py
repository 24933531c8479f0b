"""Operators that multiply what they read by a weight: which they are, and where their arguments stand."""

from __future__ import annotations

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

BIAS, PADDING, GROUPS = 2, 4, 6
"""Positions of the bias, the padding and the number of groups among a convolution's arguments."""


def groups_of(node: fx.Node) -> int:
    """In how many groups a convolution works; 1 for a linear map."""
    written: Any = node.args[GROUPS] if len(node.args) > GROUPS else 1
    groups: int = written
    return groups
