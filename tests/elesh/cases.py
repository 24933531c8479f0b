"""A real checkpoint of a small trained network, and what workers are told about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from esper.batches import HeldOut
from esper.checkpoint import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    TREE_FILE,
    CheckpointRef,
    CheckpointStore,
    KeyRing,
    PosixStorage,
    Storage,
    capture_trainer,
    file_pieces,
)
from esper.elesh.case import Case, DataRef, encode_data
from esper.leyline import encode

RING = KeyRing.fresh(lambda count: bytes(range(count)))


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs [count, 8]; the target is which of the first four is largest."""
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :4].argmax(1)


def network() -> nn.Module:
    """48 units in two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), 0.01)


@dataclass(frozen=True)
class Saved:
    """A checkpoint in a store, with the network it is of."""

    store: CheckpointStore
    checkpoint: CheckpointRef
    model: nn.Module
    anatomy: Anatomy
    held_out: HeldOut
    case: Case


def saved(
    run_dir: Path,
    *,
    build: Callable[[], nn.Module] = network,
    optimizer: Callable[[nn.Module], Optimizer] = adamw,
    steps: int = 60,
    held_out: HeldOut | None = None,
    sample: Any = None,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    tracked: tuple[float, ...] | None = None,
    masked: Sequence[int] = (),
    storage: Storage = PosixStorage(),  # noqa: B008 - it holds nothing
) -> Saved:
    """Trains a little, saves, and describes the checkpoint for workers."""
    model = build()
    trained = optimizer(model)
    for step in range(steps):
        x, y = examples(32, step)
        trained.zero_grad()
        loss(model(x), y).backward()
        trained.step()
    kept = held_out or HeldOut(
        tuple(examples(16, 100 + n) for n in range(4)), tuple(examples(40, 200 + n) for n in range(3))
    )
    given = sample or examples(4, 0)
    traced = trace(model, given, loss)
    anatomy = anatomy_of(traced, model)
    store = CheckpointStore(run_dir, keyring=RING, model="net", storage=storage, clock=lambda: 1.5)
    tree, tensors = encode_data(given, kept)
    blobs = {
        "twin": store.put_blob("twin", Twin.of(traced).to_bytes()),
        "batches": store.put_blob("batches", tree),
        "samples": store.put_blob("samples", b"".join(file_pieces(tensors))),
    }
    names = {"parameter_names": [name for name, _ in model.named_parameters()]}
    state = capture_trainer(model, trained, step=max(steps, 1), epoch=1, extra=names)
    files = {**state.files(), "anatomy.json": json.dumps(encode(anatomy)).encode()}
    checkpoint = store.save(max(steps, 1), 1, files, blobs=blobs)
    case = Case(
        twin=blobs["twin"],
        anatomy=checkpoint.file("anatomy.json"),
        model=checkpoint.file(MODEL_FILE),
        optimizer=DataRef(checkpoint.file(TREE_FILE), checkpoint.file(OPTIMIZER_FILE)),
        tracked=tracked,
        data=DataRef(blobs["batches"], blobs["samples"]),
        masked=tuple(masked),
    )
    return Saved(store, checkpoint, model, anatomy, kept, case)
