"""Smaller versions of a plan that was refused: its costliest blocks stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from esper.arrays import BoolArray, FloatArray, IntArray
from esper.emrakul.plan.plan import UNIT_FLOATS, Plan, Rejection, highest_level
from esper.emrakul.plan.situation import Situation


def shrink(plan: Plan, situation: Situation, share: float = 0.5) -> Plan:
    """The plan without its costliest blocks: at most half the predicted loss, three quarters of the blocks.

    The second limit makes progress certain where single losses say little, down to an empty plan. Within a
    layer blocks were chosen from the cheapest on, so what is left still ends on a multiple of `round_to`.

    Args:
        plan: what is too much.
        situation: the network.
        share: of the predicted loss that is left at most, and of the blocks half of what goes may stay
            beside it. A larger share of the same plan holds all of a smaller one.
    """
    blocks, losses = _by_loss(plan)
    within = np.searchsorted(np.cumsum(losses), plan.total_predicted_loss * share, side="right")
    return _with_blocks(plan, situation, blocks[: min(int(within), int(blocks.size * (1 + share) / 2))])


def down_to(plan: Plan, situation: Situation, fraction: float) -> Plan:
    """The plan without its costliest blocks, and at least this share of the original cost gone all the same.

    Args:
        plan: what is too much.
        situation: the network.
        fraction: cumulative share of the original cost. Of a plan that does not reach it nothing is left out.
    """
    blocks, _ = _by_loss(plan)
    enough = blocks.size
    few = 0
    # The least number of blocks with which so much is gone, by bisection.
    while few < enough:
        middle = (few + enough) // 2
        if _removed(plan, situation, np.isin(plan.blocks, blocks[:middle])) >= fraction:
            enough = middle
        else:
            few = middle + 1
    return plan if enough == blocks.size else _with_blocks(plan, situation, blocks[:enough])


def _by_loss(plan: Plan) -> tuple[IntArray, FloatArray]:
    """The blocks by their predicted loss, the cheapest first, and these losses: both of shape [blocks]."""
    blocks, starts = np.unique(plan.blocks, return_index=True)
    losses = np.add.reduceat(plan.predicted_loss, starts) if starts.size else np.zeros(0)
    order = np.argsort(losses, kind="stable")
    return blocks[order], losses[order]


def _removed(plan: Plan, situation: Situation, stays: BoolArray) -> float:
    """Cumulative share of the original cost that is gone with these cuts of a plan: bool [cuts]."""
    left = plan.keep_before.copy()
    left[plan.units[stays]] = False
    return float(1 - situation.model(plan.cost).total(left) / plan.origin_cost)


def _with_blocks(plan: Plan, situation: Situation, blocks: IntArray) -> Plan:
    """The plan with these of its blocks only."""
    # Every column of the cuts follows: shape [cuts].
    stays = np.isin(plan.blocks, blocks)
    columns: dict[str, Any] = {name: getattr(plan, name)[stays] for name in ("units", "blocks", *UNIT_FLOATS)}
    dropped = np.concatenate([plan.rejected.get(Rejection.SHRUNK, np.zeros(0, np.int64)), plan.units[~stays]])
    return replace(
        plan,
        **columns,
        level=highest_level(situation.anatomy, columns["units"]),
        removed_after=_removed(plan, situation, stays),
        rejected={**plan.rejected, Rejection.SHRUNK: np.sort(dropped)},
        notes=(*plan.notes, f"Shrunk from {plan.units.size} to {int(stays.sum())} units after a no-go."),
    )


def largest_version(
    plan: Plan, situation: Situation, holds: Callable[[Plan], bool], attempts: int, *, is_last: bool
) -> Plan:
    """The first version of a plan that holds: the plan itself, or it shrunk again and again.

    Args:
        plan: what is wanted.
        situation: the network.
        holds: whether a version may be applied; what it costs to ask is why there are few attempts.
        attempts: how many versions may be asked about.
        is_last: whether no other plan will follow. What shrinking leaves undone is done by a later one;
            otherwise the largest version that holds is looked for, by bisection, with as many attempts more.

    Returns:
        It, or the last version that was asked about, which does not hold.
    """
    version = plan
    if holds(version):
        return version
    for _ in range(attempts - 1):
        refused, smaller = version, shrink(version, situation)
        if smaller.is_empty:
            return version
        version = smaller
        if holds(version):
            return _larger(version, refused, situation, holds, attempts - 2) if is_last else version
    return version


def _larger(
    half: Plan, refused: Plan, situation: Situation, holds: Callable[[Plan], bool], attempts: int
) -> Plan:
    """The largest version between a plan that was refused and the half of it that holds."""
    low, high, best = 0.5, 1.0, half
    for _ in range(attempts):
        share = (low + high) / 2
        version = shrink(refused, situation, share)
        if holds(version):
            low, best = share, version
        else:
            high = share
    return best
