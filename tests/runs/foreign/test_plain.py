"""What a file held is taken apart without losing track of what was where."""

from __future__ import annotations

import pytest
import torch

from esper.errors import CheckpointError
from esper.runs.foreign.plain import Parts


def test_an_empty_file_and_one_tensor_alone() -> None:
    assert Parts().taken_apart({}) == {}
    parts = Parts()
    assert parts.taken_apart(torch.zeros(2)) == {"$tensor": "value"}
    assert list(parts.tensors) == ["value"]


def test_two_tensors_of_one_path_are_refused_by_name() -> None:
    both = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"two tensors have the path a\.b"):
        Parts().taken_apart(both)
    with pytest.raises(CheckpointError, match="two keys at its top are both written '0'"):
        Parts().taken_apart({0: 1, "0": 2})


def test_what_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="200 deep"):
        Parts().taken_apart(endless)
