"""Prunes a network that two processes train: `torchrun --nproc-per-node 2 examples/many_ranks.py`, seconds.

The loop is the usual one. Every rank makes the same calls, rank 0 decides, and all mask and cut at once.
"""

import gc
import sys
import tempfile

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import esper


def main(run_dir: str) -> None:
    """Trains on 1,200 pictures, half of them on every rank, until half of the FLOPs are gone."""
    torch.manual_seed(0)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    pixels, numbers = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(numbers)
    mine = torch.arange(1200)[rank::ranks]
    model = DistributedDataParallel(
        nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)),
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    run = esper.attach(
        model,
        optimizer,
        loss=nn.functional.cross_entropy,
        sample=(x[:32], y[:32]),
        probe=[(x[1200:1500], y[1200:1500])],
        run_dir=run_dir,  # only rank 0 reads and writes there
        config={"pruning": {"target": {"flops": 0.5}}},
        epochs=8,
        resume=True,
    )
    while run.epoch < 8:
        for chosen in mine[torch.randperm(len(mine))].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
        with torch.no_grad():
            right = model.module(x[1500:]).argmax(1) == y[1500:]
        run.end_epoch(accuracy=float(right.float().mean()))
    result = run.finish()
    print(f"rank {rank}: {sum(p.numel() for p in model.parameters()):,} parameters are left. {result}")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    # The wrapper is gone before the group is: while it lives, gloo's threads live too, and one that lets
    # go of a tensor while Python shuts down aborts the process, with or without Esper.
    gc.collect()
    dist.destroy_process_group()
