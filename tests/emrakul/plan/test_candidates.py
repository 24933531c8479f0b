"""Multiples that layers are left with."""

from __future__ import annotations

import pytest

from esper.emrakul.plan.candidates import step_sizes
from tests.emrakul.networks import chain


@pytest.mark.parametrize(
    ("round_to", "steps"), [(1, [1, 1, 1, 1]), (8, [1, 4, 8, 8]), (16, [1, 4, 8, 16]), (12, [1, 6, 6, 12])]
)
def test_narrow_layers_are_rounded_to_a_half_or_a_quarter_as_much(round_to: int, steps: list[int]) -> None:
    assert step_sizes(chain([3, 12, 16, 32]), round_to).tolist() == steps


def test_heads_are_not_rounded() -> None:
    anatomy = chain([32], heads=8)
    kinds = {
        group.kind.value: step for group, step in zip(anatomy.groups, step_sizes(anatomy, 4), strict=True)
    }
    assert kinds == {"channel": 4, "head": 1}
