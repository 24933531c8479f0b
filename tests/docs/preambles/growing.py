"""A network that grows; every part of the page has a new one."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import esper
from tests.docs.material import Network, loader_of

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
batch, held_out = (x, y), list(val_loader)
epochs, step, epoch = 5, 40, 5
run_dir = Path("runs/by-hand")


def anew(
    blueprints: dict[str, Callable[..., nn.Module]],
) -> tuple[nn.Module, torch.optim.Optimizer, esper.Growth]:
    network = Network()
    adam = torch.optim.AdamW(network.parameters(), 3e-3)
    return network, adam, esper.Growth(network, adam, loss=criterion, probe=held_out, blueprints=blueprints)
