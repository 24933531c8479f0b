"""Smaller versions of a plan that was refused: its costliest blocks stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

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
    # Blocks by their predicted loss, the cheapest first: shape [blocks].
    starts = np.unique(plan.blocks, return_index=True)[1]
    block_loss = np.add.reduceat(plan.predicted_loss, starts) if starts.size else np.zeros(0)
    order = np.argsort(block_loss, kind="stable")
    within = np.searchsorted(np.cumsum(block_loss[order]), plan.total_predicted_loss * share, side="right")
    cheap = plan.blocks[starts[order[: min(int(within), int(order.size * (1 + share) / 2))]]]
    # Every column of the cuts follows: shape [cuts].
    stays = np.isin(plan.blocks, cheap)
    columns: dict[str, Any] = {name: getattr(plan, name)[stays] for name in ("units", "blocks", *UNIT_FLOATS)}
    left = plan.keep_before.copy()
    left[columns["units"]] = False
    dropped = np.concatenate([plan.rejected.get(Rejection.SHRUNK, np.zeros(0, np.int64)), plan.units[~stays]])
    return replace(
        plan,
        **columns,
        level=highest_level(situation.anatomy, columns["units"]),
        removed_after=1 - situation.model(plan.cost).total(left) / plan.origin_cost,
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
