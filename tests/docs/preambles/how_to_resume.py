"""A run that has begun and was interrupted, and the parts to go on with."""

import torch
from torch import nn

import esper
from tests.docs.material import Network, evaluate, loader_of, train

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
config = esper.Config(pruning={"target": {"flops": 0.5}})
epochs = 4
begun = esper.attach(
    model,
    optimizer,
    loss=criterion,
    sample=(x, y),
    probe=val_loader,
    run_dir="runs/first",
    config=config,
    epochs=epochs,
    scheduler=scheduler,
)
train(model, optimizer, loader)
begun.end_epoch(accuracy=evaluate(model))
begun.detach()
model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
