"""A network and batches for the loop."""

import torch

from tests.docs.material import Network, loader_of

__all__ = ["model", "torch", "train_loader", "val_loader"]

model = Network()
train_loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
