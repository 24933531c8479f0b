"""Language models of characters, trained on the State of the Union."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from one_run_tasks import SmallGPT, next_character
from strangers_runs.data import speeches
from strangers_runs.run import Folders, Run
from strangers_runs.words import linear_decay

CONTEXT, CHARACTERS = 64, 96


def _of_character(scores: Tensor, following: Tensor) -> Tensor:
    return F.cross_entropy(scores.transpose(1, 2), following, reduction="none")


def gpt(folders: Folders) -> Run:
    return Run(
        about="character GPT (247 k parameters), State of the Union, AdamW, one cycle",
        network=SmallGPT,
        data=speeches(folders, CONTEXT, 2_400),
        loss=next_character,
        score=_of_character,
        metric="nats",
        is_loss=True,
        optimizer=lambda model: AdamW(model.parameters(), weight_decay=1e-2),
        scheduler=lambda optimizer, steps: OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1),
        epochs=6,
        batch=16,
        results=["predict"],
        heads={
            f"blocks.{layer}.attention.{name}": 6 for layer in range(2) for name in ("query", "key", "value")
        },
    )


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=CHARACTERS,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        use_cache=False,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model


def grouped_queries(folders: Folders) -> Run:
    def loss(output: Any, following: Tensor) -> Tensor:
        return next_character(output.logits, following)

    return Run(
        about="decoder with grouped queries (Llama of two layers), State of the Union, AdamW, linear decay",
        network=_llama,
        data=speeches(folders, CONTEXT, 2_400),
        loss=loss,
        score=lambda output, following: _of_character(output.logits, following),
        metric="nats",
        is_loss=True,
        optimizer=lambda model: AdamW(model.parameters(), 3e-3, weight_decay=1e-2),
        scheduler=linear_decay,
        epochs=6,
        batch=16,
        clip=1.0,
        results=["lm_head"],
        heads={
            f"model.layers.{layer}.self_attn.{name}": heads
            for layer in range(2)
            for name, heads in (("q_proj", 8), ("k_proj", 4), ("v_proj", 4))
        },
    )
