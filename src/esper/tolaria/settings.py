"""How an optimizer step is made of batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from esper.settings import PositiveCount, Section, section_of


class LoopSettings(Section):
    """How an optimizer step is made of batches."""

    accumulate: PositiveCount = 1
    """Batches whose mean gradient makes one step; what is left at the end of an epoch makes one as well."""

    clip: Annotated[float, Field(gt=0.0)] | None = None
    """Longest gradient of a step, all of the network together; unset: as long as it is. Seeds are clipped
    apart from it (`growing.clip`)."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the forward pass computes in (`torch.autocast`); `float16` scales the loss by a GradScaler."""

    segments: Annotated[int, Field(ge=2)] | None = None
    """Parts of the network, four for example, whose activations are computed again in the backward pass
    instead of being kept for it, which takes less memory and more time; unset: all are kept."""

    @classmethod
    def of(cls, given: LoopSettings | Mapping[str, Any] | None) -> LoopSettings:
        """The settings, or those that a mapping names.

        Raises:
            ConfigError: a key or value is not known; the message names it.
        """
        keys = f"Its keys: {', '.join(cls.model_fields)}."
        return section_of(cls, given, "loop", f"Nothing was changed. {keys}")
