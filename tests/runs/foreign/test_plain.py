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


def test_two_places_of_one_path_have_a_name_each_and_what_is_said_of_them_is_kept() -> None:
    both = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1), "c": {"d": b"1"}, "c.d": b"2"}
    parts = Parts()
    content = parts.taken_apart(both)
    assert content["a"]["b"] == {"$tensor": "a.b"}
    assert content["a.b"] == {"$tensor": "a.b~2"}
    assert [float(parts.tensors[name]) for name in ("a.b", "a.b~2")] == [0.0, 1.0]
    assert list(parts.left_out) == ["c.d", "c.d~2"]


def test_two_keys_that_are_written_alike_are_refused() -> None:
    with pytest.raises(CheckpointError, match="two keys at its top are both written '0'"):
        Parts().taken_apart({0: 1, "0": 2})


def test_what_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="200 deep"):
        Parts().taken_apart(endless)
