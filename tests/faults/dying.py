"""A storage whose process is killed by SIGKILL at a chosen call, and what it does until then."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from esper.checkpoint import FaultyStorage
from tests.checkpoint.runs import content, open_store

NEVER = 1 << 30


class DeadlyStorage(FaultyStorage):
    """Sends SIGKILL to its own process instead of making call number `fail_at`."""

    def _count(self, call: str, *, takes_space: bool = True) -> None:
        self.calls.append(call)
        if len(self.calls) == self.fail_at:
            os.kill(os.getpid(), signal.SIGKILL)


def work(run_dir: Path, fail_at: int, told: Path) -> None:
    """Opens, saves, attaches, lets retention work, stores a twin, goes back; notes each thing done."""
    storage = DeadlyStorage(fail_at)

    def done(what: str) -> None:
        with told.open("a") as file:
            file.write(f"{what} {len(storage.calls)}\n")

    with open_store(run_dir, keep_last=1, storage=storage) as store:
        done("opened")
        first = store.save(1, 0, content(1), pin="baseline")
        done("saved 1")
        store.commit_attachment(first, "mask-01", {"masks.bin": b"101"})
        done("attached")
        store.save(2, 0, content(2))
        done("saved 2")
        store.save(3, 0, content(3), blobs={"twin": store.put_blob("twin", b"program")})
        done("saved 3")
        store.withdraw_after(first)
        done("withdrawn")


def run_until(run_dir: Path, fail_at: int, told: Path) -> int | None:
    """Runs `work` in a process of its own; returns its exit code, minus the signal if it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.dying"])
    process = context.Process(target=work, args=(run_dir, fail_at, told))
    process.start()
    process.join()
    return process.exitcode
