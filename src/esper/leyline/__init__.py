"""Contracts: the words, names and keys that parts use when they speak to each other."""

from esper.leyline.breaker import Breaker, BreakerEvent, BreakerState
from esper.leyline.clock import Clock, ManualClock
from esper.leyline.ids import IdempotencyKey, content_id, stable_id
from esper.leyline.plain import UNSTORED, Via, decode, encode, flat, gaps
from esper.leyline.words import Level, SeedLifecycleGate, SeedLifecycleStage

__all__ = [
    "UNSTORED",
    "Breaker",
    "BreakerEvent",
    "BreakerState",
    "Clock",
    "IdempotencyKey",
    "Level",
    "ManualClock",
    "SeedLifecycleGate",
    "SeedLifecycleStage",
    "Via",
    "content_id",
    "decode",
    "encode",
    "flat",
    "gaps",
    "stable_id",
]
