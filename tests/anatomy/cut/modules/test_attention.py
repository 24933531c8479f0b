"""`nn.MultiheadAttention` with fewer heads computes what the whole one computes with masked heads."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.cut.live import cut
from esper.anatomy.cut.modules.attention import CutMultiheadAttention
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect, masked_axes, zero_masked
from esper.errors import SurgeryError
from tests.anatomy.cutting import anatomy_of, half, probe_of
from tests.anatomy.networks import ZOO


class SelfAttention(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, **options)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


def _pair(**options: bool) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    """An attention with two heads masked, and one with them cut; to be called, not to be changed."""
    pair = _made(**options)
    torch.manual_seed(1)
    return pair


@cache
def _made(**options: bool) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    torch.manual_seed(0)
    model, x = SelfAttention(**options).eval(), torch.randn(5, 2, 32)
    anatomy = inspect(model, x)
    keep = np.array([True, False, True, False])
    masked = copy.deepcopy(model)
    zero_masked(dict(masked.named_parameters()), masked_axes(anatomy, keep))
    cut(model, anatomy, keep, Inputs((x,)))
    assert isinstance(model.attention, CutMultiheadAttention)
    return masked.attention, model.attention


PADDING = torch.arange(6).ge(torch.tensor([[6], [4], [3]]))
MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "padding": {"key_padding_mask": PADDING},
    "float padding": {"key_padding_mask": torch.zeros(3, 6).masked_fill(PADDING, -torch.inf)},
    "mask": {"attn_mask": torch.ones(5, 6, dtype=torch.bool).triu(2)},
    "float mask": {"attn_mask": torch.randn(5, 6)},
    "both": {"attn_mask": torch.ones(5, 6, dtype=torch.bool).triu(2), "key_padding_mask": PADDING},
}


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask and attn_mask:UserWarning")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_cut_attention_equals_masked_attention(mask: str, need_weights: bool, batch_first: bool) -> None:
    masked, narrow = _pair(batch_first=batch_first)
    query, key, value = torch.randn(3, 5, 32), torch.randn(3, 6, 32), torch.randn(3, 6, 32)
    if not batch_first:
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    expected, _ = masked(query, key, value, need_weights=need_weights, **MASKS[mask])
    found, weights = narrow(query, key, value, need_weights=need_weights, **MASKS[mask])
    assert torch.allclose(found, expected, atol=1e-6)
    assert (weights is None) is not need_weights
    assert weights is None or weights.shape == (3, 5, 6)


def test_weights_are_given_for_every_head_that_is_left() -> None:
    masked, narrow = _pair()
    x = torch.randn(5, 3, 32)
    _, expected = masked(x, x, x, average_attn_weights=False)
    _, found = narrow(x, x, x, average_attn_weights=False)
    assert torch.allclose(found, expected[:, [0, 2]], atol=1e-6)


def test_a_mask_for_every_head_is_taken() -> None:
    masked, narrow = _pair()
    x, mask = torch.randn(5, 3, 32), torch.randn(3, 4, 5, 5)
    expected, _ = masked(x, x, x, attn_mask=mask.flatten(0, 1))
    found, _ = narrow(x, x, x, attn_mask=mask[:, [0, 2]].flatten(0, 1))
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_causal_call_is_causal() -> None:
    masked, narrow = _pair()
    x = torch.randn(5, 3, 32)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    expected, _ = masked(x, x, x, attn_mask=causal, is_causal=True, need_weights=False)
    found, _ = narrow(x, x, x, attn_mask=causal, is_causal=True, need_weights=False)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_single_sequence_without_batch_is_taken() -> None:
    masked, narrow = _pair()
    x = torch.randn(5, 32)
    expected, expected_weights = masked(x, x, x)
    found, weights = narrow(x, x, x)
    assert torch.allclose(found, expected, atol=1e-6)
    assert weights.shape == expected_weights.shape


class InAStream(nn.Module):
    """Attention in a residual stream that nothing normalizes, so that its channels can go one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 32), nn.Linear(32, 5)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        out: Tensor = self.head(x + self.attention(x, x, x)[0])
        return out


def test_a_stream_that_alone_gets_narrower_leaves_all_heads() -> None:
    torch.manual_seed(0)
    model, x = InAStream().eval(), torch.randn(2, 7, 6)
    anatomy = inspect(model, x)
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[anatomy.unit_slice(anatomy.group_named("embed"))][:8] = False
    masked = copy.deepcopy(model)
    zero_masked(dict(masked.named_parameters()), masked_axes(anatomy, keep))
    made = cut(model, anatomy, keep, Inputs((x,)))
    assert model.attention.num_heads == 4
    assert tuple(model.attention.in_proj_weight.shape) == (96, 24)
    assert torch.allclose(model(x), masked(x), atol=1e-6)
    made.undo(model)
    assert type(model.attention) is nn.MultiheadAttention
    assert torch.allclose(model(x), masked(x), atol=1e-6)


def test_heads_with_extra_keys_are_left_whole() -> None:
    model, x = SelfAttention(add_bias_kv=True), torch.randn(5, 2, 32)
    anatomy = inspect(model, x)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SurgeryError, match=r"attention cannot be cut.*Leave its heads and its stream whole"):
        cut(model, anatomy, half(anatomy), Inputs((x,)))
    assert type(model.attention) is nn.MultiheadAttention
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["encoder", "encoder-norm-first", "encoder-sequence-first", "encoder-padded"]
)
def test_a_cut_encoder_computes_the_same_with_and_without_gradients(name: str) -> None:
    model, sample, anatomy = ZOO[name].network().eval(), ZOO[name].input(), anatomy_of(name)
    cut(model, anatomy, half(anatomy), probe_of(sample))
    args = probe_of(sample).args
    with torch.no_grad():
        fast = model(*args)
    assert torch.allclose(fast, model(*args), atol=1e-6)
