"""Trainings that Esper refused, or cut nothing of, until they were met: each for another reason."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW

from one_run_tasks import next_character
from strangers_runs.data import COEFFICIENTS, digits, speeches, spoken
from strangers_runs.decoders import CHARACTERS, CONTEXT
from strangers_runs.run import Batch, Data, Folders, Run, parts

_CANVAS, _DIGIT = 40, 28
_WIDTH = 64
_ALIKE = 0.2
"""Temperature of the similarities of views."""


def _conv(ins: int, outs: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.SiLU())


class Detector(nn.Module):
    """A feature pyramid of two levels with one head for both, and so one norm that runs twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine, self.coarse = _conv(1, 16, 2), _conv(16, 32, 2), _conv(32, 64, 2)
        self.from_fine, self.from_coarse = nn.Conv2d(32, 32, 1), nn.Conv2d(64, 32, 1)
        self.head = nn.Sequential(_conv(32, 32, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.place, self.kind = nn.Linear(256, 2), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.stem(x))
        coarse = self.from_coarse(self.coarse(fine))
        both = self.from_fine(fine) + F.interpolate(coarse, size=fine.shape[-2:])
        seen = torch.cat([self.head(both), self.head(coarse)], 1)
        return {"place": self.place(seen), "kind": self.kind(seen)}


@cache
def _placed() -> Data:
    """Digits, each somewhere on a larger canvas; where it is (0 to 1), and which one."""
    generator = torch.Generator().manual_seed(5)
    return Data(*(_somewhere(part, generator) for part in (digits().train, digits().probe, digits().test)))


def _somewhere(batch: Batch, generator: torch.Generator) -> Batch:
    images, kinds = batch
    room = _CANVAS - _DIGIT
    places = torch.randint(room + 1, (len(images), 2), generator=generator)
    canvas = torch.full((len(images), 1, _CANVAS, _CANVAS), float(images.min()))
    for one, image, (top, left) in zip(canvas, images, places.tolist(), strict=True):
        one[:, top : top + _DIGIT, left : left + _DIGIT] = image
    return canvas, {"place": places.float() / room, "kind": kinds}


def _found(output: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    return _of_each(output, target).mean()


def _of_each(output: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    far = F.smooth_l1_loss(output["place"], target["place"], reduction="none").mean(1)
    return 10 * far + F.cross_entropy(output["kind"], target["kind"], reduction="none")


def detector(_: Folders) -> Run:
    return Run(
        about="detector with one head for two levels of a feature pyramid, digits on a canvas, two losses",
        network=Detector,
        data=_placed(),
        loss=_found,
        score=_of_each,
        metric="loss",
        is_loss=True,
        optimizer=lambda model: AdamW(model.parameters(), 2e-3),
        epochs=12,
        batch=64,
        results=["place", "kind"],
    )


class OfTorch(nn.Module):
    """A language model as torch's tutorial has it: its own encoder, and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(CHARACTERS, _WIDTH), nn.Embedding(CONTEXT, _WIDTH)
        layer = nn.TransformerEncoderLayer(
            _WIDTH, 4, 4 * _WIDTH, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.predict = nn.Linear(_WIDTH, CHARACTERS)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.embed(x) + self.place(torch.arange(x.shape[1]))
        scores: Tensor = self.predict(self.layers(seen, mask=self.mask))
        return scores


def of_torch(folders: Folders) -> Run:
    return Run(
        about="character model of torch's TransformerEncoder with a causal mask, State of the Union, AdamW",
        network=OfTorch,
        data=speeches(folders, CONTEXT, 2_400),
        loss=next_character,
        score=lambda scores, following: F.cross_entropy(scores.transpose(1, 2), following, reduction="none"),
        metric="nats",
        is_loss=True,
        optimizer=lambda model: AdamW(model.parameters(), 2e-3, weight_decay=1e-2),
        epochs=6,
        batch=16,
        results=["predict"],
        heads={f"layers.layers.{layer}.self_attn": 4 for layer in range(2)},
        round_to=8,
    )


class Views(nn.Module):
    """Two views of a spoken digit, each as a vector of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(COEFFICIENTS, 48, 5, padding=2), nn.ReLU(), nn.Conv1d(48, 64, 5, 2, 2), nn.ReLU(),
            nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 32),
        )  # fmt: skip

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.body(one), dim=1), F.normalize(self.body(other), dim=1)


def _likeness(output: tuple[Tensor, Tensor], _: Any) -> Tensor:
    return output[0] @ output[1].T / _ALIKE


def _own(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(_likeness(output, target), torch.arange(len(target)))


@cache
def _views() -> Data:
    """Spoken digits, each with noise and a shift of its own in two ways."""
    generator = torch.Generator().manual_seed(5)
    sounds = torch.cat([part[0] for part in (spoken().train, spoken().probe, spoken().test)])
    classes = torch.cat([part[1] for part in (spoken().train, spoken().probe, spoken().test)])

    def view() -> Tensor:
        shifts = torch.randint(-3, 4, (len(sounds),), generator=generator).tolist()
        moved = torch.stack([torch.roll(x, shift, 1) for x, shift in zip(sounds, shifts, strict=True)])
        return moved + 0.3 * torch.randn(moved.shape, generator=generator)

    return Data(*parts(((view(), view()), classes), 1_984, 320, 640))


def pairs(_: Folders) -> Run:
    return Run(
        about="two views of a spoken digit, told from those of the others in the batch (contrastive), Adam",
        network=Views,
        data=_views(),
        loss=_own,
        score=lambda output, target: F.cross_entropy(
            _likeness(output, target), torch.arange(len(target)), reduction="none"
        ),
        metric="loss",
        is_loss=True,
        optimizer=lambda model: Adam(model.parameters(), 1e-3),
        epochs=12,
        batch=64,
        results=["body.8"],
    )
