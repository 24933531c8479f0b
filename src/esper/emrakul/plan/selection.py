"""Chooses what to remove: most saved cost per predicted loss, within what is allowed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, IntArray
from esper.cost import Origin
from esper.elesh import Evidence
from esper.emrakul.plan.candidates import candidate_blocks
from esper.emrakul.plan.plan import Plan, Rejection
from esper.emrakul.plan.ramp_end import bounds
from esper.emrakul.plan.search import TINY, Search
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings
from esper.leyline import Level


def make_plan(
    anatomy: Anatomy,
    keep: BoolArray,
    evidence: Evidence,
    allowance: Allowance,
    settings: Settings,
    *,
    origin: Origin | None = None,
    finalists: IntArray | None = None,
    candidates: BoolArray | None = None,
) -> Plan:
    """Plans one cycle's cuts. Deterministic; decides from evidence only and never cuts what was not measured.

    Args:
        anatomy: the network.
        keep: units that are left, shape [units].
        evidence: what was measured of this network.
        allowance: how much may go.
        settings: floors, rounding, confidence, margins.
        origin: the uncut network; None if `anatomy` is it.
        finalists: units that the analysis was asked to ablate; None: all that have a loss or a confidence.
        candidates: units that may go, shape [units]; others were measured to compare with. None: all.

    Raises:
        EvidenceError: the evidence is about another network.
        MaskError: `keep` does not fit the network.
    """
    anatomy.check_mask(keep)
    evidence.require_for(anatomy.digest, anatomy.num_units)
    origin = origin or Origin.of(anatomy)
    if finalists is None:
        finalists = np.flatnonzero(np.isfinite(evidence.loss_increase) | np.isfinite(evidence.confidence))
    rules = settings.plan
    limits = bounds(anatomy, keep, evidence.screen, settings, origin)
    blocks, rejected = candidate_blocks(
        anatomy,
        keep,
        evidence,
        np.unique(finalists),
        allowance,
        limits,
        rules.required_confidence,
        candidates,
    )
    search = Search(
        origin.model(anatomy, allowance.cost),
        origin.model(anatomy, allowance.cost, activation_flops=rules.activation_flops),
        blocks,
        origin.cost(allowance.cost),
        allowance.limit_fraction,
        np.inf if rules.allowed_loss_increase is None else rules.allowed_loss_increase,
        1 + rules.interaction_margin,
        keep.copy(),
        anatomy.is_layer,
        limits.layers,
    )
    before = search.removed_fraction()
    search.run(before, allowance.goal_fraction)
    rejected |= search.left_over()
    chosen_blocks = search.chosen_blocks()
    chosen = search.units_of(chosen_blocks)
    after = search.removed_fraction()
    return Plan(
        anatomy_digest=anatomy.digest,
        cost=allowance.cost,
        origin_cost=search.origin_cost,
        level=Level.highest(anatomy.groups[int(g)].kind.level for g in np.unique(anatomy.group_of[chosen])),
        keep_before=keep.copy(),
        units=chosen,
        blocks=np.repeat(np.arange(chosen_blocks.size), blocks.sizes[chosen_blocks]),
        screen=evidence.screen[chosen],
        loss_increase=evidence.loss_increase[chosen],
        confidence=evidence.confidence[chosen],
        predicted_loss=np.maximum(evidence.loss_increase[chosen], 0.0) * search.margin,
        saved_cost=np.concatenate([np.zeros(0), *search.saved]),
        goal_fraction=allowance.goal_fraction,
        limit_fraction=allowance.limit_fraction,
        removed_before=before,
        removed_after=after,
        allowed_loss=rules.allowed_loss_increase,
        rejected=rejected,
        notes=_notes(allowance, after, rejected, evidence),
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
