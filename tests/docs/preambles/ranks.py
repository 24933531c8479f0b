"""A group of one process, in which a script for several runs as it would alone."""

from pathlib import Path

import torch
from torch import nn

from tests.docs.material import Network, evaluate, loader_of, train

torch.distributed.init_process_group(
    "gloo", init_method=Path("group").absolute().as_uri(), rank=0, world_size=1
)
cleanup.callback(torch.distributed.destroy_process_group)  # type: ignore[name-defined]  # noqa: F821
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
__all__ = ["Network", "criterion", "evaluate", "loader", "train", "val_loader", "x", "y"]
