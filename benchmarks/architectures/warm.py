"""Imported once before architectures are measured: loads what the first use of the exporter would load."""

import torch
from torch import nn

from architectures import measure, peer
from esper.anatomy.units import inspect

with torch.random.fork_rng():
    inspect(nn.Linear(2, 2), torch.randn(2, 2))

__all__ = ["measure", "peer"]
