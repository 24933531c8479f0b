"""What goes on in a run without being news: telemetry is told of it, and neither report nor audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.nissa.event import Event, Moment, Severity

LONG_SECONDS = 1.0
"""People are told before training waits for longer than that."""


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
class Spread:
    """How the values of one quantity are spread; None where no finite one came.

    Attributes:
        count: of finite values; those that are not are counted apart, in `not_finite`.
        total: their sum, rounded once.
        p50: half of them are at most that; `p95` and `p99` likewise. Within 0.8 % of themselves.
    """

    count: int
    not_finite: int
    total: float
    mean: float | None
    least: float | None
    most: float | None
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True)
class TelemetrySummary(Moment):
    """What was counted step by step in the period that has ended, summed up.

    Attributes:
        region: which process counted it.
        spreads: by name: `step_seconds` (from one optimizer step to the next, without the ends of periods),
            `esper_seconds` (that the end of a period waited for Esper), `loss` (as reported).
        dropped: values that were not taken because summing up would have cost too much.
        held_back: problems that sinks were not told of in this process, because too many came in a minute.
        message: the summaries as a `RegionSummary` of Leyline in base64: those of several periods or
            processes add up exactly, where their quantiles would not.
    """

    severity, is_noted, is_recorded, by = Severity.DETAIL, False, False, "narset"
    region: str
    spreads: Mapping[str, Spread]
    dropped: int
    held_back: int
    message: str

    @property
    def text(self) -> str:
        steps = self.spreads.get("step_seconds")
        if steps is None or steps.p50 is None or steps.p95 is None or steps.p99 is None:
            return "No step was timed."
        return (
            f"{steps.count} steps were timed: half within {steps.p50 * 1e3:.3g} ms, 95 % within "
            f"{steps.p95 * 1e3:.3g} ms, 99 % within {steps.p99 * 1e3:.3g} ms."
        )


@dataclass(frozen=True)
class ValuesDropped(Event):
    """Telemetry does not take every value because that would slow training."""

    severity, is_noted, is_recorded, by = Severity.NEWS, False, False, "narset"
    says = (
        "Steps come so fast that timing all of them would cost more than {limit:.1%} of them: some are left "
        "out, and `telemetry_summary` counts them. This is said once."
    )
    limit: float


@dataclass(frozen=True)
class ProblemsHeldBack(Event):
    """More problems come than telemetry passes on."""

    severity, is_recorded, by = Severity.PROBLEM, False, "narset"
    says = (
        "More than {limit} problems came within a minute: those beyond are counted, and neither files nor "
        "other sinks are told of them. This is said once."
    )
    limit: int


@dataclass(frozen=True)
class AnalysisBegan(Moment):
    """An analysis of the checkpoint of this epoch begins, beside training."""

    severity, is_noted, is_recorded, by = Severity.DETAIL, False, False, "emrakul"
    says = "An analysis of the checkpoint begins, beside training."


@dataclass(frozen=True)
class AnalysisAwaited(Moment):
    """Training waits for an analysis that has not ended with its epoch.

    Attributes:
        seconds: how long at most.
    """

    severity, is_noted, is_recorded, by = Severity.NEWS, False, False, "emrakul"
    says = "Training waits for the analysis, at most {seconds:.0f} s: what it finds counts from here on."
    seconds: float


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
class CutBegan(Moment):
    """Training is about to wait for a cut that takes more than a moment.

    Attributes:
        units: that are masked.
        seconds: that it will take, by what the last look at the network took.
    """

    severity, is_noted, is_recorded, by = Severity.NEWS, False, False, "kasmina"
    says = "Up to {units} masked units are cut, which is proven: training waits for some {seconds:.0f} s."
    units: int
    seconds: float


@dataclass(frozen=True)
class FinishBegan(Moment):
    """The run is about to be finished, which takes more than a moment."""

    severity, is_noted, is_recorded = Severity.NEWS, False, False
    says = "Finishing: what is masked is cut, and the network is measured, exported and saved."


@dataclass(frozen=True)
class ReportStands(Moment):
    """A run that was finished already is finished again, and nothing was trained in between."""

    is_noted, is_recorded = False, False
    says = "Nothing was trained since the run was finished: what its report says stays as it was."


@dataclass(frozen=True)
class NeverFinished(Event):
    """The process ends, and nobody has called `finish`. Only people are told: files may be closed by then.

    Attributes:
        run: its directory.
        saved: the last epoch whose end is saved; 0 where none is.
        ended: the last epoch that has ended.
    """

    severity, is_recorded = Severity.PROBLEM, False
    run: str
    saved: int
    ended: int

    @property
    def text(self) -> str:
        up_to = f"it is saved up to the end of epoch {self.saved}"
        saved = up_to if self.saved else "only its beginning is saved"
        if self.saved < self.ended:
            saved += f", though epoch {self.ended} has ended"
        elif not self.ended:
            saved += ", because no epoch of it has ended"
        return (
            f"The process ends, and {self.run} was not finished: {saved}, what is masked was not cut, and "
            "there is no report. Resume it to go on, and let session.finish() be the last call."
        )


@dataclass(frozen=True)
class Finished(Moment):
    """The run is at its end, and its report is written."""

    severity, is_noted, is_recorded = Severity.DETAIL, False, False
    says = "The run is finished, and its report is written."
