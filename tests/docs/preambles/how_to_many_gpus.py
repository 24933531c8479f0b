"""A group of one process, and a network in it with an average beside it."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from esper.anatomy import Anatomy
from esper.arrays import BoolArray
from tests.docs.material import Network, loader_of, train

torch.distributed.init_process_group(
    "gloo", init_method=Path("group").absolute().as_uri(), rank=0, world_size=1
)
cleanup.callback(torch.distributed.destroy_process_group)  # type: ignore[name-defined]  # noqa: F821
network = Network()
optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
model = nn.parallel.DistributedDataParallel(network)
train(model, optimizer, loader_of(256, seed=0))
ema = torch.optim.swa_utils.AveragedModel(network)
x, y = next(iter(loader_of(32, seed=1)))


def decide(anatomy: Anatomy) -> BoolArray:
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    keep[:4] = False
    return keep
