"""The end of a ramp is planned first, in whole multiples, and steps never pass it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.anatomy import Anatomy, Kind
from esper.arrays import FloatArray, IntArray
from esper.cost import Origin
from esper.elesh import Evidence, Tier, confidence
from esper.emrakul.cycle import Coordinator, CoordinatorState, Cycle, Status
from esper.emrakul.plan.candidates import step_sizes
from esper.emrakul.plan.floors import floors
from esper.emrakul.plan.ramp_end import bounds
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.schedule import Allowance, Schedule
from esper.emrakul.settings import Settings
from esper.leyline import Level, ManualClock
from esper.urabrask import Decision, Verdict
from tests.emrakul.networks import anatomies, chain, measured, resnet8


def settings(target: float, round_to: int, **floor: int) -> Settings:
    return Settings.model_validate(
        {"target": {"flops": target}, "plan": {"round_to": round_to}, "floors": floor}
    )


@given(
    anatomies,
    st.floats(0.05, 0.9),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 10**6),
)
def test_final_widths_are_whole_multiples_above_the_floors(
    anatomy: Anatomy, target: float, round_to: int, unmeasured: float, seed: int
) -> None:
    keep = np.ones(anatomy.num_units, np.bool_)
    chosen, screen = settings(target, round_to), measured(anatomy, seed, unmeasured=unmeasured).screen
    origin = Origin.of(anatomy)
    found = bounds(anatomy, keep, screen, chosen, origin)
    lowest = floors(anatomy, chosen, origin)
    assert found.round_to == 1
    for number, group in enumerate(anatomy.groups):
        width = found.floors[number]
        if width < group.width:
            assert width >= lowest[number]
            assert width % step_sizes(anatomy, round_to)[number] == 0
    assert found.target_fraction is not None
    assert found.target_fraction >= target


def test_small_steps_lead_to_the_rounded_end_and_stop_there() -> None:
    anatomy, chosen = resnet8(), settings(0.5, 8)
    evidence, origin = measured(anatomy), Origin.of(anatomy)
    keep = np.ones(anatomy.num_units, np.bool_)
    end = bounds(anatomy, keep, evidence.screen, chosen, origin)
    assert end.target_fraction is not None
    for goal in [*np.linspace(0.1, 1, 10) * end.target_fraction, 1.0]:
        step = Allowance("flops", goal, 1.0, (Level.CHANNEL,), "ramp", "because a test says so")
        certain = measured(anatomy)
        certain.confidence[:] = 1.0
        keep = make_plan(anatomy, keep, certain, step, chosen, origin=origin).keep
    widths = np.bincount(anatomy.group_of[keep])
    assert (widths % 8 == 0).all()
    assert origin.removed_fraction(anatomy, keep, "flops") >= 0.5


def test_a_network_that_has_begun_unrounded_ends_rounded() -> None:
    anatomy = chain([40, 40])
    keep = np.ones(80, np.bool_)
    keep[:3] = False
    found = bounds(anatomy, keep, measured(anatomy).screen, settings(0.4, 8), Origin.of(anatomy))
    assert found.floors[0] in (16, 24, 32)
    assert found.floors[0] % 8 == 0


@pytest.mark.parametrize("given_settings", [Settings(staged=True), settings(0.5, 1)])
def test_without_target_or_multiple_floors_are_the_only_bounds(given_settings: Settings) -> None:
    anatomy = resnet8()
    keep = np.ones(anatomy.num_units, np.bool_)
    origin = Origin.of(anatomy)
    found = bounds(anatomy, keep, measured(anatomy).screen, given_settings, origin)
    np.testing.assert_array_equal(found.floors, floors(anatomy, given_settings, origin))


def ablated(anatomy: Anatomy, finalists: IntArray, screen: FloatArray) -> Evidence:
    """Channels cost what the screen says; what heads cost differs from batch to batch, not between them."""
    is_head = np.array([group.kind is Kind.HEAD for group in anatomy.groups])[anatomy.group_of[finalists]]
    table = np.where(is_head, 0.05, screen[finalists])[:, None] + np.zeros(4)
    table[is_head] += [1.0, -1.0, 1.0, -1.0]
    evidence = Evidence.unmeasured(anatomy.digest, anatomy.num_units)
    evidence.loss_increase[finalists] = table.mean(axis=1)
    for kind in (is_head, ~is_head):
        if kind.any():
            evidence.confidence[finalists[kind]] = confidence(table[kind])
    return replace(evidence, screen=screen, tier=Tier.ABLATION)


@pytest.mark.parametrize("seed", range(2))
def test_a_run_goes_on_where_only_units_are_left_that_nobody_can_tell_apart(seed: int) -> None:
    anatomy, rules = chain([64, 64, 64], heads=5, head_size=96), settings(0.5, 8)
    origin, schedule, clock = Origin.of(anatomy), Schedule(rules, 20), ManualClock()
    screen = np.random.default_rng(seed).permutation(anatomy.num_units) / (anatomy.num_units - 1)
    screen[-5:] = np.arange(5) * 1e-4  # the screen wants all heads that may go
    keep, state = np.ones(anatomy.num_units, np.bool_), CoordinatorState()
    for epoch in range(1, 21):
        coordinator = Coordinator(rules, schedule, origin, clock, state)
        outcome = coordinator.run_cycle(
            Cycle(epoch, anatomy, keep, "f00d"),
            screen=lambda: screen,
            analyze=lambda asked, _: ablated(anatomy, asked, screen),
            validate=lambda left, _: Verdict(Decision.GO, "A test says so."),
        )
        state = coordinator.state
        if outcome.status is Status.ACCEPTED and outcome.plan is not None:
            keep = outcome.plan.keep
    widths = np.bincount(anatomy.group_of[keep])
    assert origin.removed_fraction(anatomy, keep, "flops") >= 0.5
    assert (widths[:-1] % 8 == 0).all()
    assert (widths >= floors(anatomy, rules, origin)).all()
