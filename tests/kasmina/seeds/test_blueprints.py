"""Every blueprint keeps the shape, makes zeros at birth, and learns from its first gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from esper.errors import ConfigError
from esper.kasmina.seeds.blueprints import BLUEPRINTS, blueprint

SHAPES = {
    "auto": [(2, 6), (2, 5, 6), (2, 4, 5, 5)],
    "conv": [(2, 4, 6), (2, 4, 5, 5), (2, 4, 3, 3, 3)],
    "bottleneck": [(2, 4, 6), (2, 4, 5, 5), (2, 1, 5, 5)],
    "mlp": [(2, 6), (2, 5, 6)],
    "low_rank": [(2, 6), (2, 5, 6)],
    "norm": [(2, 6), (2, 5, 6), (2, 4, 5, 5)],
}


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in BLUEPRINTS for shape in SHAPES[name]])
def test_a_seed_makes_zeros_of_the_same_shape_and_can_learn(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    seed = blueprint(name, {})(x)
    answer = seed(x)
    assert answer.shape == x.shape
    assert not answer.any()
    (answer * torch.randn(shape)).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in seed.parameters())


def test_options_choose_how_large_it_is() -> None:
    x = torch.randn(2, 4, 5, 5)
    small, large = (sum(p.numel() for p in blueprint("conv", {})(x, width=w).parameters()) for w in (1, 16))
    assert small < large


def test_activations_without_positions_are_refused_where_there_is_to_be_convolved() -> None:
    with pytest.raises(ConfigError, match=r"needs activations \[samples, channels.*\[2, 6\]"):
        blueprint("conv", {})(torch.randn(2, 6))


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"no blueprint 'cnov'; known are .*conv.*mine"):
        blueprint("cnov", {"mine": lambda like: nn.Identity()})


def test_an_installed_package_can_offer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "garden_shed.py").write_text(
        "def shed(like):\n    from torch import nn\n    return nn.Identity()\n"
    )
    about = tmp_path / "garden_shed-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: garden-shed\nVersion: 1.0\n")
    entries = "shed = garden_shed:shed\nlost = garden_shed:lost\n"
    (about / "entry_points.txt").write_text(f"[esper.blueprints]\n{entries}")
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(blueprint("shed", {})(torch.zeros(1)), nn.Identity)
    with pytest.raises(ConfigError, match="garden_shed:lost, which cannot be imported"):
        blueprint("lost", {})
