"""Policies: pure functions from how a run is doing to what is tried next. To do nothing is always right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from esper.arrays import FloatArray
from esper.leyline import SeedLifecycleStage
from esper.tamiyo.settings import StrategySettings

_RESTING = tuple(
    stage.name
    for stage in (SeedLifecycleStage.CULLED, SeedLifecycleStage.EMBARGOED, SeedLifecycleStage.RESETTING)
)
"""Stages of a place where a seed has just failed."""


@dataclass(frozen=True)
class SystemState:
    """How a run is doing when an epoch has ended.

    Attributes:
        epoch: epochs that have ended.
        epochs_left: epochs to come; None: nobody knows.
        metrics: of every epoch; None where nobody measured.
        is_higher_better: direction of the metric.
        is_mask_under_way: whether a mask waits or is on trial.
        is_seed_under_way: whether a seed is on its way.
        epochs_of_a_seed: what a seed needs at least, at the pace measured so far, to become a part.
        is_growing_barred: whether the breaker of growing is open, so that nothing would germinate.
        grown: seeds that have become parts of the network.
        tries: epochs in which something was germinated, or was to be by a policy, whatever came of it.
        refused_in_row: tries since one last of which a seed became a part, with one that is under way.
        slots: stages by the path of every place where something was.
        parameters: of the network now, and `parameters_at_start`.
    """

    epoch: int
    epochs_left: int | None
    metrics: tuple[float | None, ...]
    is_higher_better: bool
    is_mask_under_way: bool
    is_seed_under_way: bool
    epochs_of_a_seed: float
    grown: int
    tries: tuple[int, ...]
    refused_in_row: int = 0
    slots: dict[str, str] = field(default_factory=dict)
    is_growing_barred: bool = False
    parameters: int = 0
    parameters_at_start: int = 0


@dataclass(frozen=True)
class TryOut:
    """Seeds are to be tried out at all free places of a pattern; the best of them goes on, if it helps."""

    why: str
    slots: str = "auto"
    blueprint: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cull:
    """The seed at a place is to go."""

    why: str
    slot: str


Command = TryOut | Cull


class Policy(Protocol):
    """Decides at the end of every epoch; not asked again within it."""

    def decide(self, state: SystemState) -> Sequence[Command]:
        """What is to be done now; nothing is an answer. After two seconds it is taken for that."""


@dataclass(frozen=True)
class Periodic:
    """Tries seeds out every so many epochs."""

    settings: StrategySettings

    def decide(self, state: SystemState) -> Sequence[Command]:
        since = state.epoch - max(state.tries, default=0)
        why = f"{since} epochs have passed since the last try."
        return () if self.why_not(state) else (_try(self.settings, why),)

    def why_not(self, state: SystemState) -> str:
        """Why nothing is tried now; '' if something is."""
        if obstacle := _obstacle(state, self.settings):
            return obstacle
        since = state.epoch - max(state.tries, default=0)
        if since < self.settings.every_epochs * _patience(state, self.settings):
            return "too few epochs had passed (strategy.every_epochs)"
        return ""


@dataclass(frozen=True)
class Plateau:
    """Tries seeds out when the metric rises no more than its noise explains.

    The best of the last epochs must be no better, and the trend of the last twice as many none that
    stands out of the noise: while the network still learns by itself, that is cheaper than seeds.
    """

    settings: StrategySettings

    def decide(self, state: SystemState) -> Sequence[Command]:
        why = "" if _obstacle(state, self.settings) else self._plateau(state)
        return (_try(self.settings, why),) if why else ()

    def why_not(self, state: SystemState) -> str:
        """Why nothing is tried now; '' if something is."""
        rising = "" if self._plateau(state) else "the metric had not come to rest (strategy.patience_epochs)"
        return _obstacle(state, self.settings) or rising

    def _plateau(self, state: SystemState) -> str:
        """What shows that the metric rests; '' if it does not."""
        patience = self.settings.patience_epochs
        start = max(state.tries, default=0)
        known = [m for m in state.metrics[start:] if m is not None and math.isfinite(m)]
        values = np.array(known if state.is_higher_better else [-m for m in known])
        if values.size <= max(2 * patience - 1, patience * _patience(state, self.settings)):
            return ""
        before, since = float(values[:-patience].max()), float(values[-patience:].max())
        recent = values[-2 * patience :] - values[-2 * patience]  # zeros to the last bit where it is stuck
        noise = _noise(recent)
        # The slope of a straight line through the last values, and its standard error.
        places = np.arange(recent.size) - (recent.size - 1) / 2
        slope, error = float(places @ recent / (places @ places)), noise / math.sqrt(places @ places)
        if since > before + noise or slope > error:
            return ""
        return (
            f"A plateau: the best of the last {patience} epochs is {abs(since):.4g}, of those before "
            f"{abs(before):.4g}, and single epochs differ by {noise:.2g} without that."
        )


def _noise(values: FloatArray) -> float:
    """How far single values lie off a smooth curve: one standard deviation.

    Differences of differences cancel a trend and leave sqrt(6) times the noise; their median ignores the
    steep beginning of a training.
    """
    if values.size < 3:
        return 0.0
    return float(1.4826 * np.median(np.abs(np.diff(values, 2))) / math.sqrt(6))


def policy_of(settings: StrategySettings) -> Policy | None:
    """The policy that is asked for; None: none is."""
    if settings.policy == "none":
        return None
    return Periodic(settings) if settings.policy == "periodic" else Plateau(settings)


def foreseen(policy: Policy) -> TryOut | None:
    """What a policy will ask for one day, so that it can be prepared; None: nobody knows but itself."""
    return _try(policy.settings, "") if isinstance(policy, Periodic | Plateau) else None


def why_not(policy: Policy, state: SystemState) -> str:
    """Why a policy of ours tries nothing now; '' if it does, and for any other policy."""
    return policy.why_not(state) if isinstance(policy, Periodic | Plateau) else ""


def _obstacle(state: SystemState, settings: StrategySettings) -> str:
    """Why nothing may be tried, whatever the policy; '' if something may.

    Places where a seed was culled rest for a while: the others were tried in vain together with them.
    """
    needed = math.ceil(state.epochs_of_a_seed)
    is_large = settings.max_growth is not None and (
        state.parameters >= settings.max_growth * state.parameters_at_start > 0
    )
    obstacles = {
        "a mask was under way": state.is_mask_under_way,
        "a seed was under way": state.is_seed_under_way,
        f"too few epochs were left: a seed needs {needed} to become a part of the network "
        "(growing.train_steps, ramp_steps, probation_epochs)": (
            state.epochs_left is not None and state.epochs_left < state.epochs_of_a_seed
        ),
        "a place rested after a cull": any(stage in _RESTING for stage in state.slots.values()),
        "the breaker of growing was open": state.is_growing_barred,
        "the network was as large as it may become (strategy.max_growth)": is_large,
        "enough had grown (strategy.max_seeds)": state.grown >= settings.max_seeds,
        "enough had been tried (strategy.max_tries)": len(state.tries) >= settings.max_tries,
    }
    return next((why for why, is_so in obstacles.items() if is_so), "")


def _patience(state: SystemState, settings: StrategySettings) -> float:
    """How many times as long as usual to wait: longer and longer as long as nothing stays."""
    return settings.backoff**state.refused_in_row


def _try(settings: StrategySettings, why: str) -> TryOut:
    options = {} if settings.width is None else {"width": settings.width}
    return TryOut(why, settings.slots, settings.blueprint, options)
