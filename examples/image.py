"""Prunes a small image network while it trains: `python examples/image.py [run_dir]`, about a minute.

The images are made up: the class is the quarter of the picture that holds a blob.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import esper

EPOCHS = 12


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures [count, 1, 16, 16] and the number of the quarter with the blob."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 1, 16, 16, generator=generator)
    quarter = torch.randint(4, (count,), generator=generator)
    for number in range(4):
        row, column = 8 * (number // 2), 8 * (number % 2)
        pixels[quarter == number, :, row + 2 : row + 6, column + 2 : column + 6] += 1.0
    return pixels, quarter


def main(run_dir: Path) -> None:
    """Trains and prunes; a run that was interrupted goes on."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 4)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    criterion = nn.CrossEntropyLoss()
    train = torch.utils.data.TensorDataset(*images(2048, seed=1))
    loader = torch.utils.data.DataLoader(train, batch_size=32, shuffle=True)
    held_out = torch.utils.data.TensorDataset(*images(1536, seed=2))
    probe = torch.utils.data.DataLoader(held_out, batch_size=64)

    config = esper.Config(pruning={"target": {"flops": 0.5}})
    session = esper.attach(
        model,
        optimizer,
        loss=criterion,
        sample=next(iter(probe)),
        probe=probe,
        run_dir=run_dir,
        config=config,
        epochs=EPOCHS,
        resume=True,
    )
    while session.epoch < EPOCHS:
        for inputs, targets in loader:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        session.end_epoch(accuracy=accuracy(model, images(1024, seed=3)))
    result = session.finish()

    report = result.report
    last = report.values[max(report.values)]
    print(f"FLOPs {report.flops_before:,.0f} -> {report.flops_after:,.0f}")
    print(f"accuracy {last:.1%}: {report.quality_source}")
    print(f"Where it was cut, and the proof: {result.report_path}")


def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        share = float((model(data[0]).argmax(1) == data[1]).float().mean())
    model.train()
    return share


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="esper-image-")))
