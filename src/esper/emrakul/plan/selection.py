"""Chooses what to remove: most saved cost per predicted loss, within what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.plan.candidates import candidate_blocks
from esper.emrakul.plan.plan import Plan, Rejection, highest_level
from esper.emrakul.plan.ramp_end import bounds
from esper.emrakul.plan.search import TINY, Search
from esper.emrakul.plan.situation import Situation
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings

_FURTHER = (0.02, 0.04, 0.08)
"""How much further than others a plan may go that would end short of the target because units are large."""


def plan_step(
    situation: Situation,
    evidence: Evidence,
    allowance: Allowance,
    settings: Settings,
    *,
    finalists: IntArray | None = None,
    candidates: BoolArray | None = None,
) -> Plan:
    """The plan of one step towards a target; one that is to end the way may overshoot further, if it must.

    Where a head or an expert is more than a step may go too far, the last bit would never go otherwise.
    Arguments are those of `make_plan`.
    """
    make = partial(make_plan, situation, evidence, finalists=finalists, candidates=candidates)
    plan, end = make(allowance, settings), allowance.end_fraction
    if end is None or allowance.goal_fraction < end - TINY or plan.removed_after >= end - TINY:
        return plan
    for further in _FURTHER:
        limit = min(allowance.limit_fraction + further, 1.0)
        wider = make(replace(allowance, limit_fraction=limit), settings)
        if wider.removed_after >= end - TINY:
            return wider
    return plan


def make_plan(
    situation: Situation,
    evidence: Evidence,
    allowance: Allowance,
    settings: Settings,
    *,
    finalists: IntArray | None = None,
    candidates: BoolArray | None = None,
    costs: FloatArray | None = None,
) -> Plan:
    """Plans one cycle's cuts. Deterministic; decides from evidence only and never cuts what was not measured.

    Args:
        situation: the network.
        evidence: what was measured of it.
        allowance: how much may go.
        settings: floors, rounding, confidence, margins.
        finalists: units that the analysis was asked to ablate; None: all that have a loss or a confidence.
        candidates: units that may go, shape [units]; others were measured to compare with. None: all.
        costs: what each unit counts for, shape [units]. None: by how much the loss changes without it, up
            or down. In a network that trains, a unit without which the loss falls is not idle: it does much,
            and what is left unlearned will turn the sign around.

    Raises:
        EvidenceError: the evidence is about another network.
    """
    anatomy, rules = situation.anatomy, settings.plan
    evidence.require_for(anatomy.digest, anatomy.num_units)
    if finalists is None:
        finalists = np.flatnonzero(np.isfinite(evidence.loss_increase) | np.isfinite(evidence.confidence))
    if costs is None:
        costs = np.abs(evidence.loss_increase)
    limits = bounds(situation, evidence.screen, settings)
    confidence = settings.required_confidence
    blocks, rejected = candidate_blocks(
        situation, evidence, np.unique(finalists), costs, allowance, limits, confidence, candidates
    )
    search = Search(
        situation,
        blocks,
        allowance.cost,
        rules.activation_flops,
        limit_fraction=allowance.limit_fraction,
        allowed_loss=np.inf if rules.allowed_loss_increase is None else rules.allowed_loss_increase,
        margin=1.0 if settings.measures_together else 1 + rules.interaction_margin,
        layers=limits.layers,
    )
    before = search.removed_fraction()
    search.run(allowance.goal_fraction)
    rejected |= search.left_over()
    # One row per cut, in the order of choice: shape [cuts].
    chosen = search.chosen_blocks()
    units = search.units_of(chosen)
    return Plan(
        anatomy_digest=anatomy.digest,
        cost=allowance.cost,
        origin_cost=search.origin_cost,
        level=highest_level(anatomy, units),
        keep_before=situation.keep.copy(),
        units=units,
        blocks=np.repeat(np.arange(chosen.size), blocks.sizes[chosen]),
        screen=evidence.screen[units],
        loss_increase=evidence.loss_increase[units],
        confidence=evidence.confidence[units],
        predicted_loss=np.maximum(costs[units], 0.0) * search.margin,
        saved_cost=np.concatenate([np.zeros(0), *search.saved]),
        goal_fraction=allowance.goal_fraction,
        limit_fraction=allowance.limit_fraction,
        removed_before=before,
        removed_after=search.removed_fraction(),
        allowed_loss=rules.allowed_loss_increase,
        rejected=rejected,
        notes=_notes(allowance, search.removed_fraction(), rejected, evidence),
    )


def _notes(
    allowance: Allowance, after: float, rejected: Mapping[Rejection, IntArray], evidence: Evidence
) -> tuple[str, ...]:
    notes = []
    is_short = after < allowance.goal_fraction - TINY
    if is_short and allowance.limit_fraction > allowance.goal_fraction:
        why = (
            ", ".join(f"{units.size} by {reason}" for reason, units in rejected.items())
            or "no more finalists"
        )
        notes.append(
            f"{after:.1%} of the {allowance.cost} can go instead of "
            f"{allowance.goal_fraction:.1%}; held back: {why}."
        )
    if evidence.is_partial:
        notes.append("The analysis was partial; what it left out stays.")
    return (*notes, *evidence.notes)
