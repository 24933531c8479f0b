"""Imported once before architectures are measured: what the first use of the exporter would load is loaded."""

from torch import nn

import torch
from architectures import measure, peer
from esper.anatomy import inspect

with torch.random.fork_rng():
    inspect(nn.Linear(2, 2), torch.randn(2, 2))

__all__ = ["measure", "peer"]
