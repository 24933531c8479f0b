"""`esper.compact(blocks=...)`: layers removed at once, and units of what they leave."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

import esper
from esper.anatomy.cut import RemovedModule
from esper.errors import ConfigError, SurgeryError, UnknownPathError
from tests.anatomy.cut.layers.test_removal import Peeks, small
from tests.anatomy.networks import ZOO


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_layers_go_and_the_network_is_saved_and_loaded_with_and_without_its_class(tmp_path: Path) -> None:
    model, x, _ = small()
    fresh, before = copy.deepcopy(model), parameters(model)
    for parameter in fresh.parameters():
        nn.init.normal_(parameter)
    result = esper.compact(model, sample=x, blocks=["1", "2.mlp"])
    assert result.model is model
    assert result.blocks == ("1.mix", "1.mlp", "2.mlp")
    assert result.proof.float64_error is not None
    assert result.proof.float64_error <= 1e-12
    assert (result.parameters_before, result.parameters_after) == (before, parameters(model))
    assert result.flops_after < 0.5 * result.flops_before
    result.save(tmp_path / "out")
    assert torch.equal(esper.load(tmp_path / "out", model=fresh)(x), model(x))
    torch.testing.assert_close(esper.load(tmp_path / "out")(x), model(x))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_share_of_the_cost_includes_the_layers(tmp_path: Path, in_place: bool) -> None:
    model, x, _ = small()
    fresh, optimizer = copy.deepcopy(model), AdamW(model.parameters())
    result = esper.compact(
        model, sample=x, blocks=["1"], parameters=0.52, in_place=in_place, optimizer=optimizer
    )
    assert result.blocks == ("1.mix", "1.mlp")
    assert not result.keep.all()
    assert result.parameters_after < result.anatomy.parameters() < result.parameters_before
    assert (parameters(model) == result.parameters_after) == in_place
    assert isinstance(model[1], RemovedModule) == in_place
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == parameters(model)
    if in_place:
        result.save(tmp_path / "out")
        assert torch.equal(esper.load(tmp_path / "out", model=fresh)(x), model(x))


def test_a_share_that_the_layers_reach_alone_takes_nothing_more() -> None:
    model, x, _ = small()
    result = esper.compact(model, sample=x, blocks=["1"], parameters=0.1)
    assert result.keep.all()
    assert result.parameters_after == parameters(model)


def test_a_program_alone_loses_layers_and_the_network_stays() -> None:
    model, x, _ = small()
    before = copy.deepcopy(model.state_dict())
    result = esper.compact(model, sample=x, blocks=["2.mlp"], in_place=False)
    assert result.blocks == ("2.mlp",)
    assert result.parameters_after == result.parameters_before - sum(
        value.numel() for name, value in before.items() if name.startswith(("2.mlp", "2.norm2"))
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    esper.compact(model, sample=x, blocks=["2.mlp"])
    torch.testing.assert_close(result.model(x), model(x))


def test_a_layer_that_the_code_needs_goes_from_the_program_together_with_units() -> None:
    torch.manual_seed(0)
    model, x = Peeks(), torch.randn(5, 4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SurgeryError, match="whose code needs what would go"):
        esper.compact(model, sample=x, blocks=["block"], parameters=0.6)
    result = esper.compact(model, sample=x, blocks=["block"], parameters=0.6, in_place=False)
    assert result.blocks == ("block",)
    assert not result.keep.all()
    assert result.parameters_after < result.anatomy.parameters() < result.parameters_before
    assert sum(p.numel() for p in result.model.parameters()) == result.parameters_after
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_held_out_samples_judge_the_network_with_its_layers_against_the_one_without() -> None:
    model, _, _ = small()
    batches = [(torch.randn(32, 4), torch.randint(0, 3, (32,))) for _ in range(8)]
    whole = copy.deepcopy(model)
    result = esper.compact(model, sample=batches[0], loss=cross_entropy, blocks=["1"], probe=batches)
    assert result.quality is not None
    judged = batches[-(result.quality.samples // 32) :]

    def loss(network: nn.Module) -> float:
        with torch.no_grad():
            return float(torch.stack([cross_entropy(network(x), y) for x, y in judged]).mean())

    assert result.quality.loss_before == pytest.approx(loss(whole), rel=1e-4)
    assert result.quality.loss_after == pytest.approx(loss(model), rel=1e-4)


class Between(nn.Module):
    """A block between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.block, self.b = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        scores: Tensor = self.b(x + self.block(x))
        return scores


def test_what_cannot_be_cut_afterwards_leaves_the_layers_too() -> None:
    model, x = Between(), torch.randn(5, 4)
    too_few = [(torch.randn(1, 4), torch.zeros(1, dtype=torch.long))]
    expected = model(x)
    with pytest.raises(ConfigError):
        esper.compact(
            model, sample=too_few[0], blocks=["block"], flops=0.5, loss=cross_entropy, probe=too_few
        )
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"plan": np.ones(3, np.bool_)}, ConfigError, "is of the whole network"),
        ({"flops": 1.5}, ConfigError, "between 0 and 1"),
        ({"blocks": ["1", "9"]}, UnknownPathError, r"No residual block named '9'"),
    ],
)
def test_what_makes_no_sense_is_refused(how: dict[str, Any], error: type[Exception], said: str) -> None:
    model, x, _ = small()
    with pytest.raises(error, match=said):
        esper.compact(model, **{"sample": x, "blocks": ["1"], **how})
    assert not any(isinstance(m, RemovedModule) for m in model.modules())


def test_a_configuration_that_cannot_say_it_does_not_claim_to() -> None:
    model = ZOO["llama"].network()
    with pytest.raises(ConfigError, match="cannot say which layers are gone"):
        esper.compact(model, sample=ZOO["llama"].input(), blocks=["model.layers.0"], homogeneous=True)
