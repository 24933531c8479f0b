"""What the store costs: save, stall, verify, restore, and what a resume reads, beside floors and peers.

    python benchmarks/store.py [--megabytes 500] [--turns 7] [--directory DIR]

Every figure is the median of turns, in seconds for 10^9 bytes. In a turn everything is done once, in an
order that is drawn anew, and the ratios are medians of the ratios within turns: on a shared disk only what
was measured side by side can be compared. Floors tell what the machine could do in that turn: writing the
bytes with one fsync and no digest, a plain copy of the tensors, BLAKE3 over bytes that are in memory on all
cores. Before each write the disk is idle and the page cache has room.

Peers: `torch.save` (with an fsync of its file) and `torch.load`, and `torch.distributed.checkpoint` (DCP),
sync and async (its buffers reused too). None of them writes or checks a digest.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import blake3
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

import esper
from esper.checkpoint import BackgroundSaver, CheckpointStore, KeyRing, load_tensors

SIDE = 1000
FILE = "model.safetensors"
HASHED_BYTES = 4 << 20  # a part of this size fits the cache of one core many times over

WRITE_FLOOR = "floor: write the bytes + fsync"
SAVE = "esper: durable save, with digests and seal"
TORCH_SAVE = "peer: torch.save + fsync"
DCP_SAVE = "peer: DCP save"
COPY_FLOOR = "floor: plain copy of the tensors"
STALL = "esper: stall of a background save"
BACKGROUND = "esper: that save, in the background"
DCP_STALL = "peer: stall of DCP async_save"
HASH_FLOOR = "floor: BLAKE3 of the bytes in memory, all cores"
VERIFY = "esper: verify every byte"
RESTORE = "esper: verify, map, copy into live tensors"
DCP_LOAD = "peer: DCP load (unverified)"
TORCH_LOAD = "peer: torch.load and copy (unverified)"

RATIOS = [
    (SAVE, WRITE_FLOOR, 1.05),
    (SAVE, DCP_SAVE, None),
    (SAVE, TORCH_SAVE, None),
    (STALL, COPY_FLOOR, 1.05),
    (STALL, DCP_STALL, None),
    (VERIFY, HASH_FLOOR, None),
    (RESTORE, DCP_LOAD, 0.5),
    (RESTORE, TORCH_LOAD, None),
]
"""Ours, what it is held against, and the most that their ratio should be."""

VERIFY_TARGET = 5.0  # GB/s
READ_TARGET = 1.1  # once, and what else a process reads


class Bench:
    """A run directory, the live tensors, and the seconds of every turn by name."""

    def __init__(self, tensors: dict[str, torch.Tensor], folder: Path) -> None:
        self.tensors = tensors
        self.folder = folder
        self.live = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        self.gigabytes = sum(tensor.nbytes for tensor in tensors.values()) / 1e9
        self.seconds: dict[str, list[float]] = {}
        self.store = CheckpointStore(folder / "run", keyring=KeyRing.fresh(), keep_last=9)
        self.start = self.store.save(0, 0, {"start": b""})
        self.saver = BackgroundSaver(self.store)
        self.saver.reserve({FILE: tensors})
        self._stager = DefaultStager(StagingOptions(False, False, False, False))
        self._step = 0

    def time(self, name: str, work: Callable[[], object]) -> None:
        begun = time.perf_counter()
        work()
        self.add(name, time.perf_counter() - begun)

    def add(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(seconds / self.gigabytes)

    def turn(self, order: random.Random) -> None:
        """Everything once."""
        work = [
            lambda: self.saving(order),
            lambda: self.stalling(order),
            self.floor,
            self.torch_save,
            self.dcp_save,
            self.dcp_async,
        ]
        for one in order.sample(work, len(work)):
            with self._room():
                one()

    def saving(self, order: random.Random) -> None:
        self._step += 1
        self.time(SAVE, lambda: self.store.save(self._step, 0, {FILE: self.tensors}))
        saved = self.store.catalog.at(self._step)
        reads: list[Callable[[], None]] = [
            lambda: self.time(VERIFY, lambda: self.store.verify(saved)),
            lambda: self.time(RESTORE, lambda: self._copy(load_tensors(saved.file(FILE)))),
            lambda: self.time(HASH_FLOOR, self._hash),
        ]
        for read in order.sample(reads, len(reads)):
            read()

    def stalling(self, order: random.Random) -> None:
        """Whichever of the two comes first, by lot, may find the machine in another state than the second."""
        for is_ours in order.sample([True, False], 2):
            if not is_ours:
                self.time(COPY_FLOOR, self._copy_all)
                continue
            self._step += 1
            self.add(STALL, self.saver.submit(self._step, 0, {FILE: self.tensors}).copied_seconds)
            self.time(BACKGROUND, self.saver.wait)

    def floor(self) -> None:
        self.time(WRITE_FLOOR, lambda: write_and_sync(self.tensors, self.folder / "peer"))

    def torch_save(self) -> None:
        path = self.folder / "peer"
        self.time(TORCH_SAVE, lambda: save_and_sync(self.tensors, path))
        self.time(TORCH_LOAD, lambda: self._copy(torch.load(path, weights_only=True)))  # noqa: TID251 - the peer

    def dcp_save(self) -> None:
        path = self.folder / "peer"
        self.time(DCP_SAVE, lambda: state_dict_saver.save(self.tensors, checkpoint_id=path))
        self.time(DCP_LOAD, lambda: state_dict_loader.load(self.live, checkpoint_id=path))

    def dcp_async(self) -> None:
        futures: list[object] = []
        path = self.folder / "peer"
        self.time(
            DCP_STALL,
            lambda: futures.append(
                state_dict_saver.async_save(self.tensors, checkpoint_id=path, async_stager=self._stager)
            ),
        )
        for future in futures:
            assert isinstance(future, Future)
            future.result()

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Gives the page cache as much room as one write takes, and clears it away again."""
        write_and_sync(self.tensors, self.folder / "peer")
        (self.folder / "peer").unlink()
        os.sync()
        yield
        path = self.folder / "peer"
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        self.store.withdraw_after(self.start)

    def _copy_all(self) -> None:
        self._copy(self.tensors)

    def _copy(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self.live[name].copy_(tensor)

    def _hash(self) -> None:
        """Parts in one thread for each core, as the store hashes what it reads."""
        parts = [
            data[start : start + HASHED_BYTES]
            for data in map(as_bytes, self.tensors.values())
            for start in range(0, len(data), HASHED_BYTES)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(lambda part: blake3.blake3(part).digest(), parts))

    def close(self) -> None:
        self.saver.close()
        self.store.close()
        assert all(torch.equal(self.live[name], tensor) for name, tensor in self.tensors.items())

    def show(self) -> None:
        print(f"{'seconds for 10^9 bytes':52}{'best':>8}{'median':>8}")
        for name in sorted(self.seconds, key=list(globals().values()).index):
            times = self.seconds[name]
            print(f"{name:52}{min(times):8.3f}{statistics.median(times):8.3f}")
        print(f"\n{'ratio within a turn, median':94}{'target':>8}")
        for ours, other, most in RATIOS:
            self._show_ratio(ours, other, most)
        floors = zip(self.seconds[HASH_FLOOR], self.seconds[COPY_FLOOR], strict=True)
        both = [hashed + copied for hashed, copied in floors]
        ratio = statistics.median([mine / one for mine, one in zip(self.seconds[RESTORE], both, strict=True)])
        show(f"{RESTORE} / the floors of hashing and copying", ratio, None, is_met=True)
        rate = 1 / statistics.median(self.seconds[VERIFY])
        best = 1 / min(self.seconds[VERIFY])
        show(
            "verify, GB/s (best turn in brackets)",
            rate,
            VERIFY_TARGET,
            rate >= VERIFY_TARGET,
            f"({best:.2f})",
        )

    def _show_ratio(self, ours: str, other: str, most: float | None) -> None:
        pairs = zip(self.seconds[ours], self.seconds[other], strict=True)
        ratio = statistics.median([mine / theirs for mine, theirs in pairs])
        show(f"{ours} / {other.partition(': ')[2]}", ratio, most, most is None or ratio <= most)


def show(name: str, value: float, target: float | None, is_met: bool, more: str = "") -> None:
    verdict = "" if target is None else f"{target:8.2f} {'met' if is_met else 'MISSED'}"
    print(f"{name:86}{value:8.2f}{verdict} {more}")


def as_bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data


def write_and_sync(tensors: dict[str, torch.Tensor], path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for tensor in tensors.values():
        data = as_bytes(tensor)
        while len(data):
            data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)
    os.close(descriptor)


def save_and_sync(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(tensors, file)
        file.flush()
        os.fsync(file.fileno())


def resumed(folder: Path, megabytes: int) -> float:
    """What a resume of a whole run reads by read calls, as a multiple of the bytes in its checkpoint.

    Tensors are mapped to be copied, which is no read call: what is read is read to be hashed.
    """
    side = round((megabytes * 1e6 / 3 / 4) ** 0.5)  # Adam keeps two more for each weight

    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(8, side), torch.nn.Linear(side, side), torch.nn.Linear(side, 2)
        )
        return model, torch.optim.Adam(model.parameters(), 1e-4)

    model, optimizer = made()
    sample = (torch.randn(4, 8), torch.randn(4, 2))
    loss = torch.nn.functional.mse_loss
    session = esper.attach(model, optimizer, loss=loss, sample=sample, run_dir=folder, epochs=2)
    session.loss(model(sample[0]), sample[1]).backward()
    optimizer.step()
    session.end_epoch(accuracy=0.5)
    session.detach()
    size = max(
        sum(file.stat().st_size for file in step.iterdir()) for step in folder.glob("checkpoints/step-*")
    )
    model, optimizer = made()
    before = bytes_read()
    session = esper.resume(folder, model, optimizer, loss=loss)
    read = bytes_read() - before
    session.detach()
    return read / size


def bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def main() -> None:
    parser = argparse.ArgumentParser(description="what the store costs")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--directory", type=Path, default=None, help="a folder on the disk to measure")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    count = max(1, options.megabytes * 1_000_000 // (SIDE * SIDE * 4))
    tensors = {f"layer{number}.weight": torch.randn(SIDE, SIDE) for number in range(count)}
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        folder = Path(name)
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=0, world_size=1)
        bench, order = Bench(tensors, folder), random.Random(0)
        bench.turn(order)  # not counted: buffers are made
        bench.seconds.clear()
        for _ in range(options.turns):
            bench.turn(order)
        bench.close()
        load = os.getloadavg()[0]
        print(
            f"{count} tensors, {bench.gigabytes:.2f} GB, {options.turns} turns, load {load:.1f} on ", end=""
        )
        print(f"{os.cpu_count()} cores, {options.threads} torch thread(s), torch {torch.__version__}\n")
        bench.show()
        read = resumed(folder / "resumed", 60)
        show("a resume reads its checkpoint so many times", read, READ_TARGET, read <= READ_TARGET)
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
