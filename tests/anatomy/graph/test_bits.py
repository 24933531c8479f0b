"""Sums of bits tell whether a tensor has changed."""

from __future__ import annotations

import pytest
import torch

from esper.anatomy.graph import sums_of_bits


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.int64]
)
def test_a_number_is_another_one_if_one_value_is(dtype: torch.dtype) -> None:
    tensor = torch.arange(12).view(3, 4).to(dtype)
    before = sums_of_bits([tensor, torch.ones(2)])
    assert sums_of_bits([tensor.t(), torch.ones(2)]) == before  # of the same values
    tensor[1, 2] += 1
    after = sums_of_bits([tensor, torch.ones(2)])
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_of_nothing_there_are_no_numbers() -> None:
    assert sums_of_bits([]) == []
    assert sums_of_bits([torch.ones(0)]) == [0]
