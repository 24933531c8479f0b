"""A plan: which units to remove, what each is known to cost and to save, and why the others stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.cost import CostName
from esper.leyline import Level, content_id, encode, gaps


class Rejection(StrEnum):
    """Why a finalist stays."""

    LEVEL = "level"
    """Its kind may not be removed at this stage."""
    THRESHOLD = "threshold"
    """Too important, by the screen, for this stage and phase."""
    UNMEASURED = "unmeasured"
    """Its ablation or confidence is missing."""
    CONFIDENCE = "confidence"
    """It does not stay below the cut often enough."""
    LEADER = "leader"
    """Another unit was measured with this one in its place."""
    FLOOR = "floor"
    """Its layer would fall below its floor."""
    LAYERS = "layers"
    """No more whole layers may go in this cycle, or at all."""
    LAYER_BUDGET = "layer_budget"
    """Its layer has lost what one cycle may take from it."""
    ROUNDING = "rounding"
    """Its layer would not be left with a multiple of `round_to`."""
    LOSS = "loss"
    """The predicted loss would pass what is allowed."""
    BUDGET = "budget"
    """Others save the allowed share at a lower loss."""
    SHRUNK = "shrunk"
    """It was in the plan until the validator said no."""


UNIT_FLOATS = ("screen", "loss_increase", "confidence", "predicted_loss", "saved_cost")


@dataclass(frozen=True, eq=False)
class Plan:
    """Cuts that were chosen together, in the order of choice.

    Attributes:
        anatomy_digest: the network that it is about.
        cost: what shares count.
        origin_cost: cost of the original network.
        level: the most far-reaching level that it touches.
        keep_before: units that were left before, shape [all units].
        units: the units to remove, in the order of choice, shape [cuts].
        blocks: number of the block with which each was chosen (units that only go together), shape [cuts].
        screen: importance rank of each, shape [cuts].
        loss_increase: measured change of the loss by each (`Evidence.loss_increase`), shape [cuts].
        confidence: confidence of each, shape [cuts].
        predicted_loss: loss that each is expected to cost here, with the interaction margin, shape [cuts].
        saved_cost: cost that each saves given those before it, shape [cuts].
        goal_fraction: cumulative share that was asked for.
        limit_fraction: cumulative share that is never passed.
        removed_before: share of the original cost that was gone before.
        removed_after: share that is gone with this plan.
        allowed_loss: most that the predicted loss may be; None if only the validator decides.
        rejected: for each reason, the finalists that stay because of it.
        notes: what people should know, for example that the goal cannot be reached.
        leeway: how many times the validator's limits it may cost.
    """

    anatomy_digest: str
    cost: CostName
    origin_cost: float
    level: Level
    keep_before: Annotated[BoolArray, gaps("num_units", "removed_units_before")]
    units: IntArray
    blocks: IntArray
    screen: FloatArray
    loss_increase: FloatArray
    confidence: FloatArray
    predicted_loss: FloatArray
    saved_cost: FloatArray
    goal_fraction: float
    limit_fraction: float
    removed_before: float
    removed_after: float
    allowed_loss: float | None
    rejected: Mapping[Rejection, IntArray]
    notes: tuple[str, ...] = ()
    leeway: float = 1.0

    @cached_property
    def id(self) -> str:
        """The plan's name, from its content."""
        return content_id(encode(self))

    @property
    def is_empty(self) -> bool:
        return self.units.size == 0

    @property
    def keep(self) -> BoolArray:
        """Units that are left with this plan: shape [all units]."""
        left = self.keep_before.copy()
        left[self.units] = False
        return left

    @property
    def total_predicted_loss(self) -> float:
        return float(self.predicted_loss.sum())


def highest_level(anatomy: Anatomy, units: IntArray) -> Level:
    """The most far-reaching level that some units belong to."""
    return Level.highest(
        anatomy.groups[int(group)].kind.level for group in np.unique(anatomy.group_of[units])
    )
