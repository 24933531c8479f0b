"""Reductions, pooling, normalization, embeddings and indexing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from esper.anatomy.labels.labels import Flow, compact, varying_axes
from esper.anatomy.labels.rules.call import Call, Result, Rule, operators, read, spread
from esper.anatomy.labels.rules.pointwise import pointwise
from esper.anatomy.labels.rules.routing import pointed, routed

POOLS = operators(
    """avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    max_pool1d_with_indices max_pool3d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d
    lp_pool1d lp_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
    upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d grid_sampler grid_sampler_2d grid_sampler_3d"""
)
REDUCTIONS = operators(
    """mean sum amax amin max min prod var std var_mean std_mean norm linalg_vector_norm logsumexp argmax
    argmin any all median nansum nanmean count_nonzero"""
)
LENGTHS = operators("norm linalg_vector_norm")
ZERO_OF_ZEROS = operators("mean sum amax amin prod var std norm linalg_vector_norm nansum nanmean")
SHRINKING = operators(
    """mean sum amax amin var std var_mean std_mean norm linalg_vector_norm logsumexp softmax _softmax
    log_softmax _log_softmax topk"""
)
"""Statistics that can run over what is left of an axis: see `narrowed_norms.py`."""
ALONG = operators("softmax _softmax log_softmax _log_softmax cumsum cumprod logcumsumexp sort topk argsort")
MAKERS = operators(
    """arange eye linspace scalar_tensor rand randn randint tril_indices triu_indices _shape_as_tensor"""
)
UNIFORM = operators("full zeros ones empty new_zeros new_ones new_full new_empty")
BATCH_NORMS = operators(
    "batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit native_batch_norm instance_norm"
)


def pooled(call: Call) -> Result:
    """Pooling and resizing over space: channels (all but the trailing axes) keep their labels."""
    flow = call.only()
    space_axes = _space_axes(call)
    for axis in range(len(flow.shape) - space_axes, len(flow.shape)):
        call.space.fix_axis(flow, axis, f"{call.where} slides over it")
    layers = [
        call.space.conjunction(layer, range(layer.dim() - space_axes, layer.dim())) for layer in flow.layers
    ]
    first = call.result([layer for layer in layers if varying_axes(layer)], is_zeroed=flow.is_zeroed)
    return [first, *(Flow(shape) for shape in call.shapes[1:])] if len(call.shapes) > 1 else first


def _space_axes(call: Call) -> int:
    # The number in the name counts the axes of space; without one, all but batch and channels.
    digits = [int(c) for c in call.name if c.isdigit()]
    return digits[0] if digits else len(call.shape) - 2


def reduced(call: Call) -> Result:
    """Reductions: an axis without labels disappears; on a labelled one every removal changes the result."""
    if call.name in ("max", "min") and isinstance(call.arg(1, "other"), Flow):
        return pointwise(call)  # the larger one of two tensors, element by element
    flow = call.only()
    axes = _axes(call, len(flow.shape))
    _lose(call, flow, axes, is_sum=call.name == "sum" or _is_length(call))
    layers = [call.space.conjunction(layer, axes) for layer in flow.layers]
    is_zeroed = flow.is_zeroed and call.name in ZERO_OF_ZEROS
    results = []
    for shape in call.shapes:
        # With or without the reduced axes, as the call asked for.
        kept = len(shape) == len(flow.shape)
        squeezed = [layer if kept else _without(layer, axes) for layer in layers]
        varying = [layer for layer in squeezed if varying_axes(layer)]
        results.append(call.result(varying, shape, is_zeroed=is_zeroed))
    return results if len(results) > 1 else results[0]


def _lose(call: Call, flow: Flow, axes: Sequence[int], *, is_sum: bool) -> None:
    """What a reduction loses with a coordinate: a sum (of squares) nothing, where a mask makes that zero."""
    if is_sum and flow.is_zeroed:
        read(call, 0, flow, axes)
        return
    for axis in axes:
        call.couple(flow, axis, " runs over it", can_shrink=call.name in SHRINKING)


def _is_length(call: Call) -> bool:
    """Is it the root of a sum of powers, to which zeros add nothing?"""
    if call.name not in LENGTHS:
        return False
    order = call.arg(1, "ord" if call.name == "linalg_vector_norm" else "p", 2)
    return order is None or float(order) >= 0


def _without(layer: Tensor, axes: list[int]) -> Tensor:
    return layer.reshape([size for axis, size in enumerate(layer.shape) if axis not in axes])


def _axes(call: Call, rank: int) -> list[int]:
    position = 2 if call.name in ("norm", "linalg_vector_norm") else 1
    dim = call.arg(position, "dim")
    if dim is None or isinstance(dim, bool):
        return list(range(rank))
    chosen = [dim] if isinstance(dim, int) else list(dim)
    return [axis % rank for axis in chosen] if chosen else list(range(rank))


def along(call: Call) -> Result:
    """Softmax and the like: the axis it runs along keeps its size, the rest flows on."""
    flow = call.only()
    axis = int(call.arg(2 if call.name == "topk" else 1, "dim", -1)) % len(flow.shape)
    can_shrink = call.name in SHRINKING
    # Counts of tokens: one that is always zero leaves the others as they are.
    if not (call.is_approximate and call.name == "cumsum" and flow.is_zeroed):
        call.couple(flow, axis, " runs over it", can_shrink=can_shrink)
    layers = [call.space.conjunction(layer, [axis]) for layer in flow.layers]
    others = [layer for layer in layers if varying_axes(layer)]
    is_zeroed = can_shrink and _is_shrunk(call, flow, [axis])
    results = [
        call.result(
            flow.layers if shape == flow.shape and not _shuffles(call) else others,
            shape,
            is_zeroed=is_zeroed,
        )
        for shape in call.shapes
    ]
    routed(call, flow, axis, results)
    return results if len(results) > 1 else results[0]


def _shuffles(call: Call) -> bool:
    return call.name in ("sort", "topk", "argsort")


def batch_norm(call: Call) -> Result:
    """Each channel by itself: weight, bias and running statistics go along."""
    flow = call.args[0]
    # The evaluated graph reads running statistics. Training reads batch and space, so nothing of these may
    # go.
    for axis in (0, *range(2, len(flow.shape))):
        call.couple(flow, axis, " runs over it in training")
    met = flow
    for companion in call.args[1:5]:
        if isinstance(companion, Flow):
            met = call.space.meet(met, _per_channel(companion, flow), call.reason("has a fixed size"))
    has_companion = any(isinstance(companion, Flow) for companion in call.args[1:5])
    # Statistics make zeros something else; what is zero is weight and bias of a masked channel.
    is_zeroed = _are_zeroed(*call.args[1:3]) if has_companion else flow.is_zeroed
    return _normalized(call, replace(met, is_zeroed=is_zeroed))


def _per_channel(companion: Flow, flow: Flow) -> Flow:
    return companion.unsqueezed(*range(1, len(flow.shape) - 1)) if len(flow.shape) > 2 else companion


def _are_zeroed(*companions: Any) -> bool:
    return all(isinstance(companion, Flow) and companion.is_zeroed for companion in companions)


def _normalized(call: Call, flow: Flow) -> Result:
    """The result, and the statistics that some forms of the operator also return."""
    return [flow, *(Flow(shape) for shape in call.shapes[1:])] if len(call.shapes) > 1 else flow


def layer_norm(call: Call) -> Result:
    """Layer and RMS norm: every element depends on the whole axis, so its width is statistic-coupled."""
    flow = call.args[0]
    axes = range(len(flow.shape) - len(call.args[1]), len(flow.shape))
    for axis in axes:
        call.couple(flow, axis, "", can_shrink=True)
    weight, bias = call.arg(2, "weight"), None if call.name == "rms_norm" else call.arg(3, "bias")
    met = flow
    for companion in (weight, bias):
        if isinstance(companion, Flow):
            met = call.space.meet(met, companion, call.reason("has a fixed size"))
    # A slice of zeros has a mean and a length of 0. It stays zero if no bias is added.
    is_zeroed = (flow.is_zeroed and bias is None) or _is_shrunk(call, met, axes)
    return _normalized(call, replace(met, is_zeroed=is_zeroed))


def _is_shrunk(call: Call, flow: Flow, axes: Iterable[int]) -> bool:
    """Whether zeros will stand for whatever goes, because only what is left is normalized."""
    return call.is_approximate and all(set(varying_axes(layer)) <= set(axes) for layer in flow.layers)


def length_of_slices(call: Call) -> Result:
    """The length of every slice along one axis (-1: of the whole tensor), as other dimensions keep it."""
    flow: Flow = call.args[0]
    axes = _but(int(call.arg(2, "dim", 0)), len(flow.shape))
    _lose(call, flow, axes, is_sum=True)
    layers = [call.space.conjunction(layer, axes) for layer in flow.layers]
    return call.result([layer for layer in layers if varying_axes(layer)], is_zeroed=flow.is_zeroed)


def weight_norm(call: Call) -> Result:
    """Directions [O, ...] and lengths [O, 1, ...]: every slice of a weight is given its length.

    A slice whose length is zero is zero, so a mask need not (and must not: 0 / 0) touch its direction.
    """
    directions, lengths = call.args[0], call.args[1]
    if any(len(varying_axes(layer)) > 1 for layer in directions.layers):
        return call.frozen(f"{call.where} is used in a form that is not followed")
    within = _but(int(call.arg(2, "dim", 0)), len(directions.shape))
    _lose(call, directions, within, is_sum=True)
    call.space.meet(directions, lengths, call.reason("has a fixed size"))
    # Layers along the slices flow on; a slice itself goes with its length.
    across = [layer for layer in directions.layers if varying_axes(layer)[0] in within]
    call.notes.directions.extend(layer for layer in directions.layers if varying_axes(layer)[0] not in within)
    is_zeroed = directions.is_zeroed and lengths.is_zeroed
    weight = call.result([*lengths.layers, *across], call.shapes[0], is_zeroed=is_zeroed)
    return _normalized(call, weight)


def _but(dim: int, rank: int) -> list[int]:
    """All axes but one; all for -1, as `norm_except_dim` counts."""
    return [axis for axis in range(rank) if dim == -1 or axis != dim % rank]


def group_norm(call: Call) -> Result:
    """Channels of one group are normalized together: the whole group goes or stays."""
    is_native = call.name == "native_group_norm"
    flow, groups = call.args[0], int(call.args[6] if is_native else call.args[1])
    for axis in range(2, len(flow.shape)):
        call.couple(flow, axis, " runs over it")
    if groups == 1:
        call.couple(flow, 1, " over one group")
    # [B, groups, channels of a group, ...]: one statistic for all channels of a group.
    grouped = flow.split_axis(1, (groups, flow.shape[1] // groups))
    for layer in grouped.layers:
        if layer.shape[2] > 1:
            call.space.unite(layer, layer.narrow(2, 0, 1), call.reason("mixes it with a fixed size"))
    first = 1 if is_native else 2
    weight, bias = call.arg(first, "weight"), call.arg(first + 1, "bias")
    met = flow
    for companion in (weight, bias):
        if isinstance(companion, Flow):
            met = call.space.meet(met, _per_channel(companion, flow), call.reason("has a fixed size"))
    is_zeroed = flow.is_zeroed if weight is bias is None else _are_zeroed(weight, bias)
    return _normalized(call, replace(met, is_zeroed=is_zeroed))


def embedding(call: Call) -> Result:
    """Rows by number: the vocabulary is fixed, the width carries labels."""
    table: Flow = call.args[0]
    call.space.freeze_flow(call.args[1], f"{call.where} takes it for a row number")
    call.space.fix_axis(table, 0, f"{call.where} looks rows up by number")
    # What a row holds comes out along the last axis.
    columns = [call.space.conjunction(layer, [0]) for layer in table.layers]
    layers = [layer.reshape([1] * (len(call.shape) - 1) + [-1]) for layer in columns if varying_axes(layer)]
    call.notes.produced.extend(layers)
    return call.result(layers, is_zeroed=table.is_zeroed)


def indexed(call: Call) -> Result:
    """x[index]: axes that are indexed by data keep their size; labels along the others flow on."""
    flow: Flow = call.args[0]
    # One index for each axis, None where all of it is taken.
    indices: list[Flow | None] = [None] * len(flow.shape)
    if call.name == "index":
        given = list(call.args[1])
        indices[: len(given)] = given
    else:
        indices[int(call.arg(1, "dim")) % len(flow.shape)] = call.args[2]
    hit = [axis for axis, index in enumerate(indices) if index is not None]
    if call.name == "gather":
        flow = _beside(call, flow, call.args[2], hit[0])
    for index in indices:
        if index is not None and call.name != "gather":
            call.space.freeze_flow(replace(index, points=None), f"{call.where} takes it for a number")
    # An axis may lose coordinates after all where the numbers point at its labels: then they are counted
    # anew.
    for axis in hit:
        index = indices[axis]
        if index is None or not pointed(call, flow, axis, index):
            call.space.fix_axis(flow, axis, f"{call.where} looks it up by number")
    layers = [call.space.conjunction(layer, hit) for layer in flow.layers]
    moved = [_picked(call, layer, flow, indices, hit) for layer in layers if varying_axes(layer)]
    return call.result(moved, is_zeroed=flow.is_zeroed)


def _beside(call: Call, flow: Flow, index: Flow, axis: int) -> Flow:
    """The flow, after what its other axes share with an index of as many axes has met."""
    call.space.fix_axis(index, axis, f"{call.where} takes it for a number")
    # Beside the picked axis both must have the same sizes; otherwise it is open what meets what.
    sizes = tuple(1 if n == axis else size for n, size in enumerate(index.shape))
    if sizes != tuple(1 if n == axis else size for n, size in enumerate(flow.shape)):
        call.space.freeze_flow(index, f"{call.where} takes it for a number")
        return flow
    left, right = (
        part.moved(sizes, [call.space.conjunction(layer, [axis]) for layer in part.layers])
        for part in (flow, index)
    )
    call.space.meet(left, right, call.reason("picks by an index of fixed size"))
    return flow


def _picked(
    call: Call, layer: Tensor, flow: Flow, indices: Sequence[Flow | None], hit: Sequence[int]
) -> Tensor:
    """The layer where the result stands; it does not vary along the axes that were hit."""
    if call.name == "gather":
        return layer
    full = spread(layer, flow.shape)
    # The layer does not vary along the axes that were hit, so any index will do.
    zeros = [None if index is None else torch.zeros(index.shape, dtype=torch.long) for index in indices]
    if call.name == "index_select":
        return compact(full.index_select(hit[0], torch.zeros(call.shape[hit[0]], dtype=torch.long)))
    return compact(full[tuple(slice(None) if z is None else z for z in zeros)])


def gated_halves(call: Call) -> Result:
    """GLU: the first half times the sigmoid of the second."""
    flow: Flow = call.args[0]
    axis = int(call.arg(1, "dim", -1)) % len(flow.shape)
    half = flow.shape[axis] // 2
    shape = (*flow.shape[:axis], half, *flow.shape[axis + 1 :])

    def side(start: int) -> Flow:
        layers = [
            layer.narrow(axis, start, half) if layer.shape[axis] > 1 else layer for layer in flow.layers
        ]
        return call.result(layers, shape)

    met = call.space.meet(side(0), side(half), call.reason("combines it with a fixed size"))
    return replace(met, is_zeroed=flow.is_zeroed)


def made(call: Call) -> Result:
    """Tensors made from numbers carry no identity."""
    return call.unlabelled()


def uniform(call: Call) -> Result:
    """Tensors that are the same everywhere: whatever a coordinate meets, it can go with that."""
    ones = [1] * len(call.shape)
    layers = [
        call.space.fresh(size).reshape([*ones[:axis], size, *ones[axis + 1 :]])
        for axis, size in enumerate(call.shape)
        if size > 1
    ]
    value = call.arg(2 if call.name == "new_full" else 1, "fill_value") if "full" in call.name else None
    return call.result(layers, is_zeroed="zeros" in call.name or value == 0)


RULES: dict[str, Rule] = {
    **dict.fromkeys(UNIFORM, uniform),
    **dict.fromkeys(POOLS, pooled),
    **dict.fromkeys(REDUCTIONS, reduced),
    **dict.fromkeys(ALONG, along),
    **dict.fromkeys(MAKERS, made),
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm"), layer_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), group_norm),
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), weight_norm),
    "norm_except_dim": length_of_slices,
    "embedding": embedding,
    **dict.fromkeys(("index", "index_select", "gather"), indexed),
    "glu": gated_halves,
}
