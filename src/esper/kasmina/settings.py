"""How much of the loss a teacher has, and when."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from esper.settings import Fraction, PositiveCount, Section


class TeachingSettings(Section):
    """Of the teacher that is given to `esper.attach`; they hold for the whole run."""

    temperature: Annotated[float, Field(gt=0.0)] = 4.0
    """Softens the classes of both networks: larger looks more at the unlikely ones."""

    weight: Fraction = 0.3
    """Share of the loss that is about the teacher's answer instead of the target."""

    stride: PositiveCount = 1
    """Teach in every such step only; 4: in every fourth."""

    require_same: bool = True
    """Refuse to resume with another teacher than the checkpoint was made with, or with none."""
