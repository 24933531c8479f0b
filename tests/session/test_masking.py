"""What is decided about a checkpoint meets weights that have moved on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from esper.emrakul import Plan, shrink
from esper.emrakul.cycle import Decision
from esper.session.preview import confirm
from esper.urabrask import RetentionLimits
from tests.session.runs import Training

AT_ONCE = {
    "target": {"flops": 0.6},
    "schedule": {"start_epoch": 5, "end_epoch": 5, "max_step_fraction": 0.6, "quiet_fraction": 0.0},
    "floors": {"min_channels": 4},
    "recovery": {"reconstruct": False},
}


def decided(run: Training) -> tuple[Decision, Plan]:
    """A decision that was made and not applied yet."""
    for _ in range(5):
        run.epoch()
    runner = run.session.parts.runner
    assert runner is not None
    decision = runner.collect(60.0)
    assert decision is not None
    assert decision.plan is not None
    return decision, decision.plan


def limit_to(run: Training, points: float) -> None:
    rules = run.session.parts.config.validation.model_copy(
        update={"limits": RetentionLimits.model_construct(channel=points)}
    )
    run.session.parts.config = run.session.parts.config.model_copy(update={"validation": rules})


def drop(run: Training, plan: Plan) -> float:
    """What a plan costs on the live weights, in points."""
    parts = run.session.parts
    assert parts.held_out is not None
    _, seen = confirm(parts.network, parts.held_out, plan.keep, parts.config.validation)
    assert seen.before.correctness is not None
    assert seen.after.correctness is not None
    return float(np.mean(seen.before.correctness) - np.mean(seen.after.correctness))


def test_a_plan_that_costs_too_much_by_now_is_shrunk_until_it_does_not(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    decision, plan = decided(run)
    smaller = shrink(plan, run.session.parts.network.anatomy, run.session.parts.origin)
    assert 0 < smaller.units.size < plan.units.size
    assert drop(run, smaller) < drop(run, plan)
    limit_to(run, (drop(run, smaller) + drop(run, plan)) / 2)
    run.session.masking._apply(decision)
    assert np.array_equal(run.session.parts.network.masks.keep, smaller.keep)
    told = run.session.log.marks[-1].text
    assert f"Masked {smaller.units.size} of {plan.units.size} units" in told
    run.session.detach()


def test_a_plan_of_which_every_part_costs_too_much_is_not_applied(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    decision, _ = decided(run)
    limit_to(run, -1.0)
    run.session.masking._apply(decision)
    assert run.session.parts.network.masks.keep.all()
    assert run.marks() == ["no_go"]
    run.session.detach()
