"""Contracts: the words, names and keys that parts use when they speak to each other."""

from esper.leyline.clock import Clock, ManualClock
from esper.leyline.ids import IdempotencyKey, content_id, stable_id
from esper.leyline.plain import from_plain, locate, to_plain
from esper.leyline.words import Level

__all__ = [
    "Clock",
    "IdempotencyKey",
    "Level",
    "ManualClock",
    "content_id",
    "from_plain",
    "locate",
    "stable_id",
    "to_plain",
]
