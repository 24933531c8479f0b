"""Greedy search for what to remove: most saved cost per predicted loss, until a goal is reached."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from esper.arrays import BoolArray, FloatArray, IntArray
from esper.cost import Costs
from esper.emrakul.plan.candidates import Blocks
from esper.emrakul.plan.plan import Rejection

_ROUNDS = 16
"""Savings change as units go; they are computed anew after each sixteenth of the way."""

TINY = 1e-12
"""Costs are sums of products in floating point: shares closer than this are equal."""


@dataclass(eq=False)
class Search:
    """Greedy choice of blocks; `keep` shrinks as it goes."""

    model: Costs
    """What is limited."""
    time: Costs
    """What is worth saving."""
    blocks: Blocks
    origin_cost: float
    limit_fraction: float
    allowed_loss: float
    margin: float
    keep: BoolArray
    is_layer: BoolArray
    """Units that are whole layers, shape [units]."""
    layers: int = 0
    """How many of them may still be taken."""
    chosen: list[IntArray] = field(default_factory=list)
    saved: list[FloatArray] = field(default_factory=list)
    spent_loss: float = 0.0

    def __post_init__(self) -> None:
        self.is_open = np.ones(self.blocks.sizes.size, np.bool_)
        self.is_whole = self.is_layer[self.blocks.units[self.blocks.starts]]
        self.left = self.model.total(self.keep)
        self.least = (1 - self.limit_fraction - TINY) * self.origin_cost

    def removed_fraction(self) -> float:
        return 1 - self.left / self.origin_cost

    def run(self, before: float, goal: float) -> None:
        if self.limit_fraction <= goal:  # a cap, which whole units seldom meet: near it is there
            goal -= 0.01 * max(goal - before, 0.0)
        for step in np.linspace(before, goal, _ROUNDS + 1)[1:]:
            while self.removed_fraction() < step - TINY:
                if not self._advance((1 - step) * self.origin_cost):
                    return

    def _advance(self, wanted: float) -> bool:
        """Takes the best blocks until at most `wanted` cost is left; False if no block fits any more."""
        slope = self.model.gradient(self.keep)
        each = slope[self.blocks.units[self.blocks.starts]]  # units of one group all save the same
        fits = self.is_open & (each * self.blocks.sizes <= self.left - self.least)
        fits &= self.blocks.loss * self.margin <= self.allowed_loss - self.spent_loss
        gain = self.time.gradient(self.keep)[self.blocks.units[self.blocks.starts]]
        fits &= gain > 0  # not so inside of a layer that has been taken
        worth = np.divide(self.blocks.mean_loss, gain, out=np.full(gain.size, np.inf), where=gain > 0)
        ranked = np.lexsort((self.blocks.raw_loss, worth))
        ranked = ranked[fits[ranked]]
        ranked = ranked[~self.is_whole[ranked] | (np.cumsum(self.is_whole[ranked]) <= self.layers)]
        if not ranked.size:
            return False
        count = self._how_many(ranked, wanted)
        if count:
            self.take(ranked[:count])
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

    def take(self, blocks: IntArray) -> None:
        """Removes these blocks, whatever the limits."""
        units, slope = self.units_of(blocks), self.model.gradient(self.keep)
        self.keep[units] = False
        left = self.model.total(self.keep)
        share = slope[units] / max(float(slope[units].sum()), TINY)
        self.saved.append(share * (self.left - left))
        self.left = left
        self.spent_loss += float(self.blocks.loss[blocks].sum()) * self.margin
        self.is_open[blocks] = False
        self.layers -= int(self.is_whole[blocks].sum())
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
        is_one_too_many = self.is_whole & (self.layers <= 0)
        is_costly = ~is_one_too_many & (self.blocks.loss * self.margin > self.allowed_loss - self.spent_loss)
        found = {
            Rejection.LAYERS: self.units_of(np.flatnonzero(stays & is_one_too_many)),
            Rejection.LOSS: self.units_of(np.flatnonzero(stays & is_costly)),
            Rejection.BUDGET: self.units_of(np.flatnonzero(stays & ~is_costly & ~is_one_too_many)),
        }
        return {reason: np.sort(units) for reason, units in found.items() if units.size}
