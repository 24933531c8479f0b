"""kill -9 while an audit is written: whatever has happened is in it, and it verifies."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from esper.checkpoint import CheckpointCatalog
from esper.checkpoint.audit import AuditReader
from esper.nissa import acts
from tests.checkpoint.runs import RING, content, open_store

KILLS = 8


def act(run: Path, first: int, effects: Connection) -> None:
    """Tells of one act after another and does each; some end in a checkpoint."""
    with open_store(run, keep_last=2) as store:
        for number in range(first, first + 1000):
            store.audit.emit(acts.WentBack(number, number))
            effects.send(number)  # what the others see of it
            if number % 4 == 0:
                store.save(number, number, content(number))


def killed_after(run: Path, first: int, count: int) -> int:
    """Kills a process at some moment after it has done `count` acts; returns the last that it did."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.test_audit_kill"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=act, args=(run, first, there))
    process.start()
    there.close()
    last = first - 1
    for _ in range(count):
        last = here.recv()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    while here.poll():  # what it did until the signal came
        try:
            last = here.recv()
        except EOFError:
            break
    return last


def test_no_act_that_happened_is_missing_after_kills_at_any_moment(tmp_path: Path) -> None:
    chance, last = random.Random(0), 0
    for _ in range(KILLS):
        last = killed_after(tmp_path, last + 1, chance.randint(1, 9))
        reader = AuditReader(CheckpointCatalog(tmp_path, RING), RING)
        assert not reader.report.findings
        told = [stored.entry.facts["to_step"] for stored in reader.entries()]
        assert set(range(1, last + 1)) <= set(told)
    assert not list(tmp_path.glob(".aside-*"))
