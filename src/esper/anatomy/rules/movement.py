"""Operators that only move elements: the very same operator runs on the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esper.anatomy.labels import Flow, compact, reshape_layer
from esper.anatomy.rules.call import Call, Result, Rule, spread

ON_LABELS = frozenset(
    "transpose permute t numpy_T mT adjoint slice select unbind split split_with_sizes chunk tensor_split unsafe_chunk unsafe_split "
    "repeat flip roll pixel_shuffle pixel_unshuffle squeeze unsqueeze movedim moveaxis swapaxes swapdims narrow "
    "repeat_interleave unfold channel_shuffle native_channel_shuffle diagonal tile".split()
)
RESHAPES = frozenset("view reshape _unsafe_view flatten unflatten _reshape_alias view_as reshape_as squeeze unsqueeze".split())
SAME = frozenset(
    "contiguous clone alias to _to_copy detach dropout feature_dropout alpha_dropout feature_alpha_dropout type_as lift_fresh "
    "lift_fresh_copy float half double bfloat16 _assert_tensor_metadata copy_to cpu cuda positive native_dropout".split()
)


def same(call: Call) -> Result:
    """Copies and casts: nothing moves."""
    flow = call.args[0]
    return [flow, Flow(flow.shape)] if len(call.shapes) > 1 else flow


def reshaped(call: Call) -> Result:
    """Reshapes of any kind, from the concrete shape of the result."""
    flow = call.args[0]
    layers = [reshape_layer(layer, flow.shape, call.shape) for layer in flow.layers]
    return call.space.flow(call.shape, layers, weight_of=flow.weight_of)


def on_labels(call: Call) -> Result:
    """Runs the operator on each layer at full size."""
    flow = call.args[0]
    rest = [arg for arg in call.args[1:] if not isinstance(arg, Flow)]
    if len(rest) != len(call.args) - 1:  # a tensor decides what moves where
        return _fixed(call, flow)
    moved: list[list[Tensor]] = []
    for layer in flow.layers:
        result = call.target(spread(layer, flow.shape), *rest, **call.kwargs)
        moved.append([compact(part) for part in (result if isinstance(result, (list, tuple)) else [result])])
    results = [
        call.space.flow(shape, [parts[n] for parts in moved], weight_of=flow.weight_of)
        for n, shape in enumerate(call.shapes)
    ]
    return results if _is_list(call) else results[0]


def _is_list(call: Call) -> bool:
    return call.name in ("unbind", "split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split")


def _fixed(call: Call, flow: Flow) -> Result:
    call.space.freeze_flow(flow, f"{call.where} moves elements by data")
    return call.unlabelled()


def expanded(call: Call) -> Result:
    """Expansion: the new axes have no identity of their own."""
    flow = call.args[0]
    missing = len(call.shape) - len(flow.shape)
    wide = flow.unsqueezed(*range(missing))
    return call.space.flow(call.shape, wide.layers, weight_of=flow.weight_of)


def joined(call: Call) -> Result:
    """Concatenation: labels stand side by side along the axis, and meet along the others."""
    parts: list[Flow] = [p for p in call.args[0] if len(p.shape) == len(call.shape)]
    axis = int(call.arg(1, "dim", 0)) % len(call.shape)
    chosen: list[Tensor | None] = []
    across: Flow | None = None
    for part in parts:
        along = [layer for layer in part.layers if layer.shape[axis] > 1]
        for extra in along[1:]:
            call.space.freeze(extra, f"{call.where} joins labels of several origins")
        chosen.append(along[0] if along else None)
        rest = [layer for layer in part.layers if layer.shape[axis] == 1]
        flat = call.space.flow(_with(part.shape, axis, 1), rest)
        across = flat if across is None else call.space.meet(across, flat, f"{call.where} joins it with a fixed size")
    layers = [] if across is None else list(across.layers)
    if any(layer is not None for layer in chosen):
        layers.insert(0, _side_by_side(chosen, [part.shape[axis] for part in parts], axis))
    return call.space.flow(call.shape, layers)


def stacked(call: Call) -> Result:
    """Stacking: a new axis without identity; what stands side by side there is told apart by the label alone."""
    axis = int(call.arg(1, "dim", 0)) % len(call.shape)
    parts = [part.unsqueezed(axis) for part in call.args[0]]
    depth = max(len(part.layers) for part in parts)
    layers = []
    for number in range(depth):
        chosen = [part.layers[number] if number < len(part.layers) else None for part in parts]
        layers.append(_side_by_side(chosen, [1] * len(parts), axis))
    return call.space.flow(call.shape, layers)


def _side_by_side(chosen: list[Tensor | None], sizes: list[int], axis: int) -> Tensor:
    """Layers next to each other along `axis`; a part without labels contributes zeros."""
    present = [layer for layer in chosen if layer is not None]
    widest = [max(layer.shape[n] for layer in present) for n in range(present[0].dim())]
    blocks = []
    for layer, size in zip(chosen, sizes, strict=True):
        shape = _with(widest, axis, size)
        blocks.append(torch.zeros(shape, dtype=torch.long) if layer is None else layer.expand(shape))
    return compact(torch.cat(blocks, axis))


def _with(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def padded(call: Call) -> Result:
    """Padding: new places have no identity; padding of a labelled axis itself keeps the labels in the middle."""
    flow = call.args[0]
    pads = list(call.args[1])
    layers = []
    for layer in flow.layers:
        amounts = []
        for pair in range(len(pads) // 2):
            axis = len(flow.shape) - 1 - pair
            amounts += pads[2 * pair : 2 * pair + 2] if layer.shape[axis] > 1 else [0, 0]
        layers.append(compact(torch.nn.functional.pad(layer, amounts)))
    return call.result(layers)


def windowed(call: Call) -> Result:
    """im2col: [B, C, H, W] -> [B, C x kernel, places]; the channel repeats for every place of the kernel."""
    flow = call.args[0]
    for axis in range(2, len(flow.shape)):
        call.space.fix_axis(flow, axis, f"{call.where} slides over it")
    times = call.shape[1] // flow.shape[1]
    layers = [
        layer.repeat_interleave(times, 1).flatten(2)[..., :1] for layer in flow.layers if layer.shape[1] > 1
    ]
    return call.result(layers)


RULES: dict[str, Rule] = {
    **dict.fromkeys(ON_LABELS, on_labels),
    **dict.fromkeys(RESHAPES, reshaped),
    **dict.fromkeys(SAME, same),
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
}
