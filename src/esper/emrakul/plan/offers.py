"""What the validator is offered: at what limits, and what next where it says no."""

from __future__ import annotations

from dataclasses import replace

from esper.emrakul.plan.plan import Plan
from esper.emrakul.plan.shrinking import down_to, shrink
from esper.emrakul.plan.situation import Situation
from esper.emrakul.schedule import Allowance


def with_leeway(
    plan: Plan, situation: Situation, allowance: Allowance, share_left: float, factor: float
) -> Plan:
    """The plan, and how many times the limits it may cost on the way to a target.

    A limit is about what a network loses for good, and what goes early has time to heal: with a whole run
    ahead the limits are 1 + `factor` times as wide, at its end as they are. They are as wide for a plan that
    does no more than an even share of what the steps that still fit must do: with a smaller one the target is
    missed. As units go in whole pieces, that is a plan which falls short of it without its costliest block.

    Args:
        plan: which units go.
        situation: the network.
        allowance: the step that it is.
        share_left: of the planned epochs, those that are still ahead, 0 to 1.
        factor: `pruning.plan.healing_factor`.
    """
    even = _even_share(plan, allowance)
    if even is None or factor == 0:
        return plan
    is_needed = down_to(plan, situation, even).units.size == plan.units.size
    return replace(plan, leeway=1 + factor * (1.0 if is_needed else min(max(share_left, 0.0), 1.0)))


def next_offer(plan: Plan, situation: Situation, allowance: Allowance) -> Plan:
    """What is offered after a plan was refused: half of it, or an even share where the half is less.

    Args:
        plan: what was refused.
        situation: the network.
        allowance: the step that it is.
    """
    half, even = shrink(plan, situation), _even_share(plan, allowance)
    if even is None or half.removed_after >= even:
        return half
    least = down_to(plan, situation, even)
    return half if least.units.size == plan.units.size else least


def _even_share(plan: Plan, allowance: Allowance) -> float | None:
    """Share that is gone after this step if all that still fit do as much; None: they lead to no target."""
    end = allowance.end_fraction
    return None if end is None else plan.removed_before + (end - plan.removed_before) / allowance.steps_left
