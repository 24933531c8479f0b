"""Operators that put one tensor into a part of another: pieces side by side, or places chosen by data."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from esper.anatomy.labels.labels import Flow, varying_axes
from esper.anatomy.labels.rules.call import Call, Result, Rule, operators, with_size
from esper.anatomy.labels.rules.movement import join
from esper.anatomy.labels.rules.routing import pointed

BY_INDEX = operators("scatter scatter_add scatter_reduce index_add index_copy index_fill")


def into_slice(call: Call) -> Result:
    """slice_scatter: what is written stands between what stays before and behind it."""
    target, source = call.args[0], call.args[1]
    axis = int(call.arg(2, "dim", 0)) % len(target.shape)
    size = target.shape[axis]
    places = torch.arange(size)[slice(call.arg(3, "start"), call.arg(4, "end"), call.arg(5, "step", 1))]
    # All of it: the target lends its size only. Nothing: the target stays.
    if places.numel() == size:
        return call.space.meet(_only_size(call, target), source, call.reason("writes a fixed size"))
    if places.numel() == 0:
        return target
    if places.numel() != int(places[-1] - places[0]) + 1:
        for flow in (target, source):
            call.space.fix_axis(flow, axis, f"{call.where} writes at every few places of it")
    return _written(call, target, source, axis, places)


def into_place(call: Call) -> Result:
    """select_scatter: one coordinate of an axis is overwritten."""
    target: Flow = call.args[0]
    axis, place = int(call.args[2]) % len(target.shape), int(call.args[3])
    call.space.fix_axis(target, axis, f"{call.where} names its coordinates by number")
    places = torch.tensor([place % target.shape[axis]])
    return _written(call, target, call.args[1].unsqueezed(axis), axis, places)


def _only_size(call: Call, target: Flow) -> Flow:
    """A tensor that is overwritten as a whole still lends its size."""
    return call.space.flow(target.shape, target.layers, is_zeroed=True)


def _written(call: Call, target: Flow, source: Flow, axis: int, places: Tensor) -> Flow:
    """What is written stands at `places` of an axis, and at the others what the target has there."""
    # What stays, then what is written, laid end to end and put in order.
    stays = torch.ones(target.shape[axis], dtype=torch.bool).index_fill_(0, places, False)
    others = stays.nonzero().squeeze(1)
    hidden = _only_size(call, _picked(target, axis, places))
    piece = call.space.meet(hidden, source, call.reason("writes a fixed size"))
    parts = [part for part in (_picked(target, axis, others), piece) if part.shape[axis]]
    beside = join(call, parts, axis)
    # The inverse permutation: from [others, places] to the order along the axis.
    order = torch.cat([others, places]).argsort()
    return beside.moved(target.shape, _picked(beside, axis, order).layers)


def _picked(flow: Flow, axis: int, places: Tensor) -> Flow:
    """Some coordinates of an axis, in that order."""
    shape = with_size(flow.shape, axis, places.numel())
    layers = [layer.index_select(axis, places) if layer.shape[axis] > 1 else layer for layer in flow.layers]
    return flow.moved(shape, layers)


def by_index(call: Call) -> Result:
    """scatter, index_add and the like: the axis of the index stays, the others meet what is written."""
    target: Flow = call.args[0]
    axis = int(call.args[1]) % len(target.shape)
    reason = f"{call.where} writes to it by number"
    index: Flow = call.args[2]
    if pointed(call, target, axis, index) and call.name in ("scatter", "scatter_add"):
        return _scattered(call, target)
    call.space.fix_axis(target, axis, reason)
    # Along the other axes the target meets everything that is written.
    met = target.moved(target.shape, _across(call, target, axis))
    for other in call.flows()[1:]:
        if len(other.shape) != len(target.shape):
            call.space.freeze_flow(other, reason)
            continue
        call.space.fix_axis(other, axis, reason)
        flat = other.moved(_one(other.shape, axis), _across(call, other, axis))
        if flat.shape == _one(target.shape, axis):
            met = call.space.meet(met, flat, call.reason("writes a fixed size"))
        else:
            call.space.freeze_flow(flat, reason)
            call.space.freeze_flow(met, reason)
    return call.result([layer for layer in met.layers if varying_axes(layer)])


def _scattered(call: Call, target: Flow) -> Result:
    """Values at the places of experts: that axis of the target goes with them, nothing else has labels."""
    for other in call.flows()[1:]:
        call.space.freeze_flow(replace(other, points=None), f"{call.where} writes by number")
    return call.result(target.layers, is_zeroed=target.is_zeroed)


def _across(call: Call, flow: Flow, axis: int) -> list[Tensor]:
    layers = [call.space.conjunction(layer, [axis]) for layer in flow.layers]
    return [layer for layer in layers if varying_axes(layer)]


def _one(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return with_size(shape, axis, 1)


def into_places(call: Call) -> Result:
    """index_put: the leading axes are indexed by data and stay, the rest meets what is written."""
    target, indices, values = call.args[0], list(call.args[1]), call.args[2]
    reason = f"{call.where} writes to it by number"
    if any(index is None for index in indices):
        return call.frozen(reason)
    hit = max(len(indices), *(len(index.shape) for index in indices))  # a mask covers as many axes as it has
    hit = min(hit, len(target.shape))
    for index in indices:
        call.space.freeze_flow(index, reason)
    for axis in range(hit):
        call.space.fix_axis(target, axis, reason)
    # The trailing axes, which no index covers: there target and values meet.
    rest = target.shape[hit:]
    tail = Flow(rest, tuple(_tail(call, target, len(rest))))
    # The axes of the values in front of them belong to the index.
    trailing = len(values.shape) - min(len(rest), len(values.shape))
    for axis in range(trailing):
        call.space.fix_axis(values, axis, reason)
    source = Flow(values.shape[trailing:], tuple(_tail(call, values, len(values.shape) - trailing)))
    met = call.space.meet(tail, source, call.reason("writes a fixed size"))
    layers = [layer.reshape([1] * hit + list(layer.shape)) for layer in met.layers]
    return call.result(layers)


def _tail(call: Call, flow: Flow, axes: int) -> list[Tensor]:
    """The layers over the last axes alone."""
    leading = len(flow.shape) - axes
    layers = [call.space.conjunction(layer, range(leading)) for layer in flow.layers]
    return [layer.reshape(layer.shape[leading:]) for layer in layers if varying_axes(layer)]


RULES: dict[str, Rule] = {
    "slice_scatter": into_slice,
    "select_scatter": into_place,
    "index_put": into_places,
    **dict.fromkeys(BY_INDEX, by_index),
}
