"""The questions the validator asks, each a function that returns its answer with the measured number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper.anatomy import Anatomy, Kind
from esper.arrays import BoolArray, IntArray
from esper.urabrask.quality import Measurement
from esper.urabrask.settings import Settings
from esper.urabrask.verdict import Check


def check_mask(anatomy: Anatomy, keep: NDArray[Any]) -> Check:
    """Is it a bool array with one entry per unit?"""
    fits = keep.dtype == np.bool_ and keep.shape == (anatomy.num_units,)
    given = f"a {keep.dtype} array of shape {keep.shape}"
    text = (
        "The mask fits." if fits else f"The mask is {given}, expected bool of shape ({anatomy.num_units},)."
    )
    return Check("mask", fits, float(keep.size), float(anatomy.num_units), text)


def check_only_removes(keep_before: BoolArray, keep_after: BoolArray) -> Check:
    """Does the plan leave alone what is already gone?"""
    revived = int((keep_after & ~keep_before).sum())
    text = f"{revived} units that were removed before would come back; a plan only removes."
    return Check(
        "only_removes", revived == 0, float(revived), 0.0, text if revived else "Nothing is revived."
    )


def check_members(anatomy: Anatomy) -> Check:
    """Does every member of every group name coordinates that its tensor really has, each once?"""
    shapes = {tensor.name: tensor.shape for tensor in anatomy.tensors}
    wrong = [
        f"{group.name} in {member.tensor} axis {member.axis}"
        for group in anatomy.groups
        for member in group.members
        if not _indexes(shapes.get(member.tensor), member.axis, group.width, member.index)
    ]
    found = "Every member agrees with its tensor."
    text = f"Members do not agree with their tensors: {', '.join(wrong[:4])}. Trace the network again."
    return Check("members", not wrong, float(len(wrong)), 0.0, text if wrong else found)


def _indexes(shape: tuple[int, ...] | None, axis: int, width: int, index: IntArray) -> bool:
    if shape is None or not 0 <= axis < len(shape) or index.ndim != 2 or index.shape[0] != width:
        return False
    # In ascending order: distinct if no two neighbors are equal.
    flat = np.sort(index.ravel())
    return flat.size > 0 and flat[0] >= 0 and flat[-1] < shape[axis] and bool((np.diff(flat) > 0).all())


def check_connectivity(anatomy: Anatomy, keep: BoolArray) -> Check:
    """Does every group, tensor axis and operator have something left? A layer that goes leaves nothing."""
    kept = anatomy.counts(keep)
    # A layer may go as a whole. Its tensors and operators count as if it were there.
    keep = keep | anatomy.is_layer
    empty = [
        group.name
        for group, left in zip(anatomy.groups, kept, strict=True)
        if left == 0 < group.width and group.kind is not Kind.LAYER
    ]
    full = {tensor.name: tensor.shape for tensor in anatomy.tensors}
    empty += [
        f"{name} axis {axis}"
        for name, shape in anatomy.kept_shapes(keep).items()
        for axis, size in enumerate(shape)
        if size == 0 < full[name][axis]
    ]
    empty += [
        term.node
        for term in anatomy.terms
        if any(f.size and not ((f < 0) | keep[f]).any() for f in term.factors)
    ]
    text = f"Nothing would be left of {', '.join(dict.fromkeys(empty[:4]))}."
    return Check("connectivity", not empty, float(len(empty)), 0.0, text if empty else "No path is cut.")


def check_floors(anatomy: Anatomy, keep_before: BoolArray, keep_after: BoolArray, floors: IntArray) -> Check:
    """Does every group that loses something stay at or above its floor?

    Args:
        anatomy: the network.
        keep_before: units that are left now, shape [units].
        keep_after: units that would be left, shape [units].
        floors: fewest units that each group must keep, shape [groups].
    """
    before, after = anatomy.counts(keep_before), anatomy.counts(keep_after)
    below = np.flatnonzero((after < before) & (after < floors))
    text = "Every group stays at or above its floor."
    if below.size:
        group = int(below[0])
        name = anatomy.groups[group].name
        text = f"{name} would keep {after[group]} units, its floor is {floors[group]} ({below.size} such)."
    return Check("floors", below.size == 0, float(below.size), 0.0, text)


def check_gradients(before: Measurement, after: Measurement, settings: Settings) -> Check:
    """Do gradients still reach the surviving parameters, and are they finite and not exploded?

    The norm itself may well fall: it follows the loss, not the structure, so only its rise is limited.

    Args:
        before: the present network, its gradients over the survivors.
        after: the same under the new mask.
        settings: the limits of after / before.
    """
    flow, flow_after, norm, norm_after = (
        before.gradient_flow,
        after.gradient_flow,
        before.gradient_norm,
        after.gradient_norm,
    )
    if flow is None or flow_after is None or norm is None or norm_after is None:
        text = "The gradients were not measured."
        return Check("gradients", not settings.require_gradients, None, None, text)
    if not all(math.isfinite(value) for value in (flow, flow_after, norm, norm_after)):
        text = f"The gradient norm is {norm} before and {norm_after} after the mask."
        return Check("gradients", False, None, None, text)
    if flow <= 0 or norm <= 0:
        text = "The gradient is zero before the mask: nothing can be compared."
        return Check("gradients", False, None, None, text)
    reach, growth = flow_after / flow, norm_after / norm
    low, high = settings.min_gradient_ratio, settings.max_gradient_ratio
    text = (
        f"The gradient reaches {reach:.3g} times as many surviving parameters as before (expected at least "
        f"{low:g}), and its norm is {growth:.3g} times as large (expected at most {high:g})."
    )
    # The number that decides, with its own limit.
    value, limit = (reach, low) if reach < low else (growth, high)
    return Check("gradients", reach >= low and growth <= high, value, limit, text)


def check_memory(peak_bytes: int | None, limit_bytes: int | None) -> Check:
    """Did measuring stay within its memory?"""
    if limit_bytes is None:
        value = None if peak_bytes is None else float(peak_bytes)
        return Check("memory", True, value, None, "No memory limit was asked for.")
    if peak_bytes is None:
        return Check("memory", False, None, float(limit_bytes), "Memory has a limit but was not measured.")
    text = f"Measuring took {peak_bytes / 2**20:.0f} MiB of {limit_bytes / 2**20:.0f} MiB."
    return Check("memory", peak_bytes <= limit_bytes, float(peak_bytes), float(limit_bytes), text)
