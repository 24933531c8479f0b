"""Size constants of a traced graph after a cut: what `view(x, [2, 197, 12, 64])` must say with eight heads.

Each rule looks at one call, at what is left of the tensors that it takes and gives, and changes the integers
that say sizes. Nothing here is trusted: the program that comes out is traced again and proven equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import fx

from esper.anatomy.graph import operator_name
from esper.anatomy.units import Left, Survivors
from esper.arrays import BoolArray
from esper.errors import SurgeryError


@dataclass(frozen=True)
class _Call:
    """One call whose tensors lose something."""

    node: fx.Node
    name: str
    survivors: Survivors

    @property
    def given(self) -> list[Left]:
        """What is left of the results."""
        return self.survivors.of(self.node)

    def taken(self, position: int) -> Left:
        """What is left of one tensor argument."""
        argument = self.node.args[position]
        left = self.survivors.of(argument) if isinstance(argument, fx.Node) else []
        if not left:
            raise self.refused("takes something that is no tensor")
        return left[0]

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        if len(self.node.args) > position:
            return self.node.args[position]
        return self.node.kwargs.get(name, default)

    def put(self, position: int, name: str, value: Any) -> None:
        if len(self.node.args) > position:
            self.node.update_arg(position, value)
        else:
            self.node.update_kwarg(name, value)

    def refused(self, why: str) -> SurgeryError:
        return SurgeryError(f"{self.name} at {self.node.name} {why}; leave the units that it moves whole.")


def rewrite(graph: fx.Graph, survivors: Survivors) -> list[str]:
    """Changes the size constants of one graph in place; returns the names of the nodes that it changed.

    Raises:
        SurgeryError: a constant cannot follow; the graph is then half rewritten and of no use.
    """
    changed = []
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        name = operator_name(node.target)
        rule = RULES.get(name)
        if rule is None or not _loses(node, survivors):
            continue
        before = (node.target, node.args, dict(node.kwargs))
        rule(_Call(node, name, survivors))
        if before != (node.target, node.args, dict(node.kwargs)):
            changed.append(node.name)
    return changed


def _loses(node: fx.Node, survivors: Survivors) -> bool:
    lefts = chain(survivors.of(node), *(survivors.of(argument) for argument in node.all_input_nodes))
    return any(not stays.all() for left in lefts for stays in left)


def _count(stays: BoolArray) -> int:
    return int(stays.sum())


def _sizes(call: _Call) -> None:
    """`view`, `reshape`, `expand`: the sizes of the result; -1 and the batch stay as they are."""
    given = call.given[0]
    sizes = call.arg(1, "size")
    if isinstance(sizes, (list, tuple)):  # else a view as another type
        call.put(1, "size", _resized(call, list(sizes), given))


def _made_at(position: int) -> Callable[[_Call], None]:
    """Tensors that are the same everywhere, as a first state of zeros: the sizes that they are made with."""

    def rule(call: _Call) -> None:
        call.put(position, "size", _resized(call, list(call.arg(position, "size")), call.given[0]))

    return rule


def _unflatten(call: _Call) -> None:
    given, sizes = call.given[0], list(call.arg(2, "sizes"))
    first = int(call.arg(1, "dim")) % len(call.taken(0))
    call.put(2, "sizes", _resized(call, sizes, given[first : first + len(sizes)]))


def _resized(call: _Call, sizes: list[Any], left: Left) -> list[Any]:
    new = []
    for size, stays in zip(sizes, left, strict=True):
        if stays.all() or size == -1:
            new.append(size)
        elif isinstance(size, int):
            new.append(_count(stays))
        elif -1 not in sizes and -1 not in new and call.name not in _WITHOUT_REST:
            new.append(-1)  # a multiple of the batch
        else:
            raise call.refused("computes a size from the batch that would have to change")
    return new


def _repeat(call: _Call) -> None:
    """How often each axis is repeated."""
    times, given, taken = list(call.arg(1, "repeats")), call.given[0], call.taken(0)
    # From the last axis on: `repeat` may put further axes in front.
    for back in range(1, len(taken) + 1):
        times[-back] = _ratio(call, times[-back], given[-back], taken[-back])
    call.put(1, "repeats", times)


def _repeat_interleave(call: _Call) -> None:
    axis = call.arg(2, "dim")
    if axis is not None and isinstance(call.arg(1, "repeats"), int):
        axis = int(axis) % len(call.taken(0))
        times = _ratio(call, call.arg(1, "repeats"), call.given[0][axis], call.taken(0)[axis])
        call.put(1, "repeats", times)


def _ratio(call: _Call, old: Any, given: BoolArray, taken: BoolArray) -> Any:
    if given.all() and taken.all():
        return old
    # What is left of the result must be a multiple of what is left of the argument.
    times, rest = divmod(_count(given), _count(taken))
    if rest:
        raise call.refused("repeats what is left unevenly")
    return times


def _slice(call: _Call) -> None:
    """Start and end as counted among what is left."""
    axis = int(call.arg(1, "dim", 0)) % len(call.taken(0))
    stays = call.taken(0)[axis]
    if stays.all():
        return
    start, end, step = slice(call.arg(2, "start"), call.arg(3, "end"), call.arg(4, "step")).indices(
        stays.size
    )
    # The coordinates that it picks, then their numbers among those that are left.
    picked = np.arange(start, end, step)
    new = (np.cumsum(stays) - 1)[picked[stays[picked]]]
    # A slice again only where these are evenly spaced.
    strides = np.unique(np.diff(new)) if new.size > 1 else np.ones(1, np.int64)
    if not new.size or strides.size != 1:
        raise call.refused("picks coordinates that are unevenly left")
    call.node.args = (
        call.node.args[0],
        axis,
        int(new[0]),
        int(new[-1]) + 1,
        int(strides[0]),
    )


def _narrow(call: _Call) -> None:
    axis = int(call.arg(1, "dim")) % len(call.taken(0))
    stays, start, length = call.taken(0)[axis], int(call.arg(2, "start")), int(call.arg(3, "length"))
    call.put(2, "start", _count(stays[:start]))
    call.put(3, "length", _count(stays[start : start + length]))


def _select(call: _Call) -> None:
    axis = int(call.arg(1, "dim", 0)) % len(call.taken(0))
    stays, index = call.taken(0)[axis], int(call.arg(2, "index"))
    if not stays[index]:
        raise call.refused("picks a coordinate that goes")
    call.put(2, "index", _count(stays[: index % stays.size]))


def _split(call: _Call) -> None:
    """Any split becomes one with the sizes that are left of its parts."""
    axis = int(call.arg(2, "dim", 0)) % len(call.taken(0))
    if call.taken(0)[axis].all():
        return
    sizes = [_count(left[axis]) for left in call.given]
    call.node.target = torch.ops.aten.split_with_sizes.default
    call.node.args, call.node.kwargs = (call.node.args[0], sizes, axis), {}


def _normalized_shape(call: _Call) -> None:
    """Layer and RMS norms name the sizes that they run over."""
    rank = len(call.arg(1, "normalized_shape"))
    call.put(1, "normalized_shape", [_count(stays) for stays in call.taken(0)[-rank:]])


def _groups_at(position: int, name: str = "groups") -> Callable[[_Call], None]:
    """Convolution, group norm, channel shuffle: whole groups are gone, or as much of every group."""

    def rule(call: _Call) -> None:
        groups, stays = call.arg(position, name, 1), call.taken(0)[1]
        if groups == 1 or stays.all():
            return
        # [groups]: how much of each is left.
        left = stays.reshape(int(groups), -1).sum(axis=1)
        if np.unique(left[left > 0]).size != 1:
            raise call.refused("has groups that would be left with different widths")
        call.put(position, name, int((left > 0).sum()))

    return rule


def _classes(position: int, name: str) -> Callable[[_Call], None]:
    """How many experts there are, where their numbers are counted or spelled out."""

    def rule(call: _Call) -> None:
        call.put(position, name, _count(call.given[0][-1]))

    return rule


def _histogram(call: _Call) -> None:
    """Arguments: input, bins, lowest, highest."""
    count = _count(call.given[0][0])
    call.put(1, "bins", count)
    call.put(3, "max", count - 1)


def _native_group_norm(call: _Call) -> None:
    """Arguments: input, weight, bias, N, C, HxW, group, eps."""
    _groups_at(6)(call)
    call.node.update_arg(4, _count(call.taken(0)[1]))


_MADE, _MADE_LIKE = ("full", "zeros", "ones", "empty"), ("new_full", "new_zeros", "new_ones", "new_empty")
_WITHOUT_REST = ("expand", "expand_as", *_MADE, *_MADE_LIKE)
"""Operators whose sizes cannot be -1 for what is left over."""

RULES: Mapping[str, Callable[[_Call], None]] = {
    **dict.fromkeys(_MADE, _made_at(0)),
    **dict.fromkeys(_MADE_LIKE, _made_at(1)),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "_reshape_alias", "expand", "broadcast_to"), _sizes),
    "unflatten": _unflatten,
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "repeat_interleave": _repeat_interleave,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(
        ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split"), _split
    ),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm"), _normalized_shape),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _groups_at(6)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _groups_at(6)),
    **dict.fromkeys(("convolution", "_convolution"), _groups_at(8)),
    "group_norm": _groups_at(1, "num_groups"),
    "native_group_norm": _native_group_norm,
    "histc": _histogram,
    "one_hot": _classes(1, "num_classes"),
    "channel_shuffle": _groups_at(1),
    "native_channel_shuffle": _groups_at(1),
}
