"""What goes on in a run without being news: telemetry is told of it, and neither report nor audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.nissa.event import Moment, Severity


@dataclass(frozen=True)
class EpochEnded(Moment):
    """A period of training has ended: its metrics, what the network costs by then, and what Esper has cost.

    Attributes:
        step: optimizer steps made.
        metrics: what was reported, by name.
        flops: of one forward pass for one sample; masked units count as gone.
        parameters: likewise.
        masked_units: units that are masked and not cut yet.
        seconds: that the period took, Esper aside.
        esper_seconds: that this process has waited for Esper until the period began to end.
        running_seconds: since this process attached or resumed.
        tracking_fraction: share of a training step that importance tracking takes; None: not measured yet.
        stall_ms_per_gb: that the last checkpoint has stopped training for; None: there was none.
        stall_seconds: the same in seconds, with the wait for the save before it.
        measured_step: the step that the metrics are of, if not the last one.
        worker_peak_bytes: the most memory that an analysis worker has held; None: not measured.
    """

    severity, is_noted, is_recorded = Severity.DETAIL, False, False
    step: int
    metrics: Mapping[str, float]
    flops: float
    parameters: int
    masked_units: int
    seconds: float
    esper_seconds: float
    running_seconds: float
    tracking_fraction: float | None
    stall_ms_per_gb: float | None
    stall_seconds: float | None
    measured_step: int | None
    worker_peak_bytes: int | None = None

    @property
    def text(self) -> str:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"Step {self.step}, {self.seconds:.1f} s: {metrics or 'nothing was measured'}."


@dataclass(frozen=True)
class AnalysisBegan(Moment):
    """An analysis of the checkpoint of this epoch begins, beside training."""

    severity, is_noted, is_recorded, by = Severity.DETAIL, False, False, "emrakul"
    says = "An analysis of the checkpoint begins, beside training."


@dataclass(frozen=True)
class AnalysisEnded(Moment):
    """What an analysis came to was collected, or nobody waits for it any more.

    Attributes:
        status: `accepted`, `rejected`, `skipped` or `failed`; `dropped` if training went elsewhere meanwhile.
        is_late: whether its time ran out.
        seconds: that it took; None: it measured nothing.
    """

    severity, is_noted, is_recorded, by = Severity.DETAIL, False, False, "emrakul"
    says = "The analysis has ended: {status}."
    status: str
    is_late: bool
    seconds: float | None


@dataclass(frozen=True)
class Finished(Moment):
    """The run is at its end, and its report is written."""

    severity, is_noted, is_recorded = Severity.DETAIL, False, False
    says = "The run is finished, and its report is written."
