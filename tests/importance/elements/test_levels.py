"""Sketches by level: elements of different levels never meet, and merging is adding."""

from __future__ import annotations

import pytest
import torch

from esper.errors import EvidenceError
from esper.importance.elements.levels import LEVELS, MultiLevelCountMinSketch
from esper.importance.elements.sketch_size import SketchSize

SIZE = SketchSize(50, 3)


def test_the_same_name_in_two_levels_is_two_elements() -> None:
    sketch = MultiLevelCountMinSketch(SIZE)
    assert sketch.levels == LEVELS == ("channel", "attention_head", "layer")
    sketch.update("channel", ["a", "b", "a"], torch.tensor([1.0, 2.0, 3.0]))
    sketch.update("layer", ["a"], torch.tensor([10.0]))
    assert sketch.estimate("channel", ["a", "b"]).tolist() == [4.0, 2.0]
    assert sketch.estimate("layer", ["a"]).tolist() == [10.0]
    assert sketch.estimate("attention_head", ["a"]).isnan().all()
    assert {level: stats.num_keys for level, stats in sketch.stats().items()} == {
        "channel": 2,
        "attention_head": 0,
        "layer": 1,
    }
    sketch.clear()
    assert sketch.estimate("channel", ["a"]).isnan().all()


def test_merged_ranks_equal_one() -> None:
    names = [f"unit{n}" for n in range(200)]  # more than fit exactly
    scores = torch.arange(200, dtype=torch.float64)
    first, second, joint = (MultiLevelCountMinSketch(SIZE) for _ in range(3))
    first.update("channel", names[:120], scores[:120])
    second.update("channel", names[80:], scores[80:])
    joint.update("channel", names[:120] + names[80:], torch.cat([scores[:120], scores[80:]]))
    first.merge(second)
    assert not joint.stats()["channel"].is_exact
    assert torch.equal(first.estimate("channel", names), joint.estimate("channel", names))


def test_state_comes_back_level_by_level() -> None:
    sketch = MultiLevelCountMinSketch(SIZE, ("layer", "channel"), seed=5)
    sketch.update("layer", ["x"], torch.tensor([2.0]))
    again = MultiLevelCountMinSketch.from_state(sketch.state())
    assert again.levels == ("layer", "channel")
    assert again.stats() == sketch.stats()
    again.merge(sketch)
    assert again.estimate("layer", ["x"]).tolist() == [4.0]


def test_what_does_not_belong_together_is_refused_and_nothing_is_added() -> None:
    sketch = MultiLevelCountMinSketch(SIZE, ("channel",))
    with pytest.raises(EvidenceError, match="levels are channel"):
        sketch.update("layer", ["a"], torch.tensor([1.0]))
    with pytest.raises(EvidenceError, match="There is no level 'neuron'"):
        MultiLevelCountMinSketch(SIZE, ("neuron",))
    for other in (
        MultiLevelCountMinSketch(SIZE),
        MultiLevelCountMinSketch(SketchSize(51, 3), ("channel",)),
        MultiLevelCountMinSketch(SIZE, ("channel",), seed=1),
    ):
        with pytest.raises(EvidenceError, match="Nothing was added"):
            sketch.merge(other)
    with pytest.raises(EvidenceError, match="not the state of a sketch"):
        MultiLevelCountMinSketch.from_state({"channel.shape": torch.tensor([1, 1, 0])})
