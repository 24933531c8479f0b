"""A training of an epoch that goes on, as language models have it, and a session that it has."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

import esper
from tests.docs.material import Network, loader_of

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
session = esper.attach(
    model, optimizer, loss=criterion, sample=(x, y), probe=val_loader, run_dir="runs/first"
)


def endless() -> Iterator[list[Tensor]]:
    while True:
        yield from loader


stream = islice(endless(), 20)
