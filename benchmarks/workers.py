"""What worker processes cost and whether innocent tasks survive: our pool beside its peers, in one run.

    python benchmarks/workers.py [--tasks 1000]

Every pool has two workers with torch imported. Printed: time to the first result, round trip of an empty
task (median), time from submitting a crash until both slots have answered again (median of 10), innocent
tasks lost beside 20 crashes, what happens to a task that hangs, and whether a script without `if __name__
== "__main__"` can use it. pebble is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from esper.workers import LocalPool, WorkerTask

WORKERS = 2
PRELOAD = ["torch", "safetensors.torch"]


class Peer(Protocol):
    name: str
    kills_at_deadline: str

    def call(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], bool]:
        """Submits, and returns a function that waits and says whether there was a result."""
        ...

    def close(self) -> None: ...


class Ours:
    name = "esper LocalPool"
    kills_at_deadline = "killed, retried"
    script = """
from esper.workers import LocalPool, WorkerTask
print(LocalPool(1).submit(WorkerTask("os:getpid")).outcome().status)
"""

    def __init__(self) -> None:
        self.pool = LocalPool(WORKERS, PRELOAD)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], bool]:
        names = {add: ("a", "b"), crash: ("code",), sleep: ("seconds",)}[function]
        task = WorkerTask(f"workers:{function.__name__}", dict(zip(names, arguments, strict=True)), retries=0)
        handle = self.pool.submit(task)
        return lambda: handle.outcome().is_done

    def close(self) -> None:
        self.pool.close()


class Executor:
    name = "concurrent.futures"
    kills_at_deadline = "never"
    script = """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor(1, multiprocessing.get_context("forkserver"))
pool.submit(os.getpid).result(); print("done")
"""

    def __init__(self) -> None:
        self.pool = self._open()

    def _open(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        return ProcessPoolExecutor(WORKERS, context)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], bool]:
        try:
            future = self.pool.submit(function, *arguments)
        except BrokenProcessPool:
            self.pool = self._open()
            future = self.pool.submit(function, *arguments)
        return lambda: succeeded(future)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


class Pebble:
    name = "pebble"
    kills_at_deadline = "killed"
    script = """
import multiprocessing, os
from pebble import ProcessPool
pool = ProcessPool(1, context=multiprocessing.get_context("forkserver"))
pool.schedule(os.getpid).result(); print("done"); pool.close(); pool.join()
"""

    def __init__(self) -> None:
        from pebble import ProcessPool

        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.pool: Any = ProcessPool(WORKERS, context=context)  # without annotations

    def call(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], bool]:
        future = self.pool.schedule(function, args=arguments)
        return lambda: succeeded(future)

    def close(self) -> None:
        self.pool.stop()
        self.pool.join()


def add(a: int, b: int) -> int:
    return a + b


def crash(code: int) -> None:
    os._exit(code)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def succeeded(future: Future[Any]) -> bool:
    try:
        future.result()
    except Exception:  # noqa: BLE001  (a peer may fail in any way; what is counted is that it did)
        return False
    return True


@contextlib.contextmanager
def opened(make: Callable[[], Peer]) -> Iterator[tuple[Peer, float]]:
    start = time.perf_counter()
    peer = make()
    peer.call(add, 1, 2)()
    seconds = time.perf_counter() - start
    yield peer, seconds
    peer.close()


def round_trip_seconds(peer: Peer, tasks: int) -> float:
    times = []
    for _ in range(tasks):
        start = time.perf_counter()
        peer.call(add, 1, 2)()
        times.append(time.perf_counter() - start)
    return median(times)


def respawn_seconds(peer: Peer, rounds: int = 10) -> float:
    """From the submission of a crash to the next two results: both slots have a live worker again."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        peer.call(crash, 3)()
        for wait in [peer.call(add, 1, 2), peer.call(add, 1, 2)]:
            wait()
        times.append(time.perf_counter() - start)
    return median(times)


def innocents_lost(peer: Peer, tasks: int, crashes: int = 20) -> int:
    waiting = []
    for number in range(tasks):
        if number % (tasks // crashes) == 0:
            peer.call(crash, 3)
        waiting.append(peer.call(add, number, 1))
    return sum(not wait() for wait in waiting)


def runs_without_guard(script: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train.py").write_text(script)
        try:
            ended = subprocess.run(
                [sys.executable, "train.py"], cwd=folder, capture_output=True, timeout=30, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return ended.returncode == 0 and not ended.stderr


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tasks", type=int, default=1000)
    tasks = arguments.parse_args().tasks
    makes: list[Any] = [Ours, Executor, *([Pebble] if find_spec("pebble") else [])]
    print(
        f"{'pool':<20}{'first result':>14}{'round trip':>12}{'crash to next':>15}"
        f"{'lost of ' + str(tasks):>14}{'  hang':<18}{'no main guard':>14}"
    )
    for make in makes:
        with opened(make) as (peer, first):
            trip = round_trip_seconds(peer, tasks)
            again = respawn_seconds(peer)
            lost = innocents_lost(peer, tasks)
        works = "works" if runs_without_guard(make.script) else "fails"
        print(
            f"{make.name:<20}{first:12.2f} s{trip * 1e3:9.3f} ms{again * 1e3:12.1f} ms{lost:14d}"
            f"  {make.kills_at_deadline:<16}{works:>14}"
        )


if __name__ == "__main__":
    main()
