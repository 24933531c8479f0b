"""Whether what runs is healthy, held against what was promised; what nobody has measured is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Any

from esper.report import Promise, promises
from esper.runs import RunState, Story


class Health(StrEnum):
    """What can be said of a part; `UNKNOWN` is what has not run, or was not measured."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It works, and something promised is not kept."""
    UNHEALTHY = "unhealthy"
    """It does not do what it is for."""


_ORDER = (Health.UNKNOWN, Health.HEALTHY, Health.DEGRADED, Health.UNHEALTHY)


def objectives(story: Story) -> tuple[Promise, ...]:
    """The promises as the run itself judges them; of a report from before they were written down, anew."""
    return (story.report.promises if story.report else ()) or promises(story.told.measures)


def effectiveness(story: Story) -> float | None:
    """Share of the validated plans that were accepted."""
    counts = story.told.analyses
    judged = counts.get("accepted", 0) + counts.get("rejected", 0)
    return counts.get("accepted", 0) / judged if judged else None


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
