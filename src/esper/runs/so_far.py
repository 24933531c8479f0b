"""The report of a run that is not finished, from its own file and what it has told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from esper.report import RunReport, promises
from esper.runs.told import Told


def report_so_far(name: str, facts: Mapping[str, Any], told: Told) -> RunReport | None:
    """The report of what has happened until now; what is only measured at the end is not measured.

    Args:
        name: of the run.
        facts: of its `run.json`.
        told: by its telemetry.

    Returns:
        None if nothing was written yet.

    Raises:
        TypeError, ValueError: the facts are none of ours.
    """
    if not facts and told.at_seconds is None:
        return None
    first, last = told.epochs[:1], told.epochs[-1:]
    flops = float(facts.get("flops") or (first[0].flops if first else 0.0))
    parameters = int(facts.get("parameters") or (first[0].parameters if first else 0))
    metric = str(facts.get("metric") or next(iter(first[0].metrics) if first else iter(()), "metric"))
    now = told.masks or (last[0] if last else None)
    report = RunReport(
        title=name,
        model=str(facts.get("model") or told.began or "unknown").rpartition(".")[2],
        metric=metric,
        higher_is_better=bool(facts.get("higher_is_better", True)),
        epochs=tuple(told.epochs),
        flops_before=flops,
        flops_after=now.flops if now else flops,
        parameters_before=parameters,
        parameters_after=now.parameters if now else parameters,
        bytes_before=None,
        bytes_after=None,
        marks=tuple(sorted(told.marks, key=lambda mark: mark.epoch)),
        seeds=tuple(told.seeds),
        programs=told.programs,
        overhead=told.overhead,
        promises=promises(told.measures),
        notes=tuple(told.notes),
        period_steps=None if facts.get("every_n_steps") is None else int(facts["every_n_steps"]),
    )
    measured = list(report.values.items())
    if not measured:
        return report
    epoch, value = measured[-1]
    return replace(report, quality_after=value, quality_source=f"measured in {report.unit} {epoch}")
