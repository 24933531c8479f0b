"""The settings of importance tracking and scoring."""

from __future__ import annotations

from pydantic import Field

from esper.config_types import Count, OpenFraction, PositiveCount, Section


class ScoreWeights(Section):
    """How much each measured signal counts in the screening score; only their proportions matter."""

    taylor: float = Field(default=0.5, ge=0.0)
    """Weight of the Taylor or Fisher rank."""

    magnitude: float = Field(default=0.3, ge=0.0)
    """Weight of the rank by size of the weights."""

    activation_frequency: float = Field(default=0.2, ge=0.0)
    """Weight of the rank by how often the unit is active."""


class ImportanceSettings(Section):
    """How importance is measured during training."""

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

    weights: ScoreWeights = ScoreWeights()
    """Proportions of the screening score."""
