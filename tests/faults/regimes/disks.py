"""Disks that are full at any size, and system calls that fail or do half of their work."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

from esper.checkpoint import FaultyStorage, PosixStorage, Storage
from esper.errors import EsperError
from tests.faults.dying import number_of_calls
from tests.faults.lives import LIVES
from tests.faults.regimes.regime import Regime, spread

Fault = Literal["EIO", "ENOSPC", "short write"]
SIZES = 20
"""How much of what a life needs is free: from nothing on, in so many steps."""
_DISK_BYTES = 8 << 20
_FAULTS: tuple[tuple[Fault, bool], ...] = (
    ("EIO", False),
    ("ENOSPC", False),
    ("ENOSPC", True),
    ("short write", False),
)


def lived(name: str, root: Path, storage: Storage) -> tuple[str, str]:
    """Lives as far as it comes; what was acknowledged, and what is wrong with the error that ended it."""
    told: list[str] = []
    try:
        LIVES[name].act(root, storage, told.append)
    except (EsperError, OSError):
        return "".join(told), ""
    except Exception as error:  # noqa: BLE001  (nobody foresaw it: that is what is looked for)
        return "".join(told), f"{name} ended with {type(error).__name__}: {error}"
    return "".join(told), ""


def small_disk(place: Path) -> bool:
    """Mounts a small tmpfs; False where this user may not."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(place)]
    return (
        bool(shutil.which("mount"))
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def _full(folder: Path, first: int, goal: int) -> Iterator[str]:
    """Every life on a disk with so much room, then with more: what is there is judged."""
    disk, points = folder / "disk", [(name, size) for size in range(SIZES) for name in LIVES]
    is_mounted = small_disk(disk)
    needed = {name: _needed(name, folder / "whole") for name in LIVES}
    try:
        for name, size in spread(points, goal)[first:]:
            root = disk / f"{name}-{size}"
            root.mkdir()
            limit = _ballast(disk) if is_mounted else _longest_file
            with limit(needed[name] * size // SIZES):
                told, wrong = lived(name, root, PosixStorage())
            yield wrong or LIVES[name].problem(root, told)
            shutil.rmtree(root)
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _needed(name: str, root: Path) -> int:
    """Bytes of whole pages that a life leaves on a disk, about."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    lived(name, root, PosixStorage())
    return sum(4096 * (1 + path.stat().st_size // 4096) for path in root.rglob("*") if path.is_file())


def _ballast(disk: Path) -> Callable[[int], AbstractContextManager[None]]:
    @contextmanager
    def limit(free: int) -> Iterator[None]:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - free)))
        try:
            yield
        finally:
            ballast.unlink()

    return limit


@contextmanager
def _longest_file(size: int) -> Iterator[None]:
    """Where nothing can be mounted: the kernel lets this process write no file of more bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _calls(folder: Path, first: int, goal: int) -> Iterator[str]:
    """Each life with call 1, 2, 3, ... failing, by each fault."""
    names = [name for name, life in LIVES.items() if life.is_by_storage]
    points = [
        (name, call, fault, lasting)
        for name in names
        for call in range(1, number_of_calls(name, folder) + 1)
        for fault, lasting in _FAULTS
    ]
    for name, call, fault, lasting in spread(points, goal)[first:]:
        root = folder / "call"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        told, wrong = lived(name, root, FaultyStorage(call, fault, lasting=lasting))
        yield wrong or LIVES[name].problem(root, told)


FULL = Regime("disk-full", f"disk full, at {SIZES} sizes for each way", SIZES * len(LIVES), _full)
CALLS = Regime("calls", "EIO, ENOSPC, a full disk, a short write at the N-th call", 2_000, _calls)
