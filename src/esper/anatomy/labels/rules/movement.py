"""Operators that only move elements: the very same operator runs on the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esper.anatomy.labels.labels import Flow, compact, varying_axes, with_rank
from esper.anatomy.labels.rules.call import Call, Result, Rule, operators, spread, with_size

ON_LABELS = operators(
    """transpose permute t numpy_T mT adjoint slice split_with_sizes tensor_split repeat flip pixel_shuffle
    pixel_unshuffle movedim moveaxis swapaxes swapdims narrow repeat_interleave channel_shuffle
    native_channel_shuffle tile"""
)
BY_NUMBER = operators("select unbind roll unfold diagonal")
TRIANGLES = operators("tril triu")
IN_EQUAL_PARTS = operators("chunk split unsafe_chunk unsafe_split")
RESHAPES = operators("ravel view reshape _unsafe_view flatten unflatten _reshape_alias squeeze unsqueeze")
LIKE = operators("view_as reshape_as")
SAME = operators(
    """contiguous clone alias to _to_copy detach dropout feature_dropout alpha_dropout
    feature_alpha_dropout type_as lift_fresh lift_fresh_copy float half double bfloat16
    _assert_tensor_metadata copy_to cpu cuda native_dropout"""
)
LISTS = operators("unbind split split_with_sizes chunk tensor_split unsafe_chunk unsafe_split")


def same(call: Call) -> Result:
    """Copies and casts: nothing moves."""
    flow = call.args[0]
    return [flow, Flow(flow.shape)] if len(call.shapes) > 1 else flow


def reshaped(call: Call) -> Result:
    """Reshapes of any kind, from the concrete shape of the result."""
    flow = call.space.reshaped(call.args[0], call.shape)
    open_axis = _open_axis(call)
    # Where the code writes -1 it lets that size change without noticing.
    if open_axis is not None:
        for layer in flow.layers:
            call.space.grid(layer, open_axis, is_hint=True)
    return flow


def _open_axis(call: Call) -> int | None:
    """The axis that the code lets have any size, by writing -1 there."""
    # At which axis of the result the listed sizes begin.
    first = {"view": 0, "reshape": 0, "_unsafe_view": 0, "unflatten": call.arg(1, "dim")}.get(call.name)
    sizes = call.args[-1]
    if first is None or not isinstance(sizes, (list, tuple)) or -1 not in sizes:
        return None
    return int(first) % len(call.args[0].shape) + list(sizes).index(-1)


def on_labels(call: Call) -> Result:
    """Runs the operator on each layer at full size."""
    flow = call.args[0]
    rest = call.args[1:]
    if len(call.flows()) > 1:
        return call.frozen(f"{call.where} moves elements by data")
    moved: list[list[Tensor]] = []
    for layer in flow.layers:
        # At full size, because the operator may mix axes that do not vary with one that does.
        result = call.target(spread(layer, flow.shape), *rest, **call.kwargs)
        moved.append([compact(part) for part in (result if isinstance(result, (list, tuple)) else [result])])
    results = [
        call.result([parts[n] for parts in moved], shape, is_zeroed=flow.is_zeroed)
        for n, shape in enumerate(call.shapes)
    ]
    return results if call.name in LISTS else results[0]


def by_number(call: Call) -> Result:
    """The code names coordinates of an axis by number: these stay, slices of other axes still go."""
    flow = call.args[0]
    for axis in _named_axes(call, len(flow.shape)):
        call.space.fix_axis(flow, axis, f"{call.where} names its coordinates by number")
    return on_labels(call)


def _named_axes(call: Call, rank: int) -> list[int]:
    if call.name == "roll":
        dims = call.arg(2, "dims") or range(rank)
        return [dims] if isinstance(dims, int) else list(dims)
    if call.name == "diagonal":
        return [call.arg(2, "dim1", 0), call.arg(3, "dim2", 1)]
    return [call.arg(1, "dim" if call.name != "unfold" else "dimension", 0)]


def triangle(call: Call) -> Result:
    """Elements beside the diagonal become zero: both axes of the matrix are named by number."""
    flow: Flow = call.args[0]
    for axis in (-2, -1):
        call.space.fix_axis(flow, axis, f"{call.where} names its coordinates by number")
    return flow


def pairs_to_complex(call: Call) -> Result:
    """[..., 2] -> [...]: both parts of a number go together."""
    flow: Flow = call.args[0]
    parts = [layer.narrow(-1, 0, 1) for layer in flow.layers]
    for layer, first in zip(flow.layers, parts, strict=True):
        if layer.shape[-1] > 1:
            call.space.unite(layer, first.expand(layer.shape), call.reason("pairs it with a fixed size"))
    return call.result([part.squeeze(-1) for part in parts], is_zeroed=flow.is_zeroed)


def complex_to_pairs(call: Call) -> Result:
    """[...] -> [..., 2]."""
    flow: Flow = call.args[0]
    return call.result([layer.unsqueeze(-1) for layer in flow.layers], is_zeroed=flow.is_zeroed)


def in_equal_parts(call: Call) -> Result:
    """Chunks of equal size stay so only if each loses equally many: equal positions go together."""
    flow = call.args[0]
    axis = int(call.arg(2, "dim", 0)) % len(flow.shape)
    sizes = {shape[axis] for shape in call.shapes}
    if len(sizes) == 1 and len(call.shapes) > 1:
        # [parts, places within each]: equal positions of all parts are the slices.
        parts = flow.split_axis(axis, (len(call.shapes), *sizes))
        for layer in parts.layers:
            if varying_axes(layer) == (axis, axis + 1):
                call.space.grid(layer, axis + 1)
    return on_labels(call)


def expanded(call: Call) -> Result:
    """Expansion: the new axes have no identity of their own.

    A mask that is repeated for every head is the same for all, so it goes with whatever head it meets; so
    does a key that all heads share. A key that the heads of one group share goes with its group.
    """
    flow = call.args[0]
    wide = with_rank(flow, len(call.shape))
    layers = list(wide.layers)
    for axis in range(1, len(call.shape)):
        # Right behind an axis with labels the copies belong to its coordinates. Elsewhere each copy gets a
        # label, which will be united with what it meets.
        in_group = any(layer.shape[axis - 1] > 1 for layer in wide.layers)
        if not in_group and wide.shape[axis] == 1 and call.shape[axis] > 1:
            repeated = call.space.fresh(call.shape[axis])
            layers.append(repeated.reshape([-1 if n == axis else 1 for n in range(len(call.shape))]))
    return call.result(layers, is_zeroed=flow.is_zeroed)


def joined(call: Call) -> Result:
    """Concatenation: labels stand side by side along the axis, and meet along the others."""
    parts: list[Flow] = [p for p in call.args[0] if len(p.shape) == len(call.shape)]
    return join(call, parts, int(call.arg(1, "dim", 0)) % len(call.shape))


def stacked(call: Call) -> Result:
    """Stacking: concatenation along a new axis."""
    axis = int(call.arg(1, "dim", 0)) % len(call.shape)
    return join(call, [part.unsqueezed(axis) for part in call.args[0]], axis)


def join(call: Call, parts: Sequence[Flow], axis: int) -> Flow:
    """Labels side by side along an axis; along the others they meet."""
    chosen: list[Tensor | None] = []
    across: Flow | None = None
    for part in parts:
        # Only one layer of each part can be laid end to end.
        along = [layer for layer in part.layers if layer.shape[axis] > 1]
        for extra in along[1:]:
            call.space.freeze(extra, f"{call.where} joins labels of several origins")
        chosen.append(along[0] if along else None)
        # Along all other axes the parts meet, as whole slices.
        flat = [call.space.conjunction(layer, [axis]) for layer in part.layers]
        rest = call.result([layer for layer in flat if varying_axes(layer)], with_size(part.shape, axis, 1))
        reason = call.reason("joins it with a fixed size")
        across = rest if across is None else call.space.meet(across, rest, reason)
    layers = [] if across is None else list(across.layers)
    if any(layer is not None for layer in chosen):
        beside = _side_by_side(chosen, [part.shape[axis] for part in parts], axis)
        # A part without labels leaves zeros in the layer; there the others still count.
        is_complete = bool((beside > 0).all())
        layers = [beside, *(x for x in layers if not (is_complete and _spans(beside, x)))]
    return call.result(layers, is_zeroed=all(part.is_zeroed for part in parts if part.layers))


def _spans(wide: Tensor, layer: Tensor) -> bool:
    return set(varying_axes(layer)) <= set(varying_axes(wide))


def _side_by_side(chosen: list[Tensor | None], sizes: list[int], axis: int) -> Tensor:
    """Layers next to each other along `axis`; a part without labels contributes zeros."""
    present = [layer for layer in chosen if layer is not None]
    # Across the axis: size 1 where no layer varies.
    widest = [max(layer.shape[n] for layer in present) for n in range(present[0].dim())]
    blocks = []
    for layer, size in zip(chosen, sizes, strict=True):
        shape = with_size(widest, axis, size)
        blocks.append(torch.zeros(shape, dtype=torch.long) if layer is None else layer.expand(shape))
    return compact(torch.cat(blocks, axis))


def padded(call: Call) -> Result:
    """Padding: new places have no identity; labels of a padded axis stand in the middle."""
    flow = call.args[0]
    pads = list(call.args[1])
    if call.arg(2, "mode", "constant") not in ("constant", 0) and call.name == "pad":
        for pair in range(len(pads) // 2):
            call.space.fix_axis(flow, -1 - pair, f"{call.where} repeats its ends")
    layers = []
    for layer in flow.layers:
        # Padding is listed from the last axis on, two numbers each. A layer of size 1 says the same of new
        # places.
        amounts: list[int] = []
        for pair in range(len(pads) // 2):
            axis = len(flow.shape) - 1 - pair
            amounts += pads[2 * pair : 2 * pair + 2] if layer.shape[axis] > 1 else [0, 0]
        layers.append(compact(torch.nn.functional.pad(layer, amounts)))
    return call.result(layers, is_zeroed=flow.is_zeroed)


def windowed(call: Call) -> Result:
    """im2col: [B, C, H, W] -> [B, C x kernel, places]; the channel repeats for every place of the kernel."""
    flow = call.args[0]
    for axis in range(2, len(flow.shape)):
        call.space.fix_axis(flow, axis, f"{call.where} slides over it")
    # [B, C x kernel]: all places of the kernel of one channel lie together.
    times = call.shape[1] // flow.shape[1]
    channels = [call.space.conjunction(layer, range(2, layer.dim())) for layer in flow.layers]
    layers = [layer.repeat_interleave(times, 1).flatten(2) for layer in channels if layer.shape[1] > 1]
    return call.result(layers, is_zeroed=flow.is_zeroed)


def unwindowed(call: Call) -> Result:
    """col2im: [B, C x kernel, places] -> [B, C, H, W]; a channel is summed over all places of the kernel."""
    flow = call.only()
    call.space.fix_axis(flow, 2, f"{call.where} slides over it")
    channels = call.shape[1]
    windows = flow.split_axis(1, (channels, flow.shape[1] // channels))  # [B, C, kernel, places]
    call.space.fix_axis(windows, 2, f"{call.where} adds it up")
    for layer in windows.layers:
        call.space.grid(layer, 1)
    layers = [call.space.conjunction(layer, (2, 3)) for layer in windows.layers]
    return call.result([layer for layer in layers if varying_axes(layer)], is_zeroed=flow.is_zeroed)


RULES: dict[str, Rule] = {
    **dict.fromkeys(ON_LABELS, on_labels),
    **dict.fromkeys(BY_NUMBER, by_number),
    **dict.fromkeys(IN_EQUAL_PARTS, in_equal_parts),
    **dict.fromkeys((*RESHAPES, *LIKE), reshaped),
    **dict.fromkeys(SAME, same),
    **dict.fromkeys(TRIANGLES, triangle),
    "view_as_complex": pairs_to_complex,
    "view_as_real": complex_to_pairs,
    "expand": expanded,
    "expand_as": expanded,
    "broadcast_to": expanded,
    "cat": joined,
    "concat": joined,
    "concatenate": joined,
    "stack": stacked,
    "pad": padded,
    "constant_pad_nd": padded,
    "im2col": windowed,
    "col2im": unwindowed,
}
