"""A training of a few epochs."""

import torch
from torch import nn

import esper
from tests.docs.material import Network, evaluate, loader_of, train

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
epochs = 3


def train_and_finish(session: esper.Session) -> None:
    for _ in range(epochs):
        train(model, optimizer, loader)
        session.end_epoch(accuracy=evaluate(model))
    session.finish()
