"""What is done at every step is a share of the steps alone."""

from __future__ import annotations

import math

import pytest

from esper.session.at_steps import AtSteps


def test_the_share_is_of_steps_and_not_of_what_comes_between_two_periods() -> None:
    done = AtSteps()
    assert math.isnan(done.share)
    done.took(10.0, 10.5)  # how long this step took nobody knows
    assert math.isnan(done.share)
    done.took(19.5, 20.0)
    assert done.share == pytest.approx(0.5 / 9.5)
    done.pause()
    done.took(1000.0, 1000.5)
    done.took(1009.5, 1010.0)
    assert done.share == pytest.approx(1.0 / 19.0)
