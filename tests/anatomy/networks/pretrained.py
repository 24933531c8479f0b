"""Architectures of the transformers library, tiny and with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.anatomy.networks.case import Case


def _numbers(**more: Any) -> Any:
    return lambda: {"input_ids": torch.randint(0, 100, (2, 12)), **more}


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=100,
        max_position_embeddings=32,
    )
    model: nn.Module = BertForSequenceClassification(config)
    return model


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=100,
        max_position_embeddings=64,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=32, n_layer=1, n_head=4, vocab_size=100, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    model: nn.Module = GPT2LMHeadModel(config)
    return model


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=4,
        vocab_size=100,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
    )
    model: nn.Module = T5ForConditionalGeneration(config)
    return model


PRETRAINED = {
    "bert": Case(bert, _numbers(attention_mask=torch.ones(2, 12, dtype=torch.long)), groups=3, heads=1),
    "llama": Case(llama, _numbers(use_cache=False), groups=2, heads=1),
    "gpt2": Case(gpt2, _numbers(use_cache=False), groups=2, heads=1),
    "t5": Case(
        t5, _numbers(decoder_input_ids=torch.randint(0, 100, (2, 6)), use_cache=False), groups=5, heads=3
    ),
}
