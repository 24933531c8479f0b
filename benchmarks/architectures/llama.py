"""A language model of TinyLlama's shape, without weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def llama(layers: int) -> tuple[nn.Module, Tensor]:
    """The network on the meta device (1.1 billion parameters with 22 layers), and token numbers for it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=32000,
        max_position_embeddings=2048,
        use_cache=False,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config), torch.zeros(2, 16, dtype=torch.long)
