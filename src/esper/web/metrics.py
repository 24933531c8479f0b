"""The numbers of the runs that are training, for Prometheus; what was not measured is left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from esper.narset import Summary
from esper.runs import RunState, Story
from esper.web import health

CONTENT_TYPE = CONTENT_TYPE_LATEST
_GAUGES = {
    "epoch": "Epochs, or periods of steps, that have ended",
    "step": "Optimizer steps made",
    "flops": "FLOPs of one forward pass for one sample, masked units left out",
    "parameters": "Parameters, masked units left out",
    "flops_removed_fraction": "Share of the FLOPs at the start that are masked or cut",
    "masked_units": "Units that are masked and not cut",
    "epoch_seconds": "Seconds of the last epoch, Esper aside",
    "esper_seconds": "Seconds that training waited for Esper: of this process; once finished, of all",
    "training_time_impact": "The same as a share of the time of the process",
    "tracking_fraction": "Share of a training step that importance tracking takes",
    "counting_fraction": "Share of a training step that counting and telemetry take; once finished",
    "checkpoint_overhead": "Seconds that the last checkpoint held training up",
    "analysis_success_rate": "Share of analyses that came to an end",
    "analysis_duration_p95": "Seconds within which 95 % of the analyses were done",
    "logical_pruning_effectiveness": "Share of the validated plans that were accepted",
    "last_seen_seconds": "When the run was heard of last, since 1970",
}


def exposition(stories: Sequence[Story]) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Runs(stories))
    return generate_latest(registry)


class _Runs(Collector):
    def __init__(self, stories: Sequence[Story]) -> None:
        self._stories = stories

    def collect(self) -> Iterator[Metric]:
        counts = GaugeMetricFamily("esper_runs", "Runs in the folder by their state", labels=["state"])
        for state in RunState:
            counts.add_metric([state.value], sum(story.state is state for story in self._stories))
        yield counts
        running = [story for story in self._stories if story.state is RunState.RUNNING]
        values = {story.name: _values(story) for story in running}
        for name, words in _GAUGES.items():
            gauge = GaugeMetricFamily(f"esper_{name}", words, labels=["run"])
            for run, known in values.items():
                if (value := known[name]) is not None:
                    gauge.add_metric([run], value)
            yield gauge
        yield _metrics(running)
        yield _analyses(running)
        yield from _counted(running)


def _values(story: Story) -> dict[str, float | None]:
    """What is known of a run, by the names of the gauges."""
    report, told = story.report, story.told
    values: dict[str, float | None] = {
        **dict.fromkeys(_GAUGES),
        "checkpoint_overhead": told.stall_seconds,
        "analysis_success_rate": told.measures.success_rate,
        "analysis_duration_p95": told.measures.duration_p95,
        "logical_pruning_effectiveness": health.effectiveness(story),
        "last_seen_seconds": story.at_seconds,
    }
    if report is not None and report.epochs:
        row = report.epochs[-1]
        values |= {
            "epoch": row.epoch,
            "step": row.step,
            "flops": row.flops,
            "parameters": row.parameters,
            "masked_units": row.masked_units,
            "epoch_seconds": row.seconds,
            "flops_removed_fraction": 1 - row.flops / report.flops_before if report.flops_before else None,
        }
    if report is not None and report.overhead is not None:
        values |= {
            "esper_seconds": report.overhead.esper_seconds,
            "training_time_impact": report.overhead.esper_fraction,
            "tracking_fraction": report.overhead.tracking_fraction,
            "counting_fraction": report.overhead.counting_fraction,
        }
    return values


def _metrics(running: Sequence[Story]) -> GaugeMetricFamily:
    """What was reported with the last epoch that anything was reported with."""
    gauge = GaugeMetricFamily("esper_metric", "What the last epoch reported", labels=["run", "metric"])
    for story in running:
        rows = [row for row in (story.report.epochs if story.report else ()) if row.metrics]
        for name, value in (rows[-1].metrics if rows else {}).items():
            if math.isfinite(value):
                gauge.add_metric([story.name, name], value)
    return gauge


def _analyses(running: Sequence[Story]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily("esper_analyses", "Analyses by how they ended", labels=["run", "status"])
    for story in running:
        for status, number in story.told.analyses.items():
            gauge.add_metric([story.name, status], number)
    return gauge


def _counted(running: Sequence[Story]) -> Iterator[Metric]:
    """Seconds of steps since the run began, with their quantiles."""
    steps = Metric("esper_step_seconds", "Seconds from one optimizer step to the next", "summary")
    odd = CounterMetricFamily(
        "esper_not_finite_values", "Counted values that were no finite numbers", labels=["run", "quantity"]
    )
    for story in running:
        labels = {"run": story.name}
        for name, summary in story.told.counted.items():
            odd.add_metric([story.name, name], summary.not_finite)
        summary = story.told.counted.get("step_seconds", Summary())
        for rank in (0.5, 0.95, 0.99):
            if (value := summary.quantile(rank)) is not None:
                steps.add_sample("esper_step_seconds", {**labels, "quantile": str(rank)}, value)
        steps.add_sample("esper_step_seconds_count", labels, summary.finite)
        steps.add_sample("esper_step_seconds_sum", labels, summary.total)
    yield steps
    yield odd
