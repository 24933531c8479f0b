"""What Esper promises of itself, held against what a run has measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from esper.report import figures

LEAST_TRAINING_SECONDS = 600.0
"""Below, what is done once at the start is most of Esper's share of the time."""
LEAST_ANALYSES = 20
"""Below, one analysis that fails is more than one in twenty, and no rate yet."""
_FAILED = ("failed", "late")


class Standing(StrEnum):
    """What can be said of a promise."""

    UNKNOWN = "unknown"
    """Nobody has measured it in this run."""
    TOO_EARLY = "too_early"
    """It was measured on too little to be called broken."""
    KEPT = "kept"
    BROKEN = "broken"


@dataclass(frozen=True)
class Promise:
    """One promise and how it stands.

    Attributes:
        target: the limit: a share, seconds, or bytes.
        at_least: whether that is the lowest good value, instead of the highest.
        measured: in the same unit; None: nobody has measured it.
        text: the number, the limit, and what to do where it is broken, in a sentence or two.
    """

    name: str
    target: float
    at_least: bool
    measured: float | None
    standing: Standing
    text: str

    @property
    def is_kept(self) -> bool | None:
        """None: unknown, or too early to say."""
        return {Standing.KEPT: True, Standing.BROKEN: False}.get(self.standing)


@dataclass(frozen=True)
class Measures:
    """What a run has measured of itself.

    Attributes:
        analyses: by how they ended; `late` ran out of time, and nobody waited for those that were `dropped`.
        durations: seconds that analyses took.
        stall_seconds: that the last checkpoint held training up.
        esper_seconds: of `running_seconds` of this process, those that training waited for Esper.
        peak_bytes: the most memory that an analysis worker has held.
    """

    analyses: Mapping[str, int] = field(default_factory=dict)
    durations: Sequence[float] = ()
    stall_seconds: float | None = None
    esper_seconds: float | None = None
    running_seconds: float | None = None
    peak_bytes: float | None = None

    @property
    def ended(self) -> int:
        """Analyses that came to some end that somebody waited for."""
        return sum(n for status, n in self.analyses.items() if status != "dropped")

    @property
    def failed(self) -> int:
        return sum(self.analyses.get(status, 0) for status in _FAILED)

    @property
    def success_rate(self) -> float | None:
        """Share of analyses that came to an end."""
        return 1 - self.failed / self.ended if self.ended else None

    @property
    def duration_p95(self) -> float | None:
        """Seconds within which 95 % of the analyses were done."""
        durations = sorted(self.durations)
        return durations[math.ceil(0.95 * len(durations)) - 1] if durations else None


def promises(known: Measures) -> tuple[Promise, ...]:
    """Every promise of the specification, and how it stands by what is known."""
    return (_success(known), _duration(known), _stall(known), _share(known), _memory(known), _accuracy())


def _success(known: Measures) -> Promise:
    rate, total, failed = known.success_rate, known.ended, known.failed
    if rate is None:
        return _unknown(
            "analysis_success_rate",
            0.95,
            "No analysis has ended in this process yet; 95 % of them are promised to.",
            True,
        )
    is_early = total < LEAST_ANALYSES and failed < 2
    ended = f"{figures.percent(rate)} of the analyses ({total - failed} of {total})"
    said = f"{ended} came to an end, and 95 % are promised."
    todo = "`esper audit show` on this run tells why each of the others did not."
    early = "That is too few to judge by."
    return _judged("analysis_success_rate", 0.95, rate, said, todo, early if is_early else "", True)


def _duration(known: Measures) -> Promise:
    name, longest = "analysis_duration_p95", known.duration_p95
    if longest is None:
        return _unknown(
            name, 300.0, "No analysis was timed in this process yet; 95 % are promised to take 300 s at most."
        )
    timed = f"95 % of {len(known.durations)} timed analyses"
    said = f"{timed} took {figures.seconds(longest)} at most, and 300 s are promised."
    todo = "Fewer samples (analysis.calibration_samples, analysis.held_out_samples) make them shorter."
    return _judged(name, 300.0, longest, said, todo)


def _stall(known: Measures) -> Promise:
    name, stall = "checkpoint_overhead", known.stall_seconds
    if stall is None:
        return _unknown(
            name,
            300.0,
            "No checkpoint was timed yet; less than 300 s of waiting are promised.",
        )
    held = f"The last checkpoint held training up for {figures.seconds(stall)}"
    said = f"{held}, and less than 300 s are promised."
    todo = "A faster disk for the run directory helps, and checkpoint.background = true where it is off."
    return _judged(name, 300.0, stall, said, todo)


def _share(known: Measures) -> Promise:
    name, waited, total = "training_time_impact", known.esper_seconds, known.running_seconds
    if waited is None or total is None or total <= 0:
        return _unknown(
            name, 0.01, "Esper's share of the time was not measured yet; less than 1 % is promised."
        )
    said = (
        f"Training waited {figures.seconds(waited)} of {figures.seconds(total)} for Esper, "
        f"{figures.percent(waited / total, 2)}, what is done once at the start included, "
        "and less than 1 % is promised."
    )
    todo = "Fewer pruning steps (pruning.schedule.max_steps) and longer epochs lower it."
    early = f"Before {LEAST_TRAINING_SECONDS / 60:.0f} minutes the start is too much of that to judge by."
    return _judged(name, 0.01, waited / total, said, todo, early if total < LEAST_TRAINING_SECONDS else "")


def _memory(known: Measures) -> Promise:
    name, peak = "peak_memory_usage", known.peak_bytes
    if not peak:
        return _unknown(name, 4e9, "No worker's memory was measured; less than 4 GB are promised.")
    said = f"An analysis worker has held {peak / 1e9:.2f} GB of memory, and less than 4 GB are promised."
    todo = "Smaller batches (analysis.batch_samples) or fewer samples (analysis.held_out_samples) lower it."
    return _judged(name, 4e9, peak, said, todo)


def _accuracy() -> Promise:
    """A run cannot know it: it takes removing every unit alone."""
    said = (
        "How well units are ranked is not measured in a run; `esper analyze RUN --against-truth` does it, "
        "and 90 % are promised."
    )
    return _unknown("importance_ranking_accuracy", 0.9, said, True)


def _unknown(name: str, target: float, text: str, at_least: bool = False) -> Promise:
    return Promise(name, target, at_least, None, Standing.UNKNOWN, text)


def _judged(
    name: str, target: float, value: float, said: str, todo: str, early: str = "", at_least: bool = False
) -> Promise:
    """Kept as soon as it is; broken only where it was measured on enough, which `early` denies."""
    if value >= target if at_least else value <= target:
        return Promise(name, target, at_least, value, Standing.KEPT, said)
    if early:
        return Promise(name, target, at_least, value, Standing.TOO_EARLY, f"{said} {early}")
    return Promise(name, target, at_least, value, Standing.BROKEN, f"{said} {todo}")
