"""Chooses what to remove: most saved cost per predicted loss, within what is allowed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from esper.anatomy.structure import Anatomy, BoolArray, FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.candidates import Blocks, candidate_blocks
from esper.emrakul.cost import CostModel
from esper.emrakul.origin import Origin, floors
from esper.emrakul.plan import Plan, Rejection
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings
from esper.leyline import Level

_ROUNDS = 16
"""Savings change as units go; they are computed anew after each sixteenth of the way."""

_TINY = 1e-12
"""Costs are sums of products in floating point: shares closer than this are equal."""


def make_plan(
    anatomy: Anatomy,
    keep: BoolArray,
    evidence: Evidence,
    allowance: Allowance,
    settings: Settings,
    *,
    origin: Origin | None = None,
    finalists: IntArray | None = None,
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
    lowest = floors(anatomy, settings, origin)
    blocks, rejected = candidate_blocks(
        anatomy,
        keep,
        evidence,
        np.unique(finalists),
        allowance,
        lowest,
        rules.round_to,
        rules.required_confidence,
    )
    search = _Search(
        CostModel(anatomy, allowance.cost),
        CostModel(anatomy, allowance.cost, activation_flops=rules.activation_flops),
        blocks,
        origin.cost(allowance.cost),
        allowance.limit_fraction,
        np.inf if rules.allowed_loss_increase is None else rules.allowed_loss_increase,
        1 + rules.interaction_margin,
        keep.copy(),
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
        level=Level.highest(anatomy.groups[int(g)].kind.value for g in np.unique(anatomy.group_of[chosen])),
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


@dataclass(eq=False)
class _Search:
    """Greedy choice of blocks; `keep` shrinks as it goes."""

    model: CostModel
    """What is limited."""
    time: CostModel
    """What is worth saving."""
    blocks: Blocks
    origin_cost: float
    limit_fraction: float
    allowed_loss: float
    margin: float
    keep: BoolArray
    chosen: list[IntArray] = field(default_factory=list)
    saved: list[FloatArray] = field(default_factory=list)
    spent_loss: float = 0.0

    def __post_init__(self) -> None:
        self.is_open = np.ones(self.blocks.sizes.size, np.bool_)
        self.left = self.model.total(self.keep)
        self.least = (1 - self.limit_fraction - _TINY) * self.origin_cost

    def removed_fraction(self) -> float:
        return 1 - self.left / self.origin_cost

    def run(self, before: float, goal: float) -> None:
        if self.limit_fraction <= goal:  # a cap, which whole units seldom meet: near it is there
            goal -= 0.01 * max(goal - before, 0.0)
        for step in np.linspace(before, goal, _ROUNDS + 1)[1:]:
            while self.removed_fraction() < step - _TINY:
                if not self._advance((1 - step) * self.origin_cost):
                    return

    def _advance(self, wanted: float) -> bool:
        """Takes the best blocks until at most `wanted` cost is left; False if no block fits any more."""
        slope = self.model.gradient(self.keep)
        each = slope[self.blocks.units[self.blocks.starts]]  # units of one group all save the same
        fits = self.is_open & (each * self.blocks.sizes <= self.left - self.least)
        fits &= self.blocks.loss * self.margin <= self.allowed_loss - self.spent_loss
        gain = self.time.gradient(self.keep)[self.blocks.units[self.blocks.starts]]
        worth = np.divide(self.blocks.mean_loss, gain, out=np.full(gain.size, np.inf), where=gain > 0)
        ranked = np.lexsort((self.blocks.raw_loss, worth))
        ranked = ranked[fits[ranked]]
        if not ranked.size:
            return False
        count = self._how_many(ranked, wanted)
        if count:
            self._take(ranked[:count], slope)
        else:  # only rounding error leads here; what comes later in the group must not go without it
            self.is_open[ranked[0] :] &= self.blocks.group[ranked[0] :] != self.blocks.group[ranked[0]]
        return True

    def _how_many(self, ranked: IntArray, wanted: float) -> int:
        """The fewest leading blocks that leave at most `wanted`, or as many as limit and loss allow."""
        loss = np.cumsum(self.blocks.loss[ranked]) * self.margin
        most = int(np.searchsorted(loss, self.allowed_loss - self.spent_loss, side="right"))
        counts = range(1, most + 1)
        most = bisect_left(counts, True, key=lambda count: self._left_after(ranked[:count]) < self.least)
        enough = bisect_left(
            counts[:most], True, key=lambda count: self._left_after(ranked[:count]) <= wanted
        )
        return min(enough + 1, most)

    def _left_after(self, blocks: IntArray) -> float:
        keep = self.keep.copy()
        keep[self.units_of(blocks)] = False
        return self.model.total(keep)

    def _take(self, blocks: IntArray, slope: FloatArray) -> None:
        units = self.units_of(blocks)
        self.keep[units] = False
        left = self.model.total(self.keep)
        share = slope[units] / max(float(slope[units].sum()), _TINY)
        self.saved.append(share * (self.left - left))
        self.left = left
        self.spent_loss += float(self.blocks.loss[blocks].sum()) * self.margin
        self.is_open[blocks] = False
        self.chosen.append(blocks)

    def units_of(self, blocks: IntArray) -> IntArray:
        sizes = self.blocks.sizes[blocks]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        units: IntArray = self.blocks.units[np.repeat(self.blocks.starts[blocks], sizes) + within]
        return units

    def chosen_blocks(self) -> IntArray:
        return np.concatenate([np.zeros(0, np.int64), *self.chosen])

    def left_over(self) -> dict[Rejection, IntArray]:
        """Why each block that could have gone stays."""
        stays = np.ones(self.blocks.sizes.size, np.bool_)
        stays[self.chosen_blocks()] = False
        is_costly = self.blocks.loss * self.margin > self.allowed_loss - self.spent_loss
        found = {
            Rejection.LOSS: self.units_of(np.flatnonzero(stays & is_costly)),
            Rejection.BUDGET: self.units_of(np.flatnonzero(stays & ~is_costly)),
        }
        return {reason: np.sort(units) for reason, units in found.items() if units.size}


def _notes(
    allowance: Allowance, after: float, rejected: Mapping[Rejection, IntArray], evidence: Evidence
) -> tuple[str, ...]:
    notes = []
    is_short = after < allowance.goal_fraction - _TINY
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
