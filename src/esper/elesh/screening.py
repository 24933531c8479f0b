"""The first look at a checkpoint, in a worker: every unit ranked, one tensor after the other in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from esper.anatomy import Anatomy
from esper.arrays import FloatArray
from esper.checkpoint import MappedTensors, open_tensors
from esper.elesh.analysis import usable
from esper.elesh.case import Case, open_case, read_anatomy, read_data, read_optimizer
from esper.importance import affordable_samples, combine, fisher, look_at_twin, magnitude, moments_from_state


def screen(case: Case, weights: Mapping[str, float], min_optimizer_steps: int) -> list[float]:
    """Importance rank of every unit, 0 to 1, from what the checkpoint holds; NaN where nothing was measured.

    Evidence from training comes first: the Fisher score from the optimizer's second moments, or the
    tracker's where the optimizer keeps none. Without it a unit stays NaN. What the twin shows of the loss on
    held-out samples joins it, where the network is small enough for that.
    """
    anatomy, parameters = read_anatomy(case.anatomy), open_tensors(case.model)
    leading = _leading(case, anatomy, parameters, min_optimizer_steps)
    if leading is None:
        return [float("nan")] * anatomy.num_units
    parts = {
        "taylor": leading,
        "magnitude": magnitude(anatomy, parameters, parameters.let_go),
        **_seen(case, anatomy, with_frequency=weights.get("activation_frequency", 0.0) > 0),
    }
    if "twin" in parts and weights.get("twin", 0.0) > 0:
        del parts["taylor"]  # the same question, answered by samples that training has not seen
    if case.history is not None:
        parts["history"] = np.asarray(case.history, np.float64)
    ranks = combine(parts, {name: weights.get(name, 0.0) for name in parts})
    ranks[~np.isfinite(leading)] = np.nan
    return [float(rank) for rank in ranks]


def _leading(
    case: Case, anatomy: Anatomy, parameters: MappedTensors, min_optimizer_steps: int
) -> FloatArray | None:
    if case.optimizer is not None:
        stored = open_tensors(case.optimizer.tensors)
        states, groups = read_optimizer(case.optimizer, stored)
        ripe = {
            name: state
            for name, state in states.items()
            if float(state.get("step", 0)) >= min_optimizer_steps
        }
        moments = moments_from_state(ripe, groups)
        if moments is not None:

            def let_go(tensor: Tensor) -> None:
                parameters.let_go(tensor)
                stored.let_go(tensor)

            return fisher(anatomy, parameters, moments, let_go)
    if case.tracked is not None:
        return np.asarray(case.tracked, np.float64)
    return None


def _seen(case: Case, anatomy: Anatomy, *, with_frequency: bool) -> dict[str, FloatArray]:
    """What the twin shows, if it may be looked at for long enough; otherwise it is not even opened."""
    samples = affordable_samples(anatomy, case.twin_samples, case.twin_flops)
    if not samples:
        return {}
    opened = open_case(case)
    batches = usable(opened.twin, read_data(case.data)[1].calibration)
    return look_at_twin(
        opened.twin,
        anatomy,
        opened.masked_state(opened.keep),
        batches,
        samples=samples,
        with_frequency=with_frequency,
    )
