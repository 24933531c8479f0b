"""Offline analysis of one checkpoint, in tasks that run in worker processes: ablate, measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.anatomy.mend import Reconstruction
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh.case import Case, OpenCase, open_case, read_data
from esper.elesh.peak import PeakMemory
from esper.elesh.sampling import LINE, Part
from esper.urabrask import (
    Measurement,
    ablation_rises,
    joined,
    on_better_statistics,
    on_validation,
    usable,
)

PRELOAD = (
    "torch",
    "torch._dynamo",
    "torch.export._trace",
    "torch._inductor.sizevars",
    "safetensors.torch",
    __name__,
)
"""Modules that the tasks of an analysis need, for workers to import before the first one."""


def ready() -> bool:
    """A task that does nothing: a worker that has done it has imported everything."""
    return True


@dataclass(frozen=True, eq=False)
class Ablated:
    """What single units cost on some of the calibration batches.

    Attributes:
        batches: their numbers, shape [ablated].
        num_batches: how many there are in all.
        rises: rise of the loss when each unit alone is removed, shape [units, ablated].
    """

    batches: IntArray
    num_batches: int
    rises: FloatArray


def ablate(case: Case, units: Sequence[int], part: Part = Part.FIRST) -> Ablated:
    """Rise of the loss without each unit alone, on a part of the calibration batches."""
    opened = open_case(case)
    state = opened.masked_state(opened.keep)
    batches = usable(opened.twin, read_data(case.data)[1].calibration)
    numbers = part.of(len(batches))
    few = [batches[number] for number in numbers]
    rises = ablation_rises(opened.twin, opened.anatomy, state, few, np.asarray(units, np.int64))
    return Ablated(numbers, len(batches), rises)


def measure(
    case: Case, keep: Sequence[bool], survivors: Sequence[bool], reconstruct: bool = False
) -> Measurement:
    """Quality of the checkpoint under a mask, on held-out batches: per-sample correctness, losses, gradients.

    Under a new mask the running statistics are measured anew on the calibration batches, or moved as far as
    it moves those where the network is better with its own, and with `reconstruct` the readers of what goes
    are reconstructed on these batches: all as it is when the mask is applied.
    """
    peak = PeakMemory()
    opened = open_case(case)
    left = np.asarray(keep, np.bool_)
    state = opened.masked_state(left)
    held_out = read_data(case.data)[1]
    # The statistics of norms follow a new mask, as they do when it is applied.
    if (left != opened.keep).any():
        batches = joined(opened.twin, held_out.calibration)
        if reconstruct:
            state = _reconstructed(opened, left, state, batches)
        whole = opened.masked_state(opened.keep)
        still = case.still if _as_it_is(case)[1] else opened.twin.running_means
        state = opened.twin.recalibrated(state, batches, still=still, before=whole)
        quality = on_validation(opened.twin, state, held_out.validation)
    else:
        quality, statistics = _as_it_is(case)
        state |= statistics
    first = usable(opened.twin, held_out.validation)[0]
    flow, norm = _gradients(opened, state, first, np.asarray(survivors, np.bool_))
    return replace(quality, gradient_flow=flow, gradient_norm=norm, peak_bytes=peak.read())


@lru_cache(maxsize=1)  # the smaller plans of one analysis are held against the same
def _as_it_is(case: Case) -> tuple[Measurement, dict[str, Tensor]]:
    """Quality of the checkpoint under its own mask, and the running statistics that it is best with.

    Those of training can lag far behind the weights. A mask is measured with fresh ones, which must not be
    counted as its merit: so the network without it gets them as well, where it is better with them.
    """
    opened, held_out = open_case(case), read_data(case.data)[1]
    state, batches = opened.masked_state(opened.keep), joined(opened.twin, held_out.calibration)
    return on_better_statistics(
        opened.twin, state, opened.twin.recalibrated(state, batches, still=case.still), held_out.validation
    )


def _reconstructed(
    opened: OpenCase, left: BoolArray, masked: dict[str, Tensor], batches: Sequence[Any]
) -> dict[str, Tensor]:
    whole = opened.masked_state(opened.keep)
    made_up = Reconstruction(opened.twin, opened.anatomy, whole, opened.keep, batches)
    changes = made_up.changes(left)
    changed = {name: masked[name] + change for name, change in changes.items()}
    return {**masked, **_aliased(changed, opened)}


def _gradients(
    opened: OpenCase, state: dict[str, Tensor], batch: Any, survivors: BoolArray
) -> tuple[float, float]:
    """Share of the surviving parameters in tensors that the loss gradient reaches, and its norm over them.

    A tensor is reached as a whole or not at all: single units rest on any one batch (a ReLU that does not
    fire has no gradient), and that is no path that was cut.
    """
    parameters = [info.name for info in opened.anatomy.tensors if info.is_parameter and info.name in state]
    # One leaf for every parameter. A tied one goes in under all its names and gets one gradient.
    live = {n: state[n].detach().clone().requires_grad_() for n in parameters if state[n].is_floating_point()}
    loss, _ = opened.twin.loss({**state, **_aliased(live, opened)}, batch)
    derivatives = torch.autograd.grad(loss, list(live.values()), allow_unused=True, materialize_grads=True)
    gradients = dict(zip(live, derivatives, strict=True))
    # Only what survives the mask under judgment will be trained; other gradients do not count.
    gone = masked_axes(opened.anatomy, survivors)
    zero_masked(gradients, gone)
    reached = 0
    for name, gradient in gradients.items():
        if gradient.any():
            left = {name: torch.ones(gradient.shape, dtype=torch.bool)}
            zero_masked(left, gone)
            reached += int(left[name].count_nonzero())
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
    increases: FloatArray, *, quantile: float = LINE, resamples: int = 200, seed: int = 0
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
    # The cut: a quantile over the finalists' mean increases over all batches.
    line = float(np.quantile(means[finite], quantile))
    # [resamples, batches], drawn with replacement. All units share the draws: a hard batch is hard for all
    # of them.
    draws = np.random.default_rng(seed).integers(0, increases.shape[1], (resamples, increases.shape[1]))
    # [measured, resamples]: the mean increase in each resample.
    resampled = increases[finite][:, draws].mean(axis=2)
    result[finite] = (resampled <= line).mean(axis=1)
    return result


def confidence_of(kinds: NDArray[np.str_], increases: FloatArray) -> FloatArray:
    """The same among units of one kind: a head costs more than a channel, and saves more.

    Args:
        kinds: of the units, [units].
        increases: [units, batches].
    """
    sure = np.full(kinds.size, np.nan)
    for kind in np.unique(kinds):
        sure[kinds == kind] = confidence(increases[kinds == kind])
    return sure
