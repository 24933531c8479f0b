"""Our scores of every unit, by what they need: the checkpoint alone, or a look at the twin as well."""

from __future__ import annotations

import time
from collections.abc import Callable

from esper.arrays import FloatArray
from esper.elesh import look_at_twin
from esper.importance import ScoreWeights, combine, fisher, magnitude, moments_from_optimizer
from rankings.subjects import Subject

Scores = dict[str, tuple[FloatArray, float]]
"""Name to scores of shape [units] and the seconds that they took after training."""

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
            )
        )
        return seen["twin"]

    add("twin: slopes and curvature", look)
    add("twin: activation frequency", lambda: seen["activation_frequency"])
    weights = ScoreWeights().model_dump()
    add(NO_LOOK, lambda: combine(parts, {name: weights[name] for name in parts}))
    both = {**parts, **seen}
    add(LOOK, lambda: combine(both, {name: weights[name] for name in both}))
    return found
