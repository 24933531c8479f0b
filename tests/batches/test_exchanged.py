"""Batches whose samples have the targets of others: never another multiset of targets, never one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from esper.batches import target_of, with_targets_of


def test_targets_come_from_the_other_batch_and_inputs_stay() -> None:
    one, other = (torch.zeros(4, 2), torch.arange(4)), (torch.ones(4, 2), torch.arange(4, 8))
    changed = with_targets_of(one, other)
    assert changed is not None
    assert changed[0] is one[0]
    assert changed[1].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((torch.ones(3, 2), torch.arange(3)), id="fewer samples"),
        pytest.param((torch.ones(4, 2), torch.zeros(4)), id="another dtype"),
        pytest.param((torch.ones(4, 2), {"y": torch.arange(4)}), id="built otherwise"),
        pytest.param(None, id="the same batch"),
    ],
)
def test_where_the_other_is_not_alike_halves_change_places(other: Any) -> None:
    batch = (torch.zeros(4, 2), torch.arange(4))
    changed = with_targets_of(batch, batch if other is None else other)
    assert changed is not None
    assert changed[1].tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize("name", ["labels", "target", "y"])
def test_of_a_mapping_the_target_changes_under_its_name(name: str) -> None:
    batch = {"ids": torch.zeros(2, 3), name: torch.tensor([5, 6])}
    changed = with_targets_of(batch, batch)
    assert changed is not None
    assert list(changed) == list(batch)
    assert changed[name].tolist() == [6, 5]
    assert changed["ids"] is batch["ids"]


def test_every_tensor_of_a_target_changes_and_single_numbers_stay() -> None:
    target = {
        "box": torch.arange(8).reshape(4, 2),
        "kind": torch.arange(4),
        "size": torch.tensor(3.0),
        "id": "a",
    }
    batch = (torch.zeros(4, 2), target)
    changed = target_of(with_targets_of(batch, batch))
    assert changed["box"].tolist() == [[4, 5], [6, 7], [0, 1], [2, 3]]
    assert changed["kind"].tolist() == [2, 3, 0, 1]
    assert (float(changed["size"]), changed["id"]) == (3.0, "a")


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(torch.zeros(4, 2), id="an input alone"),
        pytest.param({"ids": torch.zeros(4, 2)}, id="a mapping without a target"),
        pytest.param((torch.zeros(4, 2), "a"), id="a target without a tensor"),
        pytest.param((torch.zeros(1, 2), torch.zeros(1)), id="one sample"),
        pytest.param((torch.zeros(4, 2), torch.zeros(3)), id="no common axis"),
    ],
)
def test_where_nothing_can_change_places_there_is_no_such_batch(batch: Tensor | Any) -> None:
    assert with_targets_of(batch, batch) is None
