"""A process that opens a run directory, forks, and lets the child try to write there as well."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

from esper.checkpoint import BackgroundSaver
from esper.errors import CheckpointError
from tests.checkpoint.runs import content, open_store


def work(run_dir: Path, told: Path) -> None:
    """Saves in the parent; what the child is told goes into a file, one line for each attempt."""
    with open_store(run_dir) as store, BackgroundSaver(store) as saver:
        first = store.save(1, 0, content(1))
        attempts: dict[str, Callable[[], object]] = {
            "save": lambda: store.save(2, 0, content(2)),
            "attach": lambda: store.commit_attachment(first, "mask-01", {"m": b"1"}),
            "withdraw": lambda: store.withdraw_after(first),
            "submit": lambda: saver.submit(2, 0, content(2)),
        }
        if (child := os.fork()) == 0:
            for name, attempt in attempts.items():
                try:
                    attempt()
                except CheckpointError as error:
                    with told.open("a") as file:
                        file.write(f"{name}: {error}\n")
            os._exit(0)
        os.waitpid(child, 0)
        store.save(3, 0, content(3))


def run(run_dir: Path, told: Path) -> int | None:
    """Runs `work` in a process of its own; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.dying"])
    process = context.Process(target=work, args=(run_dir, told))
    process.start()
    process.join()
    return process.exitcode
