"""Three trained networks, what their training left behind, and two sets of data nobody trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from esper.cli.demo import ResNet8, Split, load_digits
from esper.importance import ImportanceSettings
from esper.importance.tracker import ImportanceTracker
from pretrained_networks import CASES

Batch = tuple[Any, Any]
_BATCH = 32
_TRAINED, _SEEN, _EPOCHS = 2_000, 512, 8
"""Of 5,000 digits: to train on, and for the analysis. All others are for the truth."""
_LENGTH, _READ = 65, 1000
"""Characters of a sample, and steps of training on text."""


@dataclass(frozen=True)
class Subject:
    """A trained network with what its training left behind.

    Attributes:
        seen: held-out batches that an analysis may look at.
        unseen: further ones, which only the truth is measured on.
        heads: projections of attention and their number of heads, for the peer.
        quality: one line on how good it is.
    """

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    optimizer: Optimizer
    tracker: ImportanceTracker
    anatomy: Anatomy
    twin: Twin
    seen: Sequence[Batch]
    unseen: Sequence[Batch]
    quality: str
    heads: Mapping[nn.Module, int] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Tensor]:
        named = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return {name: tensor.detach() for name, tensor in named.items()}


def convolutional() -> Subject:
    """The demo's ResNet-8, trained on 2,000 digits with the demo's loss."""
    digits = load_digits(0)
    images = torch.cat([digits.train.images, digits.probe.images, digits.test.images])
    labels = torch.cat([digits.train.labels, digits.probe.labels, digits.test.labels])
    sizes = [_TRAINED, _SEEN, len(labels) - _TRAINED - _SEEN]
    train, seen, unseen = (
        Split(*part) for part in zip(images.split(sizes), labels.split(sizes), strict=True)
    )
    model = ResNet8()
    steps = _EPOCHS * (_TRAINED // _BATCH)
    optimizer = AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    subject = _watched(model, smoothed_cross_entropy, optimizer, seen.batches(_BATCH), unseen.batches(_BATCH))
    model.train()
    for epoch in range(_EPOCHS):
        order = torch.randperm(_TRAINED, generator=torch.Generator().manual_seed(epoch))
        for inputs, targets in train.batches(_BATCH, order)[: _TRAINED // _BATCH]:
            optimizer.zero_grad()
            smoothed_cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        hits = torch.cat([model(inputs).argmax(1) == targets for inputs, targets in unseen.batches(250)])
    return replace(subject, quality=f"accuracy {float(hits.float().mean()):.3f}")


def transformer() -> Subject:
    """A decoder of two layers that has read the source of Python's library, character by character."""
    text = source_text()
    parts = text[: len(text) // _LENGTH * _LENGTH].unflatten(0, (-1, _LENGTH))
    parts = parts[torch.randperm(len(parts), generator=torch.Generator().manual_seed(0))]
    unseen, seen, train = parts.split([2048, 256, len(parts) - 2048 - 256])
    model = Decoder()
    attends = [module for module in model.modules() if isinstance(module, Attend)]
    heads: dict[nn.Module, int] = {layer: a.heads for a in attends for layer in (a.q, a.k, a.v)}
    optimizer = AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=_READ, pct_start=0.1)
    subject = _watched(model, next_character, optimizer, _shifted(seen), _shifted(unseen), heads)
    for inputs, targets in _shifted(train[: _READ * _BATCH]):
        optimizer.zero_grad()
        next_character(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        losses = [next_character(model(inputs), targets) for inputs, targets in subject.unseen]
    return replace(subject, quality=f"{float(torch.stack(losses).mean()):.3f} nats a character")


def pretrained() -> Subject:
    """CREPE tiny as it was published; its moments come from 64 steps at learning rate zero."""
    case = CASES["crepe-tiny"]()
    (quality,) = case.quality(case.model).items()
    subject = _watched(
        case.model,
        case.loss,
        AdamW(case.model.parameters(), lr=0.0, weight_decay=0.0),
        seen=_resized(case.batches[:8], _BATCH),
        unseen=_resized(case.batches[16:], _BATCH),
    )
    for inputs, targets in _resized(case.batches[8:16], 8):
        subject.optimizer.zero_grad()
        case.loss(case.model(inputs), targets).backward()
        subject.optimizer.step()
    return replace(subject, quality=f"{quality[0]} {quality[1]:.3f}")


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "conv": convolutional,
    "transformer": transformer,
    "pretrained": pretrained,
}


def smoothed_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(scores, labels, label_smoothing=0.1)


def _watched(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    optimizer: Optimizer,
    seen: Sequence[Batch],
    unseen: Sequence[Batch],
    heads: Mapping[nn.Module, int] | None = None,
) -> Subject:
    traced = trace(model, seen[0], loss)
    anatomy = anatomy_of(traced, model)
    settings = ImportanceSettings(stride=2, min_importance_samples=1, min_sampled_steps=2)
    tracker = ImportanceTracker(anatomy, dict(model.named_parameters()), optimizer, settings)
    twin = Twin.of(traced)
    return Subject(model, loss, optimizer, tracker, anatomy, twin, seen, unseen, "", heads or {})


def _resized(batches: Sequence[Batch], size: int) -> list[Batch]:
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def source_text() -> Tensor:
    """The modules of Python's own library as numbers below 128, which every machine has."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    raw = b"".join(file.read_bytes() for file in files)
    return torch.frombuffer(bytearray(byte for byte in raw if byte < 128), dtype=torch.uint8).long()


def next_character(scores: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten())


def _shifted(parts: Tensor) -> list[Batch]:
    return [(part[:, :-1], part[:, 1:]) for part in parts.split(_BATCH)]


class Attend(nn.Module):
    """Causal attention and two linear layers, both with a residual path."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (
            layer(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class Decoder(nn.Module):
    """Two layers over characters."""

    def __init__(self, width: int = 64, heads: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, width)
        self.place = nn.Parameter(torch.randn(_LENGTH - 1, width) * 0.02)
        self.blocks = nn.ModuleList([Attend(width, heads) for _ in range(layers)])
        self.norm, self.predict = nn.LayerNorm(width), nn.Linear(width, 128)

    def forward(self, characters: Tensor) -> Tensor:
        x = self.embed(characters) + self.place
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.predict(self.norm(x))
        return scores
