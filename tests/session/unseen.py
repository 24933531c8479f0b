"""Three networks that Esper has never seen, with the loss and the metric that fit them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SmallCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.second(x)) + x
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 48), nn.GELU(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class SmallTransformer(nn.Module):
    """One block with fused QKV; its output is a mapping."""

    def __init__(self, width: int = 32, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(4, width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 64), nn.Linear(64, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.embed(x.flatten(1).unflatten(1, (4, 4)))
        batch, length, _ = hidden.shape
        q, k, v = self.qkv(self.norm_1(hidden)).chunk(3, dim=-1)
        q, k, v = (t.view(batch, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, -1)
        hidden = hidden + self.out(mixed)
        hidden = hidden + self.down(F.gelu(self.up(self.norm_2(hidden))))
        return {"logits": self.head(hidden.mean(1)), "hidden": hidden}


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    return F.cross_entropy(output["logits"] if isinstance(output, dict) else output, target)


def logits(output: Any) -> Tensor:
    return output["logits"] if isinstance(output, dict) else output  # type: ignore[no-any-return]  # one or the other


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [count, 1, 4, 4]; the target is the quarter whose sum is largest."""
    pixels = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return pixels, F.avg_pool2d(pixels, 2).flatten(1).argmax(1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn": SmallCNN,
    "mlp": Perceptron,
    "transformer": SmallTransformer,
}
