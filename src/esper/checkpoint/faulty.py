"""A storage that fails on purpose: the fake with which every step of a save is tried."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

from esper.checkpoint.storage import POSIX, Storage

Fault = Literal["EIO", "ENOSPC", "EROFS", "short write"]


class FaultyStorage:
    """Passes every call on to `inner`, except the one with number `fail_at`.

    Calls are counted from 1: make_directory, create, open_to_overwrite, reserve, write, write_at, begin_sync,
    sync, rename, replace, link, sync_directory, remove and remove_directory. `list` and `close` are not
    counted and never fail. "short write" does not raise: from call `fail_at` on, the next write takes only
    half of its bytes, as a kernel may. `lasting` lets every call that would take space fail from then on, as
    a full disk does, while removing still works.
    """

    def __init__(
        self, fail_at: int, error: Fault = "EIO", *, lasting: bool = False, inner: Storage = POSIX
    ) -> None:
        self.fail_at = fail_at
        self.error: Fault = error
        self.lasting = lasting
        self.inner = inner
        self.calls: list[str] = []
        self.fired = False

    def _count(self, call: str, *, takes_space: bool = True) -> None:
        self.calls.append(call)
        now = len(self.calls) == self.fail_at or (self.lasting and self.fired and takes_space)
        if now and self.error != "short write":
            self.fired = True
            number = getattr(errno, self.error)
            raise OSError(number, os.strerror(number), f"call {len(self.calls)}: {call}")

    def list(self, directory: Path) -> list[str]:
        return self.inner.list(directory)

    def make_directory(self, path: Path) -> None:
        self._count("make_directory")
        self.inner.make_directory(path)

    def create(self, path: Path) -> int:
        self._count("create")
        return self.inner.create(path)

    def write(self, descriptor: int, data: memoryview) -> int:
        self._count("write")
        return self.inner.write(descriptor, self._taken(data))

    def open_to_overwrite(self, path: Path) -> int:
        self._count("open_to_overwrite", takes_space=False)
        return self.inner.open_to_overwrite(path)

    def write_at(self, descriptor: int, data: memoryview, position: int) -> int:
        self._count("write_at")
        return self.inner.write_at(descriptor, self._taken(data), position)

    def _taken(self, data: memoryview) -> memoryview:
        """What a write takes: half, once, where it is to be short."""
        due = self.error == "short write" and len(self.calls) >= self.fail_at and not self.fired
        if due and len(data) > 1:
            self.fired = True
            return data[: len(data) // 2]
        return data

    def reserve(self, descriptor: int, size: int) -> None:
        self._count("reserve")
        self.inner.reserve(descriptor, size)

    def begin_sync(self, descriptor: int, start: int, size: int) -> None:
        self._count("begin_sync")
        self.inner.begin_sync(descriptor, start, size)

    def sync(self, descriptor: int) -> None:
        self._count("sync")
        self.inner.sync(descriptor)

    def close(self, descriptor: int) -> None:
        self.inner.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename")
        self.inner.rename(source, target)

    def replace(self, source: Path, target: Path) -> None:
        self._count("replace")
        self.inner.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        self._count("link")
        self.inner.link(source, target)

    def sync_directory(self, path: Path) -> None:
        self._count("sync_directory")
        self.inner.sync_directory(path)

    def remove(self, path: Path) -> None:
        self._count("remove", takes_space=False)
        self.inner.remove(path)

    def remove_directory(self, path: Path) -> None:
        self._count("remove_directory", takes_space=False)
        self.inner.remove_directory(path)
