"""Small networks with a place for a seed, their data, and training loops over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.kasmina.seeds.growth import Growth
from esper.kasmina.seeds.slot import Slot
from esper.nissa import ListSink

PLACE = "2"
QUICK: Mapping[str, Any] = {
    "train_steps": 3,
    "ramp_steps": 4,
    "shadow_steps": 2,
    "probation_epochs": 1,
    "embargo_epochs": 1,
    "check_every": 4,
    "counterfactual_every": 1,
}
LENIENT: Mapping[str, Any] = {
    **QUICK,
    "significance": 1 - 1e-9,
    "patience_epochs": 1,
    "max_spread": 1e9,
    "max_drift": 1e9,
    "max_shift": 1e9,
    "max_latency": 1e9,
    "max_parameters": 1e9,
}
"""Gates that open for nearly everything."""


def convolutions() -> nn.Sequential:
    """With batch statistics and dropout: what leaks into a host where nobody takes care."""
    first = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout(0.2))
    return nn.Sequential(*first, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(16, 8), nn.GELU(), nn.Dropout(0.1)),
        nn.Linear(8, 8),
        nn.GELU(),
        nn.Linear(8, 3),
    )


class Attention(nn.Module):
    """A transformer layer at the place of the seed."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.blocks = nn.Sequential(nn.Flatten(1, 2), nn.Linear(4, 8), layer)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.blocks(x).mean(1))
        return answer


class Recurrent(nn.Module):
    """A module that keeps a list of its weights beside its parameters, and returns two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.rnn(x.flatten(1, 2))[0].mean(1))
        return answer


def data(count: int = 64) -> tuple[Tensor, Tensor]:
    """Pictures [count, 1, 4, 4] and what is to be told of them."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(count, 1, 4, 4, generator=generator)
    return x, (x.flatten(1)[:, :3] ** 2).argmax(1)


@dataclass
class Loop:
    """A training with a growth, or without: everything that is random in it is fixed.

    Attributes:
        told: what happened.
        batches: numbers of the samples of every step, drawn apart from the global random state.
    """

    model: nn.Module
    settings: Mapping[str, Any] | None = None
    autocast: bool = False
    clip: float = 0.5
    make: Callable[..., Optimizer] = torch.optim.Adam
    blueprints: Mapping[str, Callable[..., nn.Module]] | None = None
    lr: float = 1e-2
    told: ListSink = field(default_factory=ListSink)

    def __post_init__(self) -> None:
        self.x, self.y = data()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = self.make(self.model.parameters(), lr=self.lr)
        self.call: Callable[[Tensor], Tensor] = self.model
        self.batches = torch.Generator().manual_seed(7)
        self.optimizer_steps = 0
        self.growth = None if self.settings is None else self._growth(self.settings)

    def _growth(self, settings: Mapping[str, Any]) -> Growth:
        return Growth(
            self.model,
            self.optimizer,
            loss=self.criterion,
            probe=[(self.x[:32], self.y[:32])],
            blueprints=self.blueprints,
            settings=settings,
            sink=self.told,
        )

    @property
    def grown(self) -> Growth:
        assert self.growth is not None
        return self.growth

    def steps(self, count: int) -> None:
        for _ in range(count):
            chosen = torch.randint(0, 64, (16,), generator=self.batches)
            x, y = self.x[chosen], self.y[chosen]
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                output = self.call(x)
                loss = self.criterion(output, y) if self.growth is None else self.growth.loss(output, y, x)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer_steps += 1

    def until(self, stage: str, path: str = PLACE, epochs: int = 30) -> Slot:
        """Epochs of four steps, until the seed has come to a stage."""
        for _ in range(epochs):
            if self.grown.slots[path].stage.name == stage:
                return self.grown.slots[path]
            self.steps(4)
            if self.grown.slots[path].stage.name == stage:  # there are some that end between epochs
                return self.grown.slots[path]
            self.grown.end_epoch()
        raise AssertionError(f"The seed came to {self.grown.slots[path].stage.name} only.\n{self.grown}")

    def close(self) -> None:
        if self.growth is not None:
            self.growth.detach()


def loop(settings: Mapping[str, Any] | None = LENIENT, make: Any = convolutions, **options: Any) -> Loop:
    """A fresh training, the same every time."""
    torch.manual_seed(0)
    training = Loop(make(), settings, **options)
    torch.manual_seed(1)
    return training


def snapshot(training: Loop) -> dict[str, Tensor]:
    """All of the host that must not know of a seed: weights, buffers, optimizer, random state."""
    names: dict[Tensor, str] = {p: name for name, p in training.model.named_parameters()}
    state = {
        f"{names[p]} {key}": value
        for p, values in training.optimizer.state.items()
        for key, value in values.items()
    }
    return {**training.model.state_dict(), **state, "random": torch.get_rng_state()}


def differing(ones: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> list[str]:
    """Names of what is not the same, bit for bit."""
    assert ones.keys() == others.keys()
    return [name for name, tensor in ones.items() if not torch.equal(tensor, others[name])]
