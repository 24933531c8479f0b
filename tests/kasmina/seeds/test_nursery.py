"""Seeds as wide as the limit allows, where nobody has said how wide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.seeds.nursery import Nursery
from esper.kasmina.seeds.recipe import Recipe
from esper.nissa import FanOut


def own(like: Tensor, *, width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(like.shape[-1], width), nn.Linear(width, like.shape[-1]))


NURSERY = Nursery(None, {"own": own}, FanOut())


@pytest.mark.parametrize(
    ("blueprint", "shape", "most", "width"),
    [
        ("auto", (4, 32), 2112, None),  # 2 x 32 x 32 weights and 64 biases: as wide as its input
        ("auto", (4, 32), 2111, 31),
        ("mlp", (4, 32), 97, 1),
        ("mlp", (4, 32), 96, None),  # not even one: the gate refuses it
        ("auto", (4, 8, 6, 6), 600, 4),
        ("bottleneck", (4, 8, 6, 6), 10_000, None),
        ("low_rank", (4, 32), 1, None),
        ("own", (4, 32), 1, None),
    ],
)
def test_seeds_are_as_wide_as_may_be(
    blueprint: str, shape: tuple[int, ...], most: int, width: int | None
) -> None:
    recipe = Recipe("layer", 1, blueprint, {}, shape)
    options = NURSERY.sized(recipe, most)
    assert options == ({} if width is None else {"width": width})
    if width is not None:
        made = Recipe("layer", 1, blueprint, options, shape).make(torch.device("cpu"), {})
        wider = Recipe("layer", 1, blueprint, {"width": width + 1}, shape).make(torch.device("cpu"), {})
        assert sum(p.numel() for p in made.parameters()) <= most < sum(p.numel() for p in wider.parameters())


def test_what_somebody_has_said_stays() -> None:
    said: dict[str, Any] = {"width": 100}
    assert NURSERY.sized(Recipe("layer", 1, "mlp", said, (4, 32)), 1) == said
