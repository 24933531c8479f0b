"""Contracts: the words, names and keys that parts use when they speak to each other."""

from esper.leyline.breaker import MOVES, Breaker, BreakerEvent, BreakerLimits, BreakerState, Move
from esper.leyline.clock import Clock, ManualClock
from esper.leyline.ids import IdempotencyKey, content_id, stable_id
from esper.leyline.plain import UNSTORED, Via, decode, encode, flat, gaps
from esper.leyline.words import Level, SeedLifecycleGate, SeedLifecycleStage

__all__ = [
    "MOVES",
    "UNSTORED",
    "Breaker",
    "BreakerEvent",
    "BreakerLimits",
    "BreakerState",
    "Clock",
    "IdempotencyKey",
    "Level",
    "ManualClock",
    "Move",
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
