"""Models of `transformers` whose own configuration describes the cut: found by trial, never by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import esper
from esper.anatomy.cut import Look
from esper.compaction import describable
from esper.errors import ConfigError

IDS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=4,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
        )
    )


def t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=8, use_cache=False)
    )


def homogeneous(model: nn.Module, share: float = 0.3) -> Any:
    floors = {"min_channels": 16, "min_keep_fraction": 1 - share, "narrow_keep_fraction": 0.5}
    config = esper.Config(pruning={"floors": floors})
    return esper.compact(model, sample={"input_ids": IDS}, flops=share, homogeneous=True, config=config)


@pytest.mark.parametrize(
    ("build", "changed"),
    [
        (llama, {"num_attention_heads", "num_key_value_heads", "intermediate_size"}),
        (bert, {"intermediate_size"}),
        (t5, {"num_heads", "d_ff"}),
    ],
)
def test_a_homogeneous_cut_is_saved_and_rebuilt_by_the_library_itself(
    tmp_path: Path, build: Callable[[], Any], changed: set[str]
) -> None:
    torch.manual_seed(0)
    model = build()
    result = homogeneous(model)
    assert result.flops_after < result.flops_before
    assert set(result.description.changes) == changed
    result.save_pretrained(tmp_path / "cut")
    again = type(model).from_pretrained(tmp_path / "cut").eval()
    model.eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS)[0], model(input_ids=IDS)[0])
    assert all(getattr(again.config, name) == value for name, value in result.description.changes.items())


def test_what_the_configuration_cannot_say_stays_whole_and_is_named() -> None:
    result = homogeneous(bert())
    heads = [row for row in result.widths if row.kind == "head"]
    assert heads
    assert all(row.after == row.before for row in heads)
    assert any("configuration cannot say it" in why for why in result.refused.values())


def test_layers_of_different_width_are_refused_with_the_way_out(tmp_path: Path) -> None:
    model = llama()
    keep = np.ones(esper.inspect(model, {"input_ids": IDS}).num_units, np.bool_)
    keep[-1] = False
    before = model.config.to_dict()
    result = esper.compact(model, keep, sample={"input_ids": IDS})
    with pytest.raises(ConfigError, match="homogeneous=True"):
        result.save_pretrained(tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    assert model.config.to_dict() == before


def test_a_network_without_a_configuration_is_told_what_to_use(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))
    result = esper.compact(network, sample=torch.randn(2, 6), flops=0.3)
    with pytest.raises(ConfigError, match=r"esper\.load"):
        result.save_pretrained(tmp_path)


def test_a_number_that_stands_for_more_than_was_cut_is_named() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    refused = _refused(T5ForConditionalGeneration(config), {"input_ids": IDS, "decoder_input_ids": IDS})
    assert "d_ff stands for decoder.block.0" in refused["encoder.block.0.layer.1.DenseReluDense.wi"]
    assert "d_ff stands for encoder.block.0" in refused["decoder.block.0.layer.2.DenseReluDense.wi"]


def test_a_network_that_its_configuration_alone_does_not_build_is_told_so() -> None:
    class Wrapped(nn.Module):
        """Holds a network with a configuration, and cannot be built from that."""

        def __init__(self, inner: nn.Module, rank: int) -> None:
            super().__init__()
            self.inner, self.rank, self.config = inner, rank, inner.config

        def forward(self, input_ids: torch.Tensor) -> Any:
            return self.inner(input_ids)

        def save_pretrained(self, directory: Path) -> None:
            """Is never called."""

    for why in _refused(Wrapped(bert(), 4), {"input_ids": IDS}).values():
        assert "no Wrapped can be built from it alone (TypeError" in why


def _refused(model: nn.Module, sample: dict[str, torch.Tensor]) -> dict[str, str]:
    model.eval()
    look = Look.at(model, sample, None)
    found = describable(model, look.anatomy, look.inputs, np.ones(len(look.anatomy.groups), np.bool_))
    assert found
    return found
