"""Processes of their own for training runs: forks of one that has imported torch, so they start at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.session.runs import EPOCHS, Training

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "torch.export", "esper.session.attach"])


def start(target: Callable[..., None], *arguments: object) -> tuple[Any, Connection]:
    """Runs `target(*arguments, told)` in a new process; returns it and what it tells."""
    here, there = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    there.close()
    return process, here


Reports = list[dict[str, Any]]
"""What each rank tells of a case."""


@contextmanager
def reports_of(rank: Callable[..., None], ranks: int, directory: Path) -> Iterator[Callable[[str], Reports]]:
    """What ranks report of a case; `rank(number, port, directory, told)` runs all cases in turn."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [start(rank, number, port, directory) for number in range(ranks)]
    found: list[dict[str, dict[str, Any]]] = [{} for _ in range(ranks)]

    def of(case: str) -> Reports:
        for (_, told), known in zip(running, found, strict=True):
            while case not in known:
                name, report = told.recv()
                known[name] = report
        return [known[case] for known in found]

    try:
        yield of
    finally:
        for process, _ in running:
            process.kill()
            process.join()


def told_by(target: Callable[..., None], *arguments: object) -> list[Any]:
    """All that a process tells until it ends, however it ends."""
    process, here = start(target, *arguments)
    messages = []
    try:
        while True:
            messages.append(here.recv())
    except EOFError:
        process.join()
    return messages


def train(run_dir: Path, kind: str, told: Connection) -> None:
    """Trains (on) to the end; tells the fingerprint and, for every mark, kind and epoch."""
    training = Training(run_dir, kind)
    while training.session.epoch < EPOCHS:
        training.epoch()
    told.send((training.fingerprint(), [(m.kind, m.epoch) for m in training.session.log.marks]))
    training.session.detach()


def train_and_die(run_dir: Path, kind: str, epochs: int, told: Connection) -> None:
    """Trains, and is killed in the middle of the epoch after `epochs`; tells the durable step."""
    training = Training(run_dir, kind)
    while training.session.epoch < epochs:
        training.epoch()
    training.session.parts.saving.settle()
    for batch in list(training.batches())[:2]:
        training.step(*batch)
    told.send(training.session.parts.saving.last_step)
    os.kill(os.getpid(), signal.SIGKILL)
