"""What kind of thing a noun names, told from its gloss in WordNet: encoders, own ones and BERT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from strangers_runs.data import CLASSES, LENGTH, PADDING, WORDS, glosses
from strangers_runs.run import Data, Folders, Run, is_right


class Encoder(nn.Module):
    """Embeddings, torch's own encoder layers, and the mean over words."""

    def __init__(self, *, norm_first: bool, width: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width, padding_idx=PADDING)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classify = nn.Linear(width, CLASSES)

    def forward(self, numbers: Tensor) -> Tensor:
        states = self.encoder(self.words(numbers) + self.places)
        shown = (numbers != PADDING)[:, :, None].to(states.dtype)
        scores: Tensor = self.classify((states * shown).sum(1) / shown.sum(1).clamp(min=1))
        return scores


def post_norm(_: Folders) -> Run:
    return Run(
        about="post-norm transformer encoder of two layers, 6,000 glosses, AdamW, one cycle",
        network=lambda: Encoder(norm_first=False),
        data=glosses(),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: AdamW(model.parameters(), weight_decay=1e-2),
        scheduler=lambda optimizer, steps: OneCycleLR(optimizer, 2e-3, total_steps=steps),
        epochs=8,
        results=["classify"],
        round_to=4,
    )


def pre_norm(folders: Folders) -> Run:
    return replace(
        post_norm(folders),
        about="pre-norm transformer encoder of two layers, 6,000 glosses, AdamW, one cycle",
        network=lambda: Encoder(norm_first=True),
    )


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=LENGTH,
        num_labels=CLASSES,
        pad_token_id=PADDING,
    )
    model: nn.Module = BertForSequenceClassification(config)
    return model


def _by_keyword(data: Data) -> Data:
    def named(batch: Any) -> Any:
        numbers, kinds = batch
        return {"input_ids": numbers, "attention_mask": (numbers != PADDING).long()}, kinds

    return Data(named(data.train), named(data.probe), named(data.test))


def linear_decay(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Up during a tenth of the steps, then down to nothing, as language models are trained."""
    warm = max(1, steps // 10)
    return LambdaLR(optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / (steps - warm))))


def bert(_: Folders) -> Run:
    return Run(
        about="BERT of two layers from its configuration, 6,000 glosses, AdamW, linear decay",
        network=_bert,
        data=_by_keyword(glosses()),
        loss=lambda output, target: F.cross_entropy(output.logits, target),
        score=lambda output, target: is_right(output.logits, target),
        optimizer=lambda model: AdamW(model.parameters(), 1e-3, weight_decay=1e-2),
        scheduler=linear_decay,
        epochs=6,
        target=0.3,
        results=["classifier"],
        heads={
            f"bert.encoder.layer.{layer}.attention.self.{name}": 4
            for layer in range(2)
            for name in ("query", "key", "value")
        },
    )
