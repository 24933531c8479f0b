"""What a strategy is asked to do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esper.settings import PositiveCount, Section


class StrategySettings(Section):
    """When seeds are tried out, and where. Nothing is tried unless a policy is named."""

    policy: Literal["none", "periodic", "plateau"] = "none"
    """Whether seeds are tried out by themselves: every so many epochs, or when the metric rises no more."""
    every_epochs: PositiveCount = 5
    """Of `periodic`: epochs from one try to the next."""
    patience_epochs: PositiveCount = 3
    """Of `plateau`: so many epochs without a better metric, noise aside, are a plateau."""
    slots: str = "auto"
    """Where: a pattern of paths, or `auto`, the borders of blocks. The best place is found by trying."""
    blueprint: str = "auto"
    """What is tried there."""
    width: PositiveCount | None = None
    """Of blueprints that have one."""
    max_seeds: PositiveCount = 4
    """So many seeds may become parts of the network."""
    backoff: Annotated[float, Field(ge=1.0)] = 2.0
    """After a try of which nothing stayed, the next one is so many times as far away; 1: as far as ever.
    Where seeds do not help, what they cost is not spent again and again."""
    max_growth: Annotated[float, Field(gt=1.0)] | None = None
    """So many times as many parameters as at the start the network may have before a try; unset: no limit."""
    max_tries: PositiveCount = 6
    """So often seeds are tried out at most: each try costs a pass of its own per seed and step."""
