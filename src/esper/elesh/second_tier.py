"""Tier 2 as worker tasks: units, heads and blocks of one checkpoint, measured on its twin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.twin import Twin
from esper.arrays import FloatArray, IntArray
from esper.elesh.blocks import BlockMeasures, measure_blocks
from esper.elesh.case import Case, open_case, read_data
from esper.elesh.head_patterns import HeadPatterns, measure_heads
from esper.elesh.redundancy import can_take_over, folded_losses, leaders_of
from esper.elesh.unit_measures import measure_units
from esper.importance import magnitude
from esper.urabrask import usable


@dataclass(frozen=True, eq=False)
class UnitFindings:
    """What one task found out about the units of some layers; see `UnitMeasures`.

    Attributes:
        units: unit numbers, shape [asked].
        taylor: exact first-order change of the loss, shape [asked].
        activation_frequency: share of active elements, shape [asked].
        leaders: the unit that carries the same signal and is more important, -1 for none, shape [asked].
        folded: units that have a leader and whose loss was measured with it in their place, shape [folded].
        folded_rises: rise of the loss on every batch, shape [folded, batches].
    """

    units: IntArray
    taylor: FloatArray
    activation_frequency: FloatArray
    leaders: IntArray
    folded: IntArray
    folded_rises: FloatArray


Task = tuple[Callable[..., Any], Mapping[str, Any]]
"""What a worker is asked to do, and its arguments."""


def tasks(
    case: Case, parts: Sequence[IntArray], activation_threshold: float, redundancy_threshold: float
) -> list[Task]:
    """All of one look: units by some groups a task, then heads and magnitudes of the whole network.

    Args:
        case: the checkpoint.
        parts: numbers of groups, for one task each.
        activation_threshold: see `find_units`, as `redundancy_threshold`.
    """
    asked = {
        "case": case,
        "activation_threshold": activation_threshold,
        "redundancy_threshold": redundancy_threshold,
    }
    units: list[Task] = [(find_units, {**asked, "groups": part.tolist()}) for part in parts]
    return [*units, (find_heads, {"case": case}), (find_magnitudes, {"case": case})]


def find_units(
    case: Case, groups: Sequence[int], activation_threshold: float, redundancy_threshold: float
) -> UnitFindings:
    """Measures all units of some groups on the calibration batches."""
    twin, anatomy, state, batches = _looked_at(case)
    measures = measure_units(
        twin, anatomy, state, batches, groups, threshold=activation_threshold, with_moments=True
    )
    leaders = np.full(anatomy.num_units, -1, np.int64)
    folded: list[IntArray] = [np.zeros(0, np.int64)]
    rises: list[FloatArray] = [np.zeros((0, len(batches)))]
    # Layer by layer: which channels carry the same signal, and what the loss becomes when one is folded.
    for group, moments in measures.moments.items():
        span = anatomy.unit_slice(group)
        correlations = [part.correlation() for part in moments]
        own, _ = leaders_of(correlations, measures.taylor[span], redundancy_threshold)
        channels = np.flatnonzero(own >= 0)
        # One reader that cannot take the leader instead is enough to keep all apart.
        if not channels.size or not all(can_take_over(twin, part.reading) for part in moments):
            continue
        leaders[span.start + channels] = span.start + own[channels]
        folded.append(span.start + channels)
        columns = []
        for batch in batches:
            with torch.no_grad():
                base, _ = twin.loss(state, batch)
            # [channels] for each batch: the rise over the loss as it is.
            columns.append(folded_losses(twin, state, batch, moments, own, channels) - base)
        rises.append(torch.stack(columns, dim=1).double().numpy())
    units = np.concatenate([np.arange(span.start, span.stop) for span in map(anatomy.unit_slice, groups)])
    return UnitFindings(
        units,
        measures.taylor[units],
        measures.activation_frequency[units],
        leaders[units],
        np.concatenate(folded),
        np.concatenate(rises),
    )


def find_magnitudes(case: Case) -> FloatArray:
    """Size of every unit's weights: shape [units]."""
    opened = open_case(case)
    return magnitude(opened.anatomy, opened.state)


def find_heads(case: Case) -> list[HeadPatterns]:
    """The patterns of every attention on the calibration batches."""
    return measure_heads(*_looked_at(case))


def find_blocks(case: Case) -> list[BlockMeasures]:
    """What every residual block does to its stream, and what it would cost to leave it out."""
    return measure_blocks(*_looked_at(case))


def _looked_at(case: Case) -> tuple[Twin, Anatomy, dict[str, Tensor], list[Any]]:
    """The network as it is masked, and the calibration batches as it takes them."""
    opened = open_case(case)
    batches = usable(opened.twin, read_data(case.data)[1].calibration)
    return opened.twin, opened.anatomy, opened.masked_state(opened.keep), batches
