"""How strict the validator is."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from esper.leyline import Level
from esper.settings import Fraction, OpenFraction, PositiveCount, Seconds, Section


class RetentionLimits(Section):
    """How much quality one plan may cost, in points of a metric between 0 and 1."""

    channel: Fraction = 0.02
    """Largest drop of accuracy that a plan of channels may cause (0.02 = 2 points)."""

    head: Fraction = 0.03
    """Largest drop of accuracy that a plan of attention heads may cause."""

    layer: Fraction = 0.05
    """Largest drop of accuracy that a plan of layers may cause."""

    def for_level(self, level: Level) -> float:
        """The limit of one level, as a share of 1."""
        return {Level.CHANNEL: self.channel, Level.HEAD: self.head, Level.LAYER: self.layer}[level]


class Settings(Section):
    """The validator's settings."""

    validation: Literal["measure", "none"] = "measure"
    """`measure` compares held-out quality before and after; `none` applies plans that nobody measured."""

    limits: RetentionLimits = RetentionLimits()
    """Largest drop of quality per level."""

    min_retention: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Share of the quality before that must be left after; for a loss, before / after."""

    interval_confidence: OpenFraction = 0.95
    """Confidence of the interval around the measured difference."""

    min_gradient_ratio: Fraction = 0.95
    """Smallest share of the surviving parameters that the gradient reaches, relative to the share before. A
    tensor is reached as a whole or not at all."""

    max_gradient_ratio: Annotated[float, Field(gt=1.0)] = 10.0
    """Largest gradient norm over surviving parameters, relative to the norm before."""

    require_gradients: bool = True
    """Refuse a plan whose gradients were not measured."""

    memory_limit_bytes: PositiveCount | None = None
    """Most memory that measuring may take, in bytes; unset: no limit."""

    time_limit_seconds: Seconds = 60.0
    """Longest time that one validation may take; a validation that passes it is a no."""

    def with_leeway(self, leeway: float) -> Self:
        """The same settings with limits that are `leeway` times as wide."""
        if leeway == 1:
            return self
        drops = {name: min(drop * leeway, 1.0) for name, drop in self.limits}
        # Of a loss it is the rise that gets so many times as large.
        least = 1 / (1 + (1 / self.min_retention - 1) * leeway)
        return self.model_copy(
            update={"limits": self.limits.model_copy(update=drops), "min_retention": least}
        )
