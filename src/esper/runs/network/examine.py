"""What a checkpoint says about its units, looked at offline: ranks, losses, and the plan to come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.batches import HeldOut
from esper.checkpoint import CheckpointCatalog, CheckpointRef
from esper.elesh import (
    BlockMeasures,
    HeadPatterns,
    OpenCase,
    find_blocks,
    find_heads,
    measure_units,
    open_case,
    read_data,
    screen,
)
from esper.emrakul.cycle import CycleOutcome
from esper.errors import EvidenceError
from esper.importance import (
    ImportanceTrackingValidator,
    RankingQuality,
    magnitude,
    rank_normalize,
)
from esper.importance.elements import TensorElements, stored_elements, summaries
from esper.runs.network.stored import Stored, next_cycle
from esper.urabrask import ablation_rises, joined
from esper.workers import InlinePool

LOW_FRACTION = 0.3
"""The low end of a ranking: the share of the units that is compared with the truth."""
_UNITS_AT_ONCE = 64

Watch = Callable[[Iterable[IntArray], int], Iterator[IntArray]]
"""Passes parts of the work through, and may show how many of so many are done."""


@dataclass(frozen=True, eq=False)
class Examination:
    """One checkpoint, examined. Shapes are [units of `anatomy`], NaN is unmeasured.

    Attributes:
        anatomy: its network.
        keep: units that are not masked.
        scores: by source, larger is more important: `screen`, `optimizer` (its second moments alone),
            or where it has none `tracker` (what training sampled alone),
            `magnitude`, and with the truth `tracker`, `twin` (tier 2: exact first-order change of the loss on
            the calibration samples) and `ablation` (tier 3: the loss rise on them).
        truth: loss rise when each unit alone is removed, on samples that no score saw; None if not asked.
        quality: by source, how well it ranks the units that the truth knows.
        outcome: what the run's coordinator would decide next; None if not asked.
        blocks: what leaving out each residual block would cost; empty if not asked.
        heads: patterns of every attention; None if not asked.
        elements: the scores of single elements, tensor by tensor; None if not asked.
        alike_from: cosine from which on the patterns of two heads count as alike.
        notes: what people must know beside it: why a source has nothing to say.
    """

    anatomy: Anatomy
    keep: BoolArray
    scores: Mapping[str, FloatArray]
    truth: FloatArray | None = None
    quality: Mapping[str, RankingQuality] = field(default_factory=dict)
    outcome: CycleOutcome | None = None
    blocks: tuple[BlockMeasures, ...] = ()
    heads: tuple[HeadPatterns, ...] | None = None
    elements: tuple[TensorElements, ...] | None = None
    alike_from: float = 1.0
    notes: tuple[str, ...] = ()


def examine(
    catalog: CheckpointCatalog,
    checkpoint: CheckpointRef,
    *,
    against_truth: bool = False,
    with_plan: bool = False,
    with_blocks: bool = False,
    with_heads: bool = False,
    with_elements: bool = False,
    watch: Watch = lambda parts, _: iter(parts),
) -> Examination:
    """Ranks the units of a checkpoint by what it holds; changes nothing.

    Args:
        catalog: where its twin and its samples lie.
        checkpoint: a verified checkpoint of a session.
        against_truth: also remove every unit alone, once on the calibration samples and once on those that
            plans are validated on, and compare the rankings with the latter.
        with_plan: also run the cycle that would follow, with the settings of the run.
        with_blocks: also measure every residual block on the calibration samples.
        with_heads: also measure the patterns of every attention on them.
        with_elements: also read the scores of single elements that training has kept.
        watch: sees the parts of the long work go by.

    Raises:
        CheckpointError: it is no checkpoint of a session.
        EvidenceError: the run has kept no held-out samples, or too few units can be compared.
    """
    stored = Stored.of(catalog, checkpoint)
    opened = open_case(stored.case)
    steps = stored.config.analysis.min_optimizer_steps
    free = replace(stored.case, tracked=None, history=None, twin_samples=0)
    scores: dict[str, FloatArray] = {
        "screen": screen(stored.case, stored.tracked.weights, steps).ranks,
        "optimizer": screen(free, {"taylor": 1.0}, steps).ranks,
        "magnitude": np.asarray(magnitude(opened.anatomy, opened.state), np.float64),
    }
    notes: tuple[str, ...] = ()
    if not np.isfinite(scores["optimizer"]).any():
        notes = (stored.why_no_moments(),)
    if notes or against_truth:
        scores["tracker"] = rank_normalize(stored.tracked.fisher)
    truth = None
    quality: dict[str, RankingQuality] = {}
    if against_truth:
        scores["twin"] = _first_order(stored, opened)
        scores["ablation"], truth = _ablated(stored, opened, watch)
        quality = _judged(scores, np.where(stored.keep, truth, np.nan))
    outcome = next_cycle(stored, opened.anatomy, InlinePool()) if with_plan else None
    return Examination(
        anatomy=opened.anatomy,
        keep=stored.keep,
        scores=scores,
        truth=truth,
        quality=quality,
        outcome=outcome,
        blocks=tuple(find_blocks(stored.case)) if with_blocks else (),
        heads=tuple(find_heads(stored.case)) if with_heads else None,
        elements=_elements(stored, opened.anatomy) if with_elements else None,
        alike_from=stored.config.analysis.redundancy_threshold,
        notes=notes,
    )


def _elements(stored: Stored, anatomy: Anatomy) -> tuple[TensorElements, ...]:
    """What training has kept of single elements, in a few numbers for each tensor."""
    scores = stored_elements(stored.parts["tracker"])
    if scores is None:
        raise EvidenceError(
            f"{stored.checkpoint.path} holds scores of units only. Train with importance.backend = "
            '"element" (or "sketch", for the largest elements in less memory) to have those of elements.'
        )
    return summaries(scores, {info.name: info.shape for info in anatomy.tensors})


def _judged(scores: Mapping[str, FloatArray], truth: FloatArray) -> dict[str, RankingQuality]:
    judge = ImportanceTrackingValidator(prune_fraction=LOW_FRACTION)
    measured = {name: score for name, score in scores.items() if np.isfinite(score).any()}
    return {
        name: judge.validate(score, truth, is_same_unit=name == "ablation")
        for name, score in measured.items()
    }


def _first_order(stored: Stored, opened: OpenCase) -> FloatArray:
    """What tier 2 measures of every unit that is left, a few layers at a time."""
    anatomy = opened.anatomy
    state = opened.masked_state(opened.keep)
    batches = joined(opened.twin, read_data(stored.case.data)[1].calibration)
    if not batches:
        return np.full(anatomy.num_units, np.nan)
    return measure_units(opened.twin, anatomy, state, batches, with_frequency=False).taylor


def _ablated(stored: Stored, opened: OpenCase, watch: Watch) -> tuple[FloatArray, FloatArray]:
    """Loss rises of every unit that is left, on the calibration samples and on the validation samples."""
    held_out: HeldOut = read_data(stored.case.data)[1]
    sets = [joined(opened.twin, part) for part in (held_out.calibration, held_out.validation)]
    if not all(sets):
        raise EvidenceError(
            f"{stored.checkpoint.path} has too few held-out samples to remove units on. Runs keep them when "
            "esper.attach is given probe=."
        )
    left = np.flatnonzero(stored.keep)
    rises = np.full((2, opened.anatomy.num_units), np.nan)
    state = opened.masked_state(opened.keep)
    parts = [left[start : start + _UNITS_AT_ONCE] for start in range(0, left.size, _UNITS_AT_ONCE)]
    for part in watch(parts, len(parts)):
        for row, batches in enumerate(sets):
            rises[row, part] = ablation_rises(opened.twin, opened.anatomy, state, batches, part).mean(1)
    return rises[0], rises[1]
