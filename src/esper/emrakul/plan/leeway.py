"""How much more than the validator's limits a plan may cost, because time is left to heal or none to wait."""

from __future__ import annotations

from dataclasses import replace

from esper.emrakul.plan.plan import Plan
from esper.emrakul.schedule import Allowance

_EQUAL = 0.005
"""Units come in whole pieces: a plan that goes so little further than an even share is one."""


def with_leeway(plan: Plan, allowance: Allowance, share_left: float, factor: float) -> Plan:
    """The plan, and how many times the limits it may cost on the way to a target.

    A limit is about what a network loses for good, and what goes early has time to heal: with a whole run
    ahead the limits are 1 + `factor` times as wide, at its end as they are. They are as wide for a plan that
    does no more than an even share of what the steps that still fit must do: with a smaller one the target is
    missed.

    Args:
        plan: which units go.
        allowance: the step that it is.
        share_left: of the planned epochs, those that are still ahead, 0 to 1.
        factor: `pruning.plan.healing_factor`.
    """
    end = allowance.end_fraction
    if end is None or factor == 0:
        return plan
    even = plan.removed_before + (end - plan.removed_before) / allowance.steps_left
    is_needed = plan.removed_after <= even + _EQUAL
    return replace(plan, leeway=1 + factor * (1.0 if is_needed else min(max(share_left, 0.0), 1.0)))
