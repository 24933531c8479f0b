"""The six gates: from evidence to an answer. Pure functions; what was not measured does not pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from esper.arrays import FloatArray
from esper.kasmina.seeds.settings import GrowthSettings
from esper.leyline import SeedLifecycleGate as Gate
from esper.urabrask import Check

_YES = "yes"
_SAID = "otherwise"
"""The name of the question says it all."""
_ORDER = "no position reads later ones than before"
_ORDERLY = f"{_ORDER} (attention: causal=True keeps to that; growing.reads_later=True lets it)"
_DOUBT = 0.05
"""Chance that something is taken for worse which is not."""


@dataclass(frozen=True)
class Criterion:
    """One question of a gate.

    Attributes:
        name: what was asked.
        value: what was measured; None: nothing was.
        wanted: what would have been good, in words.
        is_met: whether it is; never where nothing was measured.
    """

    name: str
    value: float | None
    wanted: str
    is_met: bool

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name}: unmeasured"
        if self.wanted == _SAID:
            return self.name
        if self.wanted == _YES:
            return f"{self.name}: {'yes' if self.is_met else 'no'}"
        return f"{self.name} {self.value:.3g} ({self.wanted})"


@dataclass(frozen=True)
class GateResult:
    """What a gate answered, with all that it was told.

    Attributes:
        gate: which one.
        criteria: every question.
    """

    gate: Gate
    criteria: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        """Whether the seed may go on."""
        return all(criterion.is_met for criterion in self.criteria)

    @property
    def missed(self) -> tuple[Criterion, ...]:
        """The questions that keep it closed."""
        return tuple(criterion for criterion in self.criteria if not criterion.is_met)

    @property
    def gain(self) -> float:
        """The fall of the held-out loss, if it was asked for and measured; else minus infinity."""
        found = next((c.value for c in self.criteria if c.name == GAIN), None)
        return -math.inf if found is None else found

    def __str__(self) -> str:
        numbers = tuple(criterion for criterion in self.criteria if criterion.wanted != _YES)
        shown = numbers or self.criteria if self.passed else self.missed
        return f"{self.gate.name} {'open' if self.passed else 'closed'}: " + "; ".join(map(str, shown))


def at_least(name: str, value: float | None, limit: float) -> Criterion:
    """It must not be lower."""
    return Criterion(name, value, f"at least {limit:g}", value is not None and value >= limit)


def at_most(name: str, value: float | None, limit: float) -> Criterion:
    """It must not be higher."""
    return Criterion(name, value, f"at most {limit:g}", value is not None and value <= limit)


def between(name: str, value: float | None, low: float, high: float) -> Criterion:
    """It must be in a band."""
    is_met = value is not None and low <= value <= high
    return Criterion(name, value, f"{low:g} to {high:g}", is_met)


def yes(name: str, value: bool | None) -> Criterion:
    """It must be so."""
    return Criterion(name, None if value is None else float(value), _YES, bool(value))


def refusal(why: str) -> GateResult:
    """G0 of what is not even tried, or cannot be."""
    return GateResult(Gate.G0_SANITY, (Criterion(why, 0.0, _SAID, is_met=False),))


def failed(checks: Sequence[Check]) -> GateResult:
    """G0 of a seed whose kernel did not pass what is asked of one."""
    return GateResult(
        Gate.G0_SANITY, tuple(Criterion(f"kernel: {c.text}", c.value, _SAID, c.passed) for c in checks)
    )


@dataclass(frozen=True)
class Planted:
    """What is known of a seed before it has learned anything; None: it could not be tried."""

    calls: int
    is_identity: bool | None
    is_finite: bool | None
    keeps_shape: bool
    leaves_input: bool
    is_isolated: bool | None
    can_learn: bool
    parameters: float
    dead: float
    keeps_order: bool | None


def sanity(seed: Planted, settings: GrowthSettings) -> GateResult:
    """G0: may it germinate here?

    Args:
        seed: measured on the first held-out batch.
        settings: the limits.
    """
    size = at_most("parameters of the host's", seed.parameters, settings.max_parameters)
    if not size.is_met:
        size = replace(size, wanted=f"{size.wanted}; give a smaller width=, or raise growing.max_parameters")
    criteria = (
        between("calls of the module in one pass", seed.calls, 1, 1),
        yes("keeps shape, type and device", seed.keeps_shape),
        yes("the network answers as before", seed.is_identity),
        yes("everything is finite", seed.is_finite),
        yes("leaves its input as it is", seed.leaves_input),
        yes("reaches only its own parameters", seed.is_isolated),
        yes("has parameters to train", seed.can_learn),
        yes(_ORDERLY if seed.keeps_order is False else _ORDER, seed.keeps_order),
        size,
        at_most("dead channels here", seed.dead, settings.max_dead),
    )
    return GateResult(Gate.G0_SANITY, criteria)


@dataclass(frozen=True)
class Trained:
    """How a seed has learned. `gains`: fall of the held-out loss by it, chunk by chunk."""

    steps: int
    faults: int
    norm: float | None
    host_norm: float | None
    zeros: float | None
    gains: FloatArray | None
    violations: int


GAIN = "fall of the held-out loss"


def gradient_health(seed: Trained, settings: GrowthSettings, looks: int) -> GateResult:
    """G1: has it learned soundly, and does it help the host that has never seen it?

    Args:
        seed: what was measured while it trained.
        settings: the limits.
        looks: how often this may be asked at most, of all seeds of which the best is taken together.
    """
    chance = settings.significance / looks
    ratio = None if seed.norm is None or not seed.host_norm else seed.norm / seed.host_norm
    criteria = (
        at_least("steps", seed.steps, settings.train_steps),
        at_most("steps without a finite gradient", seed.faults, 0),
        between("gradient norm over the host's", ratio, *settings.gradient_band),
        at_most("zeros in its output", seed.zeros, settings.max_dead),
        surely_above(GAIN, seed.gains, settings.min_gain, chance),
        at_most("violations of isolation", seed.violations, 0),
    )
    return GateResult(Gate.G1_GRADIENT_HEALTH, criteria)


def stability(
    alpha: float, before: Sequence[float], since: Sequence[float], faults: int, settings: GrowthSettings
) -> GateResult:
    """G2: has it been blended in without unrest?

    Args:
        alpha: its share now.
        before: training losses of the host before, step by step.
        since: those while it was blended in.
        faults: passes in which it was no number.
        settings: the limits.
    """
    spread = drift = None
    if min(len(before), len(since)) > 1 and all(map(math.isfinite, (*before, *since))):
        late = np.asarray(since[len(since) // 2 :])
        spread = float(late.std() / max(np.std(before), 1e-12))
        drift = float(late.mean() / max(np.mean(before), 1e-12) - 1.0)
    criteria = (
        at_least("share", alpha, 1.0),
        at_most("passes that were no number", faults, 0),
        at_most("spread of the loss", spread, settings.max_spread),
        at_most("rise of the loss", drift, settings.max_drift),
    )
    return GateResult(Gate.G2_STABILITY, criteria)


@dataclass(frozen=True)
class Shadowed:
    """A seed in the network and out of it, on the same held-out data; moments are those at the slot."""

    keeps_shape: bool
    shift: float | None
    ratio: float | None
    gains: FloatArray | None
    is_isolated: bool


def interface(seed: Shadowed, settings: GrowthSettings) -> GateResult:
    """G3: does what follows the slot get what it is used to, and is nothing worse?"""
    spread = None if not seed.ratio or seed.ratio <= 0 else abs(math.log(seed.ratio))
    criteria = (
        yes("keeps shape, type and device", seed.keeps_shape),
        at_most("shift of the mean", seed.shift, settings.max_shift),
        at_most("change of the spread", spread, settings.max_shift),
        not_surely_worse("rise of the held-out loss", seed.gains),
        yes("reaches only its own parameters", seed.is_isolated),
    )
    return GateResult(Gate.G3_INTERFACE, criteria)


@dataclass(frozen=True)
class Proved:
    """A seed on probation. `gains`: as for G1; `live`: the same on training batches, all the time."""

    epochs: int
    gains: FloatArray | None
    live: FloatArray | None
    latency: float | None
    faults: int
    is_isolated: bool


def system_impact(seed: Proved, settings: GrowthSettings, looks: int) -> GateResult:
    """G4: is the network surely better with it, and worth what it costs?

    Args:
        seed: what was measured.
        settings: the limits.
        looks: how often this may be asked at most.
    """
    chance = settings.significance / looks
    criteria = (
        at_least("epochs", seed.epochs, settings.probation_epochs),
        surely_above("fall of the held-out loss", seed.gains, settings.min_gain, chance),
        not_surely_worse("rise of the training loss", seed.live),
        at_most("time of a forward pass", seed.latency, settings.max_latency),
        at_most("passes that were no number", seed.faults, 0),
        yes("reaches only its own parameters", seed.is_isolated),
    )
    return GateResult(Gate.G4_SYSTEM_IMPACT, criteria)


def reset(*, is_plain: bool, is_unknown: bool, is_untrained: bool, is_free: bool) -> GateResult:
    """G5: has a culled seed left nothing?

    Args:
        is_plain: its place in the network holds the host's own module.
        is_unknown: the registry knows nothing of it.
        is_untrained: no optimizer holds any of it.
        is_free: its memory was given back.
    """
    criteria = (
        yes("the host's own module is in its place", is_plain),
        yes("the registry has no entry", is_unknown),
        yes("no optimizer holds it", is_untrained),
        yes("its memory is free", is_free),
    )
    return GateResult(Gate.G5_RESET, criteria)


def surely_above(name: str, values: FloatArray | None, limit: float, chance: float) -> Criterion:
    """Whether a mean is above a limit, by a one-sided t test with this chance of error.

    Where the same may be asked several times, every time gets an equal part of the chance (Bonferroni), so
    that all of them together keep it.
    """
    if values is None or values.size < 2 or not np.isfinite(values).all():
        return Criterion(name, None, f"surely above {limit:g}", is_met=False)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(values.size)
    margin = float(stdtrit(values.size - 1, 1.0 - chance)) * error
    wanted = f"above {limit:g} by more than {margin:.2g}"
    return Criterion(name, mean, wanted, mean - limit > margin)


def not_surely_worse(name: str, gains: FloatArray | None) -> Criterion:
    """Whether nothing says that a loss rises."""
    worse = surely_above(name, None if gains is None else -gains, 0.0, _DOUBT)
    return Criterion(name, worse.value, "not surely above 0", worse.value is not None and not worse.is_met)
