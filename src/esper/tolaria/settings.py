"""How an optimizer step is made of batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esper.settings import PositiveCount, Section


class LoopSettings(Section):
    """How an optimizer step is made of batches."""

    accumulate: PositiveCount = 1
    """Batches whose mean gradient makes one step; what is left at the end of an epoch makes one as well."""

    clip: Annotated[float, Field(gt=0.0)] | None = None
    """Longest gradient of a step, all of the network together; unset: as long as it is. Seeds are clipped
    apart from it (`growing.clip`)."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the forward pass computes in (`torch.autocast`); `float16` scales the loss by a GradScaler."""
