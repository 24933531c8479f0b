"""Trainings whose like had not been tried: frozen norms, autoencoders, dilated convolutions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import Adam, AdamW

from esper.cli.demo import ResNet8
from strangers_runs.data import COEFFICIENTS, digits, fashion, spoken
from strangers_runs.run import Batch, Data, Folders, Run, is_right, rows

_SHOWN = 64
"""Digits of a batch that the frozen network has learned from."""


@cache
def _of_digits() -> dict[str, Tensor]:
    """A ResNet-8 that has seen 2,000 digits twice: its tensors by name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        model = ResNet8()
        optimizer = Adam(model.parameters(), 2e-3)
        images, classes = digits().train
        for _ in range(2):
            for part in torch.randperm(len(images)).split(_SHOWN):
                optimizer.zero_grad()
                F.cross_entropy(model(images[part]), classes[part]).backward()
                optimizer.step()
    return model.state_dict()


class FineTuned(nn.Module):
    """A network that has learned digits, frozen but for its last block's convolutions, under a new head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet8()
        self.body.load_state_dict(_of_digits())
        self.body.requires_grad_(False)
        for module in self.body.stage3.modules():
            if isinstance(module, nn.Conv2d):
                module.requires_grad_(True)
        width = self.body.classify.in_features
        self.body.add_module("classify", nn.Identity())
        self.head = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))

    def train(self, mode: bool = True) -> FineTuned:
        """As usual, but the norms stay as they are."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x))
        return scores


def _two_rates(model: nn.Module) -> AdamW:
    body, head = model.get_submodule("body"), model.get_submodule("head")
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    return AdamW([{"params": trained, "lr": 2e-4}, {"params": head.parameters(), "lr": 2e-3}])


def _first(data: Data, count: int) -> Data:
    return replace(data, train=rows(data.train, slice(0, count)))


def frozen_norms(folders: Folders) -> Run:
    return Run(
        about="ResNet-8 that has learned digits, fine-tuned on 3,000 garments with frozen norms, two rates",
        network=FineTuned,
        data=_first(fashion(folders), 3_000),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=_two_rates,
        epochs=10,
        batch=64,
        results=["head.3"],
    )


def _autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 3, 2, 1), nn.InstanceNorm2d(32, affine=True), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(32 * 49, 24), nn.Linear(24, 32 * 49), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def _itself(batch: Batch) -> Batch:
    """Images between -1 and 1, asked for themselves."""
    images = batch[0]
    images = 2 * (images - images.min()) / (images.max() - images.min()) - 1
    return images, images


def autoencoder(folders: Folders) -> Run:
    data = _first(fashion(folders), 3_000)
    return Run(
        about="autoencoder of convolutions with instance norms, 3,000 garments, absolute error, Adam",
        network=_autoencoder,
        data=Data(*map(_itself, (data.train, data.probe, data.test))),
        loss=F.l1_loss,
        score=lambda output, target: (output - target).abs().flatten(1).mean(1),
        metric="mae",
        is_loss=True,
        optimizer=lambda model: Adam(model.parameters(), 2e-3, betas=(0.5, 0.999)),
        epochs=8,
        batch=64,
        results=["13"],
    )


class Dilated(nn.Module):
    """Two dilated causal convolutions whose weights are normalized, and a way around them."""

    def __init__(self, width_in: int, width: int, dilation: int) -> None:
        super().__init__()
        self.padding = 2 * dilation
        self.first = weight_norm(nn.Conv1d(width_in, width, 3, dilation=dilation))
        self.second = weight_norm(nn.Conv1d(width, width, 3, dilation=dilation))
        self.around = nn.Conv1d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(F.relu(self.first(F.pad(x, (self.padding, 0)))), 0.1, self.training)
        y = F.dropout(F.relu(self.second(F.pad(y, (self.padding, 0)))), 0.1, self.training)
        return F.relu(y + self.around(x))


class Causal(nn.Module):
    """What the last frame knows of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Dilated(COEFFICIENTS, 48, 1), Dilated(48, 48, 2), Dilated(48, 64, 4))
        self.classify = nn.Linear(64, 10)

    def forward(self, sounds: Tensor) -> Tensor:
        scores: Tensor = self.classify(self.body(sounds)[:, :, -1])
        return scores


def causal(_: Folders) -> Run:
    return Run(
        about="dilated causal convolutions with weight norm, 2,000 spoken digits, Adam",
        network=Causal,
        data=spoken(),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: Adam(model.parameters(), 2e-3),
        epochs=10,
        results=["classify"],
    )


class Variational(nn.Module):
    """Images as a few numbers and how sure they are, and images drawn from these."""

    def __init__(self, numbers: int = 16) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        self.mean, self.spread = nn.Linear(128, numbers), nn.Linear(128, numbers)
        self.decode = nn.Sequential(
            nn.Linear(numbers, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 784)
        )  # fmt: skip

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encode(images.flatten(1))
        mean, spread = self.mean(hidden), self.spread(hidden)
        drawn = mean + torch.randn_like(mean) * (0.5 * spread).exp() if self.training else mean
        return self.decode(drawn), mean, spread


def _bound(output: Any, target: Tensor) -> Tensor:
    """What each image costs: how ill it is drawn, and how far its numbers are from the usual ones."""
    drawn, mean, spread = output
    ill = F.binary_cross_entropy_with_logits(drawn, target, reduction="none").sum(1)
    bound: Tensor = ill - 0.5 * (1 + spread - mean.square() - spread.exp()).sum(1)
    return bound


def variational(folders: Folders) -> Run:
    def pixels(batch: Batch) -> Batch:
        images = (_itself(batch)[0] + 1) / 2
        return images, images.flatten(1)

    data = _first(fashion(folders), 4_000)
    return Run(
        about="variational autoencoder of linear layers, 4,000 garments, three results and no accuracy, Adam",
        network=Variational,
        data=Data(*map(pixels, (data.train, data.probe, data.test))),
        loss=lambda output, target: _bound(output, target).mean(),
        score=_bound,
        metric="bound",
        is_loss=True,
        optimizer=lambda model: Adam(model.parameters(), 1e-3),
        epochs=12,
        batch=64,
        results=["mean", "spread", "decode.4"],
    )
