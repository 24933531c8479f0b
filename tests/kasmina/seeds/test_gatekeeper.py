"""What is measured where a seed is to grow is what will be so when it is there."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from esper.errors import ConfigError
from tests.kasmina.seeds.networks import Attention, loop


@pytest.mark.parametrize("inner", ["linear1", "norm2"])
def test_a_module_that_evaluation_passes_by_gets_no_seed(inner: str) -> None:
    training = loop(make=Attention)
    layer = training.model.get_submodule("blocks.2")
    assert isinstance(layer, nn.TransformerEncoderLayer)
    before = layer.linear1, layer.norm2
    with pytest.raises(ConfigError, match=f"'blocks.2.{inner}' is called in training, and passed by where"):
        training.grown.germinate(f"blocks.2.{inner}", "mlp")
    assert (layer.linear1, layer.norm2) == before
    assert training.grown.germinate("blocks.2", "mlp").passed
    training.close()


def test_a_seed_that_is_too_large_is_told_what_makes_it_smaller() -> None:
    training = loop({"max_parameters": 0.01})
    told = str(training.grown.germinate("2", "conv"))
    assert "(at most 0.01; give a smaller width=, or raise growing.max_parameters)" in told
    training.close()


def test_a_slot_remembers_why_its_seed_went_when_it_is_free_again() -> None:
    training = loop()
    training.grown.germinate("2", "conv")
    training.grown.cull("2", "It was in the way.")
    for _ in range(2):
        training.grown.end_epoch()
    assert training.grown.slots["2"].stage.name == "DORMANT"
    assert "It was in the way." in str(training.grown)
    training.close()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.host, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.host(x.flatten(1)))
        return answer


def test_a_module_of_the_networks_own_may_be_called_like_a_part_of_what_grows() -> None:
    training = loop(make=Residual)
    assert training.grown.germinate("host", "mlp").passed
    training.close()
