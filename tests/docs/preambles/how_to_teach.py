"""A small network, and a file with the weights of a better one."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.docs.material import Network, loader_of, train
from tests.docs.material import Network as BigNetwork

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
batch, held_out, epochs = (x, y), list(val_loader), 2
big = BigNetwork()
train(big, torch.optim.AdamW(big.parameters(), 3e-3), loader)
Path("runs/big").mkdir(parents=True)
save_file(big.state_dict(), "runs/big/model.safetensors")
