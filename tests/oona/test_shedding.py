"""Who goes when a topic is full."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from esper.oona.shedding import shedding

PRIORITIES = st.integers(1, 4)


@given(st.lists(PRIORITIES, max_size=20), st.lists(PRIORITIES, max_size=20), st.integers(1, 20))
def test_a_full_topic_holds_the_highest_that_there_were(
    lying: list[int], coming: list[int], most: int
) -> None:
    lying = lying[:most]
    plan = shedding(Counter(lying), coming, most)
    held = Counter(lying)
    held.update(priority for at, priority in enumerate(coming) if at not in plan.shed)
    held.subtract(plan.displaced)
    assert min(held.values(), default=0) >= 0
    assert sorted(held.elements(), reverse=True) == sorted([*lying, *coming], reverse=True)[:most]


@given(st.lists(PRIORITIES, max_size=20))
def test_nobody_goes_where_there_is_room(coming: list[int]) -> None:
    plan = shedding({}, coming, 20)
    assert (plan.shed, plan.displaced.total()) == ((), 0)
