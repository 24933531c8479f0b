"""One decision, step by step: screen, finalists, their losses, plan, validation, and other plans after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from esper.anatomy import Kind
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.cycle.budget import Budget, Phase
from esper.emrakul.cycle.outcome import CycleOutcome, CycleStatus
from esper.emrakul.plan import (
    Plan,
    Situation,
    bounds,
    finalists,
    next_offer,
    plan_step,
    removable,
    with_leeway,
)
from esper.emrakul.schedule import planned_epochs
from esper.emrakul.settings import Settings
from esper.importance import AdaptiveThresholdSelector, SafetyLevel, ThresholdSettings, TrainingPhase
from esper.urabrask import Decision, Verdict

AT_FLOOR = "No unit may go: all are at the floor of their layer, of another kind, or cannot be cut."
"""The reason of a cycle that found nobody to ask about."""


class Analyst(Protocol):
    """Measures the network of one checkpoint."""

    @property
    def id(self) -> str:
        """Names what the answers depend on beside the checkpoint: data, limits, other settings."""
        ...

    def too_early(self, least: float, seconds: float, /) -> str:
        """Why units cannot be told apart yet; '' if they can, or if it is not known within `seconds`.

        They can where at least this share of the loss rests on what was learned from the inputs.
        """
        ...

    def screen(self) -> FloatArray:
        """Scores all units from what is known already: rank 0 to 1, NaN unmeasured, shape [units]."""
        ...

    def analyze(self, finalists: IntArray, seconds: float, /) -> Evidence:
        """Ablates units, by number, within `seconds`; what was not reached stays NaN."""
        ...

    def validate(self, keep: BoolArray, seconds: float, leeway: float, /) -> Verdict:
        """Measures the network with only `keep` left, within `seconds`.

        It may cost `leeway` times the limits.
        """
        ...


@dataclass(frozen=True, eq=False)
class Cycle:
    """What a cycle is about: the network of one durable checkpoint.

    Attributes:
        epoch: number of epochs that had ended.
        situation: the network.
        model_hash: digest of the checkpoint.
        epochs: planned number of epochs; None if nobody knows.
        can_wait: whether several steps will still fit if this one is left out.
    """

    epoch: int
    situation: Situation
    model_hash: str
    epochs: int | None = None
    can_wait: bool = False


@dataclass(frozen=True)
class Rules:
    """What a decision follows beside its evidence: settings, thresholds of the stages, the present pace."""

    settings: Settings
    thresholds: ThresholdSettings
    pace: float


def decide(
    cycle: Cycle, begun: CycleOutcome, analyst: Analyst, rules: Rules, budget: Budget
) -> Iterator[CycleOutcome]:
    """Yields after every step how the cycle would end there; the last one is how it ends.

    Args:
        cycle: the network.
        begun: the outcome so far: the allowance, and no plan.
        analyst: measures; what it raises passes through.
        rules: what to follow.
        budget: the time that is left; where it is spent the cycle ends late.
    """
    # The first mask waits until there is something to rank, as long as there is time for others.
    least = rules.settings.schedule.min_learned_fraction
    if least and cycle.can_wait and cycle.situation.keep.all():
        why = analyst.too_early(least, budget.remaining_seconds(Phase.ANALYSIS))
        if why:
            yield replace(begun, reason=why, is_early=True)
            return
    yield from _by_evidence(cycle, begun, analyst, rules, budget)


def _by_evidence(
    cycle: Cycle, begun: CycleOutcome, analyst: Analyst, rules: Rules, budget: Budget
) -> Iterator[CycleOutcome]:
    """The same for a network that has learned something: what each unit is worth, and a plan of it."""
    settings, situation = rules.settings, cycle.situation
    ranks = analyst.screen()
    if budget.is_spent(Phase.ANALYSIS):
        yield _late(begun, "The screen took the whole time of the analysis.")
        return
    # Where whole multiples need more than the target, the ramp leads there, and steps are of that way.
    end = bounds(situation, ranks, settings).target_fraction
    removed = situation.removed_fraction(begun.allowance.cost)
    allowance = begun.allowance.towards(end, removed, rules.pace, settings.schedule)
    candidates = _candidates(cycle, allowance.stage, ranks, rules)
    if settings.measures_together:
        asked = removable(situation, ranks, allowance, settings)
    else:
        asked = finalists(situation, ranks, allowance, settings, candidates=candidates)
    outcome = replace(begun, allowance=allowance, reason=_why_nobody(situation, ranks))
    yield outcome
    if not asked.size:
        return
    evidence = analyst.analyze(asked, budget.remaining_seconds(Phase.ANALYSIS))
    outcome = replace(outcome, evidence=evidence)
    yield outcome
    if budget.is_spent(Phase.ANALYSIS):
        yield _late(outcome, "The analysis passed its share of the deadline.")
        return
    # Of a layer that was measured as a whole, which units go is known only now.
    known = None if settings.measures_together else asked

    planned = partial(
        plan_step, situation, evidence, settings=settings, finalists=known, candidates=candidates
    )
    for offered in _offers(planned(allowance), cycle, outcome, analyst, settings, budget):
        outcome = offered
        yield outcome
    # Where few steps are left: more and more of what the next ones would do, as long as it surely holds.
    most = settings.schedule.max_sure_fraction
    while _has_room(outcome) and not budget.is_spent(Phase.VALIDATION):
        ahead, accepted = outcome.allowance.ahead(removed, most), outcome
        if ahead is None:
            return
        for outcome in _larger(planned(ahead), replace(accepted, allowance=ahead), analyst, budget):
            yield outcome
        if outcome is accepted:
            return


def _offers(
    plan: Plan, cycle: Cycle, outcome: CycleOutcome, analyst: Analyst, settings: Settings, budget: Budget
) -> Iterator[CycleOutcome]:
    """Offers a plan to the validator, and smaller ones while the answer is no."""
    verdicts: tuple[Verdict, ...] = ()
    left = 1 - cycle.epoch / planned_epochs(cycle.epochs, settings.schedule, cycle.epoch)
    while not plan.is_empty and len(verdicts) < settings.plan.max_attempts:
        plan = with_leeway(plan, cycle.situation, outcome.allowance, left, settings.plan.healing_factor)
        outcome = replace(outcome, plan=plan, verdict=None, refused=verdicts)
        yield outcome
        verdict = analyst.validate(plan.keep, budget.remaining_seconds(Phase.VALIDATION), plan.leeway)
        outcome = replace(outcome, verdict=verdict, reason=verdict.reason)
        if budget.is_spent(Phase.VALIDATION):
            yield _late(outcome, "The validation passed its share of the deadline.")
            return
        if verdict.is_accepted:
            yield replace(outcome, status=CycleStatus.ACCEPTED)
            return
        verdicts = (*verdicts, verdict)
        plan = next_offer(plan, cycle.situation, outcome.allowance)
    if verdicts:
        yield replace(outcome, status=CycleStatus.REJECTED)
    else:
        yield replace(outcome, plan=plan, reason=_why_empty(plan))


def _has_room(outcome: CycleOutcome) -> bool:
    """Whether the first plan that was offered surely costs no more than it may."""
    is_sure = outcome.verdict is not None and outcome.verdict.decision is Decision.GO
    return outcome.status is CycleStatus.ACCEPTED and is_sure and not outcome.refused


def _larger(plan: Plan, accepted: CycleOutcome, analyst: Analyst, budget: Budget) -> Iterator[CycleOutcome]:
    """Offers a plan that does part of the next step too; what was accepted stays unless it surely holds."""
    if accepted.plan is None or plan.units.size <= accepted.plan.units.size:
        return
    verdict = analyst.validate(plan.keep, budget.remaining_seconds(Phase.VALIDATION), plan.leeway)
    if verdict.decision is Decision.GO and not budget.is_spent(Phase.VALIDATION):
        yield replace(accepted, plan=plan, verdict=verdict, reason=verdict.reason)


def _candidates(cycle: Cycle, stage: str, ranks: FloatArray, rules: Rules) -> BoolArray | None:
    """The share of the units that phase and stage allow to be considered: the least important of a kind.

    None with a target, which says itself how much must go. One unit of each kind is allowed at least,
    because a share of a small network is less than that.
    """
    if rules.settings.target is not None:
        return None
    selector = AdaptiveThresholdSelector(rules.thresholds)
    phase = TrainingPhase.at(cycle.epoch, cycle.epochs)
    safety = SafetyLevel(stage) if stage in set(SafetyLevel) else SafetyLevel.MODERATE
    anatomy, left = cycle.situation.anatomy, np.where(cycle.situation.keep, ranks, np.nan)
    candidates = np.zeros(anatomy.num_units, np.bool_)
    for kind in Kind:
        scores = np.where(anatomy.kind_of == kind.value, left, np.nan)
        if np.isfinite(scores).any():
            threshold = selector.select(scores, phase, safety, target_fraction=1.0)
            candidates |= threshold.below(scores) | (scores == np.nanmin(scores))
    return candidates


def _why_nobody(situation: Situation, ranks: FloatArray) -> str:
    if not np.isfinite(ranks[situation.keep]).any():
        return (
            "No unit may go: not one has been measured in enough steps (importance.min_importance_samples, "
            "analysis.min_optimizer_steps)."
        )
    return AT_FLOOR


def _late(outcome: CycleOutcome, why: str) -> CycleOutcome:
    return replace(outcome, status=CycleStatus.SKIPPED, reason=why, is_late=True)


def _why_empty(plan: Plan) -> str:
    held = ", ".join(f"{units.size} by {reason}" for reason, units in plan.rejected.items())
    return f"No finalist can go; held back: {held}." if held else "No finalist can go within the allowance."
