"""Networks to cut at once, with data to choose and to judge by."""

import numpy as np
import torch
from torch import nn

import esper
from esper.arrays import BoolArray
from tests.docs.material import Network, loader_of, train

loss = criterion = nn.CrossEntropyLoss()
batches = list(loader_of(256, seed=1))
unlabeled = [inputs for inputs, _ in batches]
x, y = batches[0]


def anew() -> tuple[nn.Module, BoolArray]:
    network = Network()
    train(network, torch.optim.AdamW(network.parameters(), 3e-3), loader_of(256, seed=0))
    mask = np.ones(esper.inspect(network, x).num_units, dtype=np.bool_)
    mask[:4] = False
    return network, mask


model, keep = anew()
