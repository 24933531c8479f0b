"""Contracts: the words, names and keys that parts use when they speak to each other."""

from esper.leyline.clock import Clock, ManualClock
from esper.leyline.contracts import Level
from esper.leyline.identity import IdempotencyKey, content_id, stable_id

__all__ = ["Clock", "IdempotencyKey", "Level", "ManualClock", "content_id", "stable_id"]
