"""Where the scores of classes lie."""

from __future__ import annotations

import pytest
import torch

from esper.batches import class_axis


@pytest.mark.parametrize(
    ("scores", "target", "axis"),
    [
        ((8, 5), (8,), 1),
        ((8, 3, 5), (8, 3), 2),
        ((8, 5, 3), (8, 3), 1),
        ((8, 5, 4, 6), (8, 4, 6), 1),
        ((8, 3, 3), (8, 3), 2),  # could be both: tokens are more common
        ((8, 1), (8,), None),
        ((8, 5), (8, 5), None),
        ((8, 5, 3), (7, 3), None),
    ],
)
def test_class_axis(scores: tuple[int, ...], target: tuple[int, ...], axis: int | None) -> None:
    assert class_axis(torch.zeros(scores), torch.zeros(target, dtype=torch.long)) == axis


@pytest.mark.parametrize("target", [torch.zeros(8), torch.zeros(8, dtype=torch.bool), None, {"of": 1}])
def test_what_numbers_no_classes_has_none(target: object) -> None:
    assert class_axis(torch.zeros(8, 5), target) is None
