"""How much held-out quality a mask costs: a paired difference, its interval, and its limit."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from esper.arrays import FloatArray
from esper.leyline import Level
from esper.urabrask.quality import Measurement
from esper.urabrask.settings import Settings
from esper.urabrask.verdict import Check, Retention
from esper.wording import alike


def check_retention(
    before: Measurement, after: Measurement, level: Level, settings: Settings
) -> tuple[Check, Retention | None]:
    """Holds the paired worsening against the level's limit.

    Correctness is judged where both measurements have it and it is no worse than guesses, by the stricter of
    the level's absolute limit and `min_retention`; otherwise the loss, by `min_retention` alone, because a
    loss has no points. A measured loss must be finite in either case.

    Returns:
        The check, and the measured retention; None where nothing could be measured.
    """
    pairs = _pairs(before, after)
    if isinstance(pairs, str):
        return Check("retention", False, None, None, pairs), None
    if before.is_guessed and "loss" in pairs:
        pairs.pop("correctness", None)
    if "correctness" in pairs:
        retention = _of_correctness(*pairs["correctness"], level, settings)
    else:
        retention = _of_losses(*pairs["loss"], settings)
    r = retention
    way, change = (
        ("better", (-r.drop, -r.upper, -r.lower)) if r.drop < 0 else ("worse", (r.drop, r.lower, r.upper))
    )
    old, new, by, lower, upper, limit = alike(r.before, r.after, *change, r.limit)
    text = (
        f"Mean {r.measure} {old} before, {new} after: {way} by {by} "
        f"({settings.interval_confidence:.0%} interval {lower} to {upper}, {r.samples} pairs), "
        f"limit {limit}."
    )
    return Check("retention", r.lower <= r.limit, r.drop, r.limit, text), retention


def _pairs(before: Measurement, after: Measurement) -> dict[str, tuple[FloatArray, FloatArray]] | str:
    """What was measured both times, by name; or why the two cannot be compared."""
    pairs = {}
    for name, old, new in (
        ("correctness", before.correctness, after.correctness),
        ("loss", before.losses, after.losses),
    ):
        if old is None and new is None:
            continue
        if old is None or new is None:
            return f"The {name} was measured only {'after' if old is None else 'before'} the mask."
        # Beside answers that are right or wrong one by one, a loss only has to be a number.
        is_beside = "correctness" in pairs
        trouble = _trouble(name, old, new, fewest=1 if is_beside else 2)
        if trouble is not None:
            return trouble
        if not is_beside or old.size > 1:
            pairs[name] = (old, new)
    return pairs or "There is no held-out data to measure on."


def _trouble(name: str, old: FloatArray, new: FloatArray, *, fewest: int) -> str | None:
    if old.shape != new.shape or old.ndim != 1:
        return f"The {name} has shape {old.shape} before and {new.shape} after: not the same held-out data."
    if old.size < fewest:
        return (
            f"The {name} was measured on {old.size} held-out samples or chunks; at least {fewest} are needed."
        )
    for when, array in (("before", old), ("after", new)):
        if not np.isfinite(array).all():
            return f"The {name} {when} the mask is not finite in {int((~np.isfinite(array)).sum())} places."
    return None


def _of_correctness(before: FloatArray, after: FloatArray, level: Level, settings: Settings) -> Retention:
    old, new = before.astype(np.float64), after.astype(np.float64)
    # Right or wrong for each sample: for that there is a better interval.
    is_binary = bool(np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all())
    interval = _binary_interval if is_binary else _t_interval
    drop = old - new
    lower, upper = interval(drop, settings.interval_confidence)
    # The stricter of both limits, in points.
    limit = min(settings.limits.for_level(level), (1 - settings.min_retention) * abs(float(old.mean())))
    return Retention("correctness", *_means(old, new, drop), lower, upper, limit, drop.size)


def _of_losses(before: FloatArray, after: FloatArray, settings: Settings) -> Retention:
    old, new = before.astype(np.float64), after.astype(np.float64)
    rise = new - old
    lower, upper = _t_interval(rise, settings.interval_confidence)
    # To retain a share p of a loss is to let it grow to 1 / p of what it was.
    limit = (1 / settings.min_retention - 1) * abs(float(old.mean()))
    return Retention("loss", *_means(old, new, rise), lower, upper, limit, rise.size)


def _means(old: FloatArray, new: FloatArray, drop: FloatArray) -> tuple[float, float, float]:
    return float(old.mean()), float(new.mean()), float(drop.mean())


def _t_interval(drop: FloatArray, confidence: float) -> tuple[float, float]:
    """Paired t interval around the mean difference."""
    half = float(
        # The quantile for n - 1 degrees of freedom, times the standard error.
        special.stdtrit(drop.size - 1, (1 + confidence) / 2) * drop.std(ddof=1) / math.sqrt(drop.size)
    )
    mean = float(drop.mean())
    return mean - half, mean + half


def _binary_interval(drop: FloatArray, confidence: float) -> tuple[float, float]:
    """Interval for the difference of paired shares.

    A t interval has no width where no sample changed, however few there are; half an observation added to
    each cell of the 2 x 2 table keeps small samples honest.

    Source: Agresti and Min (2005), "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24.
    """
    # Half a pair in each of the four cells: n + 2 pairs, half of one added to the worse and to the better.
    total = drop.size + 2
    worse, better = float((drop > 0).sum()) + 0.5, float((drop < 0).sum()) + 0.5
    mean = (worse - better) / total
    # Over the number of pairs squared, this is the variance of the difference of two paired shares.
    variance = max(worse + better - (worse - better) ** 2 / total, 0.0)
    half = float(special.ndtri((1 + confidence) / 2)) * math.sqrt(variance) / total
    return mean - half, mean + half
