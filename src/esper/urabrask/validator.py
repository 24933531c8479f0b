"""Decides go or no-go for a mask: structure first, then quality before and after on held-out data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, IntArray
from esper.leyline import Clock, Level
from esper.urabrask.checks import (
    check_connectivity,
    check_floors,
    check_gradients,
    check_mask,
    check_members,
    check_memory,
    check_only_removes,
)
from esper.urabrask.quality import Measure, Measurement
from esper.urabrask.retention import check_retention
from esper.urabrask.settings import Settings
from esper.urabrask.verdict import Check, Decision, Verdict
from esper.wording import alike


def validate(
    anatomy: Anatomy,
    keep_before: BoolArray,
    keep_after: BoolArray,
    measure: Measure,
    settings: Settings,
    clock: Clock,
    *,
    floors: IntArray,
    leeway: float = 1.0,
    baseline: Measurement | None = None,
) -> Verdict:
    """Judges one mask.

    Args:
        anatomy: the network.
        keep_before: units that are left now, shape [units].
        keep_after: units that would be left, shape [units].
        measure: measures the twin under a mask; called for the present mask first, then for the new one.
        settings: limits.
        clock: monotonic seconds.
        floors: fewest units that each group must keep, shape [groups] (`esper.emrakul.plan.floors`).
        leeway: how many times the limits it may cost, on probation, if it costs more than they allow.
        baseline: a measurement of `keep_before` with the survivors of `keep_after`, if there is one already.

    Returns:
        The decision with every check that was made. What `measure` raises passes through.
    """
    start = clock()
    checks = _structure(anatomy, keep_before, keep_after, floors)
    failed = _failed(checks)
    if failed is not None:
        return Verdict(Decision.NO_GO, failed, checks, None, clock() - start)
    if settings.validation == "none":
        reason = "Quality was not measured, because validation is switched off: apply on probation."
        return Verdict(Decision.CONDITIONAL_GO, reason, checks, None, clock() - start)
    watch = _Watch(clock, start, settings.time_limit_seconds)
    before = baseline if baseline is not None else measure(keep_before, keep_after)
    if watch.is_late():
        return watch.too_late(checks, "the baseline")
    after = measure(keep_after, keep_after)
    if watch.is_late():
        return watch.too_late(checks, "the masked network")
    level = level_of(anatomy, keep_before, keep_after)
    verdict = judge(before, after, level, settings)
    if not verdict.is_accepted and leeway > 1:
        verdict = _with_leeway(verdict, judge(before, after, level, settings.with_leeway(leeway)))
    return replace(verdict, checks=checks + verdict.checks, duration_seconds=clock() - start)


def judge(before: Measurement, after: Measurement, level: Level, settings: Settings) -> Verdict:
    """The decision that follows from two measurements of the same held-out data."""
    retained, retention = check_retention(before, after, level, settings)
    checks = (
        retained,
        check_gradients(before, after, settings),
        check_memory(after.peak_bytes, settings.memory_limit_bytes),
    )
    failed = _failed(checks)
    if failed is not None or retention is None:
        return Verdict(Decision.NO_GO, failed or retained.text, checks, retention)
    return Verdict(retention.decision, retained.text, checks, retention)


def _with_leeway(refused: Verdict, wide: Verdict) -> Verdict:
    """The verdict by wider limits, where the usual ones say no: no more than a trial."""
    if not wide.is_accepted or refused.retention is None:
        return refused
    limit, _ = alike(refused.retention.limit, refused.retention.before)
    why = (
        f"{wide.reason} The usual limit is {limit}; it gives way because what goes "
        "early heals, and what a target cannot do without has to go (pruning.plan.healing_factor)."
    )
    return replace(wide, decision=Decision.CONDITIONAL_GO, reason=why)


def level_of(anatomy: Anatomy, keep_before: BoolArray, keep_after: BoolArray) -> Level:
    """Whose limit applies to a mask, before and after it was applied: the least far-reaching level.

    Its limit is the strictest. Under that of a whole layer a damage could hide that channels of the same plan
    have done.
    """
    touched = np.unique(anatomy.group_of[keep_before & ~keep_after])
    levels = {anatomy.groups[int(group)].kind.level for group in touched}
    return next((level for level in Level if level in levels), Level.CHANNEL)


def _structure(
    anatomy: Anatomy, keep_before: BoolArray, keep_after: BoolArray, floors: IntArray
) -> tuple[Check, ...]:
    fits = (check_mask(anatomy, keep_before), check_mask(anatomy, keep_after))
    if not all(check.passed for check in fits):  # the other checks index with the mask
        return fits
    return (
        fits[1],
        check_only_removes(keep_before, keep_after),
        check_members(anatomy),
        check_connectivity(anatomy, keep_after),
        check_floors(anatomy, keep_before, keep_after, floors),
    )


def _failed(checks: tuple[Check, ...]) -> str | None:
    return " ".join(check.text for check in checks if not check.passed) or None


@dataclass(frozen=True)
class _Watch:
    clock: Clock
    start: float
    limit_seconds: float

    def is_late(self) -> bool:
        return self.clock() - self.start > self.limit_seconds

    def too_late(self, checks: tuple[Check, ...], what: str) -> Verdict:
        took = self.clock() - self.start
        text = f"Measuring {what} ended after {took:.1f} s, the limit is {self.limit_seconds:g} s."
        check = Check("time", False, took, self.limit_seconds, text)
        return Verdict(Decision.NO_GO, text, (*checks, check), None, took)
