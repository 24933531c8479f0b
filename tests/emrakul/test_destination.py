"""The end of a ramp is planned first, in whole multiples, and steps never pass it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.anatomy.structure import Anatomy
from esper.emrakul import Allowance, Origin, Settings, floors, make_plan
from esper.emrakul.candidates import step_sizes
from esper.emrakul.destination import bounds
from esper.leyline import Level
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
