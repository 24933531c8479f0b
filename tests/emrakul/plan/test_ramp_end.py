"""The end of a ramp is planned first, in whole multiples, and steps never pass it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.anatomy import Anatomy, Kind
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh import Evidence, Tier, confidence
from esper.emrakul.cycle import Coordinator, Cycle
from esper.emrakul.plan.candidates import step_sizes
from esper.emrakul.plan.floors import floors
from esper.emrakul.plan.ramp_end import bounds
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.plan.situation import Situation
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
    chosen, screen = settings(target, round_to), measured(anatomy, seed, unmeasured=unmeasured).screen
    situation = Situation.whole(anatomy)
    found = bounds(situation, screen, chosen)
    lowest = floors(situation, chosen)
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
    situation = Situation.whole(anatomy)
    end = bounds(situation, measured(anatomy).screen, chosen)
    assert end.target_fraction is not None
    for goal in [*np.linspace(0.1, 1, 10) * end.target_fraction, 1.0]:
        step = Allowance("flops", goal, 1.0, (Level.CHANNEL,), "ramp", "because a test says so")
        certain = measured(anatomy)
        certain.confidence[:] = 1.0
        situation = situation.under(make_plan(situation, certain, step, chosen).keep)
    assert (situation.counts % 8 == 0).all()
    assert situation.removed_fraction("flops") >= 0.5


def test_a_network_that_has_begun_unrounded_ends_rounded() -> None:
    anatomy = chain([40, 40])
    keep = np.ones(80, np.bool_)
    keep[:3] = False
    found = bounds(Situation.whole(anatomy).under(keep), measured(anatomy).screen, settings(0.4, 8))
    assert found.floors[0] in (16, 24, 32)
    assert found.floors[0] % 8 == 0


@pytest.mark.parametrize("given_settings", [Settings(staged=True), settings(0.5, 1)])
def test_without_target_or_multiple_floors_are_the_only_bounds(given_settings: Settings) -> None:
    anatomy = resnet8()
    situation = Situation.whole(anatomy)
    found = bounds(situation, measured(anatomy).screen, given_settings)
    np.testing.assert_array_equal(found.floors, floors(situation, given_settings))


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


@dataclass(frozen=True, eq=False)
class Ablating:
    """Measures heads that nobody can tell apart, and always says go."""

    anatomy: Anatomy
    ranks: FloatArray
    id = "a test"

    def screen(self) -> FloatArray:
        return self.ranks

    def too_early(self, least: float, seconds: float) -> str:
        return ""

    def analyze(self, finalists: IntArray, seconds: float) -> Evidence:
        return ablated(self.anatomy, finalists, self.ranks)

    def validate(self, keep: BoolArray, seconds: float, leeway: float = 1.0) -> Verdict:
        return Verdict(Decision.GO, "A test says so.")


@pytest.mark.parametrize("seed", range(2))
def test_a_run_goes_on_where_only_units_are_left_that_nobody_can_tell_apart(seed: int) -> None:
    anatomy, rules = chain([64, 64, 64], heads=5, head_size=96), settings(0.5, 8)
    situation, schedule = Situation.whole(anatomy), Schedule(rules, 20)
    screen = np.random.default_rng(seed).permutation(anatomy.num_units) / (anatomy.num_units - 1)
    screen[-5:] = np.arange(5) * 1e-4  # the screen wants all heads that may go
    coordinator = Coordinator(rules, ManualClock())
    for epoch in range(1, 21):
        state, removed = coordinator.state.schedule, situation.removed_fraction("flops")
        allowance = schedule.allowed(epoch, state, removed)
        cycle = Cycle(epoch, situation, "f00d")
        outcome = coordinator.run_cycle(cycle, allowance, Ablating(anatomy, screen))
        if outcome.mask is not None:
            situation = situation.under(outcome.mask)
    assert situation.removed_fraction("flops") >= 0.5
    assert (situation.counts[:-1] % 8 == 0).all()
    assert (situation.counts >= floors(situation, rules)).all()
