"""Routing: numbers of experts that top-k gives, and the operators that send tokens by them.

A top-k over the scores of experts gives their numbers. When an expert goes, the others are counted anew,
and every operator that takes such a number finds the same expert behind it, as long as all of them count the
same experts. So numbers *point* at labels: moving them about keeps that, looking up and counting by them says
that the axis they are used on has the very same labels, and anything else that is done to them freezes the
experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.utils import _pytree as pytree

from esper.anatomy.labels.labels import Flow, varying_axes
from esper.anatomy.labels.rules.call import Call, Result, Rule, operators

_KEEP = operators(
    """contiguous clone alias to _to_copy detach type_as lift_fresh lift_fresh_copy float double
    _assert_tensor_metadata transpose permute t slice repeat flip movedim swapaxes narrow repeat_interleave
    select unbind split split_with_sizes chunk view reshape _unsafe_view flatten unflatten _reshape_alias
    squeeze unsqueeze expand expand_as sort topk"""
)
"""Operators whose first result (all parts of a list) holds the same numbers as their first argument."""
_PICK = operators("gather index index_select")
"""Operators whose result holds some of the numbers of their first argument."""
_USED = {"histc": 0, "one_hot": 0, "gather": 2, "index_select": 2, "scatter": 2, "scatter_add": 2, "index": 1}
"""Operators whose rules know numbers that point, and which argument these are (`index` takes a list)."""
_LISTS = operators("unbind split split_with_sizes chunk")


def routed(call: Call, flow: Flow, axis: int, results: list[Flow]) -> None:
    """Notes what softmax and top-k share out, and lets the numbers that top-k gives point at it."""
    if not call.is_approximate:
        return
    # Scores of experts: labels along this axis and no other.
    own = [layer for layer in flow.layers if varying_axes(layer) == (axis,)]
    if len(own) != 1 or call.name not in ("softmax", "_softmax", "topk"):
        return
    labels = own[0].flatten()
    call.notes.routed.append(labels)
    if call.name == "topk":
        call.notes.least.append((labels, int(call.args[1])))
        results[1] = replace(results[1], points=labels)


def pointing(call: Call, result: Result) -> Result:
    """The result, with what its numbers point at; what is not followed further freezes."""
    pointers = [flow for flow in call.flows() if flow.points is not None]
    if not pointers:
        return result
    # Numbers are known where an operator takes them as such. Every other use has to keep them, or their
    # labels freeze.
    used = pytree.tree_leaves(call.args[_USED[call.name]], is_leaf=_is_flow) if call.name in _USED else []
    others = [flow for flow in pointers if not any(flow is known for known in used)]
    if call.name in (*_KEEP, *_PICK) and len(others) == 1 and others[0] is call.args[0]:
        labels = others[0].points
        if call.name in _LISTS:
            return [replace(part, points=labels) for part in result]
        if isinstance(result, Flow):
            return replace(result, points=labels)
        first, *rest = pytree.tree_leaves(result, is_leaf=_is_flow)
        return [replace(first, points=labels), *rest]
    for flow in others:
        call.space.freeze_flow(flow, f"{call.where} computes with numbers of experts")
    return result


def pointed(call: Call, flow: Flow, axis: int, index: Flow) -> bool:
    """Says that an axis that is looked up has the labels that the index points at; False if it cannot."""
    if index.points is None:
        return False
    own = [layer for layer in flow.layers if layer.shape[axis] > 1]
    fits = len(own) == 1 and varying_axes(own[0]) == (axis,) and own[0].shape[axis] == index.points.numel()
    if not fits:
        call.space.freeze_flow(index, f"{call.where} looks up by their numbers what has other coordinates")
        return False
    call.space.unite(own[0].flatten(), index.points, "")
    call.notes.routed.append(index.points)
    if flow.is_constant:
        call.notes.consumed.append(own[0])
    return True


def histogram(call: Call) -> Result:
    """How often each expert was chosen: one that a mask removes never is."""
    index, bins = call.args[0], int(call.args[1])
    lowest, highest = call.arg(2, "min", 0), call.arg(3, "max", 0)
    points = index.points
    if points is None or (bins, lowest, highest) != (points.numel(), 0, points.numel() - 1):
        return call.frozen(f"{call.where} counts values")
    call.notes.routed.append(points)
    return call.result([points], is_zeroed=True)


def one_hot(call: Call) -> Result:
    """Numbers spelled out: 1 at the chosen expert."""
    index: Flow = call.args[0]
    points = index.points
    if points is None or points.numel() != call.shape[-1]:
        call.space.freeze_flow(index, f"{call.where} spells out values")
        return call.unlabelled()
    call.notes.routed.append(points)
    return call.result([points.reshape([1] * len(index.shape) + [-1])], is_zeroed=True)


def _is_flow(value: Any) -> bool:
    return isinstance(value, Flow)


RULES: dict[str, Rule] = {"histc": histogram, "one_hot": one_hot}
