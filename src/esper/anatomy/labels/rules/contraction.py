"""Operators that multiply and sum over a shared axis: linear maps, convolutions, attention.

All of them are one idea: bring both operands into the joint index space, let the labels meet there, and drop
the summed axes. Grouped convolution is the same with the channel axis seen as [groups, channels of a group].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from torch import Tensor

from esper.anatomy.labels.labels import Flow, varying_axes, widest, with_rank
from esper.anatomy.labels.rules.call import Call, Product, Result, Rule, read


def contract(
    call: Call, left: Flow, right: Flow, summed: Sequence[int], *, places: tuple[int, int] = (1, 1)
) -> Flow:
    """Multiplies two flows in a joint index space and sums over `summed` (kept as axes of size 1).

    `places` counts what lies outside the joint space: multiplications for each of its points, and results.
    """
    space = call.space
    rank = max(len(left.shape), len(right.shape))
    left, right = with_rank(left, rank), with_rank(right, rank)
    for mine, other in ((left, right), (right, left)):
        for layer in mine.layers:
            # What a weight does to a layer: it reads units along summed axes and makes them along the
            # others.
            if mine.is_constant:
                is_read = any(layer.shape[axis] > 1 for axis in summed)
                is_made = (
                    mine is right and left.is_constant
                )  # a product of weights: the second makes, the first reads
                (call.notes.consumed if is_read and not is_made else call.notes.produced).append(layer)
            _prefer_shared_axis(call, layer, mine, other, summed)
    _only_over_zeros(call, left, right, summed)
    product = space.meet(left, right, call.reason("multiplies it with a fixed size"))
    call.notes.products.append(
        Product(call.node, product.shape, tuple(product.layers), tuple(summed), places)
    )
    # Summed axes stay with size 1. Across them only whole slices go on; labels along other axes flow on as
    # they are.
    shape = tuple(1 if axis in summed else size for axis, size in enumerate(product.shape))
    layers = widest([_drop(call, layer, summed) for layer in product.layers])
    # For the zeros of the result: what each factor alone says after the sum.
    factors = [
        flow.moved(flow.shape, [_drop(call, layer, summed) for layer in flow.layers])
        for flow in (left, right)
    ]
    return space.flow(shape, layers, is_zeroed=space.are_zeroed(layers, factors))


def _only_over_zeros(call: Call, left: Flow, right: Flow, summed: Sequence[int]) -> None:
    """A sum can lose a term only if the masked network has a zero there."""
    for axis in summed:
        spelled = [flow for flow in (left, right) if any(layer.shape[axis] > 1 for layer in flow.layers)]
        if spelled and not any(flow.is_zeroed for flow in spelled):
            for flow in spelled:
                call.space.fix_axis(
                    flow, axis, f"{call.where} sums over it, and a mask does not make it zero there"
                )


def _drop(call: Call, layer: Tensor, summed: Sequence[int]) -> Tensor:
    return call.space.conjunction(layer, [axis for axis in summed if layer.shape[axis] > 1])


def _prefer_shared_axis(call: Call, layer: Tensor, mine: Flow, other: Flow, summed: Sequence[int]) -> None:
    """Slices along an axis that both operands spell out (attention heads, groups) are the natural units."""
    axes = varying_axes(layer)
    # Axes that both have and nothing sums: the product runs over them one by one.
    shared = [axis for axis in axes if axis not in summed and other.shape[axis] > 1]
    if not shared:
        return
    between_activations = not (mine.is_constant or other.is_constant)
    if len(axes) > 1:
        call.space.grid(layer, shared[0])
        if between_activations:
            call.notes.heads.append(layer)
    elif between_activations:
        call.space.heads.update(layer.flatten().tolist())


def linear(call: Call) -> Result:
    """[..., K] x [N, K] (+ bias [N])."""
    x, weight = call.args[0], call.args[1]
    read(call, 0, x, [-1])
    rank = len(x.shape)
    # The joint space is [..., N, K].
    left = x.unsqueezed(rank - 1)  # [..., 1, K]
    out = squeezed(contract(call, left, weight, [rank]), rank)
    return with_bias(call, out, call.arg(2, "bias"), axis=rank - 1)


def squeezed(flow: Flow, axis: int) -> Flow:
    """Without an axis of size 1."""
    shape = (*flow.shape[:axis], *flow.shape[axis + 1 :])
    return flow.moved(shape, [layer.squeeze(axis) for layer in flow.layers])


def with_bias(call: Call, out: Flow, bias: Flow | None, axis: int) -> Flow:
    """Plus a bias along one axis, if there is one."""
    if bias is None:
        return out
    call.notes.produced.extend(bias.layers)
    trailing = len(out.shape) - 1 - axis
    # [N] becomes [N, 1, ...], so that it stands at `axis`.
    if trailing:
        bias = bias.unsqueezed(*range(1, 1 + trailing))
    return _plus(call, out, bias)


def _plus(call: Call, out: Flow, bias: Flow) -> Flow:
    met = call.space.meet(out, bias, call.reason("adds a fixed size"))
    # A sum is zero only where both terms are.
    terms = (out, with_rank(bias, len(out.shape)))
    return replace(met, is_zeroed=all(call.space.are_zeroed(met.layers, [term]) for term in terms))


def matmul(call: Call) -> Result:
    """[..., M, K] x [..., K, N], vectors included."""
    return _product_of(call, 0, 1)


def added_matmul(call: Call) -> Result:
    """A B, plus a bias."""
    out = _product_of(call, 1, 2)
    bias: Flow = call.args[0]
    call.notes.produced.extend(bias.layers if len(bias.shape) == 1 else ())
    return _plus(call, out, bias)


def _product_of(call: Call, first: int, second: int) -> Flow:
    a, b = call.args[first], call.args[second]
    if len(a.shape) == 0 or len(b.shape) == 0:
        return call.space.meet(a, b, call.reason("multiplies it with a fixed size"))
    read(call, first, a, [-1])
    read(call, second, b, [-2 if len(b.shape) > 1 else -1])
    # A vector is a matrix of one row or column until the end.
    left = a.unsqueezed(0) if len(a.shape) == 1 else a
    right = b.unsqueezed(1) if len(b.shape) == 1 else b
    rank = max(len(left.shape), len(right.shape))
    left = left.unsqueezed(*range(rank - len(left.shape))) if len(left.shape) < rank else left
    right = right.unsqueezed(*range(rank - len(right.shape))) if len(right.shape) < rank else right
    # The joint space is [..., M, K, N], summed over K.
    out = contract(call, left.unsqueezed(rank), _columns(right, rank), [rank - 1])
    out = squeezed(out, rank - 1)  # [..., M, N]
    if len(b.shape) == 1:
        out = squeezed(out, rank - 1)
    if len(a.shape) == 1:
        out = squeezed(out, rank - 2)
    return out


def _columns(right: Flow, rank: int) -> Flow:
    """[..., K, N] -> [..., 1, K, N], beside [..., M, K, 1]."""
    return right.unsqueezed(rank - 2)


def convolution(call: Call) -> Result:
    """[B, C, space] x [O, C / groups, kernel], any number of spatial axes, grouped or not."""
    if call.name in ("convolution", "_convolution"):  # one operator for both: transposed is 6, groups are 8
        return _convolve(call, int(call.args[8]), transposed=bool(call.args[6]))
    return _convolve(call, int(call.arg(6, "groups", 1)), transposed=False)


def transposed_convolution(call: Call) -> Result:
    """[B, C, space] x [C, O / groups, kernel]."""
    return _convolve(call, int(call.arg(6, "groups", 1)), transposed=True)


def _convolve(call: Call, groups: int, *, transposed: bool) -> Result:
    x, weight, bias = call.args[0], call.args[1], call.arg(2, "bias")
    if len(x.shape) != len(weight.shape):  # no batch axis
        return call.frozen(f"{call.where} has no batch axis")
    read(call, 0, x, [1])
    # Every result reads all places of the kernel, and the kernel slides over all places of the input.
    for axis in range(2, len(x.shape)):
        call.space.fix_axis(x, axis, f"{call.where} slides over it")
        call.space.fix_axis(weight, axis, f"{call.where} slides over it")
    channels = _without_space(call, x).split_axis(1, (groups, x.shape[1] // groups))  # [B, g, i]
    kernel = _without_space(call, weight)
    if transposed:
        kernel = kernel.split_axis(0, (groups, weight.shape[0] // groups)).permuted((0, 2, 1))  # [g, o, i]
    else:
        kernel = kernel.split_axis(0, (groups, weight.shape[0] // groups))  # [g, o, i]
    if groups > 1:
        by_group = groups >= channels.shape[2] and not transposed  # else equal positions of all groups
        _prefer(call, channels, 1, by_group=by_group)
        _prefer(call, kernel, 0, by_group=by_group)
    # A transposed convolution lays its kernel down at every pixel of the input, another at every pixel of
    # the result.
    pixels = prod(x.shape[2:] if transposed else call.shape[2:])
    places = (prod(weight.shape[2:]) * pixels, prod(call.shape[2:]))
    out = contract(call, channels.unsqueezed(2), kernel, [3], places=places)  # [B, g, o, 1]
    # [B, groups x channels]; space comes back as axes of size 1 in the layers.
    flat = (out.shape[0], out.shape[1] * out.shape[2])
    result = call.space.reshaped(out, flat).unsqueezed(*range(2, len(call.shape)))
    return with_bias(call, replace(result, shape=call.shape), bias, axis=1)


def _prefer(call: Call, flow: Flow, group_axis: int, *, by_group: bool) -> None:
    """Whole groups, or equal positions of all groups: whichever leaves the finer units."""
    for layer in flow.layers:
        others = [axis for axis in varying_axes(layer) if axis != group_axis]
        if layer.shape[group_axis] > 1 and others:
            call.space.grid(layer, group_axis if by_group else others[0])


def _without_space(call: Call, flow: Flow) -> Flow:
    layers = [call.space.conjunction(layer, range(2, layer.dim())) for layer in flow.layers]
    layers = [layer.reshape(layer.shape[:2]) for layer in layers]
    return flow.moved(flow.shape[:2], [layer for layer in layers if varying_axes(layer)])


def attention(call: Call) -> Result:
    """softmax(Q K^T) V with heads on axis -3; grouped-query keys and values repeat."""
    q, k, v = call.args[:3]
    read(call, 0, q, [-1])
    mask = call.arg(3, "attn_mask")
    rank = len(q.shape)
    if call.kwargs.get("enable_gqa", False) and q.shape[-3] != k.shape[-3]:
        k, v = _repeat_heads(call, k, q.shape[-3]), _repeat_heads(call, v, q.shape[-3])
    # With no scale given, the operator divides by the root of a head's width: the width has to stay.
    if call.kwargs.get("scale") is None:
        for flow in (q, k):
            call.space.fix_axis(flow, -1, f"{call.where} scales by the width of a head")
    scores = contract(call, q.unsqueezed(rank - 1), k.unsqueezed(rank - 2), [rank])  # [..., T, S, 1]
    scores = squeezed(scores, rank)
    if isinstance(mask, Flow):
        scores = call.space.meet(scores, mask, call.reason("adds a mask of fixed size"))
    call.space.fix_axis(scores, -1, f"{call.where} normalizes over it")
    # The joint space is [..., T, S, D], summed over S.
    values = v.unsqueezed(rank - 2)  # [..., 1, S, D]
    out = squeezed(contract(call, scores.unsqueezed(rank), values, [rank - 1]), rank - 1)
    return call.result(out.layers, is_zeroed=out.is_zeroed)


def _repeat_heads(call: Call, flow: Flow, heads: int) -> Flow:
    axis = len(flow.shape) - 3
    times = heads // flow.shape[axis]
    shape = (*flow.shape[:axis], heads, *flow.shape[axis + 1 :])
    # `times` queries in a row share a key.
    layers = [
        layer.repeat_interleave(times, axis) if layer.shape[axis] > 1 else layer for layer in flow.layers
    ]
    return call.result(layers, shape, is_zeroed=flow.is_zeroed)


def grouped_matmul(call: Call) -> Result:
    """[S, K] x [E, K, N]: every row meets the matrix of its own expert, so all experts keep one shape.

    Rows are sorted by expert, and the offsets say where each one's begin: whole experts go with their offset.
    """
    x, weight, offsets = call.args[0], call.args[1], call.arg(2, "offs")
    if (len(x.shape), len(weight.shape)) != (2, 3):
        return call.frozen(f"{call.where} is used in a form that is not followed")
    read(call, 0, x, [-1])
    # Labels along the axis of experts alone. Where the offsets carry labels too, both are the experts.
    own = [layer for layer in weight.layers if varying_axes(layer) == (0,)]
    if isinstance(offsets, Flow) and offsets.layers and own:
        call.space.unite(own[0].flatten(), offsets.layers[0], "")
        call.notes.consumed.append(own[0])
        read(call, 1, weight, [0])
    else:
        call.space.fix_axis(weight, 0, f"{call.where} sends rows to experts by number")
    # All experts at once: one matrix [1, K, N] with what they have in common.
    layers = [call.space.conjunction(layer, [0]) for layer in weight.layers]
    one = weight.moved((1, *weight.shape[1:]), [layer for layer in layers if varying_axes(layer)])
    return squeezed(contract(call, x.unsqueezed(2), one, [1]), 1)


def outer(call: Call) -> Result:
    """[M] x [N] -> [M, N]."""
    return contract(call, call.args[0].unsqueezed(1), call.args[1].unsqueezed(0), [])


RULES: dict[str, Rule] = {
    "linear": linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "__matmul__"), matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm"), added_matmul),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed_convolution),
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("_grouped_mm", "transformers::grouped_mm_fallback"), grouped_matmul),
    "outer": outer,
}
