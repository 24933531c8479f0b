"""Plain words that several parts share: what level of a network a decision touches."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Level(StrEnum):
    """How large the pieces are that a decision removes, from the least to the most far-reaching."""

    CHANNEL = "channel"
    HEAD = "head"
    LAYER = "layer"

    @classmethod
    def highest(cls, names: Iterable[str]) -> Level:
        """The most far-reaching of some levels or unit kinds; `CHANNEL` when there is none."""
        order = list(cls)
        return max((cls(name) for name in names), key=order.index, default=cls.CHANNEL)
