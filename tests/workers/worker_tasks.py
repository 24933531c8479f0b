"""Tasks that worker tests run: some work, some do what workers must survive."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open


@dataclass(frozen=True)
class Shard:
    """A reference to tensors in a file."""

    file: Path
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sums:
    """What `sums` returns."""

    by_name: dict[str, float]
    array: NDArray[np.float64]


def echo(value: Any) -> Any:
    return value


def sums(shard: Shard) -> Sums:
    with safe_open(shard.file, "pt") as tensors:
        found = {name: float(tensors.get_tensor(name).sum()) for name in shard.names}
    return Sums(found, np.array(list(found.values())))


def fail(text: str) -> NoReturn:
    raise ValueError(text)


def leave() -> NoReturn:
    sys.exit(3)


def tensor() -> object:
    return torch.ones(2)


def half_way(progress: Callable[[float], None]) -> str:
    progress(0.5)
    return "told"


def half_way_and_fail(progress: Callable[[float], None]) -> NoReturn:
    progress(0.5)
    raise ValueError("after half")


def crash(how: str) -> None:
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os._exit(3)
    return "second time"


def hang() -> None:
    signal.sigwait({signal.SIGUSR1})


def say_and_hang(pipe: Path) -> None:
    """Tells its process id to whoever reads the named pipe, and hangs."""
    pipe.write_text(str(os.getpid()))
    hang()


def hang_with_child(pipe: Path) -> None:
    child = subprocess.Popen(["sleep", "600"])
    pipe.write_text(str(child.pid))
    hang()


def allocate(num_bytes: int, how: str) -> int:
    if how == "torch":
        return torch.ones(num_bytes, dtype=torch.uint8).numel()
    return len(b"x" * num_bytes)


def sum_mapped(file: Path, how: str) -> float:
    if how == "read-only":
        return float(np.memmap(file, np.float32, mode="r")[16:].sum(dtype=np.float64))
    with safe_open(file, "pt") as tensors:
        return float(tensors.get_tensor("big").sum())


def surroundings() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "niceness": os.nice(0),
        "oom_score": int(Path("/proc/self/oom_score_adj").read_text()),
        "threads": torch.get_num_threads(),
        "system_threads": len(list(Path("/proc/self/task").iterdir())),
        "core_bytes": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "has_torch": "torch" in sys.modules,
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "open_files": sorted(str(f.readlink()) for f in Path("/proc/self/fd").iterdir() if f.exists()),
    }
