"""Which checkpoints may go: never one of the newest that verify, never one that is pinned."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from esper.checkpoint.storage import Storage, make_directory, try_to_remove
from esper.checkpoint.writing import put_in_place
from esper.errors import CheckpointError

BASELINE = "baseline"
_MARKER = re.compile(r"step-(\d{9,18})\.([a-z0-9-]{1,64})")


@dataclass(frozen=True)
class RetentionOutcome:
    """What retention removed after a save, and what it could not remove and why (the save itself stands)."""

    removed: tuple[Path, ...] = ()
    failed: tuple[str, ...] = ()


def expendable(
    steps: Sequence[int], is_verified: Callable[[int], bool], pinned: Collection[int], keep_last: int
) -> list[int]:
    """The steps that may be deleted.

    Args:
        steps: every step there is, newest first.
        is_verified: whether a step verifies in full; asked only until `keep_last` of them did.
        pinned: steps that stay whatever happens.
        keep_last: how many verified ones stay.
    """
    verified = 0
    for position, step in enumerate(steps):
        verified += is_verified(step)
        if verified == keep_last:
            return [old for old in steps[position + 1 :] if old not in pinned]
    return []


Signature = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and time of change (ns) of every file in a directory."""


def signature(directory: Path) -> Signature:
    """Tells whether a directory is still in the state in which it was verified; empty if it is gone."""
    if not directory.is_dir():
        return ()
    statuses = [(path.name, path.stat()) for path in sorted(directory.iterdir()) if path.is_file()]
    return tuple((name, status.st_ino, status.st_size, status.st_mtime_ns) for name, status in statuses)


class Pins:
    """Why a checkpoint must stay: one empty file for each step and reason, so there is nothing to corrupt."""

    def __init__(self, directory: Path, storage: Storage) -> None:
        self.directory = directory
        self._storage = storage

    def all(self) -> dict[int, frozenset[str]]:
        """The labels of every pinned step."""
        pins: dict[int, frozenset[str]] = {}
        for name in self._storage.list(self.directory):
            if match := _MARKER.fullmatch(name):
                step = int(match[1])
                pins[step] = pins.get(step, frozenset()) | {match[2]}
        return pins

    def add(self, step: int, label: str) -> None:
        """Pins a step durably; pinning twice is harmless."""
        path = self._path(step, label)
        make_directory(self._storage, self.directory)
        put_in_place(self._storage, path, b"")

    def remove(self, step: int, label: str) -> None:
        """Takes one reason back; one that is not there is harmless."""
        path = self._path(step, label)
        if path.exists():
            self._storage.remove(path)
        if self.directory.is_dir():  # also where it was gone already: that sync may have failed
            self._storage.sync_directory(self.directory)

    def keep_only(self, steps: Collection[int]) -> list[str]:
        """Drops pins of checkpoints that are not there: a save that failed, or one that was withdrawn.

        Returns:
            What could not be removed, and why.
        """
        stale = [
            self._path(step, label)
            for step, labels in self.all().items()
            if step not in steps
            for label in labels
        ]
        failed = [try_to_remove(self._storage, path) for path in stale]
        if stale:
            self._storage.sync_directory(self.directory)
        return [why for why in failed if why]

    def _path(self, step: int, label: str) -> Path:
        name = f"step-{step:09d}.{label}"
        if not _MARKER.fullmatch(name):
            raise CheckpointError(
                f"Pin label {label!r} does not fit: 1 to 64 of a-z, 0-9 and '-' are expected."
            )
        return self.directory / name
