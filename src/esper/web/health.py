"""Whether what runs is healthy, held against what was promised; what nobody has measured is unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from esper.runs import RunState, Story

_FAILED = ("failed", "late")


class Health(StrEnum):
    """What can be said of a part; `UNKNOWN` is what has not run, or was not measured."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It works, and something promised is not kept."""
    UNHEALTHY = "unhealthy"
    """It does not do what it is for."""


_ORDER = (Health.UNKNOWN, Health.HEALTHY, Health.DEGRADED, Health.UNHEALTHY)


@dataclass(frozen=True)
class Objective:
    """One promise of the specification and what a run has measured of it.

    Attributes:
        at_least: whether `target` is the lowest good value, instead of the highest.
        measured: None: nobody has measured it in this run.
    """

    name: str
    target: float
    at_least: bool
    measured: float | None

    @property
    def is_kept(self) -> bool | None:
        """None: unknown."""
        if self.measured is None:
            return None
        return self.measured >= self.target if self.at_least else self.measured <= self.target


def objectives(story: Story) -> tuple[Objective, ...]:
    """The promises about the coordinator and its analyses."""
    overhead = story.report.overhead if story.report else None
    return (
        Objective("analysis_success_rate", 0.95, True, success_rate(story)),
        Objective("analysis_duration_p95", 300.0, False, duration_p95(story)),
        Objective("checkpoint_overhead", 300.0, False, story.told.stall_seconds),
        Objective("training_time_impact", 0.01, False, overhead.esper_fraction if overhead else None),
        Objective("peak_memory_usage", 4e9, False, peak_memory(story)),
    )


def success_rate(story: Story) -> float | None:
    """Share of analyses that came to an end; those that nobody waited for do not count."""
    counts = {status: n for status, n in story.told.analyses.items() if status != "dropped"}
    total = sum(counts.values())
    return 1 - sum(counts.get(status, 0) for status in _FAILED) / total if total else None


def duration_p95(story: Story) -> float | None:
    """Seconds within which 95 % of the analyses were done."""
    durations = sorted(story.told.durations)
    return durations[math.ceil(0.95 * len(durations)) - 1] if durations else None


def effectiveness(story: Story) -> float | None:
    """Share of the validated plans that were accepted."""
    counts = story.told.analyses
    judged = counts.get("accepted", 0) + counts.get("rejected", 0)
    return counts.get("accepted", 0) / judged if judged else None


def peak_memory(story: Story) -> float | None:
    """Most bytes that a worker has held, as far as a report tells."""
    peaks = [row.peak_bytes for row in (story.report.workers if story.report else ()) if row.peak_bytes]
    return float(max(peaks)) if peaks else None


def of_coordinator(story: Story) -> Health:
    """Of one run's coordinator: unhealthy if its analyses fail, degraded if another promise is not kept."""
    kept = {each.name: each.is_kept for each in objectives(story)}
    if not story.told.analyses:
        return Health.UNKNOWN
    if kept["analysis_success_rate"] is False:
        return Health.UNHEALTHY
    return Health.DEGRADED if False in kept.values() else Health.HEALTHY


def overall(stories: Sequence[Story]) -> dict[str, Any]:
    """The answer of `/health`: of what runs, the worst; what does not run says nothing about it."""
    running = [story for story in stories if story.state is RunState.RUNNING]
    states = {story.name: of_coordinator(story).value for story in running}
    return {
        "status": _worst([Health(state) for state in states.values()]).value,
        "runs": {state.value: sum(story.state is state for story in stories) for state in RunState},
        "running": states,
        "unreadable": {story.name: list(story.problems) for story in stories if story.problems},
    }


def emrakul(stories: Sequence[Story]) -> dict[str, Any]:
    """The answer of `/health/emrakul`: of every run that is training, each promise and whether it is kept."""
    running = [story for story in stories if story.state is RunState.RUNNING]
    return {
        "status": _worst([of_coordinator(story) for story in running]).value,
        "runs": [
            {
                "run": story.name,
                "status": of_coordinator(story).value,
                "analyzing_epoch": story.told.analyzing,
                "analyses": dict(story.told.analyses),
                "objectives": [{**asdict(each), "is_kept": each.is_kept} for each in objectives(story)],
            }
            for story in running
        ],
    }


def worker(stories: Sequence[Story], number: int) -> dict[str, Any]:
    """How the analysis worker of this number has fared, as far as the reports of finished runs tell."""
    conditions = {"ok": Health.HEALTHY, "failing": Health.UNHEALTHY}
    known = [
        {"run": story.name, "status": conditions.get(row.condition, Health.UNKNOWN).value, **asdict(row)}
        for story in stories
        if story.report
        for row in story.report.workers
        if row.worker == number
    ]
    return {"status": _worst([Health(one["status"]) for one in known]).value, "runs": known}


def _worst(states: Sequence[Health]) -> Health:
    return max(states, key=_ORDER.index, default=Health.UNKNOWN)
