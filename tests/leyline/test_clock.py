from __future__ import annotations

import time

import pytest

from esper.leyline.clock import Clock, ManualClock


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(2.5)
    assert clock() == 7.5


def test_a_clock_cannot_go_back() -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        ManualClock().advance(-1.0)


def test_the_system_clock_is_a_clock() -> None:
    clock: Clock = time.monotonic
    assert clock() <= clock()
