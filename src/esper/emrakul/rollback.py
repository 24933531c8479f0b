"""Whether a mask that was applied must be taken back, how far, and when it has proved itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from esper.emrakul.settings import RollbackSettings
from esper.leyline import Level
from esper.wording import alike


class Trigger(StrEnum):
    """What went wrong."""

    METRIC_DROP = "metric_drop"
    NOT_FINITE = "not_finite"
    DIVERGENCE = "divergence"
    STRUCTURE = "structure"
    """The network is no longer what was masked."""
    VETO = "veto"
    """An examiner outside has said no."""


class Strategy(StrEnum):
    """How far to go back."""

    ATOMIC = "atomic"
    """Undo the last mask commit."""
    IMMEDIATE = "immediate"
    """Return to the last verified checkpoint, with everything that it holds."""
    PROGRESSIVE = "progressive"
    """Walk back until a checkpoint verifies and passes."""
    BASELINE = "baseline"
    """Return to the checkpoint from before anything was removed."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch reported; None is not reported.

    Attributes:
        epoch: number of epochs that had ended.
        metric: the user's metric on held-out data.
        loss: mean training loss.
    """

    epoch: int
    metric: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Baseline:
    """What the epochs before a mask looked like, and what it touched.

    Attributes:
        metric: the metric before; None if it was not reported.
        metric_noise: standard deviation of the metric from epoch to epoch, without its trend, and at least
            what so few held-out samples leave open.
        loss_mean: mean of the losses before; None if not reported.
        loss_deviation: their standard deviation.
        level: whose limit applies; see `esper.urabrask.level_of`.
        is_higher_better: direction of the metric.
    """

    metric: float | None
    metric_noise: float
    loss_mean: float | None
    loss_deviation: float
    level: Level
    is_higher_better: bool

    @classmethod
    def of(
        cls,
        records: Sequence[EpochRecord],
        level: Level,
        *,
        is_higher_better: bool = True,
        window: int = 5,
        sampling_noise: float = 0.0,
    ) -> Baseline:
        """The baseline from the epochs before a mask: the last metric, and noise over `window` epochs.

        Args:
            records: of these epochs.
            level: whose limit applies.
            is_higher_better: direction of the metric.
            window: epochs that count.
            sampling_noise: standard error of held-out quality, as a share of that quality.
        """
        recent = records[-window:]
        metrics = np.array([r.metric for r in recent if r.metric is not None and math.isfinite(r.metric)])
        losses = np.array([r.loss for r in recent if r.loss is not None and math.isfinite(r.loss)])
        # Differences of neighbors cancel a steady trend; their deviation is sqrt(2) times that of one value.
        noise = float(np.diff(metrics).std() / math.sqrt(2)) if metrics.size >= 3 else 0.0
        metric = float(metrics[-1]) if metrics.size else None
        noise = max(noise, sampling_noise * abs(metric or 0.0))
        return cls(
            metric=metric,
            metric_noise=noise,
            loss_mean=float(losses.mean()) if losses.size else None,
            loss_deviation=float(losses.std()) if losses.size else 0.0,
            level=level,
            is_higher_better=is_higher_better,
        )


@dataclass(frozen=True)
class RollbackReason:
    """Why a mask must go: the measured value and the limit that it passed.

    Attributes:
        trigger: what went wrong.
        epoch: number of epochs that had ended.
        value: what was measured.
        limit: what it may be.
        text: both, in words.
        is_sudden: whether it rests on one epoch alone, which can have reasons of its own.
    """

    trigger: Trigger
    epoch: int
    value: float
    limit: float
    text: str
    is_sudden: bool = False


def should_roll_back(
    history: Sequence[EpochRecord], baseline: Baseline, settings: RollbackSettings
) -> RollbackReason | None:
    """Judges the epochs since a mask was applied.

    Args:
        history: the epochs since then, oldest first; empty: nothing to judge yet.
        baseline: what was before.
        settings: limits.

    Returns:
        The first reason to go back (not finite, metric of the last epoch, divergence), or None.
    """
    if not history:
        return None
    return (
        _not_finite(history)
        or _metric_drop(history, baseline, settings)
        or _diverged(history, baseline, settings)
    )


def has_settled(
    history: Sequence[EpochRecord], baseline: Baseline, settings: RollbackSettings, *, is_on_probation: bool
) -> bool:
    """Whether a mask has survived long enough to be cut; an epoch that reported no metric does not count.

    While the loss is where it would count as diverged if it stayed there, nothing has proved itself.
    """
    needed = settings.probation_epochs if is_on_probation else settings.settle_epochs
    drops = [drop for record in history if (drop := _drop(record, baseline)) is not None]
    if sum(record.metric is not None for record in history) < needed:
        return False
    if should_roll_back(history, baseline, settings) is not None:
        return False
    # Over the limit, but not so far that it could not be noise: the next epochs decide.
    if drops and drops[-1] > _lasting_limit(baseline, settings) and len(drops) < settings.patience_epochs:
        return False
    limit, last = _loss_limit(baseline, settings), history[-1].loss
    return limit is None or last is None or last <= limit


_PER_CENT = 100.0

_WAY_BACK = {
    Trigger.METRIC_DROP: tuple(Strategy),
    Trigger.VETO: tuple(Strategy),
    # Taking back a mask cannot mend weights that are not finite, have diverged or are no longer those that
    # were masked, so these start at the checkpoint.
    Trigger.NOT_FINITE: (Strategy.IMMEDIATE, Strategy.PROGRESSIVE, Strategy.BASELINE),
    Trigger.DIVERGENCE: (Strategy.IMMEDIATE, Strategy.PROGRESSIVE, Strategy.BASELINE),
    Trigger.STRUCTURE: (Strategy.IMMEDIATE, Strategy.PROGRESSIVE, Strategy.BASELINE),
}
"""For every trigger how far to go back at the first attempt, at the second in a row, and so on."""


def strategy_for(reason: RollbackReason, attempts: int) -> Strategy:
    """How far to go back after `attempts` earlier rollbacks in a row."""
    ways = _WAY_BACK[reason.trigger]
    return ways[min(attempts, len(ways) - 1)]


def limits_for(
    records: Sequence[EpochRecord], settings: RollbackSettings, metric: str, *, is_higher_better: bool
) -> tuple[RollbackSettings, str]:
    """The limits of a drop, and what people should be told of them ('' for nothing).

    A share is never above 1: a metric that was is taken as per cent, and one above 100 as a score of which
    the best that was seen is the scale, unless that is known.
    """
    best = max((record.metric for record in records if record.metric is not None), default=0.0)
    is_known = "metric_scale" in settings.model_fields_set or not is_higher_better
    if is_known or not 1 < best < math.inf:
        return settings, ""
    if best <= _PER_CENT:
        scale, why = _PER_CENT, f"{metric} was above 1, so 100 is taken for a perfect one"
    else:
        scale, why = best, f"{metric} was above 100, so the best that was seen is its scale"
    note = (
        f"{why}: a drop is judged on a scale of {scale:.4g}. "
        "pruning.rollback.metric_scale says what a perfect metric reads."
    )
    return settings.model_copy(update={"metric_scale": scale}), note


def _not_finite(history: Sequence[EpochRecord]) -> RollbackReason | None:
    for record in history:
        for name, value in (("loss", record.loss), ("metric", record.metric)):
            if value is not None and not math.isfinite(value):
                text = f"The {name} of epoch {record.epoch} is {value}."
                return RollbackReason(Trigger.NOT_FINITE, record.epoch, value, 0.0, text)
    return None


def _metric_drop(
    history: Sequence[EpochRecord], baseline: Baseline, settings: RollbackSettings
) -> RollbackReason | None:
    """A drop that noise does not explain: far over the limit in the last epoch, or over it repeatedly."""
    drops = [drop for record in history if (drop := _drop(record, baseline)) is not None]
    if not drops or history[-1].metric is None:
        return None
    limit = _limit(baseline, settings)
    allowed = limit + settings.noise_factor * baseline.metric_noise
    recent = drops[-settings.patience_epochs :]
    is_lasting = len(recent) == settings.patience_epochs and min(recent) > _lasting_limit(baseline, settings)
    if drops[-1] <= allowed and not is_lasting:
        return None
    lasting = f" in {len(recent)} epochs in a row" if is_lasting and len(recent) > 1 else ""
    start, now, worse, most, extra = alike(
        baseline.metric or 0.0, history[-1].metric, drops[-1], limit, allowed - limit
    )
    noise = "" if is_lasting else f" and {extra} for its noise"
    text = (
        f"The metric went from {start} to {now} by epoch "
        f"{history[-1].epoch}: worse by {worse}, allowed after removing units of level "
        f"{baseline.level} is {most}{noise}; more was seen{lasting}."
    )
    return RollbackReason(
        Trigger.METRIC_DROP, history[-1].epoch, drops[-1], limit, text, is_sudden=not is_lasting
    )


def _drop(record: EpochRecord, baseline: Baseline) -> float | None:
    """How much worse the metric is than before; None where either was not measured."""
    if record.metric is None or baseline.metric is None:
        return None
    drop = baseline.metric - record.metric
    return drop if baseline.is_higher_better else -drop


def _limit(baseline: Baseline, settings: RollbackSettings) -> float:
    """The largest drop that is tolerated, noise aside."""
    share = settings.drop_for(baseline.level)
    # A loss or an error has no points: the limit is relative.
    return share * (settings.metric_scale if baseline.is_higher_better else abs(baseline.metric or 0.0))


def _lasting_limit(baseline: Baseline, settings: RollbackSettings) -> float:
    """The largest drop that is tolerated again and again."""
    return max(_limit(baseline, settings), settings.noise_factor * baseline.metric_noise)


def _diverged(
    history: Sequence[EpochRecord], baseline: Baseline, settings: RollbackSettings
) -> RollbackReason | None:
    limit = _loss_limit(baseline, settings)
    last = [record.loss for record in history[-settings.divergence_epochs :] if record.loss is not None]
    if limit is None or len(last) < settings.divergence_epochs or min(last) <= limit:
        return None
    epoch = history[-1].epoch
    text = (
        f"The loss stayed above {limit:.4g} for {len(last)} epochs to epoch {epoch} "
        f"(before: {baseline.loss_mean:.4g})."
    )
    return RollbackReason(Trigger.DIVERGENCE, epoch, min(last), limit, text)


def _loss_limit(baseline: Baseline, settings: RollbackSettings) -> float | None:
    """What the loss may not stay above; None if none was reported before the mask."""
    mean = baseline.loss_mean
    if mean is None:
        return None
    return max(
        mean + settings.divergence_sigma * baseline.loss_deviation,
        mean + (settings.divergence_factor - 1) * abs(mean),
    )
