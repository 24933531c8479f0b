"""Greedy search for what to remove: most saved cost per predicted loss, until a goal is reached."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from esper.arrays import BoolArray, FloatArray, IntArray
from esper.cost import CostName
from esper.emrakul.plan.candidates import Blocks
from esper.emrakul.plan.plan import Rejection
from esper.emrakul.plan.situation import Situation

_ROUNDS = 16
"""Savings change as units go; they are computed anew after each sixteenth of the way."""

TINY = 1e-12
"""Costs are sums of products in floating point: shares closer than this are equal."""


@dataclass(eq=False)
class Search:
    """Greedy choice of blocks; `keep` shrinks as it goes.

    Attributes:
        situation: what is left before it begins.
        blocks: what may go.
        cost: what is limited.
        activation_flops: how an element counts in what is worth saving; see `PlanSettings`.
        limit_fraction: cumulative share of the original cost that is never passed.
        allowed_loss: most that the predicted loss may become.
        margin: factor on the sum of single losses.
        layers: how many whole layers may still be taken.
        keep: units that are left, shape [units].
    """

    situation: Situation
    blocks: Blocks
    cost: CostName
    activation_flops: float
    limit_fraction: float = 1.0
    allowed_loss: float = np.inf
    margin: float = 1.0
    layers: int = 0
    chosen: list[IntArray] = field(default_factory=list)
    saved: list[FloatArray] = field(default_factory=list)
    spent_loss: float = 0.0

    def __post_init__(self) -> None:
        self.keep: BoolArray = self.situation.keep.copy()
        self.origin_cost = self.situation.origin.cost(self.cost)
        self._model = self.situation.model(self.cost)
        self._time = self.situation.model(self.cost, activation_flops=self.activation_flops)
        self._is_open = np.ones(self.blocks.sizes.size, np.bool_)
        self._is_layer = self.situation.anatomy.is_layer[self.blocks.first_units]
        self._left = self._model.total(self.keep)
        self._least = (1 - self.limit_fraction - TINY) * self.origin_cost

    def removed_fraction(self) -> float:
        return 1 - self._left / self.origin_cost

    def run(self, goal: float) -> None:
        """Goes on until the share `goal` of the original cost is gone, or nothing fits any more."""
        before = self.removed_fraction()
        if self.limit_fraction <= goal:  # a cap, which whole units seldom meet: near it is there
            goal -= 0.01 * max(goal - before, 0.0)
        for step in np.linspace(before, goal, _ROUNDS + 1)[1:]:
            while self.removed_fraction() < step - TINY:
                if not self._advance((1 - step) * self.origin_cost):
                    return

    def _advance(self, wanted: float) -> bool:
        """Takes the best blocks until at most `wanted` cost is left; False if no block fits any more."""
        blocks = self.blocks
        # Which blocks fit alone: shape [blocks]. Units of one group all save the same, so that the first one
        # of a block speaks for it. Inside of a layer that has been taken nothing is gained any more.
        slope, gain = (model.gradient(self.keep)[blocks.first_units] for model in (self._model, self._time))
        fits = self._is_open & (gain > 0) & (slope * blocks.sizes <= self._left - self._least)
        fits &= blocks.loss * self.margin <= self.allowed_loss - self.spent_loss
        # The best first: by loss per gain, then by the measured increase that breaks ties.
        worth = np.divide(blocks.mean_loss, gain, out=np.full(gain.size, np.inf), where=gain > 0)
        ranked = np.lexsort((blocks.raw_loss, worth))
        ranked = ranked[fits[ranked]]
        ranked = ranked[~self._is_layer[ranked] | (np.cumsum(self._is_layer[ranked]) <= self.layers)]
        if not ranked.size:
            return False
        count = self._how_many(ranked, wanted)
        if count:
            self.take(ranked[:count])
        else:  # only rounding error leads here; what comes later in the group must not go without it
            self._is_open[ranked[0] :] &= blocks.group[ranked[0] :] != blocks.group[ranked[0]]
        return True

    def _how_many(self, ranked: IntArray, wanted: float) -> int:
        """The fewest leading blocks that leave at most `wanted`, or as many as limit and loss allow."""
        # Losses add up, so their limit is a place in the running sum. Costs do not, and are found by
        # bisection.
        loss = np.cumsum(self.blocks.loss[ranked]) * self.margin
        most = int(np.searchsorted(loss, self.allowed_loss - self.spent_loss, side="right"))
        counts = range(1, most + 1)
        most = bisect_left(counts, True, key=lambda count: self._left_after(ranked[:count]) < self._least)
        enough = bisect_left(
            counts[:most], True, key=lambda count: self._left_after(ranked[:count]) <= wanted
        )
        return min(enough + 1, most)

    def _left_after(self, blocks: IntArray) -> float:
        keep = self.keep.copy()
        keep[self.units_of(blocks)] = False
        return self._model.total(keep)

    def take(self, blocks: IntArray) -> None:
        """Removes these blocks, whatever the limits."""
        units, slope = self.units_of(blocks), self._model.gradient(self.keep)
        self.keep[units] = False
        left = self._model.total(self.keep)
        share = slope[units] / max(
            float(slope[units].sum()), TINY
        )  # of the exact total, by the slopes before
        self.saved.append(share * (self._left - left))
        self._left = left
        self.spent_loss += float(self.blocks.loss[blocks].sum()) * self.margin
        self._is_open[blocks] = False
        self.layers -= int(self._is_layer[blocks].sum())
        self.chosen.append(blocks)

    def units_of(self, blocks: IntArray) -> IntArray:
        """The units of some blocks, block after block."""
        sizes = self.blocks.sizes[blocks]
        # 0, 1, 2 and so on within every block.
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        units: IntArray = self.blocks.units[np.repeat(self.blocks.starts[blocks], sizes) + within]
        return units

    def chosen_blocks(self) -> IntArray:
        return np.concatenate([np.zeros(0, np.int64), *self.chosen])

    def left_over(self) -> dict[Rejection, IntArray]:
        """Why each block that could have gone stays."""
        stays = np.ones(self.blocks.sizes.size, np.bool_)
        stays[self.chosen_blocks()] = False
        is_one_too_many = self._is_layer & (self.layers <= 0)
        is_costly = ~is_one_too_many & (self.blocks.loss * self.margin > self.allowed_loss - self.spent_loss)
        reasons = {
            Rejection.LAYERS: self.units_of(np.flatnonzero(stays & is_one_too_many)),
            Rejection.LOSS: self.units_of(np.flatnonzero(stays & is_costly)),
            Rejection.BUDGET: self.units_of(np.flatnonzero(stays & ~is_costly & ~is_one_too_many)),
        }
        return {reason: np.sort(units) for reason, units in reasons.items() if units.size}
