"""Rare but real structures: mixers, products of weights, several inputs and outputs, opaque operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.anatomy.networks.case import Case, images, sequences


class Mixer(nn.Module):
    """MLP-Mixer: across tokens and across channels, by transposing."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.tokens = nn.Sequential(nn.Linear(7, 20), nn.GELU(), nn.Linear(20, 7))
        self.channels = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        out: Tensor = self.head(x.mean(1))
        return out


class ConvNeXt(nn.Module):
    """Depthwise convolution, channels last by permute, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.scale, self.head = nn.Parameter(torch.full((16,), 0.1)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.scale * self.down(F.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))))
        out: Tensor = self.head((x + y.permute(0, 3, 1, 2)).mean((-2, -1)))
        return out


class Ghost(nn.Module):
    """A cheap operation makes the second half of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.cheap = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.last = nn.Conv2d(24, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.primary(x))
        out: Tensor = self.last(torch.cat([first, self.cheap(first)], 1))
        return out


class ManyOutputs(nn.Module):
    """A dictionary of outputs; one of them is an inner activation, which therefore stays."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.shown, self.hidden = nn.Linear(8, 24), nn.Linear(24, 16), nn.Linear(24, 20)
        self.one, self.two = nn.Linear(16, 3), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        x = F.relu(self.trunk(x))
        shown = self.shown(x)
        return {"classes": self.one(shown), "more": [self.two(F.relu(self.hidden(x))), shown]}


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = nn.Conv2d(3, 12, 3), nn.Linear(6, 12)
        self.joint, self.last = nn.Linear(24, 16), nn.Linear(16, 2)

    def forward(self, image: Tensor, *, numbers: Tensor) -> Tensor:
        left, right = self.image(image).amax((2, 3)), self.numbers(numbers)
        out: Tensor = self.last(self.joint(torch.cat([left, right], -1)).relu())
        return out


class LowRank(nn.Module):
    """A frozen weight plus a product of two small ones (LoRA, merged on the fly)."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.last = nn.Linear(16, 24), nn.Linear(24, 3)
        self.base.weight.requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(6, 16)), nn.Parameter(torch.randn(24, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.base.weight + self.up @ self.down, self.base.bias)
        out: Tensor = self.last(F.relu(y))
        return out


class Standardized(nn.Module):
    """Weights normalized per filter before they are used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.first.weight
        mean = weight.mean((1, 2, 3), keepdim=True)
        deviation = weight.var((1, 2, 3), keepdim=True)
        x = F.conv2d(x, (weight - mean) / (deviation + 1e-5).sqrt(), self.first.bias)
        out: Tensor = self.last(F.relu(x))
        return out


class WaveNet(nn.Module):
    """Every weight has its length and its direction apart; gated depthwise and pointwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = weight_norm(nn.Conv1d(3, 12, 1)), weight_norm(nn.Conv1d(10, 2, 1))
        self.gated = weight_norm(nn.Conv1d(12, 16, 3, padding=2, dilation=2))
        self.depthwise = weight_norm(nn.Conv1d(8, 8, 3, padding=1, groups=8))
        self.back, self.skip = weight_norm(nn.Conv1d(8, 12, 1)), weight_norm(nn.Conv1d(12, 10, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        left, right = self.gated(x).chunk(2, 1)
        x = x + self.back(F.relu(self.depthwise(left.tanh() * right.sigmoid())))
        out: Tensor = self.last(F.relu(self.skip(x)))
        return out


class FourierLayer(nn.Module):
    """A Fourier neural operator: channels are mixed by complex weights, for a few frequencies only."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.skip = nn.Linear(3, 10), nn.Conv2d(10, 10, 1)
        self.low, self.high = (nn.Parameter(torch.randn(10, 10, 3, 3, 2)) for _ in range(2))
        self.filter = nn.Parameter(torch.randn(10, 8, 5, 2))
        self.up, self.last = nn.Conv2d(10, 16, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x).permute(0, 3, 1, 2)
        spectrum = torch.fft.rfft2(x)
        mixed = torch.zeros_like(spectrum)
        low, high = torch.view_as_complex(self.low), torch.view_as_complex(self.high)
        mixed[:, :, :3, :3] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :3, :3], low)
        mixed[:, :, -3:, :3] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -3:, :3], high)
        x = F.gelu(torch.fft.irfft2(mixed, s=x.shape[-2:]) + self.skip(x))
        filtered = torch.fft.rfftn(x, dim=(-2, -1)) * torch.view_as_complex(self.filter)
        x = x + torch.fft.irfft(torch.fft.ifft(filtered, dim=-2), n=8)
        out: Tensor = self.last(F.gelu(self.up(x)))
        return out


class Folded(nn.Module):
    """Overlapping patches are made, weighed and added up again."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.patches = nn.Linear(12, 24), nn.Linear(24, 8 * 9)
        self.values, self.last = nn.Conv2d(8, 10, 1), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        made = self.patches(F.relu(self.embed(x))).transpose(1, 2)
        x = self.values(F.relu(F.fold(made, (6, 6), 3, padding=1)))
        x = F.fold(F.unfold(x, 3, padding=1) * 0.5, (6, 6), 3, padding=1)
        out: Tensor = self.last(F.relu(x))
        return out


class Polyphase(nn.Module):
    """Four images, each made by its own convolution, are written between each other's pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.right = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 1)
        self.below, self.last = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.trunk(x))
        y = x.new_zeros(x.shape[0], x.shape[1], 2 * x.shape[2], 2 * x.shape[3])
        y[:, :, ::2, ::2] = x
        y[:, :, ::2, 1::2] = self.right(x)
        y[..., 1::2, ::2] = self.below(x)
        out: Tensor = self.last(F.relu(y))
        return out


def spectral_normed() -> nn.Module:
    return nn.Sequential(
        spectral_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2)
    )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.lstm, self.after = (
            nn.Linear(8, 10),
            nn.LSTM(10, 12, batch_first=True),
            nn.Linear(12, 16),
        )
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.before(x))
        out: Tensor = self.last(F.relu(self.after(y)))
        return out


@library.custom_op("esper_tests::linear", mutates_args=())
def opaque(x: Tensor, weight: Tensor) -> Tensor:
    """Named like an operator that everybody knows, and something else."""
    return x.flip(-1) @ weight.t()


@opaque.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    return (gradient @ weight).flip(-1), gradient.flatten(0, -2).t() @ x.flip(-1).flatten(0, -2)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


opaque.register_autograd(_backward, setup_context=_keep)


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.after = (
            nn.Linear(8, 10),
            nn.Parameter(torch.randn(12, 10)),
            nn.Linear(12, 16),
        )
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = opaque(self.first(x), self.middle)
        out: Tensor = self.last(F.relu(self.after(y)))
        return out


class Rolled(nn.Module):
    """Temporal shift: a few channels move along the batch, and others are picked by number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 12), nn.Linear(12, 10), nn.Linear(11, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(F.relu(y.roll(1, -1)))
        out: Tensor = self.last(torch.cat([F.relu(z), y[..., 3:4]], -1))
        return out


class Cells(nn.Module):
    """A gated recurrent cell written out: four gates by chunk, state carried through a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.states, self.last = (
            nn.Linear(8, 48),
            nn.Linear(12, 48, bias=False),
            nn.Linear(12, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        state = cell = F.relu(self.inputs(x[:, 0])).chunk(4, -1)[0]
        for step in range(x.shape[1]):
            i, f, g, o = (self.inputs(x[:, step]) + self.states(state)).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            state = o.sigmoid() * cell.tanh()
        out: Tensor = self.last(state)
        return out


class Experts(nn.Module):
    """Soft mixture of experts with stacked weights."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 8, 20)), nn.Parameter(torch.randn(3, 20, 6))
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        y = torch.einsum("ebh,eho->ebo", torch.einsum("bi,eih->ebh", x, self.up).relu(), self.down)
        out: Tensor = self.last(F.relu(torch.einsum("be,ebo->bo", weights, y)))
        return out


class Upsampled(nn.Module):
    """Two resolutions added and concatenated after resizing (a feature pyramid)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, 2, 1)
        self.lateral, self.last = nn.Conv2d(8, 12, 1), nn.Conv2d(24, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.fine(x))
        coarse = F.relu(self.coarse(fine))
        wide = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")
        out: Tensor = self.last(torch.cat([F.relu(self.lateral(fine) + wide), wide], 1))
        return out


UNUSUAL = {
    "mixer": Case(Mixer, sequences(), groups=2),
    "convnext": Case(ConvNeXt, images(), groups=1),
    "ghost": Case(Ghost, images(), groups=1),
    "many-outputs": Case(ManyOutputs, lambda: torch.randn(2, 8), groups=2),
    "two-inputs": Case(
        TwoInputs, lambda: {"image": torch.randn(2, 3, 8, 8), "numbers": torch.randn(2, 6)}, groups=3
    ),
    "low-rank": Case(LowRank, lambda: torch.randn(2, 16), groups=2),
    "standardized-weights": Case(Standardized, images(), groups=1),
    "wavenet": Case(WaveNet, lambda: torch.randn(2, 3, 12), groups=3),
    "fourier-layer": Case(FourierLayer, lambda: torch.randn(2, 8, 8, 3), groups=2),
    "folded": Case(Folded, lambda: torch.randn(2, 36, 12), groups=3),
    "polyphase": Case(Polyphase, images(size=6), groups=1),
    "spectral-norm": Case(spectral_normed, lambda: torch.randn(2, 8), groups=2),
    "lstm": Case(Recurrent, lambda: torch.randn(2, 5, 8), groups=3),
    "opaque-operator": Case(Opaque, lambda: torch.randn(2, 8), groups=1, frozen_by=("esper_tests::linear",)),
    "rolled": Case(Rolled, lambda: torch.randn(2, 8), groups=1, frozen_by=("roll",)),
    "gated-cells": Case(Cells, lambda: torch.randn(2, 4, 8), groups=1),
    "experts": Case(Experts, lambda: torch.randn(2, 8), groups=2),
    "feature-pyramid": Case(Upsampled, images(), groups=2),
}
