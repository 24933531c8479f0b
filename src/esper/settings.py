"""What every configuration section is made of: the section class and the ranges that settings share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share between 0 and 1, never per cent."""

OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
"""A share strictly between 0 and 1."""

Seconds = Annotated[float, Field(gt=0.0)]
"""A duration in seconds, above zero."""

NonNegative = Annotated[float, Field(ge=0.0)]
"""A number, at least zero."""

Count = Annotated[int, Field(ge=0)]
"""A number of things, zero included."""

PositiveCount = Annotated[int, Field(ge=1)]
"""A number of things, at least one."""


class Section(BaseModel):
    """One part's settings: frozen, and an unknown key is an error instead of a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
