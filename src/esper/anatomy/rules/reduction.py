"""Reductions, pooling, normalization, embeddings and indexing."""

from __future__ import annotations

import torch

from esper.anatomy.labels import Flow, compact, varying_axes
from esper.anatomy.rules.call import Call, Result, Rule, spread

POOLS = frozenset(
    "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool1d_with_indices "
    "max_pool3d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d _adaptive_avg_pool2d lp_pool1d lp_pool2d "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
    "upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d "
    "replication_pad1d replication_pad2d grid_sampler grid_sampler_2d".split()
)
REDUCTIONS = frozenset(
    "mean sum amax amin max min prod var std var_mean std_mean norm linalg_vector_norm logsumexp argmax argmin any all "
    "median nansum nanmean count_nonzero".split()
)
ALONG = frozenset("softmax _softmax log_softmax _log_softmax cumsum cumprod logcumsumexp sort topk argsort glu_not_split".split())
MAKERS = frozenset(
    "arange full zeros ones empty eye linspace scalar_tensor new_zeros new_ones new_full new_empty rand randn randint tril_indices "
    "triu_indices _shape_as_tensor one_hot bucketize searchsorted".split()
)


def pooled(call: Call) -> Result:
    """Pooling and resizing over space: channels (all but the trailing axes) keep their labels."""
    flow = call.args[0]
    space_axes = _space_axes(call)
    for axis in range(len(flow.shape) - space_axes, len(flow.shape)):
        call.space.fix_axis(flow, axis, f"{call.where} slides over it")
    layers = [call.space.conjunction(layer, range(layer.dim() - space_axes, layer.dim())) for layer in flow.layers]
    first = call.result([layer for layer in layers if varying_axes(layer)])
    return [first, *(Flow(shape) for shape in call.shapes[1:])] if len(call.shapes) > 1 else first


def _space_axes(call: Call) -> int:
    digits = [int(c) for c in call.name if c.isdigit()]
    return digits[0] if digits else len(call.shape) - 2


def reduced(call: Call) -> Result:
    """Reductions: an axis without labels disappears; over a labelled one the result would change with every removal."""
    flow = call.args[0]
    axes = _axes(call, len(flow.shape))
    for axis in axes:
        call.space.fix_axis(flow, axis, f"statistic-coupled: {call.where} runs over it")
    layers = [call.space.conjunction(layer, axes) for layer in flow.layers]
    results = []
    for shape in call.shapes:
        kept = len(shape) == len(flow.shape)
        squeezed = [layer if kept else _without(layer, axes) for layer in layers]
        results.append(call.space.flow(shape, [layer for layer in squeezed if varying_axes(layer)]))
    return results if len(results) > 1 else results[0]


def _without(layer: torch.Tensor, axes: list[int]) -> torch.Tensor:
    return layer.reshape([size for axis, size in enumerate(layer.shape) if axis not in axes])


def _axes(call: Call, rank: int) -> list[int]:
    position = 2 if call.name in ("norm", "linalg_vector_norm") else 1
    dim = call.arg(position, "dim")
    if isinstance(dim, Flow) or dim is None or isinstance(dim, bool):
        return list(range(rank))
    chosen = [dim] if isinstance(dim, int) else list(dim)
    return [axis % rank for axis in chosen] if chosen else list(range(rank))


def along(call: Call) -> Result:
    """Softmax and the like: the axis it runs along keeps its size, the rest flows on."""
    flow = call.args[0]
    axis = call.arg(2 if call.name == "topk" else 1, "dim", -1)
    call.space.fix_axis(flow, int(axis), f"statistic-coupled: {call.where} runs over it")
    results = [Flow(shape, flow.layers) if shape == flow.shape else Flow(shape) for shape in call.shapes]
    return results if len(results) > 1 else results[0]


def batch_norm(call: Call) -> Result:
    """Each channel by itself: weight, bias and running statistics go along."""
    flow = call.args[0]
    for companion in call.args[1:5]:
        if isinstance(companion, Flow):
            channel = companion.unsqueezed(*range(1, len(flow.shape) - 1)) if len(flow.shape) > 2 else companion
            flow = call.space.meet(flow, channel, f"{call.where} has a fixed size")
    if len(call.shapes) > 1:
        return [flow, *(Flow(shape) for shape in call.shapes[1:])]
    return flow


def layer_norm(call: Call) -> Result:
    """Layer and RMS norm: every element depends on the whole axis, so its width is statistic-coupled."""
    flow = call.args[0]
    for axis in range(len(flow.shape) - len(call.args[1]), len(flow.shape)):
        call.space.fix_axis(flow, axis, f"statistic-coupled: {call.where}")
    for companion in (call.arg(2, "weight"), call.arg(3, "bias")):
        if isinstance(companion, Flow):
            flow = call.space.meet(flow, companion, f"{call.where} has a fixed size")
    if len(call.shapes) > 1:
        return [flow, *(Flow(shape) for shape in call.shapes[1:])]
    return flow


def group_norm(call: Call) -> Result:
    """Channels of one group are normalized together: the whole group goes or stays."""
    flow, groups = call.args[0], int(call.args[6] if call.name == "native_group_norm" else call.args[1])
    first = 1 if call.name == "native_group_norm" else 2
    for axis in range(2, len(flow.shape)):
        call.space.fix_axis(flow, axis, f"statistic-coupled: {call.where} runs over it")
    if groups == 1:
        call.space.fix_axis(flow, 1, f"statistic-coupled: {call.where} over one group")
    grouped = flow.split_axis(1, (groups, flow.shape[1] // groups))
    for layer in grouped.layers:
        if layer.shape[2] > 1:
            call.space.unite(layer, layer.narrow(2, 0, 1), f"{call.where} mixes it with a fixed size")
    for companion in call.args[first : first + 2]:
        if isinstance(companion, Flow):
            channel = companion.unsqueezed(*range(1, len(flow.shape) - 1)) if len(flow.shape) > 2 else companion
            flow = call.space.meet(flow, channel, f"{call.where} has a fixed size")
    if len(call.shapes) > 1:
        return [flow, *(Flow(shape) for shape in call.shapes[1:])]
    return flow


def instance_norm(call: Call) -> Result:
    """Each channel of each sample by itself."""
    return batch_norm(call)


def embedding(call: Call) -> Result:
    """Rows by number: the vocabulary is fixed, the width carries labels."""
    table = call.args[0]
    call.space.fix_axis(table, 0, f"{call.where} looks rows up by number")
    layers = [layer.reshape([1] * (len(call.shape) - 1) + [-1]) for layer in table.layers if layer.shape[0] == 1]
    call.notes.produced.extend(layers)
    return call.result(layers)


def indexed(call: Call) -> Result:
    """x[index]: axes that are indexed by data keep their size; labels along the others flow on."""
    flow = call.args[0]
    if call.name == "index":
        indices = list(call.args[1]) + [None] * (len(flow.shape) - len(call.args[1]))
        hit = [axis for axis, index in enumerate(indices) if index is not None]
    else:
        hit = [int(call.arg(1, "dim")) % len(flow.shape)]
        indices = [call.args[2] if axis in hit else None for axis in range(len(flow.shape))]
    for axis in hit:
        call.space.fix_axis(flow, axis, f"{call.where} looks it up by number")
    layers = [layer for layer in flow.layers if all(layer.shape[axis] == 1 for axis in hit)]
    moved = []
    for layer in layers:
        if call.name in ("gather", "scatter", "scatter_add"):
            moved.append(layer)
            continue
        picks = tuple(
            slice(None) if index is None else torch.zeros(index.shape, dtype=torch.long) for index in indices
        )
        full = spread(layer, flow.shape)
        moved.append(full[picks] if call.name == "index" else full.index_select(hit[0], picks[hit[0]]))
    return call.result([compact(layer) for layer in moved])


def gated_halves(call: Call) -> Result:
    """GLU: the first half times the sigmoid of the second."""
    flow = call.args[0]
    axis = int(call.arg(1, "dim", -1)) % len(flow.shape)
    half = flow.shape[axis] // 2
    shape = (*flow.shape[:axis], half, *flow.shape[axis + 1 :])

    def side(start: int) -> Flow:
        layers = [layer.narrow(axis, start, half) if layer.shape[axis] > 1 else layer for layer in flow.layers]
        return call.space.flow(shape, layers)

    return call.space.meet(side(0), side(half), f"{call.where} combines it with a fixed size")


def made(call: Call) -> Result:
    """Tensors made from numbers carry no identity."""
    return call.unlabelled()


RULES: dict[str, Rule] = {
    **dict.fromkeys(POOLS, pooled),
    **dict.fromkeys(REDUCTIONS, reduced),
    **dict.fromkeys(ALONG, along),
    **dict.fromkeys(MAKERS, made),
    **dict.fromkeys(
        ("batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "native_batch_norm"), batch_norm
    ),
    "instance_norm": instance_norm,
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm"), layer_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), group_norm),
    "embedding": embedding,
    **dict.fromkeys(("index", "index_select", "gather"), indexed),
    "glu": gated_halves,
}
