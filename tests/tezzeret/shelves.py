"""Kernels of the blueprints of these tests: orders for them, and a shelf in a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from esper.checkpoint import KERNELS, CheckpointStore, KeyRing, SealedFolder
from esper.tezzeret.order import KernelOrder, maker_of
from esper.tezzeret.settings import KernelSettings
from esper.tezzeret.shelf import KernelShelf
from esper.tezzeret.smith import Tezzeret
from esper.workers import InlinePool, WorkerPool
from tests.tezzeret.makers import MAKERS

RING = KeyRing.fresh()


def order(name: str = "mlp", slot: str = "layers.0", generation: int = 1, **options: Any) -> KernelOrder:
    maker, why = maker_of(name, MAKERS, options)
    assert not why
    return KernelOrder(slot, generation, name, maker, options, (8, 6), number=generation)


def shelf(run: Path, max_kernels: int = 10, max_bytes: int = 1 << 20, ring: KeyRing = RING) -> KernelShelf:
    with CheckpointStore(run, keyring=ring) as store:
        folder = SealedFolder(run / KERNELS, ring, store.identity)
    return KernelShelf(folder, max_kernels, max_bytes)


def smith(run: Path, pool: WorkerPool | None = None, **settings: Any) -> Tezzeret:
    return Tezzeret(shelf(run), InlinePool, KernelSettings(**settings), pool)
