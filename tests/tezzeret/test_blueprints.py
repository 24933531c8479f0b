"""Every blueprint keeps the shape, makes zeros at birth, and learns from its first gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from esper.anatomy import Kind
from esper.errors import ConfigError
from esper.kasmina import LiveNetwork
from esper.tezzeret.blueprints import BLUEPRINTS, blueprint, check_options

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "auto": [(2, 6), (2, 5, 6), (2, 4, 5, 5)],
    "conv": [(2, 4, 6), (2, 4, 5, 5), (2, 4, 3, 3, 3)],
    "bottleneck": [(2, 4, 6), (2, 4, 5, 5), (2, 1, 5, 5)],
    "mlp": [(2, 6), (2, 5, 6)],
    "attention": [(2, 5, 6), (2, 5, 48)],
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


def awake(heads: int, *, causal: bool) -> nn.Module:
    """An attention that does not answer with zeros."""
    seed = blueprint("attention", {})(torch.zeros(2, 5, 48), heads=heads, causal=causal)
    assert isinstance(seed.output, nn.Linear)
    nn.init.normal_(seed.output.weight)
    return seed


@pytest.mark.parametrize("causal", [False, True])
def test_attention_reads_later_positions_only_where_it_may(causal: bool) -> None:
    x = torch.randn(2, 5, 48)
    seed, other = awake(3, causal=causal), x.clone()
    other[:, -1] += 1.0
    changed = (seed(x) - seed(other)).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.tolist() == [not causal] * 4 + [True]


def test_the_heads_of_an_attention_are_units_that_can_be_cut() -> None:
    model = nn.Sequential(nn.Linear(8, 48), awake(3, causal=True), nn.Flatten(), nn.Linear(240, 4))
    batch = torch.randn(6, 5, 8), torch.randint(4, (6,))
    network = LiveNetwork(model, SGD(model.parameters(), 0.1), batch, F.cross_entropy)
    heads = network.anatomy.kind_of == Kind.HEAD.value
    assert heads.sum() == 3
    assert network.cuttable_units()[heads].all()


def test_heads_have_to_divide_the_features() -> None:
    with pytest.raises(ConfigError, match=r"cannot share 48 features among 5 heads"):
        blueprint("attention", {})(torch.zeros(2, 5, 48), heads=5)
    with pytest.raises(ConfigError, match=r"needs activations \[samples, positions, features\].*\[2, 48\]"):
        blueprint("attention", {})(torch.zeros(2, 48))


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"no blueprint 'cnov'; known are .*conv.*mine"):
        blueprint("cnov", {"mine": lambda like: nn.Identity()})


def test_options_that_a_blueprint_does_not_take_are_refused_without_calling_it() -> None:
    def never(like: torch.Tensor, *, width: int = 3) -> nn.Module:
        raise AssertionError(like, width)

    check_options("mine", {"mine": never}, {"width": 5})
    check_options("auto", {}, {"width": 5})
    with pytest.raises(ConfigError, match=r"'mine' does not take rank=5: .*'rank'"):
        check_options("mine", {"mine": never}, {"rank": 5})
    with pytest.raises(ConfigError, match="'norm' does not take width=5"):
        check_options("norm", {}, {"width": 5})
    with pytest.raises(ConfigError, match="no blueprint 'cnv'"):
        check_options("cnv", {}, {})


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


@pytest.mark.parametrize("value", [0, -1, 1.5, "4", True])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("conv", "width"), ("conv", "kernel"), ("bottleneck", "width"), ("bottleneck", "kernel")),
        *(("mlp", "width"), ("low_rank", "rank"), ("attention", "heads")),
    ],
)
def test_what_is_no_number_of_things_is_refused(name: str, option: str, value: object) -> None:
    x = torch.randn(SHAPES[name][0])
    with pytest.raises(ConfigError, match=f"'{name}' cannot be made with {option}={value!r}: it is a whole"):
        blueprint(name, {})(x, **{option: value})
