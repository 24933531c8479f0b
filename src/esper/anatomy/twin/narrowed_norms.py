"""Normalizations of a masked network that run over what is left, as those of the cut network will.

Layer norms, means and softmaxes divide by something that every coordinate of an axis has a part in. Where
the user allows approximation, units may go that such a statistic runs over, and "masked" then means: the
statistic is taken over the survivors, and zeros stand where the others stood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from esper.anatomy.graph import operator_name
from esper.anatomy.structure import Anatomy
from esper.arrays import BoolArray

Left = Sequence[tuple[int, Tensor]]
"""Axes of an operator's first argument with the coordinates that stay, int64."""

_NORMS = ("layer_norm", "native_layer_norm", "rms_norm")
_KEEP_THE_AXIS = (*_NORMS, "softmax", "_softmax", "log_softmax", "_log_softmax")
_MARK = "<left of axis "


def over_survivors(
    target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], left: Left
) -> Any:
    """Calls a normalization or reduction on what is left of its first argument.

    Returns:
        What it gives, with zeros for the coordinates that are gone where its result has that axis.
    """
    name, whole = operator_name(target), args[0]
    rest, named = list(args[1:]), dict(kwargs)
    if name in _NORMS:
        first = whole.dim() - len(rest[0])  # weight and bias have the last axes only
        own = [(axis - first, stays) for axis, stays in left]
        rest[1:], named = pytree.tree_map(lambda leaf: _picked(leaf, own), (rest[1:], named))
        # The sizes to normalize over are those of what is left.
        rest[0] = list(_picked(whole, left).shape[first:])
    result = target(_picked(whole, left), *rest, **named)
    if name == "topk":
        ((_, stays),) = left  # it runs over one axis
        # Numbers among the survivors become numbers along the whole axis.
        return result[0], stays.to(whole.device)[result[1]]
    if name not in _KEEP_THE_AXIS:
        return result
    if isinstance(result, Tensor):
        return _spread(result, whole.shape, left)
    return (_spread(result[0], whole.shape, left), *result[1:])


def _picked(leaf: Any, left: Left) -> Any:
    if isinstance(leaf, Tensor):
        for axis, stays in left:
            leaf = leaf.index_select(axis, stays.to(leaf.device))
    return leaf


def _spread(small: Tensor, shape: Sequence[int], left: Left) -> Tensor:
    for axis, stays in left:
        # Zeros where something is gone, one axis after the other.
        whole = small.new_zeros(*small.shape[:axis], shape[axis], *small.shape[axis + 1 :])
        small = whole.index_copy(axis, stays.to(small.device), small)
    return small


def left_as_tensors(anatomy: Anatomy, keep: BoolArray) -> dict[str, Tensor]:
    """What is left of the statistics under a mask, as entries beside a network's tensors."""
    left = anatomy.left_of_statistics(keep)
    return {f"{_MARK}{axis}> {node}": torch.from_numpy(stays) for (node, axis), stays in left.items()}


def left_in(state: Mapping[str, Tensor]) -> dict[str, list[tuple[int, Tensor]]]:
    """By node: what those entries say."""
    survivors: dict[str, list[tuple[int, Tensor]]] = {}
    for name, stays in state.items():
        if name.startswith(_MARK):
            axis, _, node = name.removeprefix(_MARK).partition("> ")
            survivors.setdefault(node, []).append((int(axis), stays))
    return survivors


class OverSurvivors(fx.Interpreter):
    """Interprets a graph whose normalizations at some nodes run over what is left."""

    def __init__(self, module: fx.GraphModule, left: Mapping[fx.Node, Left]) -> None:
        super().__init__(module, garbage_collect_values=True)
        self._left = left

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function" and n not in self._left:
            # Without the notes that tracing wants, which cost a small network more than its operators do.
            operator: Any = n.target
            values = self.env.__getitem__
            return operator(*fx.node.map_arg(n.args, values), **fx.node.map_arg(n.kwargs, values))
        if n not in self._left:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        operator = n.target
        return over_survivors(operator, args, kwargs, self._left[n])


class _Shrunk(nn.Module):
    """One such call as a part of a graph."""

    def __init__(self, target: Callable[..., Any], left: Left) -> None:
        super().__init__()
        self.target, self.left = target, left

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return over_survivors(self.target, args, kwargs, self.left)


def shrink(module: fx.GraphModule, left: Mapping[str, Left]) -> None:
    """Lets the normalizations at the named nodes of a module's graph run over what is left."""
    for node in module.graph.nodes:
        if node.op == "call_function" and node.name in left:
            part = f"over_survivors_{node.name}"
            module.add_submodule(part, _Shrunk(node.target, left[node.name]))
            node.op, node.target = "call_module", part
    module.recompile()
