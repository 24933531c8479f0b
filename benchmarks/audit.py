"""What the audit costs: durable events, their verification, and what a training pays per epoch.

    python benchmarks/audit.py [--entries 100000] [--folder DIR]

Printed: events per second that are durable when the call returns: in groups of several sizes, as one commit
each, and one by one, by one thread and by several at once (they share commits). Beside them, on the same
disk: one line of that length appended and synced for each, the floor of anything durable, and bare rows of
that length in SQLite with the same settings, in the same groups. The best of three passes of each counts,
and the passes of the two take turns, because others use the disk. Then how long many
entries take to verify, and what a small training spends on telling per epoch, beside what its epochs take.
Figures are of the disk that holds the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

import esper
from esper.checkpoint import CheckpointCatalog, CheckpointStore, KeyRing, open_key_ring
from esper.checkpoint.audit import Audit, AuditReader
from esper.nissa import Event, Sink, events

ALONE, TOGETHER = 300, 20_000
GROUPS = (10, 100, 1_000)
PASSES, SECONDS_EACH, TARGET = 3, 2.0, 20_000
EPOCHS = 12


def store_in(folder: Path) -> tuple[CheckpointStore, KeyRing]:
    ring = open_key_ring(folder, create=True)
    return CheckpointStore(folder, keyring=ring, model="net"), ring


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def event(number: int) -> Event:
    return events.Refused(
        number, f"worse by 0.0123 (95% interval 0.0101 to 0.0145, 128 pairs), limit {number}"
    )


def tell(sink: Sink, count: int, threads: int) -> float:
    """Events per second, told by several threads at once."""

    def work() -> None:
        for number in range(count // threads):
            sink.emit(event(number))

    running = [threading.Thread(target=work) for _ in range(threads)]

    def all_of_them() -> None:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    return count / seconds(all_of_them)


def floor(folder: Path, line: bytes) -> float:
    with (folder / "floor").open("ab", buffering=0) as file:

        def work() -> None:
            for _ in range(ALONE):
                file.write(line)
                os.fdatasync(file.fileno())

        return ALONE / seconds(work)


class Bare:
    """Bare rows in SQLite: the peer."""

    def __init__(self, folder: Path, line: bytes) -> None:
        self._line = line
        self._database = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
        for text in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE t (b BLOB)"):
            self._database.execute(text)

    def add(self, size: int) -> None:
        """One group, durable on return."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT INTO t VALUES (?)", [(self._line,)] * size)
        self._database.execute("COMMIT")


def rate_of(add: Callable[[int], object], size: int) -> float:
    """Entries per second, added in groups for a while."""
    begun, count = time.perf_counter(), 0
    while time.perf_counter() < begun + SECONDS_EACH:
        add(size)
        count += size
    return count / (time.perf_counter() - begun)


def in_groups(audit: Audit, bare: Bare) -> None:
    """Prints the audit beside the peer, in groups."""

    def tell_group(size: int) -> None:
        audit.emit_all([event(number) for number in range(size)])

    for size in (1, *GROUPS):
        pairs = [(rate_of(tell_group, size), rate_of(bare.add, size)) for _ in range(PASSES)]
        ours, theirs = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
        goal = f"target {TARGET}: {'reached' if ours >= TARGET else 'missed'}" if size == max(GROUPS) else ""
        print(f"in groups of {size:4}                    {ours:10.0f} /s  (bare rows {theirs:.0f} /s) {goal}")


class Timed:
    """A sink that notes how long another one takes."""

    def __init__(self, sink: Sink) -> None:
        self.sink, self.seconds, self.count = sink, 0.0, 0

    def emit(self, event: Event) -> None:
        self.seconds += seconds(lambda: self.sink.emit(event))
        self.count += event.is_recorded


def training(folder: Path) -> str:
    """Trains a small network that is pruned on the way, and times what it tells."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    inputs = torch.randn(6144, 8)
    targets = inputs[:, :4].abs().argmax(1)
    session = esper.attach(
        model,
        optimizer,
        loss=nn.CrossEntropyLoss(),
        sample=(inputs[:16], targets[:16]),
        probe=[(inputs[:512], targets[:512])],
        run_dir=folder / "run",
        config={"pruning": {"target": {"flops": 0.4}}, "analysis": {"workers": 0}},
        epochs=EPOCHS,
    )
    timed = Timed(session.parts.saving.store.audit)
    session.log.telling.sinks[0] = timed
    taken = []
    for _ in range(EPOCHS):
        begun = time.perf_counter()
        for index in torch.randperm(4096).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[1024:][index]), targets[1024:][index]).backward()
            optimizer.step()
        right = model(inputs[512:1024]).argmax(1) == targets[512:1024]
        session.end_epoch(accuracy=float(right.float().mean()))
        taken.append(time.perf_counter() - begun)
    session.detach()
    each = timed.seconds / EPOCHS
    return (
        f"{timed.count} events in {EPOCHS} epochs, {each * 1e3:.1f} ms per epoch "
        f"(median epoch {median(taken):.2f} s: {each / median(taken):.2%})"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--entries", type=int, default=100_000)
    arguments.add_argument("--folder", type=Path, default=None)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        store, ring = store_in(folder / "run-1")
        with store:
            store.audit.emit(event(0))
            (first,) = AuditReader(CheckpointCatalog(folder / "run-1", ring), ring).entries()
            line = json.dumps(first.document()).encode()
            print(f"one line appended and synced, each   {floor(folder, line):10.0f} /s  (floor)")
            in_groups(store.audit, Bare(folder, line))
            for threads in (8, 64, 256):
                before = store.audit.commits
                rate = tell(store.audit, TOGETHER, threads)
                share = TOGETHER / (store.audit.commits - before)
                print(
                    f"told by {threads:3} threads at once          {rate:10.0f} /s  ({share:.0f} per commit)"
                )
        store, ring = store_in(folder / "run-2")
        with store:
            tell(store.audit, options.entries, 250)
        catalog = CheckpointCatalog(folder / "run-2", ring)
        taken = seconds(lambda: AuditReader(catalog, ring))
        size = (folder / "run-2" / "audit.sqlite").stat().st_size / 1e6
        verified = f"{options.entries / taken:.0f} /s"
        print(f"verify {options.entries} entries, {size:.0f} MB     {taken:10.2f} s  ({verified})")
        print(f"a training tells                     {training(folder)}")


if __name__ == "__main__":
    main()
