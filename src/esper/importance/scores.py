"""What an optimizer keeps of gradients, and how scores are ranked; what was not measured is NaN, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from esper.arrays import FloatArray
from esper.errors import ConfigError, EvidenceError


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """The mean squared gradient of every parameter that has one, as its optimizer keeps it.

    `values[name]` has the parameter's shape; divided by `corrections[name]` it is an estimate of E[g^2]
    without the bias towards the zero it started from.
    """

    values: Mapping[str, Tensor]
    corrections: Mapping[str, float]


def moments_from_optimizer(
    optimizer: Optimizer, named_parameters: Mapping[str, Tensor]
) -> SecondMoments | None:
    """The second moments inside a live optimizer; None when it keeps none (SGD) or has not made a step.

    Known are `exp_avg_sq` (Adam, AdamW, NAdam, RAdam), `square_avg` (RMSprop) and `sum` (Adagrad).
    Reads the step counters, which waits for the device once: for a checkpoint, not for a training step.
    """
    group_of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    moments: dict[str, tuple[Tensor, float]] = {}
    for name, parameter in named_parameters.items():
        state = optimizer.state.get(parameter)
        moment = second_moment(state, group_of[parameter]) if state and parameter in group_of else None
        if moment is not None:
            moments[name] = moment
    return _moments(moments)


def moments_from_state(
    states: Mapping[str, Mapping[str, object]], groups: Mapping[str, Mapping[str, object]]
) -> SecondMoments | None:
    """The second moments in a checkpoint, where optimizer and network need not exist.

    Args:
        states: For every parameter name its optimizer state as saved: `exp_avg_sq`, `step` and so on.
        groups: For every parameter name the settings of its parameter group: `betas` and so on.
    """
    moments = {name: second_moment(state, groups[name]) for name, state in states.items() if name in groups}
    return _moments({name: moment for name, moment in moments.items() if moment is not None})


def second_moment(state: Mapping[str, object], group: Mapping[str, object]) -> tuple[Tensor, float] | None:
    """One parameter's running E[g^2] and what to divide it by; None when its optimizer keeps none."""
    steps = _number(state.get("step"))
    # The divisor below would be 0.
    if steps is None or steps < 1:
        return None
    betas = group.get("betas")
    # Adam and its kin: a running mean from zero, short by 1 - beta2^steps.
    if isinstance(value := state.get("exp_avg_sq"), Tensor) and isinstance(betas, (tuple, list)):
        return value, 1.0 - float(_number(betas[1]) or 0.0) ** steps
    # RMSprop: the same, under another name.
    if isinstance(value := state.get("square_avg"), Tensor) and "alpha" in group:
        return value, 1.0 - float(_number(group["alpha"]) or 0.0) ** steps
    # Adagrad: a plain sum over the steps.
    if isinstance(value := state.get("sum"), Tensor):
        return value, steps
    return None


def rank_normalize(scores: FloatArray) -> FloatArray:
    """Ranks scaled to 0..1: the lowest is 0, the highest 1, equal scores share their mean rank.

    What is not finite was not measured: it gets NaN and takes no rank. A score alone gets 0.5.
    """
    measured = np.isfinite(scores)
    ranks = np.full(scores.shape, np.nan)
    count = int(measured.sum())
    if count == 1:
        ranks[measured] = 0.5
    elif count > 1:
        # Distinct scores ascend. The cumulated count is a score's last rank (from 1); its mean rank lies
        # before that by half of what comes twice, here counted from 0.
        _, places, times = np.unique(scores[measured], return_inverse=True, return_counts=True)
        ranks[measured] = (np.cumsum(times) - (times + 1) / 2)[places] / (count - 1)  # equals share a rank
    return ranks


def combine(components: Mapping[str, FloatArray], weights: Mapping[str, float]) -> FloatArray:
    """Weighted mean of the components' ranks, for each unit over the components that measured it.

    Args:
        components: Signal name to scores of shape [units], NaN where unmeasured; larger is more important.
        weights: Signal name to weight; signals without scores are left out, and only proportions matter.

    Returns:
        Shape [units], 0..1; NaN where no component measured the unit.

    Raises:
        ConfigError: A component has no weight, or none has a weight above zero.
        EvidenceError: There is no component at all.
    """
    if not components:
        raise EvidenceError(
            "No score was measured, so the units cannot be ranked. Give at least one component."
        )
    unknown = sorted(components.keys() - weights.keys())
    if unknown:
        raise ConfigError(f"Scores {unknown} have no weight; weights are known for {sorted(weights)}.")
    # [components, units]. A component weighs nothing where it did not measure: the mean is over those that
    # did.
    ranks = np.stack([rank_normalize(scores) for scores in components.values()])
    return weighted_mean(ranks, np.array([weights[name] for name in components])[:, None])


def weighted_mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """The mean over the first axis of what is not NaN; NaN where nothing is, or has a weight."""
    shares = np.where(np.isfinite(values), weights, 0.0)
    total = shares.sum(axis=0)
    sums = (np.nan_to_num(values) * shares).sum(axis=0)
    means: FloatArray = np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    return means


def _moments(found: Mapping[str, tuple[Tensor, float]]) -> SecondMoments | None:
    if not found:
        return None
    return SecondMoments({n: v for n, (v, _) in found.items()}, {n: c for n, (_, c) in found.items()})


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float, Tensor)) else None
