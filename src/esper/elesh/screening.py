"""The first look at a checkpoint, in a worker: every unit ranked, one tensor after the other in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.twin import Twin
from esper.arrays import FloatArray
from esper.batches import first_samples, merged
from esper.batches import samples as samples_of
from esper.checkpoint import MappedTensors, open_tensors
from esper.elesh.case import Case, open_case, open_parameters, read_anatomy, read_data, read_optimizer
from esper.elesh.unit_measures import measure_units
from esper.importance import combine, fisher_and_magnitude, magnitude, moments_from_state
from esper.urabrask import usable

_FEWEST_SAMPLES = 8
_PASSES = 3
"""Forward passes that one sample costs: a backward pass is two forward ones."""
_SAMPLES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Screened:
    """What the first look found.

    Attributes:
        ranks: importance of every unit, 0 to 1; NaN where nothing was measured. Shape [units].
        rises: of as many calibration batches as were looked at, the rise of the loss without each unit, as
            slopes and curvature predict it: shape [units, batches].
    """

    ranks: FloatArray
    rises: FloatArray


def screen(case: Case, weights: Mapping[str, float], min_optimizer_steps: int) -> Screened:
    """Ranks every unit from what the checkpoint holds, and from a look at the twin.

    What the twin shows of the loss on held-out samples comes first, where the network is small enough to be
    looked at. In its place, where it was not, evidence from training: the Fisher score from the optimizer's
    second moments, or the tracker's where the optimizer keeps none. With neither a unit stays NaN.
    """
    anatomy = read_anatomy(case.anatomy)
    parameters = open_parameters(case, anatomy)
    seen, rises = _seen(case, anatomy, with_frequency=weights.get("activation_frequency", 0.0) > 0)
    if weights.get("twin", 0.0) > 0 and "twin" in seen:
        leading = seen["twin"]  # the same question, answered by samples that training has not seen
        parts = {**seen, "magnitude": magnitude(anatomy, parameters, parameters.let_go)}
    else:
        trained = _trained(case, anatomy, parameters, min_optimizer_steps)
        if trained is None:
            return Screened(np.full(anatomy.num_units, np.nan), rises)
        leading, size = trained
        parts = {**seen, "taylor": leading, "magnitude": size}
    if case.history is not None:
        parts["history"] = np.asarray(case.history, np.float64)
    ranks = combine(parts, {name: weights.get(name, 0.0) for name in parts})
    # What neither has measured stays unranked, whatever the other signals say.
    ranks[~np.isfinite(leading)] = np.nan
    return Screened(ranks, rises)


def _trained(
    case: Case, anatomy: Anatomy, parameters: MappedTensors, min_optimizer_steps: int
) -> tuple[FloatArray, FloatArray] | None:
    """What training tells of every unit, and the magnitudes: from one pass over the weights, if it can."""
    if case.optimizer is not None:
        stored = open_tensors(case.optimizer.tensors)
        states, groups = read_optimizer(case.optimizer, stored)
        # Young moments are mostly noise: such parameters count as if they had none.
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

            return fisher_and_magnitude(anatomy, parameters, moments, let_go)
    if case.tracked is not None:
        return np.asarray(case.tracked, np.float64), magnitude(anatomy, parameters, parameters.let_go)
    return None


def _seen(case: Case, anatomy: Anatomy, *, with_frequency: bool) -> tuple[dict[str, FloatArray], FloatArray]:
    """What the twin shows, if it may be looked at for long enough; otherwise it is not even opened."""
    # As many samples as the allowed work pays for.
    count = min(case.twin_samples, int(case.twin_flops / max(_PASSES * anatomy.flops(), 1.0)))
    if count < _FEWEST_SAMPLES:
        return {}, np.zeros((anatomy.num_units, 0))
    opened = open_case(case)
    batches = usable(opened.twin, read_data(case.data)[1].calibration)
    state = opened.masked_state(opened.keep)
    return look_at_twin(opened.twin, anatomy, state, batches, samples=count, with_frequency=with_frequency)


def look_at_twin(
    twin: Twin,
    anatomy: Anatomy,
    state: Mapping[str, Tensor],
    batches: Sequence[Any],
    *,
    samples: int,
    with_frequency: bool,
) -> tuple[dict[str, FloatArray], FloatArray]:
    """Signals of every unit, by name, as `combine` takes them, and what each batch says of the units.

    Args:
        twin: The network with its loss.
        anatomy: Its units.
        state: Its tensors, with what is masked already set to zero.
        batches: Held-out batches that the twin can take.
        samples: How many samples to use at most.
        with_frequency: Whether to measure how often units are active too.

    Returns:
        `twin`: the rise of the loss without each unit that its slopes predict, and `activation_frequency`
        if asked for, shape [units] each; nothing where there are not even eight samples. And the rises that
        are predicted of every batch that was seen as a whole, shape [units, batches].
    """
    few = first_samples(batches, samples, can_split=twin.is_divisible)
    sizes = [samples_of(batch) for batch in few]
    whole = sum(samples_of(batch) == size for batch, size in zip(batches, sizes, strict=False))
    if sum(sizes) < _FEWEST_SAMPLES:
        return {}, np.zeros((anatomy.num_units, 0))
    if twin.is_divisible:
        few = merged(few, _SAMPLES_AT_ONCE)
    look = measure_units(twin, anatomy, state, few, with_frequency=with_frequency, parts=sizes[:whole])
    signals = {"twin": look.predicted()}
    if with_frequency:
        signals["activation_frequency"] = look.activation_frequency
    return signals, look.rises
