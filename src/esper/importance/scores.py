"""Scores of units, from what a checkpoint already holds; a unit that was not measured is NaN, never 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.arrays import FloatArray
from esper.errors import ConfigError, EvidenceError
from esper.importance.accumulate import UnitReducer, real_parts, stored_names

_CPU = torch.device("cpu")
_BLOCK_ELEMENTS = 1 << 18

LetGo = Callable[[Tensor], None]


def _keep(_: Tensor) -> None:
    """Lets go of nothing."""


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


def fisher(
    anatomy: Anatomy, parameters: Mapping[str, Tensor], moments: SecondMoments, let_go: LetGo = _keep
) -> FloatArray:
    """Sum of w^2 * E[g^2] over each unit's producers: the curvature of the loss along what makes the unit.

    Producers alone rank units better than all that a unit runs through (docs/importance.md). A unit is
    measured when all its producers have second moments; frozen ones leave their units NaN. Works on live
    tensors and on mapped files alike.

    Args:
        anatomy: The network's units.
        parameters: Parameter name (any of a tied one's) to tensor.
        moments: From `moments_from_optimizer` or `moments_from_state`.
        let_go: Called with every tensor that was read and is not needed any more.

    Returns:
        Shape [units].

    Raises:
        StructureError: A tensor does not have the shape that the anatomy states.

    Source: empirical Fisher screen over the optimizer's own state, docs/importance.md.
    """
    weights, values = (stored_names(anatomy, given.keys()) for given in (parameters, moments.values))
    reducer = UnitReducer(anatomy, ("producer",))
    joined = reducer.begin(_device_of(parameters))
    # Tensor by tensor: w^2 x moment, summed along its axes. The bias correction divides these sums instead
    # of the moments, so nothing of a tensor's size is kept.
    for name in reducer.tensors:
        if name in weights and name in values:
            weight, moment = parameters[weights[name]], moments.values[values[name]]
            _add_squares(reducer, joined, name, weight, moment)
            correction = moments.corrections[values[name]]
            reducer.scale(joined, name, 1.0 / correction if correction > 0 else math.nan)
            let_go(weight)
            let_go(moment)
    # With a producer missing, the sum would be a part of the truth.
    measured = reducer.covered(values.keys() & weights.keys())
    return _finite_or_nan(np.where(measured, _array(reducer.end(joined)), np.nan))


def magnitude(anatomy: Anatomy, parameters: Mapping[str, Tensor], let_go: LetGo = _keep) -> FloatArray:
    """Root mean square of each unit's producer rows, relative to its tensor's: shape [units].

    1 is an average row, so that layers of different scale can be compared. Biases and other vectors are
    left out. `let_go` is called with every tensor that was read.
    """
    weights = stored_names(anatomy, parameters.keys())
    reducer = UnitReducer(anatomy, ("producer",), min_dims=2)
    joined = reducer.begin(_device_of(parameters))
    for name in reducer.tensors:
        if name in weights:
            weight = parameters[weights[name]]
            _add_squares(reducer, joined, name, weight)
            # Each tensor is brought to a mean square of 1 before a unit adds up rows of several.
            mean = reducer.total(joined, name) / max(weight.numel(), 1)
            reducer.scale(joined, name, 1.0 / mean.clamp_min(torch.finfo(joined.dtype).tiny))
            let_go(weight)
    measured = reducer.covered(weights.keys())
    # [units]: from the sum to the mean over a unit's elements, and its root.
    squares = _array(reducer.end(joined))
    mean_square = np.divide(squares, reducer.elements, out=np.full(squares.shape, np.nan), where=measured)
    return _finite_or_nan(np.sqrt(mean_square))


def _add_squares(
    reducer: UnitReducer, joined: Tensor, name: str, weight: Tensor, moment: Tensor | None = None
) -> None:
    """Takes in w^2, or w^2 * E[g^2], a few rows at a time: these stay in the processor's cache."""
    reducer.check(name, weight)
    weight, is_complex = real_parts(weight.detach()), weight.is_complex()
    moment = None if moment is None else real_parts(moment)
    # As many rows as make up a block, at least one.
    step = max(_BLOCK_ELEMENTS * len(weight) // max(weight.numel(), 1), 1)
    for first in range(0, len(weight), step):
        rows = slice(first, first + step)
        square = _wide(weight[rows]).square()
        if moment is not None:
            square.mul_(moment[rows])
        reducer.take(joined, name, square.sum(-1) if is_complex else square, rows)


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


def _wide(tensor: Tensor) -> Tensor:
    """At least single precision, without gradient: squares of half precision underflow."""
    tensor = tensor.detach()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _device_of(tensors: Mapping[str, Tensor]) -> torch.device:
    return next((tensor.device for tensor in tensors.values()), _CPU)


def _array(tensor: Tensor) -> FloatArray:
    return tensor.double().cpu().numpy()


def _finite_or_nan(scores: FloatArray) -> FloatArray:
    return np.where(np.isfinite(scores), scores, np.nan)
