"""What the tests of the store share: run directories, key rings, a small network in training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.layout import DELETED_PREFIX, TEMPORARY_PREFIX
from esper.checkpoint.references import CheckpointRef
from esper.checkpoint.storage import POSIX, Storage
from esper.checkpoint.store import CheckpointStore

RING = KeyRing.fresh(lambda count: bytes(range(count)))
OTHER_RING = KeyRing.fresh(lambda count: bytes(range(1, count + 1)))


def open_store(
    run_dir: Path,
    *,
    model: str | None = "net",
    keep_last: int = 3,
    storage: Storage = POSIX,
    encrypt_weights: bool = False,
) -> CheckpointStore:
    """A store with fixed keys and a clock that stands still."""
    return CheckpointStore(
        run_dir,
        keyring=RING,
        model=model,
        keep_last=keep_last,
        encrypt_weights=encrypt_weights,
        storage=storage,
        clock=lambda: 1.5,
    )


def content(step: int) -> dict[str, bytes | dict[str, torch.Tensor]]:
    """Two files whose bytes follow from the step."""
    return {
        "note.bin": f"step {step}".encode() * 7,
        "model.safetensors": {"w": torch.full((5, 3), float(step)), "n": torch.tensor(step)},
    }


def holds(checkpoint: CheckpointRef, step: int) -> bool:
    """Whether a checkpoint is that of `content(step)`."""
    return checkpoint.step == step and checkpoint.file("note.bin").read_bytes() == content(step)["note.bin"]


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Flips one bit of a file in place."""
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1 << bit
    path.write_bytes(raw)


def names(directory: Path) -> list[str]:
    """What a directory holds, sorted."""
    return sorted(path.name for path in directory.iterdir())


def debris(run_dir: Path) -> list[str]:
    """Names that an interrupted save or deletion left anywhere in a run directory."""
    return [p.name for p in run_dir.rglob("*") if p.name.startswith((TEMPORARY_PREFIX, DELETED_PREFIX))]


class Training:
    """A network with batch norm, dropout and tied weights that learns noise, one step at a time."""

    def __init__(self, optimizer: str) -> None:
        torch.manual_seed(0)
        random.seed(0)
        tied = torch.nn.Linear(6, 6)
        self.model = torch.nn.Sequential(
            tied, torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Dropout(0.3), tied, torch.nn.Linear(6, 2)
        )
        makers: dict[str, Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]] = {
            "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
            "Adam": lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True),
            "AdamW": lambda p: torch.optim.AdamW(p, 1e-2),
        }
        self.optimizer = makers[optimizer](list(self.model.parameters()))
        self.schedulers = [
            torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [2, 4]),
            torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10),
        ]
        self.data = np.random.default_rng(3)
        self.shuffle = torch.Generator().manual_seed(4)
        self.scaler = torch.amp.GradScaler("cpu")

    @property
    def generators(self) -> dict[str, np.random.Generator | torch.Generator | random.Random]:
        """Those that the steps draw from beside the global ones."""
        return {"data": self.data, "shuffle": self.shuffle}

    def step(self) -> None:
        """One optimizer step; it draws from every source of randomness."""
        x = torch.from_numpy(self.data.standard_normal((8, 6))).float()
        x = x[torch.randperm(8, generator=self.shuffle)] * (1 + random.random())
        self.optimizer.zero_grad()
        loss = self.model(x).square().mean() + torch.rand(())
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for scheduler in self.schedulers:
            scheduler.step()
