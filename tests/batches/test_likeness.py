"""How held-out batches differ from the sample in what no graph can be right for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.batches.likeness import OtherKind, is_single, other_kind

X, Y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)


class Two(nn.Module):
    def forward(self, image: Tensor, more: list[Tensor]) -> Tensor:
        return image + more[0]


class Any(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


@pytest.mark.parametrize(
    ("model", "sample", "batch", "place"),
    [
        (Two(), (X, [X], Y), (X.half(), [X], Y), "the input `image`"),
        (Two(), (X, [X], Y), (X, [X.half()], Y), "the input `more`[0]"),
        (Two(), {"image": X, "more": [X], "labels": Y}, {"image": X, "more": [X.half()], "labels": Y},
         "the input `more`[0]"),
        (Two(), (X, [X], {"box": X}), (X, [X], {"box": X.half()}), "the target['box']"),
        (Any(), (X, X, Y), (X, X.half(), Y), "the input `1`"),
    ],
)  # fmt: skip
def test_the_tensor_of_another_dtype_is_named(
    model: nn.Module, sample: object, batch: object, place: str
) -> None:
    assert other_kind(sample, [sample, batch], model) == OtherKind(place, torch.float16, torch.float32)
    assert other_kind(sample, [sample], model) is None


def test_a_sample_of_a_data_set_is_told_from_a_batch() -> None:
    model = nn.Linear(3, 2)
    assert is_single((X, Y), (X[0], Y[0]), model)
    assert is_single((X, Y), (X[0], 1), model)
    assert not is_single((X, Y), (X[:2], Y[:2]), model)
    assert not is_single((X, Y), X[0], model)
