"""Cuts a network that two processes train: `torchrun --nproc-per-node 2 examples/many_ranks.py`, seconds.

Every rank calls `cut` with the mask of rank 0. All of them cut, with their optimizers, or none does.
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import esper
from esper.anatomy.cut import cut
from esper.anatomy.proof import Inputs
from esper.importance import fisher, moments_from_optimizer

EPOCHS = 6


def main() -> None:
    """Trains, cuts the quarter of the units that the optimizer thinks least of, and trains on."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    pixels, numbers = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(numbers)
    mine = torch.arange(1200)[rank::ranks]  # every rank has pictures of its own
    model = DistributedDataParallel(
        nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)),
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for epoch in range(EPOCHS):
        for chosen in mine[torch.randperm(len(mine))].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
        if epoch == EPOCHS // 2:
            anatomy = esper.inspect(model, (x[:32], y[:32]), loss=nn.functional.cross_entropy)
            keep = torch.ones(anatomy.num_units, dtype=torch.bool)
            moments = moments_from_optimizer(optimizer, dict(model.module.named_parameters()))
            if rank == 0 and moments is not None:
                scores = torch.from_numpy(fisher(anatomy, dict(model.module.named_parameters()), moments))
                keep[scores.argsort()[: len(keep) // 4]] = False
            dist.broadcast(keep, src=0)
            made = cut(model, anatomy, keep.numpy(), Inputs((x[:32],)), (optimizer,))
            print(f"rank {rank}: {made.parameters_before:,} -> {made.parameters_after:,} parameters")
    with torch.no_grad():
        right = (model.module(x[1200:]).argmax(1) == y[1200:]).float().mean()
    print(f"rank {rank}: {right:.1%} of the pictures that nobody trained with are read right")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
