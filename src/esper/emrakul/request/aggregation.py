"""One score per unit from what several sources measured: ranks that saw other data, parts that grow apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from esper.anatomy import Anatomy
from esper.arrays import FloatArray, IntArray
from esper.errors import EvidenceError


@dataclass(frozen=True, eq=False)
class Statistics:
    """What one source (a rank, a seed) measured.

    Attributes:
        scores: one importance per unit, by the name of its group; NaN is unmeasured, a group may be missing.
        samples: updates that stand behind them.
    """

    scores: Mapping[str, FloatArray]
    samples: int


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What all sources say together.

    Attributes:
        scores: upper end of the interval around the mean, NaN unmeasured, shape [units]: a unit on which the
            sources disagree counts as important as it may be.
        means: means, weighted by samples, shape [units].
        errors: standard error of the mean between sources; 0 where one source speaks alone, shape [units].
        samples: updates of all sources that measured the unit, shape [units].
    """

    scores: FloatArray
    means: FloatArray
    errors: FloatArray
    samples: IntArray


def aggregate(
    anatomy: Anatomy, sources: Sequence[Statistics], *, min_samples: int = 0, interval: float = 0.95
) -> Aggregate:
    """Joins what the sources measured of the same network; the order of sources does not matter.

    Args:
        anatomy: the network.
        sources: what each of them measured.
        min_samples: fewest updates, of all sources together, behind a score that counts.
        interval: confidence of the interval whose upper end is the score.

    Raises:
        EvidenceError: a source names a group that is not there, has another number of units in one, or an
            importance that is negative or infinite.
    """
    table = np.full((len(sources), anatomy.num_units), np.nan)
    for row, source in zip(table, sources, strict=True):
        for name, scores in source.scores.items():
            row[_span(anatomy, name, scores)] = scores
    counts = np.array([source.samples for source in sources], np.int64).reshape(-1, 1)
    has = np.isfinite(table) & (counts > 0)
    weights = np.where(has, counts, 0)
    samples: IntArray = weights.sum(axis=0).astype(np.int64)
    share = weights / np.maximum(samples, 1)
    known = (samples > 0) & (samples >= min_samples)
    filled = np.where(has, table, 0.0)
    means = np.where(known, (share * filled).sum(axis=0), np.nan)
    speakers = has.sum(axis=0)
    spread = (share * (filled - np.nan_to_num(means)) ** 2).sum(axis=0)
    errors = np.where(known, np.sqrt(spread / np.maximum(speakers - 1, 1)), np.nan)
    factor = special.stdtrit(np.maximum(speakers - 1, 1), (1 + interval) / 2)
    return Aggregate(means + factor * errors, means, errors, np.where(known, samples, 0))


def _span(anatomy: Anatomy, name: str, scores: FloatArray) -> slice:
    widths = {group.name: group.width for group in anatomy.groups}
    if name not in widths:
        raise EvidenceError(
            f"A source measured group {name!r}, which this network does not have. Its groups: "
            f"{', '.join(sorted(widths)[:5])}. Statistics of another network are not used."
        )
    if scores.shape != (widths[name],):
        raise EvidenceError(
            f"A source has scores of shape {scores.shape} for group {name!r}, expected ({widths[name]},): "
            "one per unit."
        )
    wrong = np.flatnonzero((scores < 0) | np.isinf(scores))
    if wrong.size:
        raise EvidenceError(
            f"A source gives unit {wrong[0]} of group {name!r} the importance {scores[wrong[0]]}, expected a "
            "number of 0 or more, or NaN for unmeasured."
        )
    return anatomy.unit_slice(anatomy.group_named(name))
