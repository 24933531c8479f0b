"""Offline analysis of one checkpoint, in tasks that run in worker processes: ablate, measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from esper.anatomy.graph import split_sample
from esper.anatomy.mend import reconstruction
from esper.anatomy.twin import Twin
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.batches import merged, resized
from esper.elesh.case import Case, OpenCase, open_case, read_data
from esper.elesh.peak import PeakMemory
from esper.errors import EvidenceError

PRELOAD = ("torch", "torch._dynamo", "safetensors.torch", __name__)
"""Modules that the tasks of an analysis need, for workers to import before the first one."""

CHUNK_SAMPLES = 16
"""Samples of one paired loss comparison: small, so that a few hundred samples give enough pairs."""

RECALIBRATION_SAMPLES = 64
"""Samples of one batch whose statistics stand for the training batches'."""


@dataclass(frozen=True)
class Quality:
    """What `measure` found; plain lists, so that it crosses a process boundary cheaply."""

    correctness: tuple[float, ...] | None
    losses: tuple[float, ...]
    gradient_flow: float
    gradient_norm: float
    peak_bytes: int


def ready() -> bool:
    """A task that does nothing: a worker that has done it has imported everything."""
    return True


def ablate(case: Case, units: Sequence[int]) -> list[list[float]]:
    """Rise of the loss on every calibration batch when each unit alone is removed: [units][batches]."""
    opened = open_case(case)
    state = opened.masked_state(opened.keep)
    chosen: IntArray = np.asarray(units, np.int64)
    columns = []
    with torch.no_grad():
        for batch in usable(opened.twin, read_data(case.data)[1].calibration):
            base, _ = opened.twin.loss(state, batch)
            columns.append(opened.twin.ablated_losses(state, batch, opened.anatomy, chosen) - base)
    return [[float(x) for x in row] for row in torch.stack(columns, dim=1).double()]


def measure(
    case: Case, keep: Sequence[bool], survivors: Sequence[bool], reconstruct: bool = False
) -> Quality:
    """Quality of the checkpoint under a mask, on held-out batches: per-sample correctness, losses, gradients.

    Under a new mask the running statistics are measured anew on the calibration batches, and with
    `reconstruct` the readers of what goes are reconstructed on them, as they are when it is applied.
    """
    peak = PeakMemory()
    opened = open_case(case)
    left = np.asarray(keep, np.bool_)
    state = opened.masked_state(left)
    held_out = read_data(case.data)[1]
    if (left != opened.keep).any():
        joined = usable(opened.twin, merged(held_out.calibration, RECALIBRATION_SAMPLES))
        if reconstruct:
            state = _reconstructed(opened, left, state, joined)
        state = opened.twin.recalibrated(state, joined)
    batches = usable(opened.twin, held_out.validation)
    correctness, losses = judged(opened.twin, state, batches)
    flow, norm = _gradients(opened, state, batches[0], np.asarray(survivors, np.bool_))
    return Quality(correctness, losses, flow, norm, peak.read())


def judged(
    twin: Twin, state: Mapping[str, Tensor], batches: Sequence[Any]
) -> tuple[tuple[float, ...] | None, tuple[float, ...]]:
    """Per-sample correctness (None if this is no classification) and losses of small parts of the batches."""
    correctness: list[float] | None = []
    losses: list[float] = []
    with torch.no_grad():
        for batch in batches:
            for chunk in _chunks(batch, twin.is_batch_dynamic):
                loss, output = twin.loss(state, chunk)
                losses.append(float(loss))
                right = correct(output, split_sample(chunk, with_target=True)[2])
                correctness = None if right is None or correctness is None else [*correctness, *right]
    return None if correctness is None else tuple(correctness), tuple(losses)


def _reconstructed(
    opened: OpenCase, left: BoolArray, masked: dict[str, Tensor], batches: Sequence[Any]
) -> dict[str, Tensor]:
    whole = opened.masked_state(opened.keep)
    changes = reconstruction(opened.twin, opened.anatomy, whole, opened.keep, left, batches)
    changed = {name: masked[name] + change for name, change in changes.items()}
    return {**masked, **_aliased(changed, opened)}


def correct(output: Tensor, target: Any) -> list[float] | None:
    """Share of right predictions per sample, where output and target are a classification; None otherwise.

    Negative targets are those that losses ignore (-100 by default): they count neither way, and a sample that
    has no other counts as wrong, before and after a mask alike.
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        return None
    if output.dim() == target.dim() + 1 and output.shape[:-1] == target.shape:
        hits = output.argmax(-1) == target
    elif output.dim() == target.dim() + 1 and output.dim() > 2 and output.shape[2:] == target.shape[1:]:
        hits = output.argmax(1) == target
    else:
        return None
    counted = (target >= 0).double().reshape(hits.shape[0], -1)
    share = (hits.double().reshape(counted.shape) * counted).sum(1) / counted.sum(1).clamp_min(1)
    return [float(x) for x in share]


def usable(twin: Twin, batches: Sequence[Any]) -> list[Any]:
    """The batches as the twin can take them: of the one size it works with, where it works with one only.

    Raises:
        EvidenceError: there are too few samples for one such batch.
    """
    if twin.is_batch_dynamic:
        return list(batches)
    fitting = resized(batches, twin.batch)
    if not fitting:
        raise EvidenceError(
            f"This network works with batches of {twin.batch} samples only, and a part of the held-out"
            " samples is smaller. Give a larger probe, or write the network so that it takes any batch size."
        )
    return fitting


def _chunks(batch: Any, is_batch_dynamic: bool) -> list[Any]:
    leaves = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    sizes = {leaf.shape[0] for leaf in leaves}
    if not is_batch_dynamic or len(sizes) != 1:
        return [batch]
    size = sizes.pop()
    # The exporter may have assumed at least two samples, so a rest of one joins its neighbor.
    starts = [s for s in range(0, size, CHUNK_SAMPLES) if size - s > 1 or s == 0]
    ends = [*starts[1:], size]

    def cut(start: int, end: int) -> Any:
        return pytree.tree_map(
            lambda leaf: leaf[start:end] if isinstance(leaf, Tensor) and leaf.dim() else leaf, batch
        )

    return [cut(start, end) for start, end in zip(starts, ends, strict=True)]


def _gradients(
    opened: OpenCase, state: dict[str, Tensor], batch: Any, survivors: BoolArray
) -> tuple[float, float]:
    """Share of the surviving parameters that the loss gradient reaches, and its norm over them."""
    parameters = [info.name for info in opened.anatomy.tensors if info.is_parameter and info.name in state]
    live = {n: state[n].detach().clone().requires_grad_() for n in parameters if state[n].is_floating_point()}
    loss, _ = opened.twin.loss({**state, **_aliased(live, opened)}, batch)
    found = torch.autograd.grad(loss, list(live.values()), allow_unused=True, materialize_grads=True)
    gradients = dict(zip(live, found, strict=True))
    zero_masked(gradients, masked_axes(opened.anatomy, survivors))
    reached = sum(int(g.count_nonzero()) for g in gradients.values())
    square = sum(float(g.double().square().sum()) for g in gradients.values())
    return reached / max(opened.anatomy.parameters(survivors), 1), math.sqrt(square)


def _aliased(live: dict[str, Tensor], opened: OpenCase) -> dict[str, Tensor]:
    aliases = {
        alias: live[info.name]
        for info in opened.anatomy.tensors
        if info.name in live
        for alias in info.aliases
    }
    return {**live, **aliases}


def confidence(
    increases: FloatArray, *, quantile: float = 0.6, resamples: int = 200, seed: int = 0
) -> FloatArray:
    """Share of bootstrap resamples over batches in which each unit's mean increase stays below the cut.

    The cut is the `quantile` of the mean increases of all finalists. Finalists are two to three times what a
    plan may take, so the cut lies above the plan's own boundary.

    Args:
        increases: [units, batches].

    Returns:
        [units], 0 to 1; NaN where a unit was not measured on every batch.
    """
    means = increases.mean(axis=1)
    finite = np.isfinite(means)
    result = np.full(means.shape, np.nan)
    if not finite.any():
        return result
    line = float(np.quantile(means[finite], quantile))
    draws = np.random.default_rng(seed).integers(0, increases.shape[1], (resamples, increases.shape[1]))
    resampled = increases[finite][:, draws].mean(axis=2)
    result[finite] = (resampled <= line).mean(axis=1)
    return result
