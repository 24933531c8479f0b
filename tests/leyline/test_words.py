from __future__ import annotations

from esper.leyline.words import Level


def test_the_most_far_reaching_level_speaks_for_a_decision() -> None:
    assert Level.highest(["head", "channel"]) is Level.HEAD
    assert Level.highest(["layer", "head"]) is Level.LAYER
    assert Level.highest([]) is Level.CHANNEL
