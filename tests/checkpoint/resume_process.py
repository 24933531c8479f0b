"""A process of its own for the resume test: loads a run, trains on, and prints what it has become."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from esper.checkpoint import encode, load_trainer, restore_trainer
from esper.checkpoint.tensor_file import tensor_bytes
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


def main(run_dir: str, optimizer: str, num_steps: str) -> None:
    torch.set_num_threads(1)
    training = Training(optimizer)
    with open_store(Path(run_dir)) as store:
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
    for _ in range(int(num_steps)):
        training.step()
    sys.stdout.write(fingerprint(training))


if __name__ == "__main__":
    main(*sys.argv[1:])
