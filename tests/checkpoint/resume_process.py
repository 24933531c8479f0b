"""A process of its own for the resume test: loads runs, trains on, and prints what they have become."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from esper.checkpoint.codec import encode
from esper.checkpoint.tensor_file import tensor_bytes
from esper.checkpoint.trainer_state import load_trainer, restore_trainer
from tests.checkpoint.runs import Training, open_store


def fingerprint(training: Training) -> str:
    """Every bit of model, optimizer, schedulers and what would be drawn next."""
    parts = {
        "model": dict(training.model.state_dict()),
        "optimizer": training.optimizer.state_dict(),
        "schedulers": [scheduler.state_dict() for scheduler in training.schedulers],
        "scaler": training.scaler.state_dict(),
        "next": torch.rand(4),
    }
    encoded = encode(parts)
    return repr(encoded.tree) + "".join(bytes(tensor_bytes(t)).hex() for t in encoded.tensors.values())


def main(runs: str, num_steps: str, *optimizers: str) -> None:
    """Prints one line for each optimizer's run, which lies in the directory of its name."""
    torch.set_num_threads(1)
    for optimizer in optimizers:
        sys.stdout.write(fingerprint(resumed(Path(runs) / optimizer, optimizer, int(num_steps))) + "\n")


def resumed(run_dir: Path, optimizer: str, num_steps: int) -> Training:
    training = Training(optimizer)
    with open_store(run_dir) as store:
        latest = store.latest()
        assert latest is not None
        restore_trainer(
            load_trainer(latest),
            training.model,
            training.optimizer,
            schedulers=training.schedulers,
            scaler=training.scaler,
            generators=training.generators,
        )
    for _ in range(num_steps):
        training.step()
    return training


if __name__ == "__main__":
    main(*sys.argv[1:])
