"""Our scores of every unit, by what they need: the checkpoint alone, or a look at the twin as well."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from esper.arrays import FloatArray
from esper.batches import merged
from esper.elesh import Part, close_ones, completed, look_at_twin, measure_units
from esper.importance import ScoreWeights, combine, fisher, magnitude, moments_from_optimizer
from esper.urabrask import ablation_rises
from rankings.subjects import Subject

Scores = dict[str, tuple[FloatArray, float]]
"""Name to scores of shape [units] and the seconds that they took after training."""


def ablation_of_a_cycle(subject: Subject) -> tuple[FloatArray, float]:
    """The rise of the loss as a cycle measures it: some batches, and what slopes say of the others.

    As in a cycle, units that are near the line are ablated on all batches.
    """
    start = time.perf_counter()
    twin, anatomy, state, batches = subject.twin, subject.anatomy, subject.state, subject.seen
    sizes = [len(batch[1]) for batch in batches]
    look = measure_units(twin, anatomy, state, merged(batches, 64), with_frequency=False, parts=sizes)
    first, units = Part.FIRST.of(len(batches)), np.arange(anatomy.num_units)
    rises = np.full((units.size, len(batches)), np.nan)
    measured = np.zeros(rises.shape, np.bool_)
    rises[:, first] = ablation_rises(twin, anatomy, state, [batches[n] for n in first], units)
    measured[:, first] = True
    close = units[close_ones(anatomy.kind_of, *completed(rises, measured, look.rises))]
    others = np.setdiff1d(np.arange(len(batches)), first)
    if close.size:
        more = ablation_rises(twin, anatomy, state, [batches[n] for n in others], close)
        rises[np.ix_(close, others)] = more
        measured[np.ix_(close, others)] = True
    table, _ = completed(rises, measured, look.rises)
    return table.mean(1), time.perf_counter() - start


NO_LOOK, LOOK = "screening, checkpoint only", "screening, with the twin"


def own_scores(subject: Subject) -> Scores:
    """Every source alone and the two combinations; what training measured takes no time afterwards."""
    parameters = dict(subject.model.named_parameters())
    moments = moments_from_optimizer(subject.optimizer, parameters)
    assert moments is not None
    found: Scores = {}

    def add(name: str, score: Callable[[], FloatArray]) -> FloatArray:
        start = time.perf_counter()
        values = score()
        found[name] = values, time.perf_counter() - start
        return values

    parts = {
        "taylor": add("Fisher, optimizer's state", lambda: fisher(subject.anatomy, parameters, moments)),
        "magnitude": add("magnitude", lambda: magnitude(subject.anatomy, parameters)),
    }
    add("weight x gradient, sampled: sums", subject.tracker.taylor)
    add("weight x gradient, sampled: squares", subject.tracker.fisher)
    seen: dict[str, FloatArray] = {}

    def look() -> FloatArray:
        seen.update(
            look_at_twin(
                subject.twin,
                subject.anatomy,
                subject.state,
                subject.seen,
                samples=256,
                with_frequency=True,
            )[0]
        )
        return seen["twin"]

    add("twin: slopes and curvature", look)
    add("twin: activation frequency", lambda: seen["activation_frequency"])
    weights = ScoreWeights().model_dump()
    add(NO_LOOK, lambda: combine(parts, {name: weights[name] for name in parts}))
    both = {**parts, **seen}
    add(LOOK, lambda: combine(both, {name: weights[name] for name in both}))
    return found
