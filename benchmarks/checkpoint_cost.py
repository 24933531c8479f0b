"""What a checkpoint costs: stall, durable save, verify, restore; beside torch.save with and without fsync.

Usage: python benchmarks/checkpoint_cost.py [--megabytes 500] [--repeats 5] [--directory DIR]

Prints best and median of the repeats in seconds for 10^9 bytes; the best is held against the target, as the
targets were set from best-of-n. All take turns, so that they see the same machine. Two floors tell what
that machine can do at this moment: a plain copy of the tensors, and writing their bytes with one fsync and
no digest. Before each write the same amount is written and removed, because a virtual machine is slow to
give memory to a page cache that grows, and whoever comes first would pay for it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from esper.checkpoint import BackgroundSaver, CheckpointRef, CheckpointStore, KeyRing, load_tensors

SIDE = 1000
WRITE_FLOOR = "floor: write the bytes + fsync"
COPY_FLOOR = "floor: plain copy of the tensors"
PEER = "torch.save + fsync of the file"
DURABLE = "esper: durable save with digests and seal"
STALL = "esper: stall of a background save (staged copy)"


def main() -> None:
    parser = argparse.ArgumentParser(description="what a checkpoint costs")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--directory", type=Path, default=None, help="a folder on the disk to measure")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    num_tensors = max(1, options.megabytes * 1_000_000 // (SIDE * SIDE * 4))
    tensors = {f"layer{i}.weight": torch.randn(SIDE, SIDE) for i in range(num_tensors)}
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        measure(tensors, Path(folder), options.repeats)


class Rows:
    """Measured seconds by name."""

    def __init__(self, gigabytes: float) -> None:
        self.gigabytes = gigabytes
        self.seconds: dict[str, list[float]] = {}

    def time(self, name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(seconds / self.gigabytes)

    def show(self, name: str, target: float | None = None) -> None:
        best, median = min(self.seconds[name]), statistics.median(self.seconds[name])
        verdict = "" if target is None else f"{target:9.3f} {'met' if best <= target else 'MISSED'}"
        print(f"{name:50}{best:9.3f}{median:9.3f}{verdict}")

    def ratio(self, name: str, peer: str) -> None:
        pairs = zip(self.seconds[name], self.seconds[peer], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        print(f"{name} / {peer}: {statistics.median(ratios):.2f} (median of turns)")


def measure(tensors: dict[str, torch.Tensor], folder: Path, repeats: int) -> None:
    gigabytes = sum(t.numel() * t.element_size() for t in tensors.values()) / 1e9
    rows = Rows(gigabytes)
    files = {"model.safetensors": tensors}
    live = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    store = CheckpointStore(folder / "run", keyring=KeyRing.fresh(), keep_last=9)
    store.save(0, 0, {"start": b""})
    saver = BackgroundSaver(store)
    rows.time("esper: the first stall, which makes the buffers", lambda: saver.submit(1, 0, files))
    saver.wait()
    for turn in range(1, repeats + 1):
        take_turn(rows, tensors, live, store, saver, 10 * turn)
    saver.close()
    store.close()
    assert all(torch.equal(live[name], tensor) for name, tensor in tensors.items())
    load = os.getloadavg()[0]
    threads = torch.get_num_threads()
    print(f"{len(tensors)} tensors, {gigabytes:.2f} GB, {threads} torch threads, load {load:.1f}\n")
    print(f"{'seconds for 10^9 bytes':50}{'best':>9}{'median':>9}{'target':>9}")
    rows.show(WRITE_FLOOR)
    rows.show("torch.save")
    rows.show(PEER)
    rows.show(DURABLE, 0.45)
    rows.show("esper: the background save itself")
    rows.show(COPY_FLOOR)
    rows.show(STALL, 0.060)
    rows.show("esper: the first stall, which makes the buffers")
    rows.show("esper: verify every byte", 1 / 7)
    rows.show("esper: verify, map, copy into live tensors", 0.20)
    print()
    rows.ratio(DURABLE, PEER)
    rows.ratio(DURABLE, WRITE_FLOOR)
    rows.ratio(STALL, COPY_FLOOR)


def take_turn(
    rows: Rows,
    tensors: dict[str, torch.Tensor],
    live: dict[str, torch.Tensor],
    store: CheckpointStore,
    saver: BackgroundSaver,
    step: int,
) -> None:
    """Everything once; before each write the disk is idle and the page cache has room."""
    files = {"model.safetensors": tensors}
    peer = store.run_dir.parent / "peer"
    start = store.catalog.at(0)

    def clear() -> None:
        store.withdraw_after(start)
        write_and_sync(tensors, peer)
        peer.unlink()
        os.sync()

    clear()
    rows.time(COPY_FLOOR, lambda: copy(tensors, live))
    rows.add(STALL, saver.submit(step, 0, files).copied_seconds)
    rows.time("esper: the background save itself", saver.wait)
    clear()
    rows.time(WRITE_FLOOR, lambda: write_and_sync(tensors, peer))
    peer.unlink()
    clear()
    rows.time("torch.save", lambda: torch.save(tensors, peer))
    peer.unlink()
    clear()
    rows.time(PEER, lambda: save_and_sync(tensors, peer))
    peer.unlink()
    clear()
    rows.time(DURABLE, lambda: store.save(step + 1, 0, files))
    latest = store.catalog.at(step + 1)
    rows.time("esper: verify every byte", lambda: store.verify(latest))
    rows.time("esper: verify, map, copy into live tensors", lambda: restore(latest, live))


def save_and_sync(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(tensors, file)
        file.flush()
        os.fsync(file.fileno())


def write_and_sync(tensors: dict[str, torch.Tensor], path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for tensor in tensors.values():
        data = tensor.view(-1).view(torch.uint8).numpy().data
        while len(data):
            data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)
    os.close(descriptor)


def copy(tensors: dict[str, torch.Tensor], live: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        live[name].copy_(tensor)


def restore(checkpoint: CheckpointRef, live: dict[str, torch.Tensor]) -> None:
    for name, tensor in load_tensors(checkpoint.file("model.safetensors")).items():
        live[name].copy_(tensor)


if __name__ == "__main__":
    main()
