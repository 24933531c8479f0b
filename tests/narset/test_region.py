from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from esper.narset.region import MAX_NAMES, Region
from esper.narset.summary import summed


class Clock:
    """Goes on by what reading it costs, and by what it is told."""

    def __init__(self) -> None:
        self.now, self.cost = 0.0, 0.0

    def __call__(self) -> float:
        self.now += self.cost
        return self.now


@given(st.lists(st.floats(), max_size=300), st.integers(1, 5), st.integers(0, 300))
def test_one_by_one_many_at_once_and_all_at_once_are_the_same_bit_for_bit(
    values: list[float], ratio: int, cut: int
) -> None:
    single, batched = Region("a", ratio), Region("b", ratio)
    for value in values:
        single.record("x", value)
    batched.record_many("x", values[:cut])
    batched.record_many("x", values[cut:])
    expected = {"x": summed(values)} if values else {}
    assert single.drain() == (expected, 0)
    assert batched.drain() == (expected, 0)
    assert single.is_empty
    assert single.drain() == ({}, 0)


def test_names_without_end_are_not_held_and_counted() -> None:
    region = Region("a")
    for number in range(MAX_NAMES + 3):
        region.record(f"name {number}", 1.0)
    region.record_many("one more", [1.0, 2.0])
    summaries, dropped = region.drain()
    assert (len(summaries), dropped) == (MAX_NAMES, 5)


def test_values_are_left_out_while_summing_up_costs_too_much_and_taken_again_after() -> None:
    clock = Clock()
    region = Region("a", 2, max_fraction=0.1, clock=clock)
    clock.cost = 1.0  # every window is as expensive as the time between them
    for _ in range(64):
        region.record("x", 1.0)
    assert region.stride > 1
    summaries, dropped = region.drain()
    assert dropped > 0
    assert summaries["x"].finite + dropped >= 64 - region.stride
    clock.cost = 0.0
    for _ in range(5000):
        clock.now += 1.0
        region.record("x", math.nan)
    assert region.stride == 1
