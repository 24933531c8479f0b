"""A task that small networks learn in seconds: which of the first four inputs is largest in size."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

EPOCHS, BATCH, SAMPLES = 10, 32, 384


def settings(**changes: Any) -> dict[str, Any]:
    """Analyzed in this process, the same in every run."""
    given: dict[str, Any] = {
        "pruning": {"budget": {"compute_fraction": None}},
        "analysis": {"workers": 0, "min_optimizer_steps": 1, "max_wait_seconds": 60.0},
        "validation": {"limits": {"channel": 0.5}, "min_retention": 0.01},
        "importance": {"stride": 1, "min_importance_samples": 0, "min_sampled_steps": 1},
    }
    for section, values in changes.items():
        given[section] = {**given.get(section, {}), **values}
    return given


class Vectors(Dataset[dict[str, Tensor]]):
    """Inputs [8] and labels, as mappings."""

    def __init__(self, seed: int, count: int = SAMPLES) -> None:
        self.inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
        self.labels = self.inputs[:, :4].abs().argmax(1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class Stream(IterableDataset[dict[str, Tensor]]):
    """The same without an end or a length."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        data = Vectors(0)
        while True:
            yield from (data[index] for index in range(len(data)))


class Network(nn.Module):
    """Gives a loss and logits, as networks of transformers do."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(8, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
        )

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Mapping[str, Tensor]:
        logits = self.layers(inputs)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def accuracy(network: nn.Module) -> float:
    """Share of right answers on data that nobody has seen."""
    data = Vectors(2)
    network.eval()
    with torch.no_grad():
        logits = network(inputs=data.inputs)["logits"]
    network.train()
    return float((logits.argmax(1) == data.labels).float().mean())


def killed(train: Callable[[], object]) -> None:
    """Runs a training in a copy of this process, which is killed by what it runs into."""
    child = os.fork()
    if child == 0:
        try:
            train()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether every bit is the same."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
