"""The settings of importance tracking and scoring."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from esper.importance.phases import TrainingPhase
from esper.importance.thresholds import ThresholdSettings
from esper.settings import Count, NonNegative, OpenFraction, PositiveCount, Section


class ScoreWeights(Section):
    """How much each measured signal counts in the screening score; only their proportions matter."""

    taylor: NonNegative = 0.5
    """Weight of the rank by the loss that a unit's removal would cost, by what training has seen. Where the
    twin was looked at, that takes its place."""

    twin: NonNegative = 0.5
    """Weight of the rank by what the twin shows of the loss on held-out samples, where it was looked at."""

    magnitude: NonNegative = 0.3
    """Weight of the rank by size of the weights."""

    activation_frequency: NonNegative = 0.2
    """Weight of the rank by how often the unit is active. Alone it ranks worse than chance, and
    yet pruning has gone further with it (docs/importance.md)."""

    history: NonNegative = 0.0
    """Weight of the rank that earlier analyses let expect."""


class PhaseWeights(Section):
    """The weights in each phase of the training."""

    early: ScoreWeights = ScoreWeights()
    """In the first third of the planned run."""

    mid: ScoreWeights = ScoreWeights()
    """In the second third, and where the length of the run is unknown."""

    late: ScoreWeights = ScoreWeights()
    """In the last third."""

    def at(self, phase: TrainingPhase) -> ScoreWeights:
        weights = {
            TrainingPhase.EARLY: self.early,
            TrainingPhase.MID: self.mid,
            TrainingPhase.LATE: self.late,
        }
        return weights[phase]


class ElementSettings(Section):
    """Scores of single elements, beside those of units, which decisions are made by."""

    form: Literal["exact", "bfloat16", "log8"] = "log8"
    """How the backend `element` keeps a score: in four bytes, in two, or in one."""

    window_steps: PositiveCount = 16
    """Sampled steps over which the backend `element` measures an element at a time."""

    sketch_width: PositiveCount | None = None
    """Buckets of a row of the sketch; unset: max(10,000, parameters / 1,000)."""

    sketch_depth: PositiveCount | None = None
    """Rows of the sketch; unset: max(7, ln(1 / sketch_error_rate))."""

    sketch_error_rate: OpenFraction = 0.001
    """Probability that the sketch's error bound does not hold for an element."""


class ImportanceSettings(Section):
    """How importance is measured during training."""

    backend: Literal["unit", "element", "sketch"] = "unit"
    """What is scored beside units: nothing, every element (`element`), or the largest elements in bounded
    memory (`sketch`). Read by `esper analyze --elements`."""

    is_enabled: bool = True
    """Whether training steps are sampled; without that only optimizers with second moments give evidence."""

    overhead_fraction: OpenFraction = 0.001
    """Share of the training time that tracking may take; the sampling stride follows from it."""

    stride: PositiveCount | None = None
    """Track every stride-th step; without it the governor chooses by measured times, so runs differ."""

    max_stride: PositiveCount = 4096
    """The rarest sampling that the governor may choose."""

    momentum: OpenFraction = 0.99
    """Momentum of the running means over sampled steps."""

    min_importance_samples: Count = 1000
    """Training steps that a unit's samples must stand for (each for its stride), or it is unmeasured."""

    min_sampled_steps: PositiveCount = 16
    """Steps that were really sampled before a unit counts as measured, however long the stride."""

    twin_samples: Count = 256
    """Held-out samples on which an analysis sees what units do to the loss before it ablates; 0: none."""

    twin_flops: NonNegative = 1e12
    """Work that this may take: fewer samples are used where they would cost more, none if not eight fit."""

    history_epochs: PositiveCount = 500
    """Analyzed epochs whose importance ranks are remembered."""

    history_momentum: OpenFraction = 0.7
    """Momentum of the running mean of ranks from one analyzed epoch to the next."""

    trend_epochs: PositiveCount = 50
    """Remembered epochs from which a unit's trend is taken."""

    weights: PhaseWeights = PhaseWeights()
    """Proportions of the screening score, phase by phase."""

    elements: ElementSettings = ElementSettings()
    """Scores of single elements."""

    thresholds: ThresholdSettings = ThresholdSettings()
    """Caps of the candidates in the stages of a schedule; a target says itself how much must go."""

    @model_validator(mode="before")
    @classmethod
    def _from_earlier_runs(cls, data: Any) -> Any:
        """Runs of earlier versions wrote the backend into `elements.form`."""
        elements = data.get("elements") if isinstance(data, dict) else None
        form = elements.get("form") if isinstance(elements, dict) else None
        if elements is None or form not in ("off", "sketch"):
            return data
        rest = {name: value for name, value in elements.items() if name != "form"}
        return {**data, "backend": "unit" if form == "off" else "sketch", "elements": rest}
